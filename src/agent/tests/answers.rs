//! The rule of what the answer is, played to all protocols: the same words, thoughts and calls as each
//! engine would send them come to the same answer.

use serde_json::json;

use super::*;
use crate::agent::{acp::Acp, claude::Claude, codex::Codex, opencode::Opencode};

/// What happens in a turn.
#[derive(Clone, Debug)]
enum Step {
    Say(String),
    Think,
    Plan,
    /// A new call of a tool.
    Call,
    /// News of the latest call: what it writes, or that it has ended.
    News,
    /// A subagent says something, and calls a tool.
    Subagent,
}

use Step::{Call, News, Plan, Say, Subagent, Think};

fn say(words: &str) -> Step {
    Say(words.to_owned())
}

/// A turn of one engine.
struct Turn<P> {
    host: Host<P>,
    calls: usize,
    /// Messages and parts so far.
    said: usize,
    /// The parts of the model's current message.
    parts: Vec<Value>,
}

trait Speaks: Protocol + Default {
    /// A turn whose prompt is sent.
    fn prompted() -> Host<Self>;
    /// The lines for a step.
    fn step(turn: &mut Turn<Self>, step: &Step) -> Vec<Value>;
    /// The lines for the end of the model's turn.
    fn stop(turn: &mut Turn<Self>) -> Vec<Value>;
}

impl<P: Speaks> Turn<P> {
    fn new() -> Turn<P> {
        Turn { host: P::prompted(), calls: 0, said: 0, parts: Vec::new() }
    }

    fn play(mut self, steps: &[Step]) -> Turn<P> {
        for step in steps {
            match step {
                Call => self.calls += 1,
                News if self.calls == 0 => continue,
                _ => self.said += 1,
            }
            for line in P::step(&mut self, step) {
                self.host.value(line);
            }
        }
        self
    }

    fn stop(mut self) -> Host<P> {
        for line in P::stop(&mut self) {
            self.host.value(line);
        }
        self.host
    }
}

impl Speaks for Claude {
    fn prompted() -> Host<Claude> {
        let mut host = Host::begun(&spec());
        host.value(json!({ "type": "system", "subtype": "init", "session_id": FRESH }));
        host
    }

    fn step(turn: &mut Turn<Claude>, step: &Step) -> Vec<Value> {
        let call = format!("toolu_{}", turn.calls);
        let line = |parent: Option<&str>, block: Value| {
            let message = json!({ "id": "msg_1", "model": "m", "content": [block] });
            json!({ "type": "assistant", "message": message, "parent_tool_use_id": parent })
        };
        vec![match step {
            Say(words) => {
                let block = json!({ "type": "text", "text": words });
                turn.parts = vec![block.clone()];
                line(None, block)
            }
            Think => line(None, json!({ "type": "thinking", "thinking": "hm" })),
            Plan => json!({ "type": "system", "subtype": "status" }),
            Call => {
                turn.parts.clear();
                line(None, json!({ "type": "tool_use", "id": call, "name": "Bash", "input": {} }))
            }
            News => {
                let result =
                    json!({ "type": "tool_result", "tool_use_id": call, "content": "wrote" });
                let message = json!({ "role": "user", "content": [result] });
                json!({ "type": "user", "message": message, "parent_tool_use_id": null })
            }
            Subagent => {
                let text = line(Some("toolu_0"), json!({ "type": "text", "text": "sub" }));
                let input = json!({ "type": "tool_use", "id": "toolu_s", "name": "Bash" });
                return vec![text, line(Some("toolu_0"), input)];
            }
        }]
    }

    /// The result has the last block alone.
    fn stop(turn: &mut Turn<Claude>) -> Vec<Value> {
        let last = turn.parts.last().map(|block| block["text"].clone());
        let last = last.unwrap_or_else(|| json!(""));
        vec![json!({ "type": "result", "subtype": "success", "is_error": false, "result": last })]
    }
}

impl Speaks for Codex {
    fn prompted() -> Host<Codex> {
        let mut host = Host::begun(&spec());
        for (id, result) in [
            json!({}),
            json!({ "account": {} }),
            json!({ "thread": { "id": "t" } }),
            json!({ "turn": { "id": "u" } }),
        ]
        .into_iter()
        .enumerate()
        {
            host.value(json!({ "id": id + 1, "result": result }));
        }
        host
    }

