//! What the model answers, before it is put in the words of one of the APIs.

use super::script::{self, Call, Op};
use serde_json::{Value, json};
use std::time::Duration;

/// What an answer depends on, as found in a request of any API.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// The last message that a human wrote, with whatever came around it.
    pub(crate) prompt: String,
    /// Results of tools since then.
    pub(crate) results: Vec<String>,
    pub(crate) offers: Vec<Offer>,
    /// The engine asks for itself: for a title, or whether a command is safe.
    pub(crate) aside: bool,
}

impl Seen {
    /// Notes a message of the human, which ends what came before.
    pub(crate) fn prompt(&mut self, text: &str) {
        text.clone_into(&mut self.prompt);
        self.results.clear();
    }

    /// Notes the result of a tool.
    pub(crate) fn result(&mut self, text: String) {
        self.results.push(text);
    }

    /// Finds an offered tool by its name, `namespace/name`, or the end of its
    /// name: `bridge_post` is also `mcp__bridge__bridge_post`.
    fn find(&self, wanted: &str) -> Option<&Offer> {
        let (namespace, name) = match wanted.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, wanted),
        };
        let in_namespace =
            |it: &&Offer| namespace.is_none() || it.namespace.as_deref() == namespace;
        let mut offers = self.offers.iter().filter(in_namespace);
        offers.clone().find(|it| it.name == name).or_else(|| {
            offers.find(|it| it.name.strip_suffix(name).is_some_and(|it| it.ends_with('_')))
        })
    }
}

/// A tool that the engine offers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Offer {
    pub(crate) name: String,
    pub(crate) namespace: Option<String>,
    /// Takes text instead of JSON.
    pub(crate) freeform: bool,
}

impl Offer {
    /// A tool that is known by its name alone.
    pub(crate) fn plain(name: &str) -> Offer {
        Offer { name: name.to_owned(), namespace: None, freeform: false }
    }

    /// A tool that may be there although it is not offered; codex has a model search for some.
    fn unseen(wanted: &str) -> Offer {
        match wanted.split_once('/') {
            Some((namespace, name)) => {
                Offer { namespace: Some(namespace.to_owned()), ..Offer::plain(name) }
            }
            None => Offer::plain(wanted),
        }
    }
}

/// A part of an answer.
#[derive(Debug, Clone)]
pub(crate) enum Piece {
    Text(String),
    Think(String),
    Call { id: String, name: String, namespace: Option<String>, input: Value },
}

impl Piece {
    /// The words, if it has any to say.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Piece::Text(text) => Some(text),
            Piece::Think(_) | Piece::Call { .. } => None,
        }
    }
}

/// How an answer ends.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum End {
    Complete,
    Hang(Duration),
    Cut,
    Fail { code: String, message: String },
}

/// An answer of the model.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Unique among the answers of a server.
    pub(crate) id: String,
    pub(crate) model: String,
    pub(crate) pieces: Vec<Piece>,
    pub(crate) end: End,
    pub(crate) usage: (u64, u64),
    pub(crate) stop: Option<String>,
}

impl Answer {
    /// Turns a response of the script into an answer to what was seen.
    ///
    /// Directives about the time before the answer are the caller's.
    pub(crate) fn play(id: String, model: &str, ops: &[Op], seen: &Seen) -> Answer {
        let thread = seen.prompt.rsplit_once("thread:").map_or("", |(_, it)| it);
        let thread = thread.split([' ', '|', ']', '\n']).next().unwrap_or_default();
        let last = seen.results.last().map_or("", String::as_str);
        let known = [("last_tool_result", last), ("thread", thread), ("model", model)];
        let mut answer = Answer {
            id,
            model: model.to_owned(),
            pieces: Vec::new(),
            end: End::Complete,
            usage: (100, 20),
            stop: None,
        };
        for op in ops {
            match op {
                Op::Text(text) => answer.pieces.push(Piece::Text(script::fill_text(text, &known))),
                Op::Think(text) => answer.pieces.push(Piece::Think(text.clone())),
                Op::Call { what, .. } => {
                    let id = format!("{}_{}", answer.id, answer.pieces.len());
                    answer.pieces.push(match resolve(what, seen) {
                        Ok((offer, input)) => Piece::Call {
                            id,
                            name: offer.name,
                            namespace: offer.namespace,
                            input: script::fill(&input, &known),
                        },
                        Err(why) => Piece::Text(why),
                    });
                }
                Op::Hang(time) => answer.end = End::Hang(*time),
                Op::Cut => answer.end = End::Cut,
                Op::Fail { code, message } => {
                    answer.end = End::Fail { code: code.clone(), message: message.clone() };
                }
                Op::Usage(input, output) => answer.usage = (*input, *output),
                Op::Stop(reason) => answer.stop = Some(reason.clone()),
                Op::Gate(_) | Op::Sleep(_) | Op::Pace(_) | Op::Error(_) => {}
            }
        }
        answer
    }

