//! The rows of the table, by subject.

pub(crate) mod asking;
pub(crate) mod burst;
#[cfg(feature = "serve")]
pub(crate) mod fleet;
pub(crate) mod idle;
pub(crate) mod large;
pub(crate) mod load;
pub(crate) mod machine;
pub(crate) mod serve;
pub(crate) mod short;
pub(crate) mod sparse;
pub(crate) mod start;
pub(crate) mod syscalls;

use std::time::Duration;

use anyhow::Result;
use crossbeam_channel::never;

use crate::{
    bridge::{Bridge, Event, What},
    daemon::{Bench, Home, PATIENCE, Program},
};

/// A bridge, and a daemon that is connected to it.
struct Stage {
    // Order matters: the daemon goes before its bridge and its home.
    daemon: Program,
    /// How long the start took, in milliseconds.
    start: f64,
    bridge: Bridge,
    home: Home,
}

impl Stage {
    fn new(bench: &Bench, prepare: impl FnOnce(&Home) -> Result<()>) -> Result<Stage> {
        let bridge = Bridge::start()?;
        let home = Home::new(bench, &bridge)?;
        prepare(&home)?;
        let (daemon, start) = Program::connected(bench, &home, &bridge)?;
        Ok(Stage { daemon, start, bridge, home })
    }

    /// Sends one message and waits until its turn is over. Returns when the event was written, the
    /// answer came, and the thread was said to be idle.
    fn turn(&self, event: &Event<'_>) -> Result<Passed> {
        let written = self.bridge.send(&event.bytes())?;
        let (mut posted, mut idle) = (None, None);
        let passed = self.bridge.wait(&format!("answer to {}", event.message), PATIENCE, |note| {
            match note.what {
                What::Post { body, .. } if body == format!("re {}", event.message) => {
                    posted = Some(note.at);
                }
                What::Idle { thread } if thread == event.thread => idle = Some(note.at),
                _ => {}
            }
            Some(Passed { written, posted: posted?, idle: idle? })
        });
        self.daemon.explain(passed)
    }
}

/// When a message passed its stations.
#[derive(Clone, Copy, Debug)]
struct Passed {
    written: u64,
    posted: u64,
    idle: u64,
}

/// Lets time pass where nothing can be waited for: the pace of a load, or quiet.
fn pause(duration: Duration) {
    never::<()>().recv_timeout(duration).ok();
}