    fn step(turn: &mut Turn<Codex>, step: &Step) -> Vec<Value> {
        let call = format!("call_{}", turn.calls);
        let note = |method: &str, thread: &str, rest: Value| {
            let mut params = json!({ "threadId": thread, "turnId": "u" });
            params.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            json!({ "method": method, "params": params })
        };
        let item =
            |method: &str, thread: &str, item: Value| note(method, thread, json!({ "item": item }));
        let id = format!("msg_{}", turn.said);
        vec![match step {
            Say(words) => {
                let begun = json!({ "type": "agentMessage", "id": id, "text": "" });
                let said = json!({ "type": "agentMessage", "id": id, "text": words });
                turn.parts = vec![said.clone()];
                return vec![item("item/started", "t", begun), item("item/completed", "t", said)];
            }
            Think => item("item/completed", "t", json!({ "type": "reasoning", "id": id })),
            Plan => note("turn/plan/updated", "t", json!({ "plan": [] })),
            Call => {
                turn.parts.clear();
                let call = json!({ "type": "commandExecution", "id": call, "command": "ls" });
                item("item/started", "t", call)
            }
            News => {
                let delta = json!({ "itemId": call, "delta": "wrote" });
                let done = json!({ "type": "commandExecution", "id": call, "status": "completed" });
                return vec![
                    note("item/commandExecution/outputDelta", "t", delta),
                    item("item/completed", "t", done),
                ];
            }
            Subagent => {
                let said = json!({ "type": "agentMessage", "id": "msg_s", "text": "sub" });
                let call = json!({ "type": "commandExecution", "id": "call_s" });
                return vec![item("item/completed", "h", said), item("item/started", "h", call)];
            }
        }]
    }

    fn stop(turn: &mut Turn<Codex>) -> Vec<Value> {
        let turn = json!({ "id": "u", "status": "completed", "items": turn.parts });
        let params = json!({ "threadId": "t", "turn": turn });
        vec![json!({ "method": "turn/completed", "params": params })]
    }
}

fn opencode_event(kind: &str, properties: Value) -> Value {
    let payload = json!({ "type": kind, "properties": properties });
    json!({ "event": { "directory": "/p", "payload": payload } })
}

impl Speaks for Opencode {
    fn prompted() -> Host<Opencode> {
        let model = crate::agent::Model { provider: "p".to_owned(), model: "m".to_owned() };
        let mut host = Host::begun(&TurnSpec { model: Some(model), ..spec() });
        host.value(json!({ "ready": true }));
        host.value(json!({ "id": 1, "status": 200, "body": { "id": "ses_1" } }));
        host.value(opencode_event(
            "session.created",
            json!({ "sessionID": "ses_2", "info": { "id": "ses_2", "parentID": "ses_1" } }),
        ));
        host
    }

