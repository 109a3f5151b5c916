//! Plays an engine that does its work on stdio, for tests that must know how often it was asked to.
//! Every prompt becomes a line in a journal before anything else happens. The words `token=` and
//! `do=` in the message say which one it is and what to do with it; `ask` asks for permission first,
//! and a letter behind it once more; `wait` before it waits; `stay` leaves late. What was allowed is
//! a line as well.
//!
//! `journal-agent PROTOCOL JOURNAL …`, where the protocol is `acp`, `forgetful` (ACP, and it knows
//! no session of an earlier process), `claude`, or `opening` (a server that does not listen yet;
//! started again, it fails).

use std::{
    env,
    fs::{self, OpenOptions},
    io::{self, BufRead as _, Write as _},
    path::{Path, PathBuf},
    process::{self, Command, ExitCode, Stdio},
    time::Duration,
};

use serde_json::{Value, json};

/// Part of what a resumed session is told after an interruption.
const AGAIN: &str = "the machine stopped while you worked on the message below";

const SESSION: &str = "11111111-2222-4333-8444-555555555555";

fn main() -> io::Result<ExitCode> {
    let args: Vec<String> = env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--version") {
        writeln!(io::stdout(), "2.1.197 (Claude Code)")?;
        return Ok(ExitCode::SUCCESS);
    }
    let [protocol, journal, ..] = args.as_slice() else { return Ok(ExitCode::from(2)) };
    let agent = Agent {
        journal: PathBuf::from(journal),
        prompt: Value::Null,
        token: String::new(),
        open: Vec::new(),
    };
    match protocol.as_str() {
        "acp" => agent.acp(true),
        "forgetful" => agent.acp(false),
        "claude" => agent.claude(),
        "linger" => linger(Path::new(journal)),
        "opening" => opening(Path::new(journal)),
        _ => Ok(ExitCode::from(2)),
    }
}

/// What a prompt asks for.
struct Job {
    token: String,
    verb: String,
    is_again: bool,
}

struct Agent {
    journal: PathBuf,
    /// The id of the prompt that has no answer yet.
    prompt: Value,
    /// The message that it is about.
    token: String,
    /// What it has asked and was not told.
    open: Vec<String>,
}

impl Agent {
    fn acp(mut self, remembers: bool) -> io::Result<ExitCode> {
        let mut stays = false;
        for line in io::stdin().lock().lines() {
            let message: Value = serde_json::from_str(&line?)?;
            let (id, params) = (&message["id"], &message["params"]);
            if message["method"].is_null() {
                self.decided(id, &message["result"]["outcome"])?;
                continue;
            }
            match message["method"].as_str().unwrap_or_default() {
                "initialize" => result(
                    id,
                    &json!({
                        "protocolVersion": 1,
                        "agentCapabilities": { "sessionCapabilities": { "resume": {} } },
                    }),
                )?,
                "session/new" => result(id, &json!({ "sessionId": SESSION }))?,
                "session/resume" if remembers => result(id, &json!({}))?,
                "session/prompt" => {
                    self.prompt = id.clone();
                    let job =
                        self.note(params["prompt"][0]["text"].as_str().unwrap_or_default())?;
                    if job.verb == "die" {
                        return Ok(ExitCode::from(3));
                    }
                    self.prepare(&job)?;
                    stays = job.verb == "stay";
                    let then = job.verb.strip_prefix("wait").unwrap_or(&job.verb);
                    if then != job.verb {
                        self.wait();
                    }
                    let asks = then.strip_prefix("ask").filter(|_| !job.is_again);
                    if let Some(how_many) = asks {
                        self.ask(&job.token, how_many.len())?;
                    } else if job.is_again || !job.verb.starts_with("hang") {
                        self.answer(&format!("answer: {}", job.token))?;
                    }
                }
                "session/cancel" => result(&self.prompt, &json!({ "stopReason": "cancelled" }))?,
                _ => {
                    let error = json!({ "code": -32602, "message": "unknown session" });
                    say(&json!({ "jsonrpc": "2.0", "id": id, "error": error }))?;
                }
            }
        }
        if stays {
            std::thread::park_timeout(Duration::from_secs(1));
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Asks for so many permissions, and one more.
    fn ask(&mut self, token: &str, more: usize) -> io::Result<()> {
        token.clone_into(&mut self.token);
        for number in 0..=more {
            let id = format!("{token}-{number}");
            let option = |id: &str| json!({ "optionId": id, "name": id, "kind": id });
            let call = json!({
                "toolCallId": id, "title": id, "kind": "execute",
                "rawInput": { "command": format!("act {id}") },
            });
            let options = [option("allow_once"), option("reject_once")];
            let params = json!({ "sessionId": SESSION, "toolCall": call, "options": options });
            let method = "session/request_permission";
            say(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params }))?;
            self.open.push(id);
        }
        Ok(())
    }

