//! Names, counts and faults that the other files of the simulation share.

use std::time::Duration;

use obto_bridge::ids::{MachineId, MessageId, ThreadId};

pub(crate) use obto_bridge::permission::approvals::{Key, Now};

/// Two machines, and a third daemon that has the name of the first.
pub(crate) const NAMES: [&str; 3] = ["ann", "bob", "ann"];
pub(crate) const TWIN: usize = 2;

/// Messages that are older wait for a person.
pub(crate) const MAX_AGE: Duration = Duration::from_hours(24);

/// A fault that is put into the model, to see that its checks notice.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mutation {
    None,
    // What the coordinator decides does not happen, or twice.
    LoseClaim,
    LoseBegin,
    BeginTwice,
    LoseInterrupt,
    LosePut,
    LoseRemember,
    LoseRemove,
    LoseTell,
    /// A verdict goes to the engine although its record failed.
    RecordAlways,
    /// What came in is handed to the coordinator in another order.
    ReorderDeliveries,
    // What it is told is not true.
    /// The journal of done messages is not asked.
    IgnoreSeen,
    /// A lost claim is taken for a won one.
    WinAlways,
    /// A failed claim is taken for a won one.
    DriveOnFailure,
    /// What an earlier process had begun looks new.
    ForgetProgress,
    /// An answer in the outbox is not seen at the start.
    ForgetAnswers,
    /// The open questions of a message whose answer is in the outbox are not seen at the start.
    ForgetQuestions,
    /// What an engine no longer waits for goes off the record before its end is said.
    GoneOffRecord,
    WordsAsText,
    /// The turn gives its engine everything that it asks for.
    AllowUnasked,
    /// Found messages are reported, but their reading's failure is taken for its end.
    FailedIsComplete,
    // The faults that the simulation before this one could not see.
    /// C1: what an earlier process left counts as read up to its newest.
    LeftOversMoveCursor,
    /// C1b: what an earlier process left comes before what was missed.
    LeftOversFirst,
    /// C1c: after a connection that was lost during a catch-up nothing is read again.
    CatchUpGoesOn,
    /// C2: a stop says something under an attempt's name before the attempt is on disk.
    PostBeforeAttempt,
    /// C3: the answer is durable only when the engine has left.
    AnswerAfterLeaving,
    /// C4: one history that can't be read stops the others.
    SickHistoryStopsAll,
    /// C5: the first position of the stream is written late.
    LateCursor,
    /// C6: the bridge does not hand out what waits for a machine without a position.
    NoHandOut,
    /// C7: messages in quarantine count in the inbox, and nothing has extra room.
    NoExtraRoom,
    /// C8: ages are by the machine's clock.
    LocalAges,
    /// C8b: a renewed connection is closed before the new one is open.
    BreakBeforeMake,
    /// C9: the coordinator is not told that another daemon of its name is connected.
    TwinsUnnoticed,
    /// A hello that comes later than the response of its stream says no more than the time.
    LateHello,
    /// What an earlier process said in other words is taken for another daemon's.
    OtherWordsConflict,
    /// A daemon that has had its messages goes on running.
    StayOn,
}

impl Mutation {
    pub(crate) const ALL: [Mutation; 35] = [
        Mutation::LoseClaim,
        Mutation::LoseBegin,
        Mutation::BeginTwice,
        Mutation::LoseInterrupt,
        Mutation::LosePut,
        Mutation::LoseRemember,
        Mutation::LoseRemove,
        Mutation::LoseTell,
        Mutation::RecordAlways,
        Mutation::ReorderDeliveries,
        Mutation::IgnoreSeen,
        Mutation::WinAlways,
        Mutation::DriveOnFailure,
        Mutation::ForgetProgress,
        Mutation::ForgetAnswers,
        Mutation::ForgetQuestions,
        Mutation::GoneOffRecord,
        Mutation::WordsAsText,
        Mutation::AllowUnasked,
        Mutation::FailedIsComplete,
        Mutation::LeftOversMoveCursor,
        Mutation::LeftOversFirst,
        Mutation::CatchUpGoesOn,
        Mutation::PostBeforeAttempt,
        Mutation::AnswerAfterLeaving,
        Mutation::SickHistoryStopsAll,
        Mutation::LateCursor,
        Mutation::NoHandOut,
        Mutation::NoExtraRoom,
        Mutation::LocalAges,
        Mutation::BreakBeforeMake,
        Mutation::TwinsUnnoticed,
        Mutation::LateHello,
        Mutation::OtherWordsConflict,
        Mutation::StayOn,
    ];
}

/// What the simulation must have met to be worth its name.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Count {
    Crash,
    Stop,
    Left,
    Panic,
    Refusal,
    LostClaim,
    FailedClaim,
    LateClaim,
    Disconnect,
    Renewal,
    Replay,
    Gap,
    HandedOut,
    LateHello,
    FailedHistory,
    Found,
    Overflow,
    DiskFault,
    Resumed,
    Asked,
    Allowed,
    Denied,
    Expired,
    Interrupted,
    Stale,
    Released,
    Conflict,
    Moved,
    Days,
    Suspended,
    ClockJump,
    Unknowable,
    Last,
}

/// How often each happened.
#[derive(Debug)]
pub(crate) struct Counts([u32; Count::Last as usize]);

impl Default for Counts {
    fn default() -> Counts {
        Counts([0; Count::Last as usize])
    }
}

impl Counts {
    pub(crate) fn count(&mut self, what: Count) {
        self.0[what as usize] += 1;
    }

    pub(crate) fn add(&mut self, other: &Counts) {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a += b);
    }

    pub(crate) fn all_above(&self, least: u32) -> bool {
        self.0.iter().all(|count| least < *count)
    }
}

/// A violation is a sentence.
pub(crate) type Outcome = Result<(), String>;

pub(crate) fn ensure(is_fine: bool, what: impl FnOnce() -> String) -> Outcome {
    if is_fine { Ok(()) } else { Err(what()) }
}

pub(crate) fn machine_id(machine: usize) -> MachineId {
    MachineId::new(NAMES[machine])
}

/// Whether two machines have one name.
pub(crate) fn is_same_name(one: usize, other: usize) -> bool {
    NAMES[one] == NAMES[other]
}

pub(crate) fn thread_id(thread: usize) -> ThreadId {
    ThreadId::new(thread.to_string())
}

pub(crate) fn thread_index(thread: &ThreadId) -> usize {
    thread.as_str().parse().expect("made by thread_id")
}

pub(crate) fn message_id(message: usize) -> MessageId {
    MessageId::new(format!("m{message}"))
}

pub(crate) fn message_index(message: &MessageId) -> usize {
    message.as_str()[1..].parse().expect("made by message_id")
}