    /// A part is there before its words, and these come late: after the call that follows.
    fn step(turn: &mut Turn<Opencode>, step: &Step) -> Vec<Value> {
        let message = format!("msg_{}", turn.calls);
        let part = |session: &str, message: &str, rest: Value| {
            let mut part = json!({ "sessionID": session, "messageID": message });
            part.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
            json!({ "sessionID": session, "part": part })
        };
        let updated = |properties| opencode_event("message.part.updated", properties);
        let begun = |session: &str, message: &str| {
            let info = json!({ "id": message, "role": "assistant" });
            opencode_event("message.updated", json!({ "sessionID": session, "info": info }))
        };
        let id = format!("prt_{}", turn.said);
        let tool = |message: &str, call: usize, status: &str| {
            let state = json!({ "status": status, "input": {} });
            let call = format!("call_{call}");
            part("ses_1", message, json!({ "type": "tool", "callID": call, "state": state }))
        };
        let mut lines = vec![begun("ses_1", &message)];
        match step {
            Say(words) => {
                let text = |text: &str| json!({ "type": "text", "id": id, "text": text });
                turn.parts.push(text(words));
                let delta = json!({ "sessionID": "ses_1", "messageID": message, "partID": id,
                    "field": "text", "delta": words });
                lines.push(updated(part("ses_1", &message, text(""))));
                lines.push(opencode_event("message.part.delta", delta));
                lines.push(updated(part("ses_1", &message, text(words))));
            }
            Think => {
                let thought = json!({ "type": "reasoning", "id": id, "text": "hm" });
                turn.parts.push(thought.clone());
                lines.push(updated(part("ses_1", &message, thought)));
            }
            Plan => lines.push(opencode_event("todo.updated", json!({ "sessionID": "ses_1" }))),
            Call => {
                // The words of the part before come once more when the call is there.
                let late = turn.parts.pop().filter(|part| part["type"] == "text");
                turn.parts.clear();
                let of = format!("msg_{}", turn.calls - 1);
                lines.insert(0, updated(tool(&of, turn.calls, "pending")));
                lines.extend(late.map(|late| updated(part("ses_1", &of, late))));
            }
            News => {
                let of = format!("msg_{}", turn.calls - 1);
                lines.push(updated(tool(&of, turn.calls, "running")));
                lines.push(updated(tool(&of, turn.calls, "completed")));
            }
            Subagent => {
                let text = json!({ "type": "text", "id": "prt_s", "text": "sub" });
                lines.push(begun("ses_2", "msg_s"));
                lines.push(updated(part("ses_2", "msg_s", text)));
            }
        }
        lines
    }

    fn stop(turn: &mut Turn<Opencode>) -> Vec<Value> {
        let message = format!("msg_{}", turn.calls);
        let info = json!({ "id": message, "role": "assistant", "finish": "stop" });
        let body = json!({ "info": info, "parts": turn.parts });
        vec![json!({ "id": 2, "status": 200, "body": body })]
    }
}

/// The agents that name their messages, and those that do not.
#[derive(Default)]
struct Named(Acp);
#[derive(Default)]
struct Unnamed(Acp);

fn acp_prompted<P: Protocol + Default>() -> Host<P> {
    let mut host = Host::begun(&spec());
    host.value(json!({ "jsonrpc": "2.0", "id": 1, "result": { "protocolVersion": 1 } }));
    host.value(json!({ "jsonrpc": "2.0", "id": 2, "result": { "sessionId": "s" } }));
    host
}

fn acp_step<P>(turn: &Turn<P>, step: &Step, is_named: bool) -> Vec<Value> {
    let update = |update: Value| {
        let params = json!({ "sessionId": "s", "update": update });
        json!({ "jsonrpc": "2.0", "method": "session/update", "params": params })
    };
    let chunk = |kind: &str, text: &str| {
        let content = json!({ "type": "text", "text": text });
        let mut chunk = json!({ "sessionUpdate": kind, "content": content });
        if is_named {
            chunk["messageId"] = json!(format!("msg_{}", turn.calls));
        }
        chunk
    };
    let call = format!("call_{}", turn.calls);
    let subagent = json!({ "claudeCode": { "parentToolUseId": "call_0" } });
    match step {
        Say(words) => {
            let (one, two) = words.split_at(words.floor_char_boundary(words.len() / 2));
            [one, two].map(|it| update(chunk("agent_message_chunk", it))).into()
        }
        Think => vec![update(chunk("agent_thought_chunk", "hm"))],
        Plan => vec![update(json!({ "sessionUpdate": "plan", "entries": [] }))],
        Call => {
            let kind = if turn.calls.is_multiple_of(2) { "tool_call" } else { "tool_call_update" };
            vec![update(json!({ "sessionUpdate": kind, "toolCallId": call, "title": "ls" }))]
        }
        News => ["in_progress", "completed"]
            .map(|status| {
                update(json!({ "sessionUpdate": "tool_call_update", "toolCallId": call,
                    "status": status }))
            })
            .into(),
        Subagent => {
            let mut said = chunk("agent_message_chunk", "sub");
            said["_meta"] = subagent.clone();
            let call = json!({ "sessionUpdate": "tool_call", "toolCallId": "call_s", "title": "x",
                "_meta": subagent });
            vec![update(said), update(call)]
        }
    }
}

