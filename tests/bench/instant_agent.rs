//! An agent that thinks for no time at all: what a turn takes with it is what the daemon takes. By its
//! arguments it speaks as `codex app-server`, as Claude Code or by ACP. By ACP, told `bench:hold` it
//! never answers; told `bench:ask` it asks for permission again and again, and notes in `LOG.verdicts`
//! when it had each answer.
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
    let args: Vec<String> = env::args().skip(1).collect();
    let Some(log) = args.first().cloned() else {
        return Err(io::Error::other("no log file named"));
    };
    if log == "--probe" {
        return writeln!(io::stdout(), "{started}");
    }
    let session =
        format!("{:08x}-0000-4000-8000-{:012x}", std::process::id(), started & 0xffff_ffff_ffff);
    let agent = Agent { started, log, session, how: "new" };
    if args.iter().any(|arg| arg == "app-server") {
        agent.codex()
    } else if args.iter().any(|arg| arg == "stream-json") {
        agent.claude(&args)
    } else {
        agent.acp()
    }
}

struct Agent {
    started: u128,
    log: String,
    session: String,
    /// Whether it is `new` or `resumed`.
    how: &'static str,
}

impl Agent {
    fn acp(mut self) -> io::Result<()> {
        let mut asked = 0;
        let mut lines = io::stdin().lock().lines();
        while let Some(line) = lines.next().transpose()? {
            let id = number(&line, "\"id\":");
            let answer = |result: &str| {
                say(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)).map(drop)
            };
            match string(&line, "\"method\":\"") {
                "initialize" => answer(concat!(
                    r#"{"protocolVersion":1,"agentCapabilities":"#,
                    r#"{"sessionCapabilities":{"resume":{}}}}"#
                ))?,
                "session/new" => answer(&format!(r#"{{"sessionId":"{}"}}"#, self.session))?,
                "session/resume" => {
                    self.resume(string(&line, "\"sessionId\":\""));
                    answer("{}")?;
                }
                "session/prompt" if line.contains("bench:hold") => {}
                "session/prompt" if line.contains("bench:ask") => ask(&self.session, asked)?,
                // Nothing but verdicts has no method.
                "" if line.contains("\"outcome\"") => {
                    append(&format!("{}.verdicts", self.log), &format!("{}\n", now()))?;
                    asked += 1;
                    ask(&self.session, asked)?;
                }
                "session/prompt" => self.turn(&line, |session, text| {
                    format!(
                        concat!(
                            r#"{{"jsonrpc":"2.0","method":"session/update","params":{{"#,
                            r#""sessionId":"{}","update":{{"sessionUpdate":"agent_message_chunk","#,
                            r#""content":{{"type":"text","text":"{}"}}}}}}}}"#,
                            "\n",
                            r#"{{"jsonrpc":"2.0","id":{},"result":{{"stopReason":"end_turn"}}}}"#,
                        ),
                        session, text, id
                    )
                })?,
                _ => {}
            }
        }
        Ok(())
    }

    fn codex(mut self) -> io::Result<()> {
        let mut lines = io::stdin().lock().lines();
        while let Some(line) = lines.next().transpose()? {
            let id = number(&line, "\"id\":");
            let answer =
                |result: &str| say(&format!(r#"{{"id":{id},"result":{result}}}"#)).map(drop);
            let method = string(&line, "\"method\":\"");
            match method {
                "initialized" => {}
                "initialize" => answer(r#"{"userAgent":"bench/0.169.0"}"#)?,
                "thread/start" | "thread/resume" => {
                    if method == "thread/resume" {
                        self.resume(string(&line, "\"threadId\":\""));
                    }
                    answer(&format!(r#"{{"thread":{{"id":"{}"}}}}"#, self.session))?;
                }
                "turn/start" => {
                    answer(r#"{"turn":{"id":"u"}}"#)?;
                    self.turn(&line, |session, text| {
                        format!(
                            concat!(
                                r#"{{"method":"item/completed","params":{{"threadId":"{0}","#,
                                r#""turnId":"u","item":{{"type":"agentMessage","id":"m","#,
                                r#""text":"{1}"}}}}}}"#,
                                "\n",
                                r#"{{"method":"turn/completed","params":{{"threadId":"{0}","#,
                                r#""turn":{{"id":"u","status":"completed"}}}}}}"#,
                            ),
                            session, text
                        )
                    })?;
                }
                _ => answer("{}")?,
            }
        }
        Ok(())
    }

    fn claude(mut self, args: &[String]) -> io::Result<()> {
        let after = |flag: &str| args.iter().skip_while(|arg| *arg != flag).nth(1);
        if let Some(session) = after("--resume") {
            self.resume(session);
        } else if let Some(session) = after("--session-id") {
            self.session.clone_from(session);
        }
        let mut lines = io::stdin().lock().lines();
        while let Some(line) = lines.next().transpose()? {
            if line.contains(r#""type":"control_request""#) {
                let id = string(&line, "\"request_id\":\"");
                say(&format!(
                    concat!(
                        r#"{{"type":"control_response","response":{{"subtype":"success","#,
                        r#""request_id":"{}","response":{{}}}}}}"#
                    ),
                    id
                ))?;
            } else if line.contains(r#""type":"user""#) {
                let session = &self.session;
                say(&format!(r#"{{"type":"system","subtype":"init","session_id":"{session}"}}"#))?;
                self.turn(&line, |session, text| {
                    format!(
                        concat!(
                            r#"{{"type":"result","subtype":"success","is_error":false,"#,
                            r#""result":"{1}","session_id":"{0}"}}"#
                        ),
                        session, text
                    )
                })?;
            }
        }
        Ok(())
    }

    fn resume(&mut self, session: &str) {
        session.clone_into(&mut self.session);
        self.how = "resumed";
    }

    /// The answer and the end of the turn, in one write, and then the note.
    fn turn(&self, line: &str, end: impl Fn(&str, &str) -> String) -> io::Result<()> {
        let prompted = now();
        // From the envelope, which begins the prompt on a resume and follows the history on a first
        // touch.
        let (thread, message) = (until(line, "thread:", " |"), until(line, "messageId:", "]"));
        let Agent { started, log, session, how } = self;
        let answered = say(&end(session, &format!("re {message}")))?;
        let times = format!("{started} {prompted} {answered}");
        append(log, &format!("{times} {thread} {message} {session} {how}\n"))
    }
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
            r#"{{"optionId":"no","name":"no","kind":"reject_once"}}]}}}}"#
        ),
        session, number
    );
    say(&text).map(drop)
}

/// A line, or some, in one write. Returns when that began.
fn say(text: &str) -> io::Result<u128> {
    let text = format!("{text}\n");
    let at = now();
    let mut stdout = io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(at)
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
