//! The daemon's own posts, for people. Pure.

use std::time::Duration;

use super::{control::StopOutcome, message, slots::Wait};
use crate::{
    agent::engines,
    bridge::wire::Reply,
    ids::{Engine, MachineId, SessionId},
    permission::code::Code,
    store::binding::SessionRecord,
    time::{self, Timestamp},
};

pub(super) const TURN_FAILED: &str = "The daemon failed while it worked on your message (its log \
    says why). What the agent had done until then stays done. Send the message again if you want \
    another try.";

/// A person stopped the turn, or the message before it had one.
pub const STOPPED: &str = "Stopped.";

pub(super) const STOPPED_EARLY: &str = "Stopped before it began.";

pub(super) const SESSION_LOST: &str = "The session of this thread is lost: the daemon's state.json \
    could not be read and was set aside (its log says where). A new session starts, with what was \
    said on this thread as its history.";

pub(super) const QUARANTINE_FULL: &str = "This message is older than `offlineMaxAgeSeconds`, so it was \
    not run, and too many such messages wait for `run` already. Send it again if you still want it \
    done.";

pub(super) const NOT_ON_RECORD: &str = "This was not allowed, because the decision can't be written \
    down (`audit.jsonl` in the daemon's state directory; its log says why). The question is still \
    open: answer again when the disk is all right.";

/// How much of each message is quoted, and how many are.
const QUOTE_CHARS: usize = 80;
const QUOTES: usize = 10;

/// Messages of a list that are shown; the rest is counted.
const SHOWN: usize = 10;

/// What `/status` shows of a thread.
#[derive(Debug)]
pub(super) struct ThreadStatus {
    pub(super) engine: Engine,
    pub(super) session: Option<SessionId>,
    pub(super) dir: String,
    /// Since the turn began, if one runs.
    pub(super) running: Option<Duration>,
    pub(super) doing: Option<String>,
    pub(super) wait: Option<Wait>,
    /// A line each.
    pub(super) questions: Vec<String>,
    /// Messages that have not begun.
    pub(super) waiting: usize,
    pub(super) machine: MachineId,
}

/// What `/queue` shows of a thread.
#[derive(Debug)]
pub(super) struct QueueStatus {
    /// A line each, oldest first.
    pub(super) messages: Vec<String>,
    /// Stale messages that wait for `run`.
    pub(super) held: usize,
    pub(super) wait: Option<Wait>,
}

pub(super) fn status(facts: &ThreadStatus) -> String {
    let ThreadStatus { engine, machine, .. } = facts;
    let mut lines = vec![match facts.running {
        Some(running) => format!("{engine} has been running for {}.", time::age(running)),
        None => format!("{engine} is not running."),
    }];
    let (wait, doing) = (facts.wait.as_ref(), facts.doing.as_ref());
    lines.extend(wait.map(|wait| format!("- {}", waits(wait))));
    lines.extend(doing.map(|doing| format!("- last: {doing}")));
    lines.extend(facts.questions.iter().map(|question| format!("- asks: {question}")));
    if 0 < facts.waiting {
        lines.push(format!("- waiting: {} (`/queue` lists them)", messages(facts.waiting)));
    }
    lines.push(match &facts.session {
        Some(session) => format!("- session: `{}`", code(session.as_str())),
        None => "- session: none yet".to_owned(),
    });
    lines.push(format!("- directory: `{}`", code(&facts.dir)));
    let version = env!("CARGO_PKG_VERSION");
    lines.push(format!("- machine: `{}`, obto-bridge {version}", code(machine.as_str())));
    lines.join("\n")
}

pub(super) fn queue(waiting: &QueueStatus) -> String {
    let count = waiting.messages.len();
    let mut lines = vec![match count {
        0 => "No message waits on this thread.".to_owned(),
        _ => format!("{} on this thread, oldest first:", wait_verb(count)),
    }];
    lines.extend(waiting.messages.iter().take(SHOWN).cloned());
    if SHOWN < count {
        lines.push(format!("- … and {} more", count - SHOWN));
    }
    lines.extend(waiting.wait.as_ref().map(|wait| format!("\n{}", waits(wait))));
    if 0 < waiting.held {
        let held = messages(waiting.held);
        lines.push(format!("\n{held} from before this machine was back: reply `run` to run them."));
    }
    lines.join("\n")
}