fn acp_stop(reason: &str) -> Vec<Value> {
    vec![json!({ "jsonrpc": "2.0", "id": 3, "result": { "stopReason": reason } })]
}

macro_rules! acp {
    ($agent:ident, $is_named:expr) => {
        impl Protocol for $agent {
            fn begin(&mut self, turn: &TurnSpec, actions: &mut Actions) {
                self.0.begin(turn, actions);
            }
            fn on_value(&mut self, value: Value, actions: &mut Actions) {
                self.0.on_value(value, actions);
            }
            fn decide(&mut self, question: QuestionId, verdict: Verdict, actions: &mut Actions) {
                self.0.decide(question, verdict, actions);
            }
            fn interrupt(&mut self, actions: &mut Actions) {
                self.0.interrupt(actions);
            }
            fn on_quiet(&mut self, actions: &mut Actions) {
                self.0.on_quiet(actions);
            }
            fn on_exit(&mut self, exit: Exit, stderr_tail: &str, actions: &mut Actions) {
                self.0.on_exit(exit, stderr_tail, actions);
            }
        }

        impl Speaks for $agent {
            fn prompted() -> Host<$agent> {
                acp_prompted()
            }
            fn step(turn: &mut Turn<$agent>, step: &Step) -> Vec<Value> {
                acp_step(turn, step, $is_named)
            }
            fn stop(_: &mut Turn<$agent>) -> Vec<Value> {
                acp_stop("end_turn")
            }
        }
    };
}

acp!(Named, true);
acp!(Unnamed, false);

/// Without what differs from engine to engine: whether two texts are two paragraphs.
fn squeezed(text: &str) -> String {
    text.split_whitespace().collect()
}

/// The answer of every protocol, squeezed, and what each reported on the way.
fn answers(steps: &[Step]) -> Vec<(&'static str, String, String)> {
    fn one<P: Speaks>(steps: &[Step]) -> (String, String) {
        let host = Turn::<P>::new().play(steps).stop();
        (squeezed(host.answered()), squeezed(&host.commentary().concat()))
    }
    [
        ("claude", one::<Claude>(steps)),
        ("codex", one::<Codex>(steps)),
        ("opencode", one::<Opencode>(steps)),
        ("acp, named", one::<Named>(steps)),
        ("acp", one::<Unnamed>(steps)),
    ]
    .map(|(engine, (answer, commentary))| (engine, answer, commentary))
    .into()
}

#[track_caller]
fn check(steps: &[Step], expected: &str) {
    for (engine, answer, _) in answers(steps) {
        assert_eq!(answer, squeezed(expected), "{engine}: {steps:?}");
    }
}

#[test]
fn the_answer_is_what_was_said_last_and_all_of_it() {
    check(&[say("done")], "done");
    check(&[say("I look. "), Call, News, say("Found. "), Call, News, say("done")], "done");
    // Before the last call, which is a list of what is done.
    check(&[say("THE-ANSWER"), Call, News], "THE-ANSWER");
    check(&[say("THE-ANSWER"), Call, News, say("  "), Think], "THE-ANSWER");
    // Around thoughts, and while a command goes on writing in the background.
    check(&[Think, say("PART-A "), Think, say("PART-B")], "PART-A PART-B");
    check(&[Call, say("ONE "), News, say("TWO "), News, Plan, say("THREE")], "ONE TWO THREE");
    check(&[Call, News, say("ONE "), News, Subagent, say("TWO")], "ONE TWO");
    check(&[Call, Subagent, News], "");
    check(&[], "");
}

/// What was said before is reported when the call comes, and nothing twice.
#[test]
fn what_was_said_before_is_commentary() {
    let steps = [say("cause"), Call, News, say("mended"), Think, Call, News, say("done")];
    for (engine, answer, commentary) in answers(&steps) {
        assert_eq!((&answer[..], &commentary[..]), ("done", "causemended"), "{engine}");
    }
}