    /// Whether it calls a tool.
    pub(crate) fn calls(&self) -> bool {
        self.pieces.iter().any(|it| matches!(it, Piece::Call { .. }))
    }

    /// Splits a text into what a stream would send at a time.
    pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
        text.split_inclusive(' ')
    }
}

/// What the engines call their tools: claude, opencode and copilot, codex in three versions, gemini and
/// qwen. Qwen has a `todo_write`, too, so a shorter name that is the end of another comes after it.
const SHELLS: [&str; 6] =
    ["Bash", "bash", "exec_command", "shell_command", "shell", "run_shell_command"];
const WRITERS: [&str; 5] = ["Write", "write_file", "create", "write", "apply_patch"];
const EDITORS: [&str; 4] = ["Edit", "replace", "edit", "apply_patch"];

/// How the engine with this tool for writing spells a file's path, its content, and a change of it.
fn spelling(writer: &str) -> [&'static str; 4] {
    match writer {
        "write" => ["filePath", "content", "oldString", "newString"],
        "create" => ["path", "file_text", "old_str", "new_str"],
        _ => ["file_path", "content", "old_string", "new_string"],
    }
}

/// Turns a call of the script into one of what the engine offers.
fn resolve(call: &Call, seen: &Seen) -> Result<(Offer, Value), String> {
    let any = |names: &[&str]| names.iter().find_map(|it| seen.find(it)).cloned();
    let offered = match call {
        // An engine must also cope with a call of what it never offered.
        Call::Named { name, input } => {
            Some((seen.find(name).cloned().unwrap_or_else(|| Offer::unseen(name)), input.clone()))
        }
        Call::Shell { command, extra } => {
            any(&SHELLS).map(|offer| {
                let mut input = extra.clone();
                let mut more = json!({"command": command, "description": "a scripted command"});
                match offer.name.as_str() {
                    "exec_command" => more = json!({"cmd": command}),
                    "shell" => more["command"] = json!(["bash", "-lc", command]),
                    // Qwen wants it; gemini of the same origin does not mind.
                    "run_shell_command" => more["is_background"] = json!(false),
                    _ => {}
                }
                for (name, value) in more.as_object().expect("it is made above") {
                    input.entry(name).or_insert(value.clone());
                }
                (offer, Value::Object(input))
            })
        }
        Call::Write { path, content } => any(&WRITERS).map(|offer| {
            let lines: String = content.lines().flat_map(|it| ["+", it, "\n"]).collect();
            let input = match (&offer.name[..], spelling(&offer.name)) {
                ("apply_patch", _) => patch(&offer, &format!("*** Add File: {path}\n{lines}")),
                (_, [file, text, ..]) => json!({file: path, text: content}),
            };
            (offer, input)
        }),
        Call::Edit { path, old, new } => any(&EDITORS).map(|offer| {
            let writer = any(&WRITERS).map(|it| it.name).unwrap_or_default();
            let [file, _, before, after] = spelling(&writer);
            let input = match &offer.name[..] {
                "apply_patch" => {
                    patch(&offer, &format!("*** Update File: {path}\n@@\n-{old}\n+{new}\n"))
                }
                "replace" => {
                    json!({file: path, before: old, after: new, "instruction": "change it"})
                }
                _ => json!({file: path, before: old, after: new}),
            };
            (offer, input)
        }),
    };
    offered.ok_or_else(|| {
        let names: Vec<&str> = seen.offers.iter().map(|it| it.name.as_str()).collect();
        format!("no tool for {call:?} among {names:?}")
    })
}

/// A patch in codex's own format.
fn patch(offer: &Offer, changes: &str) -> Value {
    let patch = format!("*** Begin Patch\n{changes}*** End Patch\n");
    if offer.freeform { json!(patch) } else { json!({"input": patch}) }
}

#[test]
fn a_tool_is_found_by_the_end_of_its_name() {
    let in_namespace = Offer { namespace: Some("bridge".to_owned()), ..Offer::plain("post") };
    let offers = ["bridge_reply", "mcp__bridge__bridge_post", "Bash"].map(Offer::plain);
    let seen = Seen {
        offers: offers.into_iter().chain([in_namespace.clone()]).collect(),
        ..Seen::default()
    };
    assert_eq!(seen.find("bridge_post"), Some(&Offer::plain("mcp__bridge__bridge_post")));
    assert_eq!(seen.find("bridge_reply"), Some(&Offer::plain("bridge_reply")));
    assert_eq!(seen.find("bridge/post"), Some(&in_namespace));
    assert_eq!(seen.find("ash"), None);
}
