//! Plays an ACP agent that asks before it acts. Each line `ask COMMAND` of a prompt is a question,
//! all of a prompt at once; `ask-again COMMAND` is asked after the others are answered, `reask
//! COMMAND` under the number of the question before, and at `die` it ends. In place of a command may
//! stand a tool call, as a JSON object in one line. `offer ID …` says what can be answered: options of
//! this id and kind, or without a kind if a `?` stands before the id. What was allowed is a line in
//! the file that is the operand, and the answer says what became of each.

use std::{
    collections::BTreeMap,
    env,
    fs::{File, OpenOptions},
    io::{self, BufRead as _, Write as _},
    process,
};

use serde_json::{Value, json};

fn main() -> io::Result<()> {
    let path = env::args().nth(1).expect("the operand is a file for records");
    let records = OpenOptions::new().create(true).append(true).open(path)?;
    let mut agent = Agent { records, turn: None, asked: 0 };
    for line in io::stdin().lock().lines() {
        if let Ok(message) = serde_json::from_str::<Value>(&line?) {
            agent.hear(&message)?;
        }
    }
    Ok(())
}

struct Agent {
    records: File,
    turn: Option<Turn>,
    /// Questions so far: names the next.
    asked: u32,
}

/// A prompt that waits for answers.
struct Turn {
    prompt: Value,
    session: Value,
    open: BTreeMap<String, String>,
    later: Vec<String>,
    /// Ids of the options of each question.
    offers: Vec<String>,
    said: Vec<String>,
}

impl Agent {
    fn hear(&mut self, message: &Value) -> io::Result<()> {
        let (id, params) = (&message["id"], &message["params"]);
        let result = match message["method"].as_str() {
            Some("initialize") => json!({
                "protocolVersion": 1,
                "agentCapabilities": { "sessionCapabilities": { "resume": {} } },
            }),
            Some("session/new") => json!({ "sessionId": format!("asking-{}", process::id()) }),
            Some("session/prompt") => return self.begin(id.clone(), params),
            Some("session/cancel") => return self.cancel(),
            Some(_) if !id.is_null() => json!({}),
            Some(_) => return Ok(()),
            None => return self.answered(id, &message["result"]["outcome"]),
        };
        tell(&json!({ "jsonrpc": "2.0", "id": id, "result": result }))
    }

    fn begin(&mut self, prompt: Value, params: &Value) -> io::Result<()> {
        let text = params["prompt"][0]["text"].as_str().unwrap_or_default();
        // The newest message comes last; what is quoted before it was asked before.
        let text = text.rsplit("[Agent Bridge |").next().unwrap_or_default();
        let after = |word: &str| -> Vec<String> {
            text.lines().filter_map(|line| line.strip_prefix(word)).map(str::to_owned).collect()
        };
        let session = params["sessionId"].clone();
        let (open, later) = (BTreeMap::new(), after("ask-again "));
        let offers = after("offer ").pop().unwrap_or("allow_once reject_once".to_owned());
        let offers = offers.split_whitespace().map(str::to_owned).collect();
        self.turn = Some(Turn { prompt, session, open, later, offers, said: Vec::new() });
        for line in text.lines() {
            if let Some(command) = line.strip_prefix("ask ") {
                self.ask(command.to_owned())?;
            } else if let Some(command) = line.strip_prefix("reask ") {
                self.asked -= 1;
                self.ask(command.to_owned())?;
            } else if line == "die" {
                return Err(io::ErrorKind::Other.into());
            }
        }
        self.go_on()
    }

    fn ask(&mut self, command: String) -> io::Result<()> {
        let Some(turn) = &mut self.turn else { return Ok(()) };
        self.asked += 1;
        let id = format!("q{}", self.asked);
        let option = |id: &String| match id.strip_prefix('?') {
            Some(id) => json!({ "optionId": id, "name": id }),
            None => json!({ "optionId": id, "name": id, "kind": id }),
        };
        let options: Vec<Value> = turn.offers.iter().map(option).collect();
        let call = serde_json::from_str(&command).ok().filter(Value::is_object);
        let mut call = call.unwrap_or_else(
            || json!({ "title": command, "kind": "execute", "rawInput": { "command": command } }),
        );
        call["toolCallId"] = json!(id);
        tell(&json!({
            "jsonrpc": "2.0", "id": id, "method": "session/request_permission",
            "params": { "sessionId": turn.session, "toolCall": call, "options": options },
        }))?;
        turn.open.insert(id, command);
        Ok(())
    }

    fn answered(&mut self, id: &Value, outcome: &Value) -> io::Result<()> {
        let Some(turn) = &mut self.turn else { return Ok(()) };
        let Some(command) = id.as_str().and_then(|id| turn.open.remove(id)) else { return Ok(()) };
        // Of some options only the id says what they are.
        let is_no = |id: &str| ["reject", "no"].iter().any(|it| id.contains(it));
        if outcome["optionId"].as_str().is_some_and(|id| !is_no(id)) {
            self.records.write_all(format!("{command}\n").as_bytes())?;
            turn.said.push(format!("did {command}"));
        } else {
            turn.said.push(format!("did not {command}"));
        }
        self.go_on()
    }

    /// Asks what comes later, or ends the turn, once nothing is open.
    fn go_on(&mut self) -> io::Result<()> {
        let Some(turn) = &mut self.turn else { return Ok(()) };
        if !turn.open.is_empty() {
            return Ok(());
        }
        if !turn.later.is_empty() {
            let command = turn.later.remove(0);
            return self.ask(command);
        }
        let Some(Turn { prompt, session, said, .. }) = self.turn.take() else { return Ok(()) };
        let text = if said.is_empty() { "nothing to ask".to_owned() } else { said.join("; ") };
        let update = json!({
            "sessionUpdate": "agent_message_chunk",
            "content": { "type": "text", "text": text },
        });
        let params = json!({ "sessionId": session, "update": update });
        tell(&json!({ "jsonrpc": "2.0", "method": "session/update", "params": params }))?;
        tell(&json!({ "jsonrpc": "2.0", "id": prompt, "result": { "stopReason": "end_turn" } }))
    }

    fn cancel(&mut self) -> io::Result<()> {
        let Some(turn) = self.turn.take() else { return Ok(()) };
        let result = json!({ "stopReason": "cancelled" });
        tell(&json!({ "jsonrpc": "2.0", "id": turn.prompt, "result": result }))
    }
}

fn tell(message: &Value) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{message}")?;
    stdout.flush()
}
