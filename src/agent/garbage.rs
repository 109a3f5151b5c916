//! Lines of an engine that are no JSON: they are counted, and the first is kept to say what the engine
//! wrote in place of values.

use super::{Failure, FailureKind};

/// The lines of a turn.
#[derive(Debug, Default)]
pub struct Garbage {
    pub count: u64,
    /// How the first such line began.
    pub first: String,
}

impl Garbage {
    /// One more line, as it begins.
    pub fn add(&mut self, text: String) {
        self.count += 1;
        if self.count.is_power_of_two() {
            log::warn!(lines = self.count; "the engine writes lines that are no JSON");
        }
        log::debug!("no JSON: {text:?}");
        if self.count == 1 {
            self.first = text;
        }
    }

    /// Why an engine failed that wrote nothing else.
    pub fn failure(&self) -> Failure {
        Failure::new(
            FailureKind::Protocol,
            format!("The engine wrote nothing but text that is no JSON: {}", self.first),
            "Check that the configured command is the right program, and start it in a terminal.",
        )
    }
}