/// A turn that ends badly reports the last words too.
#[track_caller]
fn check_bad_end<P: Speaks>(end: impl FnOnce(&mut Host<P>)) {
    let steps = [say("looking"), Call, News, say("THE-"), Think, say("ANSWER")];
    let mut host = Turn::<P>::new().play(&steps).host;
    end(&mut host);
    let is_bad = matches!(host.end, Some(TurnEnd::Failed(_) | TurnEnd::Interrupted));
    assert!(is_bad, "{:?}", host.end);
    assert_eq!(squeezed(&host.commentary().concat()), "lookingTHE-ANSWER");
}

#[test]
fn words_before_a_bad_end_are_not_lost() {
    fn dies<P: Speaks>(host: &mut Host<P>) {
        host.exit(Exit::Code(0), "");
    }
    fn is_stopped<P: Speaks>(host: &mut Host<P>) {
        host.command(TurnCommand::Interrupt);
        host.exit(Exit::Signal(9), "");
    }
    check_bad_end::<Claude>(dies);
    check_bad_end::<Codex>(dies);
    check_bad_end::<Opencode>(dies);
    check_bad_end::<Named>(dies);
    check_bad_end::<Claude>(is_stopped);
    check_bad_end::<Codex>(is_stopped);
    check_bad_end::<Opencode>(is_stopped);
    check_bad_end::<Unnamed>(is_stopped);
    // The model's service fails, or the model refuses.
    check_bad_end::<Claude>(|host| {
        host.value(json!({ "type": "assistant", "error": "server_error", "message":
            { "model": "<synthetic>", "content": [{ "type": "text", "text": "API Error" }] } }));
        host.value(json!({ "type": "result", "subtype": "success", "is_error": true,
            "result": "API Error" }));
    });
    check_bad_end::<Codex>(|host| {
        let turn = json!({ "id": "u", "status": "failed", "error": { "message": "m" } });
        let params = json!({ "threadId": "t", "turn": turn });
        host.value(json!({ "method": "turn/completed", "params": params }));
    });
    check_bad_end::<Opencode>(|host| {
        let info = json!({ "error": { "name": "APIError" } });
        host.value(json!({ "id": 2, "status": 200, "body": { "info": info, "parts": [] } }));
    });
    for reason in ["refusal", "cancelled"] {
        check_bad_end::<Unnamed>(|host| host.value(acp_stop(reason).remove(0)));
    }
    check_bad_end::<Named>(|host| {
        host.value(
            json!({ "jsonrpc": "2.0", "id": 3, "error": { "code": -32603, "message": "" } }),
        );
    });
}

fn any_steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Say(String::new())),
        1 => Just(Say(" \n".to_owned())),
        1 => Just(Think),
        1 => Just(Plan),
        2 => Just(Call),
        3 => Just(News),
        1 => Just(Subagent),
    ];
    prop::collection::vec(step, 0..24).prop_map(|mut steps| {
        // Words that can be told apart.
        for (at, step) in steps.iter_mut().enumerate() {
            if let Say(words) = step
                && words.is_empty()
            {
                *words = format!("wörd-{at}. ");
            }
        }
        steps
    })
}

/// The rule, in the words of this test.
fn expected(steps: &[Step]) -> String {
    let segments: Vec<String> = steps
        .split(|step| matches!(step, Call))
        .map(|segment| {
            let words =
                segment.iter().map(|step| if let Say(words) = step { &words[..] } else { "" });
            squeezed(&words.collect::<String>())
        })
        .collect();
    segments.into_iter().rfind(|segment| !segment.is_empty()).unwrap_or_default()
}

proptest! {
    #[test]
    fn all_engines_come_to_the_same_answer_and_drop_nothing(steps in any_steps()) {
        for (engine, answer, commentary) in answers(&steps) {
            prop_assert_eq!(&answer, &expected(&steps), "{}", engine);
            for step in &steps {
                if let Say(words) = step {
                    let words = squeezed(words);
                    let times = commentary.matches(&words).count();
                    prop_assert!(words.is_empty() || times <= 1, "{}: {} twice", engine, words);
                    let is_there = answer.contains(&words) || commentary.contains(&words);
                    prop_assert!(is_there, "{}: {} is lost", engine, words);
                }
            }
            prop_assert!(!answer.contains("sub") && !commentary.contains("sub"), "{}", engine);
        }
    }
}
