//! Plays an engine on stdio where a real one can't be made to misbehave. Each argument is a
//! directive, with its operand after it; they are carried out in order. After the last one the
//! program ends with code 0, whatever is still in its standard input.

use std::{
    env,
    fs::OpenOptions,
    io::{self, BufRead as _, Read as _, Write as _},
    os::unix::net::UnixStream,
    process::{self, Command, ExitCode, Stdio},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use serde_json::{Map, Value, json};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

fn main() -> io::Result<ExitCode> {
    let parent = rustix::process::getppid();
    let mut out = Out { left: None };
    let mut heard = Vec::new();
    let mut words = env::args().skip(1);
    while let Some(directive) = words.next() {
        let mut operand = || words.next().ok_or_else(|| bad(&directive));
        let alive = match directive.as_str() {
            // A line of output.
            "print" => out.write(format!("{}\n", operand()?).as_bytes())?,
            // Output without a line feed.
            "raw" => out.write(operand()?.as_bytes())?,
            // A JSON string as a line of so many megabytes.
            "spew" => {
                let mut line = vec![b'x'; number(&operand()?)? << 20];
                line[0] = b'"';
                line.extend(b"\"\n");
                out.write(&line)?
            }
            // Output that never ends and has no line feed.
            "endless" => {
                while out.write(&[b'x'; 4096])? {}
                false
            }
            // Values without an end.
            "babble" => {
                while out.write(b"{}\n")? {}
                false
            }
            // A line of output for each line of input, until that ends.
            "echo" => {
                io::stdin()
                    .lock()
                    .lines()
                    .try_for_each(|line| out.write(format!("{}\n", line?).as_bytes()).map(drop))?;
                true
            }
            // Speaks ACP and writes down, in the file that is the operand, what it was told to do.
            "acp" => {
                acp(&operand()?)?;
                true
            }
            "read" => {
                let mut line = String::new();
                let is_line = io::stdin().lock().read_line(&mut line)? > 0;
                heard.push(line);
                is_line
            }
            // Tells a Unix socket what it was started with and has read, and waits for its end.
            "gate" => {
                gate(&operand()?, &heard)?;
                true
            }
            // What follows is the daemon's own.
            "end" => return Ok(ExitCode::SUCCESS),
            "wait-eof" => {
                io::stdin().lock().read_to_end(&mut Vec::new())?;
                true
            }
            "complain" => {
                writeln!(io::stderr(), "{}", operand()?)?;
                true
            }
            // The value of a variable as a line.
            "env" => {
                let value = env::var_os(operand()?).unwrap_or_default();
                out.write(format!("{:?}\n", value.to_string_lossy()).as_bytes())?
            }
            "deaf" => {
                for signal in [SIGTERM, SIGINT, SIGHUP] {
                    signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
                }
                true
            }
            // A session of its own, out of the reach of its group's signals.
            "leave-group" => rustix::process::setsid().map(|_| true)?,
            // Says its pid, and on standard error that it did.
            "ready" => {
                out.write(format!("{}\n", process::id()).as_bytes())?;
                writeln!(io::stderr(), "ready")?;
                true
            }
            // A process that outlives this one and holds its output; its pid is a line of output.
            "straggler" => straggler(&["leave-group", "ready", "stay"])?,
            "group-straggler" => straggler(&["ready", "stay"])?,
            // Does nothing more until it is killed, or whoever started it is gone: a test that
            // kills its daemon, or is itself killed, leaves nothing running.
            "hang" => {
                while rustix::process::getppid() == parent {
                    std::thread::park_timeout(Duration::from_millis(100));
                }
                false
            }
            // Does nothing more until it is killed.
            "stay" => loop {
                std::thread::park();
            },
            // From now on, the program ends in the middle of the output's byte of this number.
            "die-at" => {
                out.left = Some(number(&operand()?)?);
                true
            }
            "exit" => return Ok(ExitCode::from(u8::try_from(number(&operand()?)?).unwrap_or(255))),
            _ => return Err(bad(&directive)),
        };
        if !alive {
            return Ok(ExitCode::from(9));
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn gate(path: &str, heard: &[String]) -> io::Result<()> {
    let mut socket = UnixStream::connect(path)?;
    let env: Map<String, Value> = env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into(), value.to_string_lossy().into()))
        .collect();
    let args: Vec<String> = env::args().collect();
    let report = json!({ "args": args, "heard": heard, "env": env });
    writeln!(socket, "{report}")?;
    io::copy(&mut socket, &mut io::sink()).map(drop)
}

/// Standard output, which may have to break off.
struct Out {
    left: Option<usize>,
}

impl Out {
    /// False: broken off.
    fn write(&mut self, bytes: &[u8]) -> io::Result<bool> {
        let len = self.left.map_or(bytes.len(), |left| left.min(bytes.len()));
        let mut stdout = io::stdout().lock();
        stdout.write_all(&bytes[..len])?;
        stdout.flush()?;
        if let Some(left) = &mut self.left {
            *left -= len;
        }
        Ok(self.left != Some(0))
    }
}

/// A prompt that waits for permission.
struct Asking {
    id: Value,
    params: Value,
    job: String,
}

/// Serves ACP until the input ends. What is `asking` before its job asks for permission first, but
/// when it is warned; what was allowed is a line as well. The last word of a prompt that begins with `job/` is the job;
/// its last part is how many milliseconds it takes. Every prompt is a line in the file `records`
/// before a word of its answer is said: the job, and whether the agent is told that it may have had
/// it before.
fn acp(records: &str) -> io::Result<()> {
    let mut records = OpenOptions::new().create(true).append(true).open(records)?;
    let mut asking: Option<Asking> = None;
    for line in io::stdin().lock().lines() {
        let Ok(request) = serde_json::from_str::<Value>(&line?) else { continue };
        let (id, params) = (&request["id"], &request["params"]);
        let result = match request["method"].as_str() {
            Some("initialize") => json!({
                "protocolVersion": 1,
                "agentCapabilities": { "sessionCapabilities": { "resume": {} } },
            }),
            Some("session/new") => {
                json!({ "sessionId": format!("fake-{}", process::id()) })
            }
            Some("session/prompt") => {
                let prompt = params["prompt"][0]["text"].as_str().unwrap_or_default();
                let job = prompt.split_whitespace().rfind(|word| word.starts_with("job/"));
                let job = job.unwrap_or("job/none/0");
                let is_warned = prompt.contains("do not repeat what is done");
                // One write, so that nobody finds half a line.
                records.write_all(format!("{job} {is_warned}\n").as_bytes())?;
                if prompt.contains(&format!("asking {job}")) && !is_warned {
                    ask(params, job)?;
                    let (id, params, job) = (id.clone(), params.clone(), job.to_owned());
                    asking = Some(Asking { id, params, job });
                    continue;
                }
                say(params, "did ")?;
                let millis = job.rsplit('/').next().and_then(|it| it.parse().ok()).unwrap_or(0);
                std::thread::park_timeout(Duration::from_millis(millis));
                say(params, job)?;
                json!({ "stopReason": "end_turn" })
            }
            Some("session/cancel") => {
                let Some(Asking { id, .. }) = asking.take() else { continue };
                let result = json!({ "stopReason": "cancelled" });
                tell(&json!({ "jsonrpc": "2.0", "id": id, "result": result }))?;
                continue;
            }
            Some(_) if !id.is_null() => json!({}),
            None => {
                let Some(Asking { id, params, job }) = asking.take() else { continue };
                if request["result"]["outcome"]["optionId"] == "allow_once" {
                    records.write_all(format!("{job} acted\n").as_bytes())?;
                }
                say(&params, &format!("did {job}"))?;
                let result = json!({ "stopReason": "end_turn" });
                tell(&json!({ "jsonrpc": "2.0", "id": id, "result": result }))?;
                continue;
            }
            _ => continue,
        };
        tell(&json!({ "jsonrpc": "2.0", "id": id, "result": result }))?;
    }
    Ok(())
}

fn ask(params: &Value, job: &str) -> io::Result<()> {
    let option = |id: &str| json!({ "optionId": id, "name": id, "kind": id });
    let call = json!({
        "toolCallId": job, "title": job, "kind": "execute", "rawInput": { "command": job },
    });
    let options = [option("allow_once"), option("reject_once")];
    let params = json!({ "sessionId": params["sessionId"], "toolCall": call, "options": options });
    let method = "session/request_permission";
    tell(&json!({ "jsonrpc": "2.0", "id": "permission", "method": method, "params": params }))
}

fn say(params: &Value, text: &str) -> io::Result<()> {
    let update = json!({
        "sessionUpdate": "agent_message_chunk",
        "content": { "type": "text", "text": text },
    });
    let params = json!({ "sessionId": params["sessionId"], "update": update });
    tell(&json!({ "jsonrpc": "2.0", "method": "session/update", "params": params }))
}

fn tell(message: &Value) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{message}")?;
    stdout.flush()
}

/// Starts this program again, with our output for its own, and returns when it has said its pid.
#[expect(clippy::disallowed_methods, reason = "the point is that the daemon does not know of it")]
fn straggler(directives: &[&str]) -> io::Result<bool> {
    let (mut told, teller) = io::pipe()?;
    let mut child = Command::new(env::current_exe()?)
        .args(directives)
        .stdin(Stdio::null())
        .stdout(Stdio::inherit())
        .stderr(teller)
        .spawn()?;
    told.read_exact(&mut [0])?;
    Ok(child.try_wait()?.is_none())
}

fn number(text: &str) -> io::Result<usize> {
    text.parse().map_err(|_| bad(text))
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{what}: no such directive, or no operand"))
}
