//! Which fault happens when. Every decision follows from the seed, what it is about, and how many
//! of those there were before; so a seed does the same again, as far as the scheduler lets it.

use std::time::Duration;

use fastrand::Rng;

/// What happens to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// RST, before a byte is read.
    Reset,
    /// FIN instead of an answer; the bridge never had the request.
    HangUp,
    /// Nothing more is heard; the bridge never had the request.
    BlackHole,
    Delay(Duration),
    /// A refusal, in words.
    Status(u16),
    /// 200, and a page that somebody else wrote.
    Page,
    /// The bridge did it; FIN instead of its answer.
    LostReply,
    /// The bridge did it; nothing more is heard.
    SilentReply,
    /// The bridge did it; half of its answer.
    CutReply,
}

/// What happens to an event on the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameFault {
    /// It comes twice.
    Twice,
    /// It comes, and then the one before it again.
    Old,
    /// It changes places with the next one, if that is another thread's.
    Swap,
    Delay(Duration),
    /// Half of it, and FIN.
    Cut,
    /// Nothing more is heard, not even heartbeats.
    BlackHole,
}

/// Seeded randomness without an order of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dice {
    pub(super) seed: u64,
}

impl Dice {
    /// Randomness for the `number`th of `what`.
    pub(super) fn rng(self, what: &str, number: u64) -> Rng {
        let mixed = what.bytes().fold(self.seed, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3).rotate_left(23)
        });
        Rng::with_seed(mixed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    pub(super) fn fault(self, route: &str, number: u64) -> Option<Fault> {
        let mut rng = self.rng(route, number);
        if rng.u32(..100) >= 28 {
            return None;
        }
        // What comes after a stream's head are events, and they have faults of their own.
        let last = if route == "stream" { 8 } else { 12 };
        Some(match rng.u32(..last) {
            0 => Fault::Reset,
            1 => Fault::HangUp,
            2 => Fault::BlackHole,
            3 | 4 => Fault::Delay(millis(&mut rng, 20..400)),
            5 | 6 => Fault::Status(rng.choice([429, 500, 502, 503]).expect("there are some")),
            7 => Fault::Page,
            8 | 9 => Fault::LostReply,
            10 => Fault::SilentReply,
            _ => Fault::CutReply,
        })
    }

    pub(super) fn frame_fault(self, number: u64) -> Option<FrameFault> {
        let mut rng = self.rng("frame", number);
        if rng.u32(..100) >= 25 {
            return None;
        }
        Some(match rng.u32(..10) {
            0 | 1 => FrameFault::Twice,
            2 | 3 => FrameFault::Old,
            4 | 5 => FrameFault::Swap,
            6 => FrameFault::Delay(millis(&mut rng, 20..300)),
            7 | 8 => FrameFault::Cut,
            _ => FrameFault::BlackHole,
        })
    }

    /// Whether another machine is faster than ours in claiming this thread.
    pub(super) fn is_stolen(self, thread: &str) -> bool {
        thread.starts_with("thread-") && self.rng(thread, 0).u32(..8) == 0
    }
}

pub(super) fn millis(rng: &mut Rng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rng.u64(range))
}

/// The kind alone, for counting.
pub(super) fn kind(fault: impl std::fmt::Debug) -> String {
    let text = format!("{fault:?}");
    if text.starts_with("Status") { text } else { text.split('(').next().unwrap().to_owned() }
}
