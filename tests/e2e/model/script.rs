//! The directives in a prompt that say what the model answers.
//!
//! One grammar serves all APIs, so that a test reads the same whichever
//! engine it drives:
//!
//! | directive | effect |
//! |---|---|
//! | `[[text:words]]` | says it; `${last_tool_result}`, `${thread}` and `${model}` are filled in |
//! | `[[think:words]]` | reasoning |
//! | `[[tool:NAME {json}]]` | calls a tool and ends this response; NAME may be the end of the offered name |
//! | `[[tool+:NAME {json}]]` | a further call in the same response |
//! | `[[shell:command]]`, `[[shell:{json} \| command]]` | calls the engine's own shell tool, with more arguments |
//! | `[[write:path\|content]]` | calls the engine's own tool for writing a file |
//! | `[[edit:path\|old\|new]]` | calls the engine's own tool for changing a line of a file |
//! | `[[gate:name]]` | doesn't answer until the test calls `Model::open(name)` |
//! | `[[sleep:5]]` | doesn't answer for so many seconds |
//! | `[[pace:0.2]]` | so many seconds between the words that follow |
//! | `[[hang:60]]` | sends what came before, then nothing, with the stream open |
//! | `[[cut]]` | sends what came before, then drops the connection |
//! | `[[fail:code words]]` | an error inside the stream |
//! | `[[error:429]]`, `[[error:500x2]]`, `[[error:429x1@3]]`, `[[error:429 {json}]]` | this status every time, twice, once with `retry-after: 3`, with this body |
//! | `[[usage:in,out]]`, `[[stop:reason]]` | what the end of the response reports |
//!
//! A response ends after its tool calls; the request that brings their results
//! plays what follows. Once all is played the answer is `done: <last tool
//! result>`, and without any directive it is `echo: <prompt>`.

use serde_json::{Map, Value, json};
use std::time::Duration;

/// How the line begins that the daemon puts above every message.
pub(crate) const HEADER: &str = "[Agent Bridge |";

/// One directive.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Op {
    Text(String),
    Think(String),
    Call { what: Call, joined: bool },
    Gate(String),
    Sleep(Duration),
    Pace(Duration),
    Hang(Duration),
    Cut,
    Fail { code: String, message: String },
    Error(Refusal),
    Usage(u64, u64),
    Stop(String),
}

/// A tool call, as far as it is known before the engine says what it offers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Call {
    Named { name: String, input: Value },
    Shell { command: String, extra: Map<String, Value> },
    Write { path: String, content: String },
    Edit { path: String, old: String, new: String },
}

/// An HTTP error in place of an answer.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    /// Only the first so many tries; every one if `None`.
    pub(crate) times: Option<u32>,
    pub(crate) retry_after: Option<u32>,
    pub(crate) body: Option<Value>,
}

/// The part of a prompt that scripts: what follows the last envelope header.
///
/// History that is quoted before the envelope may hold directives of earlier
/// turns, which must not be played again.
pub(crate) fn scripted(prompt: &str) -> &str {
    match prompt.rmatch_indices(HEADER).find(|(at, _)| *at == 0 || prompt[..*at].ends_with('\n')) {
        Some((at, _)) => &prompt[at..],
        None => prompt,
    }
}

/// Reads all directives of a text.
///
/// # Panics
///
/// If a directive doesn't parse: the test is wrong, and a model that guesses
/// would hide it.
pub(crate) fn parse(text: &str) -> Vec<Op> {
    let mut ops = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("[[") {
        rest = &rest[at + 2..];
        let name_len =
            rest.find(|c: char| !c.is_ascii_lowercase() && c != '+').unwrap_or(rest.len());
        let (name, after) = rest.split_at(name_len);
        let (arg, end) = match after.strip_prefix(':') {
            // A JSON argument may itself hold "]]".
            Some(arg) if name.trim_end_matches('+') == "tool" => (arg, tool_len(arg)),
            Some(arg) => (arg, arg.find("]]")),
            None if after.starts_with("]]") => (after, Some(0)),
            None => continue,
        };
        let Some(end) = end else { panic!("[[{name} has no end in {text:?}") };
        if let Some(op) = directive(name, &arg[..end]) {
            ops.push(op);
        }
        rest = &arg[end + 2..];
    }
    ops
}