pub(super) fn help() -> String {
    "Anything that you write is for the agent, but for these words:\n\
     - `/stop`: stop the turn that runs; what waits goes on\n\
     - `/stop all`: and forget what waits\n\
     - `/status`: what happens here, and where\n\
     - `/queue`: the messages that wait\n\
     - `/new`: the next message starts a new session, without what was said before\n\
     - `/show CODE`: all of a question that was too long to be shown at once\n\
     - `/help`: this\n\
     \n\
     When the agent asks for something, your next words are the answer: `approve` or `yes`, \
     `always`, or `deny because …`; any other text denies, and the agent gets it as the reason. If \
     several questions are open, name the one you mean: `approve CODE`, `always CODE`, `deny CODE \
     because …`."
        .to_owned()
}

/// `/new`. The old session is named, so that a person can go on with it in a terminal.
pub(super) fn renewed(engine: &Engine, old: Option<&SessionRecord>, is_busy: bool) -> String {
    let when = if is_busy {
        "The messages so far are still answered in the session they belong to. The next one that \
         you write"
    } else {
        "The next message"
    };
    let old = match old {
        Some(old) => {
            let id = code(old.session_id.as_str());
            let dir = old.project_dir.as_deref().map(|dir| format!(" in `{}`", code(dir)));
            let resume = engines::describe(engine).resume_command;
            let resume = resume.map(|it| format!(": `{it} {id}`")).unwrap_or_default();
            format!(
                " The old one, `{id}`, is kept on the machine{}{resume}",
                dir.unwrap_or_default()
            )
        }
        None if is_busy => " The old one is kept on the machine".to_owned(),
        None => " There was none before".to_owned(),
    };
    format!("{when} starts a new session of {engine}.{old}.")
}

