//! An ACP agent that thinks for no time at all: what a turn takes with it is what the daemon takes.
//! Told `bench:hold` it never answers; told `bench:ask` it asks for permission again and again, and
//! notes in `LOG.verdicts` when it had each answer.
//! It notes when it ran its first instruction, when it had read its prompt and when it wrote its answer,
//! one line a turn in the file that its first argument names. The standard library alone, so that `scripts/bench.sh` can
//! build it statically and the dynamic linker takes no part in what is measured.

use std::{
    env,
    fs::OpenOptions,
    io::{self, BufRead as _, Write as _},
    time::SystemTime,
};

fn main() -> io::Result<()> {
    let started = now();
    let Some(log) = env::args().nth(1) else { return Err(io::Error::other("no log file named")) };
    if log == "--probe" {
        return writeln!(io::stdout(), "{started}");
    }
    let mut session = (String::new(), "none");
    let mut asked = 0;
    let mut lines = io::stdin().lock().lines();
    while let Some(line) = lines.next().transpose()? {
        let id = number(&line, "\"id\":");
        match string(&line, "\"method\":\"") {
            "initialize" => answer(
                id,
                r#"{"protocolVersion":1,"agentCapabilities":{"sessionCapabilities":{"resume":{}}}}"#,
            )?,
            "session/new" => {
                session = (format!("s{started}-{}", std::process::id()), "new");
                answer(id, &format!(r#"{{"sessionId":"{}"}}"#, session.0))?;
            }
            "session/resume" => {
                session = (string(&line, "\"sessionId\":\"").to_owned(), "resumed");
                answer(id, "{}")?;
            }
            "session/prompt" if line.contains("bench:hold") => {}
            "session/prompt" if line.contains("bench:ask") => ask(&session.0, asked)?,
            // Nothing but verdicts has no method.
            "" if line.contains("\"outcome\"") => {
                append(&format!("{log}.verdicts"), &format!("{}\n", now()))?;
                asked += 1;
                ask(&session.0, asked)?;
            }
            "session/prompt" => {
                // From the envelope, which begins the prompt on a resume and follows the history on a
                // first touch.
                let prompted = now();
                let thread = until(&line, "thread:", " |").to_owned();
                let message = until(&line, "messageId:", "]").to_owned();
                let answered = reply(id, &session.0, &message)?;
                let (session, how) = &session;
                let times = format!("{started} {prompted} {answered}");
                let note = format!("{times} {thread} {message} {session} {how}\n");
                append(&log, &note)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// One short write at the end of the file: notes of several agents don't mix.
fn append(path: &str, note: &str) -> io::Result<()> {
    OpenOptions::new().append(true).create(true).open(path)?.write_all(note.as_bytes())
}

fn ask(session: &str, number: u64) -> io::Result<()> {
    let text = format!(
        concat!(
            r#"{{"jsonrpc":"2.0","id":"p{1}","method":"session/request_permission","params":"#,
            r#"{{"sessionId":"{0}","toolCall":{{"toolCallId":"p{1}","title":"act","kind":"execute","#,
            r#""rawInput":{{"command":"act {1}"}}}},"options":["#,
            r#"{{"optionId":"yes","name":"yes","kind":"allow_once"}},"#,
            r#"{{"optionId":"no","name":"no","kind":"reject_once"}}]}}}}"#,
            "\n"
        ),
        session, number
    );
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()
}

/// The text and the end of the turn, in one write. Returns when that began.
fn reply(id: u64, session: &str, message: &str) -> io::Result<u128> {
    let text = format!(
        concat!(
            r#"{{"jsonrpc":"2.0","method":"session/update","params":{{"sessionId":"{}","update":"#,
            r#"{{"sessionUpdate":"agent_message_chunk","content":{{"type":"text","text":"re {}"}}}}}}}}"#,
            "\n",
            r#"{{"jsonrpc":"2.0","id":{},"result":{{"stopReason":"end_turn"}}}}"#,
            "\n"
        ),
        session, message, id
    );
    let at = now();
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(at)
}

fn answer(id: u64, result: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(
        format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{result}}}\n").as_bytes(),
    )?;
    stdout.flush()
}

/// Nanoseconds of the wall clock: the one clock of the standard library that processes share.
#[expect(clippy::disallowed_methods, reason = "no part of the daemon")]
fn now() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos())
}

// The daemon writes compact JSON, and a quote inside of a string has a backslash before it, so a key
// with its quotes can't be found in a text.

fn number(line: &str, key: &str) -> u64 {
    let rest = line.split_once(key).map_or("", |(_, rest)| rest);
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().unwrap_or(0)
}

fn string<'a>(line: &'a str, key: &str) -> &'a str {
    until(line, key, "\"")
}

fn until<'a>(line: &'a str, from: &str, to: &str) -> &'a str {
    let rest = line.split_once(from).map_or("", |(_, rest)| rest);
    rest.split_once(to).map_or("", |(found, _)| found)
}