/// Splits directives into one list for each response of the model.
pub(crate) fn responses(ops: Vec<Op>) -> Vec<Vec<Op>> {
    let mut responses: Vec<Vec<Op>> = Vec::new();
    let mut over = true;
    for op in ops {
        let joins = matches!(op, Op::Call { joined: true, .. });
        let is_call = matches!(op, Op::Call { .. });
        if over && !joins || responses.is_empty() {
            responses.push(Vec::new());
        }
        responses.last_mut().expect("one was pushed above").push(op);
        over = is_call;
    }
    responses
}

/// The response that is due when the engine has reported this many results.
///
/// Counting results and not responses works for every API, since some of them
/// list parallel calls as separate messages.
pub(crate) fn due(responses: &[Vec<Op>], mut n_results: usize) -> Option<&[Op]> {
    for response in responses {
        let n_calls = response.iter().filter(|op| matches!(op, Op::Call { .. })).count();
        if n_calls == 0 || n_results < n_calls {
            return Some(response);
        }
        n_results -= n_calls;
    }
    None
}

fn tool_len(arg: &str) -> Option<usize> {
    let end_of_name = arg.find(['{', ']'])?;
    if arg[end_of_name..].starts_with(']') {
        return Some(end_of_name);
    }
    let mut values = serde_json::Deserializer::from_str(&arg[end_of_name..]).into_iter::<Value>();
    values.next()?.ok()?;
    let after = end_of_name + values.byte_offset();
    arg[after..].find("]]").map(|it| after + it)
}

fn directive(name: &str, arg: &str) -> Option<Op> {
    let (base, joined) = match name.strip_suffix('+') {
        Some(base) => (base, true),
        None => (name, false),
    };
    Some(match base {
        "text" => Op::Text(arg.to_owned()),
        "think" => Op::Think(arg.to_owned()),
        "tool" => {
            let (name, input) = match arg.find('{') {
                Some(at) => {
                    (&arg[..at], serde_json::from_str(&arg[at..]).expect("tool_len has parsed it"))
                }
                None => (arg, json!({})),
            };
            Op::Call { what: Call::Named { name: name.trim().to_owned(), input }, joined }
        }
        "shell" => Op::Call { what: shell(arg), joined },
        "write" => {
            let (path, content) = arg.split_once('|').expect("[[write:path|content]]");
            Op::Call {
                what: Call::Write { path: path.to_owned(), content: content.to_owned() },
                joined,
            }
        }
        "edit" => {
            let mut parts = arg.splitn(3, '|').map(str::to_owned);
            let mut part = || parts.next().expect("[[edit:path|old|new]]");
            let what = Call::Edit { path: part(), old: part(), new: part() };
            Op::Call { what, joined }
        }
        "gate" => Op::Gate(arg.to_owned()),
        "sleep" => Op::Sleep(seconds(arg)),
        "pace" => Op::Pace(seconds(arg)),
        "hang" => Op::Hang(seconds(arg)),
        "cut" => Op::Cut,
        "fail" => {
            let (code, message) = arg.split_once(' ').unwrap_or((arg, arg));
            Op::Fail { code: code.to_owned(), message: message.to_owned() }
        }
        "error" => Op::Error(refusal(arg)),
        "usage" => {
            let (input, output) = arg.split_once(',').expect("[[usage:in,out]]");
            Op::Usage(number(input), number(output))
        }
        "stop" => Op::Stop(arg.to_owned()),
        // Prompts of the engines themselves may hold double brackets.
        _ => return None,
    })
}