/// The end of a stop, as far as the turn itself has not said it.
pub(super) fn stopped(stopped: StopOutcome) -> String {
    let StopOutcome { is_all, had_turn, cleared, waiting } = stopped;
    let cleared_text = match cleared {
        0 => None,
        1 => Some("1 waiting message is dropped; it will not run.".to_owned()),
        _ => Some(format!("{cleared} waiting messages are dropped; none of them will run.")),
    };
    let rest = match (waiting, had_turn) {
        (0, true) if is_all && cleared == 0 => Some("Nothing else waits.".to_owned()),
        (0, true) => None,
        (0, false) if 0 < cleared => None,
        (0, false) => Some("Nothing is running on this thread.".to_owned()),
        (_, false) => {
            Some("Nothing was stopped: what runs here now was written after this stop.".to_owned())
        }
        (1, true) => Some("1 message waits; it begins now.".to_owned()),
        (_, true) => Some(format!(
            "{waiting} messages wait; the next one begins now. `/stop all` stops them, too."
        )),
    };
    [cleared_text, rest].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

pub(super) fn waits(wait: &Wait) -> String {
    match wait {
        Wait::Slot { ahead, max } => {
            let running = match max {
                1 => "the turn that runs".to_owned(),
                _ => format!("one of {max} turns"),
            };
            let behind = match ahead {
                0 => String::new(),
                1 => " One thread is first.".to_owned(),
                _ => format!(" {ahead} threads are first."),
            };
            format!("Waits for {running} to end (`maxTurns` {max}).{behind}")
        }
        Wait::Directory { dir, holder, ahead } => {
            let behind = match ahead {
                0 => String::new(),
                1 => " One thread more is first.".to_owned(),
                _ => format!(" {ahead} threads more are first."),
            };
            format!(
                "Waits until thread `{}` has finished writing in `{}`.{behind}",
                code(holder.as_str()),
                code(&dir.display().to_string()),
            )
        }
    }
}

/// Stale messages, oldest first, at this time of the bridge's; `word` releases them.
pub(super) fn held(replies: &[&Reply], now: Timestamp, word: &str) -> String {
    let (subject, verb) = match replies.len() {
        1 => ("A message".to_owned(), "was"),
        count => (format!("{count} messages"), "were"),
    };
    let is_timed = replies.iter().all(|reply| message::written(reply).is_some());
    let mut lines = vec![if is_timed {
        format!(
            "{subject} came in while this machine was away, and {verb} not run because so much time \
             has passed:"
        )
    } else {
        format!("{subject} {verb} not run, because it can't be told how much time has passed:")
    }];
    lines.extend(replies.iter().take(QUOTES).map(|reply| quote(reply, now)));
    if QUOTES < replies.len() {
        lines.push(format!("- … and {} more", replies.len() - QUOTES));
    }
    lines.push(format!("\nReply `{word}` to run them now. Anything else is answered as usual."));
    lines.join("\n")
}

/// One line of a list of messages.
pub(super) fn quote(reply: &Reply, now: Timestamp) -> String {
    let age = message::written(reply).map(|written| time::age(now.since(written)));
    let age = age.map_or("at an unknown time".to_owned(), |age| format!("{age} ago"));
    let line = reply.body.split_whitespace().collect::<Vec<_>>().join(" ");
    let line: String = line.chars().filter(|c| !c.is_control() && *c != '`').collect();
    let cut: String = line.chars().take(QUOTE_CHARS).collect();
    let dots = if cut.len() < line.len() { "…" } else { "" };
    format!("- {age}: `{cut}{dots}`")
}

/// After a crash right behind a person's answer.
pub(super) fn interrupted_answer(code: &str, engine: &Engine) -> String {
    format!(
        "The daemon was stopped right after your answer to question `{code}`. {engine} may or may \
         not have acted on it."
    )
}

pub(super) fn orphaned(code: Code) -> String {
    format!("Question `{code}` ended with the turn that asked it.")
}

/// After a stop or a crash of the daemon while people were asked.
pub fn turn_orphaned(engine: &Engine) -> String {
    format!(
        "The daemon was stopped while {engine} waited for your answer, so its turn is over, and what \
         it still waited for was not done. Reply `continue` to resume the session."
    )
}

fn messages(count: usize) -> String {
    if count == 1 { "1 message".to_owned() } else { format!("{count} messages") }
}

fn wait_verb(count: usize) -> String {
    if count == 1 { "1 message waits".to_owned() } else { format!("{count} messages wait") }
}

/// Foreign text for between two backticks: on one line, and not able to leave it.
fn code(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() && *c != '`').collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ThreadId;

    fn facts() -> ThreadStatus {
        ThreadStatus {
            engine: Engine::CLAUDE,
            session: None,
            dir: "/p".to_owned(),
            running: None,
            doing: None,
            wait: None,
            questions: Vec::new(),
            waiting: 0,
            machine: MachineId::new("box"),
        }
    }

    #[test]
    fn a_status_tells_what_there_is() {
        let text = status(&facts());
        assert!(text.starts_with("claude is not running.\n- session: none yet\n"), "{text}");
        assert!(text.contains("- directory: `/p`\n- machine: `box`, obto-bridge "), "{text}");
        assert!(!text.contains("waiting") && !text.contains("last"), "{text}");
        let text = status(&ThreadStatus {
            session: Some(SessionId::new("abc")),
            running: Some(Duration::from_mins(5)),
            doing: Some("Running `cargo test`".to_owned()),
            questions: vec!["K7 run `make`".to_owned()],
            waiting: 2,
            ..facts()
        });
        for part in [
            "claude has been running for 5 min.",
            "- last: Running `cargo test`",
            "- asks: K7 run `make`",
            "- waiting: 2 messages (`/queue`",
            "- session: `abc`",
        ] {
            assert!(text.contains(part), "{part:?}: {text}");
        }
    }

    #[test]
    fn a_queue_is_a_list_of_bounded_length() {
        let list = |count: usize, held| {
            let messages = (0..count).map(|it| format!("- 1 s ago: `{it}`")).collect();
            queue(&QueueStatus { messages, held, wait: None })
        };
        assert_eq!(list(0, 0), "No message waits on this thread.");
        assert_eq!(list(1, 0), "1 message waits on this thread, oldest first:\n- 1 s ago: `0`");
        let text = list(12, 3);
        assert!(text.starts_with("12 messages wait") && text.contains("and 2 more"), "{text}");
        assert!(
            text.ends_with(
                "3 messages from before this machine was back: reply `run` to run them."
            )
        );
    }

    #[test]
    fn a_new_session_names_the_old_one_and_how_to_go_on_with_it() {
        #[track_caller]
        fn check(engine: &Engine, old: bool, is_busy: bool, expected: &str) {
            let mut record = SessionRecord::new(SessionId::new("s-1"));
            record.project_dir = Some("/p".to_owned());
            let text = renewed(engine, old.then_some(&record), is_busy);
            assert!(text.ends_with(expected), "{text}");
        }
        let kept = "The old one, `s-1`, is kept on the machine in `/p`";
        check(&Engine::CLAUDE, true, false, &format!("{kept}: `claude --resume s-1`."));
        check(&Engine::new("gemini"), true, true, &format!("{kept}."));
        check(&Engine::CLAUDE, false, true, "The old one is kept on the machine.");
        check(
            &Engine::CLAUDE,
            false,
            false,
            "starts a new session of claude. There was none before.",
        );
    }

    #[test]
    fn a_stop_says_what_the_turn_did_not() {
        #[track_caller]
        fn check(is_all: bool, had_turn: bool, cleared: usize, waiting: usize, expected: &str) {
            assert_eq!(stopped(StopOutcome { is_all, had_turn, cleared, waiting }), expected);
        }
        check(false, false, 0, 0, "Nothing is running on this thread.");
        check(true, true, 0, 0, "Nothing else waits.");
        check(false, true, 0, 1, "1 message waits; it begins now.");
        check(
            false,
            true,
            0,
            2,
            "2 messages wait; the next one begins now. `/stop all` stops them, too.",
        );
        check(true, true, 1, 0, "1 waiting message is dropped; it will not run.");
        check(true, false, 3, 0, "3 waiting messages are dropped; none of them will run.");
        check(
            true,
            true,
            2,
            1,
            "2 waiting messages are dropped; none of them will run. 1 message waits; it begins now.",
        );
        check(
            false,
            false,
            0,
            1,
            "Nothing was stopped: what runs here now was written after this stop.",
        );
    }

    #[test]
    fn a_thread_is_told_what_it_waits_for_and_behind_whom() {
        #[track_caller]
        fn check(wait: &Wait, expected: &str) {
            assert_eq!(waits(wait), expected);
        }
        check(
            &Wait::Slot { ahead: 0, max: 1 },
            "Waits for the turn that runs to end (`maxTurns` 1).",
        );
        check(
            &Wait::Slot { ahead: 2, max: 4 },
            "Waits for one of 4 turns to end (`maxTurns` 4). 2 threads are first.",
        );
        let holder = ThreadId::new("a`b");
        check(
            &Wait::Directory { dir: "/p".into(), holder, ahead: 1 },
            "Waits until thread `ab` has finished writing in `/p`. One thread more is first.",
        );
    }

    #[test]
    fn help_names_every_word() {
        let help = help();
        for word in
            ["/stop`", "/stop all`", "/status`", "/queue`", "/new`", "/show CODE`", "/help`"]
        {
            assert!(help.contains(word), "{word}");
        }
    }

    fn reply(created_at: &str, body: &str) -> Reply {
        let value = serde_json::json!({"threadId": "t", "createdAt": created_at, "body": body});
        Reply::parse(&value.to_string()).unwrap()
    }

    #[test]
    fn stale_messages_are_quoted() {
        let now = Timestamp::parse("2026-11-22T12:00:00Z").unwrap();
        let old = reply("2026-11-20T12:00:00Z", "drop\nthe `table`");
        let text = held(&[&old], now, "run");
        assert!(text.starts_with("A message came in"), "{text}");
        assert!(text.contains("- 2 d ago: `drop the table`"), "{text}");
        assert!(text.contains("Reply `run`"), "{text}");
        let unknown = reply("yesterday", "hello");
        let text = held(&[&old, &unknown], now, "run");
        assert!(text.starts_with("2 messages were not run, because it can't be told"), "{text}");
        assert!(text.contains("- at an unknown time: `hello`"), "{text}");
        let long = reply("2026-11-20T12:00:00Z", &"x".repeat(500));
        let text = held(&[&long; 12], now, "run");
        assert!(text.starts_with("12 messages") && text.contains("and 2 more"), "{text}");
        assert!(text.len() < 2_000, "{}", text.len());
    }
}
