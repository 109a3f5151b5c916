//! The acp protocol.

pub mod wire;

// Stands in until the protocol is here; only its names matter.

use serde_json::Value;

use crate::agent::{Actions, Exit, Failure, FailureKind, Protocol, TurnCommand, TurnEnd, TurnSpec};

#[derive(Debug, Default)]
pub struct Acp;

impl Protocol for Acp {
    fn begin(&mut self, _: &TurnSpec, actions: &mut Actions) {
        let failure = Failure::new(FailureKind::Protocol, "not built yet", "");
        actions.finish(TurnEnd::Failed(failure));
    }
    fn on_value(&mut self, _: Value, _: &mut Actions) {}
    fn on_command(&mut self, _: TurnCommand, _: &mut Actions) {}
    fn on_exit(&mut self, _: Exit, _: &str, _: &mut Actions) {}
}