fn shell(arg: &str) -> Call {
    if arg.trim_start().starts_with('{') {
        let mut values = serde_json::Deserializer::from_str(arg).into_iter::<Map<String, Value>>();
        if let Some(Ok(extra)) = values.next() {
            let rest = arg[values.byte_offset()..].trim_start();
            if let Some(command) = rest.strip_prefix('|') {
                return Call::Shell { command: command.trim().to_owned(), extra };
            }
        }
    }
    Call::Shell { command: arg.to_owned(), extra: Map::new() }
}

/// Reads `429`, `500x2`, `429x1@3` and any of them with a body after a space.
fn refusal(arg: &str) -> Refusal {
    let (head, body) = match arg.split_once(' ') {
        Some((head, body)) => {
            (head, Some(serde_json::from_str(body).expect("the body of [[error]] is JSON")))
        }
        None => (arg, None),
    };
    let (head, retry_after) = match head.split_once('@') {
        Some((head, seconds)) => (head, Some(number(seconds))),
        None => (head, None),
    };
    let (status, times) = match head.split_once('x') {
        Some((status, times)) => (status, Some(number(times))),
        None => (head, None),
    };
    Refusal { status: number(status), times, retry_after, body }
}

fn number<T: std::str::FromStr>(text: &str) -> T {
    text.trim().parse().unwrap_or_else(|_| panic!("{text:?} is not a number"))
}

fn seconds(text: &str) -> Duration {
    Duration::from_secs_f64(number(text))
}

/// Fills in `${name}`, also inside of JSON.
pub(crate) fn fill(value: &Value, known: &[(&str, &str)]) -> Value {
    match value {
        Value::String(text) => Value::String(fill_text(text, known)),
        Value::Array(items) => items.iter().map(|it| fill(it, known)).collect(),
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(key, it)| (key.clone(), fill(it, known))).collect())
        }
        other => other.clone(),
    }
}

/// Fills in `${name}`.
pub(crate) fn fill_text(text: &str, known: &[(&str, &str)]) -> String {
    let mut text = text.to_owned();
    for (name, value) in known {
        text = text.replace(&format!("${{{name}}}"), value);
    }
    text
}

#[test]
fn a_response_ends_after_its_calls() {
    let ops = parse(
        r#"hi [[text:a]] [[tool:Bash {"command":"[[ -f x ]] && ls"}]][[tool+:Read {}]] [[shell:ls]] [[text:b]]"#,
    );
    let responses = responses(ops);
    assert_eq!(responses.iter().map(Vec::len).collect::<Vec<_>>(), [3, 1, 1]);
    assert_eq!(due(&responses, 0), Some(&responses[0][..]));
    assert_eq!(due(&responses, 1), Some(&responses[0][..]));
    assert_eq!(due(&responses, 2), Some(&responses[1][..]));
    assert_eq!(due(&responses, 3), Some(&responses[2][..]));
}

#[test]
fn only_the_last_envelope_scripts() {
    let prompt = "```\n[Agent Bridge | thread:1]\n\n[[text:old]]\n```\n[Agent Bridge | thread:1]\n\n[[text:new]] [Agent Bridge | x";
    assert_eq!(parse(scripted(prompt)), [Op::Text("new".to_owned())]);
    assert_eq!(parse(scripted("[[text:bare]]")), [Op::Text("bare".to_owned())]);
}

#[test]
fn errors_have_counts_delays_and_bodies() {
    let wanted = Refusal { status: 429, times: Some(1), retry_after: Some(3), body: None };
    assert_eq!(parse("[[error:429x1@3]]"), [Op::Error(wanted)]);
    let wanted = Refusal { status: 500, body: Some(json!({"a": 1})), ..Refusal::default() };
    assert_eq!(parse(r#"[[error:500 {"a":1}]]"#), [Op::Error(wanted)]);
}