    /// Does what was allowed, and writes down whether that is on record.
    fn decided(&mut self, id: &Value, outcome: &Value) -> io::Result<()> {
        let Some(at) = self.open.iter().position(|open| id == open) else { return Ok(()) };
        let action = self.open.remove(at);
        if outcome["optionId"] == "allow_once" {
            let audit = self.journal.with_file_name(".agent-bridge-daemon/audit.jsonl");
            let audit = fs::read_to_string(audit).unwrap_or_default();
            let is_record = |line: &str| {
                let line: Value = serde_json::from_str(line).unwrap_or_default();
                let is_allowed = line["ruling"] == "allow" || line["ruling"] == "always";
                is_allowed && line["subject"] == format!("act {action}")
            };
            let how = if audit.lines().any(is_record) { "recorded" } else { "unrecorded" };
            self.write(&format!("act-{action} {how}\n"))?;
        }
        if self.open.is_empty() {
            self.answer(&format!("answer: {}", self.token))?;
        }
        Ok(())
    }

    fn write(&self, line: &str) -> io::Result<()> {
        let mut journal = OpenOptions::new().append(true).create(true).open(&self.journal)?;
        journal.write_all(line.as_bytes())
    }

    fn answer(&self, text: &str) -> io::Result<()> {
        let content = json!({ "type": "text", "text": text });
        let update = json!({ "sessionUpdate": "agent_message_chunk", "content": content });
        let params = json!({ "sessionId": SESSION, "update": update });
        say(&json!({ "jsonrpc": "2.0", "method": "session/update", "params": params }))?;
        result(&self.prompt, &json!({ "stopReason": "end_turn" }))
    }

    /// Waits until there is a file `go` beside the journal.
    fn wait(&self) {
        let go = self.journal.with_file_name("go");
        while !go.exists() {
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    /// Posts its answer through the bridge's tool, and says something else to the terminal. Asked
    /// again, it only says that it is done.
    fn claude(self) -> io::Result<ExitCode> {
        for line in io::stdin().lock().lines() {
            let message: Value = serde_json::from_str(&line?)?;
            match message["type"].as_str().unwrap_or_default() {
                "control_request" => {
                    let id = &message["request_id"];
                    let response =
                        json!({ "subtype": "success", "request_id": id, "response": {} });
                    say(&json!({ "type": "control_response", "response": response }))?;
                }
                "user" => {
                    say(&json!({ "type": "system", "subtype": "init", "session_id": SESSION }))?;
                    let content = message["message"]["content"].as_array();
                    let text = content.and_then(|blocks| blocks.last()).map(|it| &it["text"]);
                    let job = self.note(text.and_then(Value::as_str).unwrap_or_default())?;
                    if job.is_again || job.verb != "post" {
                        claude_result(&format!("answer: {}", job.token))?;
                    } else {
                        call_post(&format!("posted: {}", job.token))?;
                    }
                }
                // The result of the call.
                "control_response" => claude_result("that was all")?,
                _ => {}
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Writes the prompt down.
    fn note(&self, text: &str) -> io::Result<Job> {
        let word = |key: &str| {
            let rest = text.rfind(key).map_or("", |at| &text[at + key.len()..]);
            rest.split_whitespace().next().unwrap_or("none").to_owned()
        };
        let job = Job { token: word("token="), verb: word("do="), is_again: text.contains(AGAIN) };
        let again = if job.is_again { "again" } else { "first" };
        self.write(&format!("{} {again}\n", job.token))?;
        Ok(job)
    }

    /// Leaves a process behind, in a session of its own, when it is to.
    #[expect(
        clippy::disallowed_methods,
        reason = "the point is that the daemon does not know of it"
    )]
    fn prepare(&self, job: &Job) -> io::Result<()> {
        if !job.verb.ends_with("-leave") {
            return Ok(());
        }
        let file = self.journal.with_file_name(format!("left-{}", job.token));
        let mut left = Command::new(env::current_exe()?)
            .arg("linger")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        // Until it has left our group.
        let mut line = String::new();
        let output = left.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
        io::BufReader::new(output).read_line(&mut line)?;
        Ok(())
    }
}

/// The first time, it is started and no more.
fn opening(journal: &Path) -> io::Result<ExitCode> {
    let started = journal.with_file_name("opening");
    if started.exists() {
        return Ok(ExitCode::from(3));
    }
    OpenOptions::new().write(true).create(true).truncate(true).open(started)?;
    loop {
        std::thread::park();
    }
}

/// A process that nothing but its marker ties to the turn.
fn linger(file: &Path) -> io::Result<ExitCode> {
    rustix::process::setsid()?;
    let mut pid = OpenOptions::new().write(true).create(true).truncate(true).open(file)?;
    writeln!(pid, "{}", process::id())?;
    writeln!(io::stdout(), "here")?;
    loop {
        std::thread::park();
    }
}

fn claude_result(text: &str) -> io::Result<()> {
    say(&json!({
        "type": "result", "subtype": "success", "is_error": false, "result": text,
        "session_id": SESSION,
    }))
}

fn call_post(body: &str) -> io::Result<()> {
    let arguments = json!({ "body": body, "kind": "result" });
    let params = json!({ "name": "bridge_post", "arguments": arguments });
    let call = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params });
    let request = json!({ "subtype": "mcp_message", "server_name": "bridge", "message": call });
    say(&json!({ "type": "control_request", "request_id": "call-1", "request": request }))
}

fn result(id: &Value, result: &Value) -> io::Result<()> {
    say(&json!({ "jsonrpc": "2.0", "id": id, "result": result }))
}

fn say(message: &Value) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{message}")?;
    stdout.flush()
}
