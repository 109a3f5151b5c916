//! What goes over the wire, field for field: PROTOCOL.md beside this file, sections 2 and 3. Pure.
//! This and the config file are the only places where a machine is called `agentId` and an engine
//! `agent`.
//!
//! What the bridge sends is read leniently: a field may be missing or of another type, and `_id`
//! may stand for `messageId`. But who wrote a message, and when, decides what it may do, so there
//! another type is something that can't be read, and not nothing. What we send is strict.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::{
    ids::{ClientMsgId, Engine, MachineId, MessageId, ThreadId, hex},
    time::Timestamp,
};

/// The longest id that is taken, in bytes. Ids go into addresses, names of posts and files of state;
/// those of bridges have 50 bytes at most.
pub const ID_BYTES: usize = 1024;
/// Characters that are kept of other fields in one line.
const LINE_CHARS: usize = 4096;
/// Characters that are kept of what has to be one of a few words, or a time.
const WORD_CHARS: usize = 100;
/// Attachments of a message that are kept.
const ATTACHMENTS_MAX: usize = 1000;

/// A message on a thread: a human's for some machine, which is the data of a `reply` event, or any
/// that the bridge has stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reply {
    pub thread_id: ThreadId,
    /// None when the bridge sent none; such a message can't be recognised when it comes again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<MessageId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    /// None is a human's. What is no string is kept as the JSON that it is: nobody's word.
    pub role: Option<String>,
    #[serde(default)]
    pub body: String,
    /// The server's time, as it wrote it. None if it wrote none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    #[serde(default, rename = "agent", skip_serializing_if = "Option::is_none")]
    pub engine: Option<Engine>,
    /// The machine that owns the thread; none while it is unclaimed.
    #[serde(default, rename = "agentId", skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attachment_ids: Vec<String>,
    /// Where a fresh session is to work, one of those that the machine offers. Ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project_dir: Option<String>,
    /// A program posted it with a machine's token, says the bridge (`via`): no person has signed in
    /// for it. Ours.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_by_token: bool,
}

/// Why the data of a `reply` event is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoReply {
    NotAnObject,
    /// `threadId` is missing, blank or no string.
    NoThread,
    /// `threadId` is longer than [`ID_BYTES`], so nothing could be posted to it.
    LongThread,
}

impl Reply {
    /// Reads the data of a `reply` event.
    pub fn parse(data: &str) -> Result<Reply, NoReply> {
        let object = serde_json::from_str(data).map_err(|_| NoReply::NotAnObject)?;
        Reply::read(object, None, "attachmentIds")
    }

    /// Reads a stored message, one of `{messages: […]}`. `thread` stands in for a missing `threadId`;
    /// whose the thread is, a history does not tell.
    pub fn stored(value: Value, thread: &ThreadId) -> Option<Reply> {
        let Value::Object(object) = value else { return None };
        let reply = Reply::read(object, Some(thread), "attachments").ok()?;
        Some(Reply { machine: None, ..reply })
    }

    fn read(
        mut object: Map<String, Value>,
        thread: Option<&ThreadId>,
        attachments: &str,
    ) -> Result<Reply, NoReply> {
        // Taken out, not copied: it may be megabytes long.
        let body = body(object.remove("body"));
        let text = |key| text(&object, key);
        let line = |key| text(key).map(|it| cut(&it, LINE_CHARS));
        let thread_id = text("threadId").map(ThreadId::new).or_else(|| thread.cloned());
        let thread_id = thread_id.ok_or(NoReply::NoThread)?;
        if ID_BYTES < thread_id.as_str().len() {
            return Err(NoReply::LongThread);
        }
        let attachments = object.get(attachments).and_then(Value::as_array).into_iter().flatten();
        let attachments = attachments.filter_map(Value::as_str).filter(|it| it.len() <= ID_BYTES);
        Ok(Reply {
            thread_id,
            message_id: text("messageId").or_else(|| text("_id")).map(|it| id(it).into()),
            author: line("author"),
            role: word(&object, "role"),
            body,
            created_at: word(&object, "createdAt"),
            engine: line("agent").map(|name| Engine::new(&name)),
            machine: text("agentId").map(|it| id(it).into()),
            attachment_ids: attachments.take(ATTACHMENTS_MAX).map(str::to_owned).collect(),
            project_dir: line("projectDir"),
            is_by_token: word(&object, "via").is_some_and(|via| via == "token"),
        })
    }

    pub fn is_human(&self) -> bool {
        self.role.as_deref() == Some("human")
    }

    /// Whether the bridge gave a time, which nobody can read.
    pub fn has_bad_time(&self) -> bool {
        self.created_at.as_deref().is_some_and(|it| Timestamp::parse(it).is_none())
    }
}

/// What we say on a thread: the body of `POST /api/message`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Post {
    pub thread_id: ThreadId,
    pub body: String,
    pub kind: PostKind,
    pub author: String,
    /// Always `agent`.
    pub role: Role,
    pub client_msg_id: ClientMsgId,
    /// Of a question: the same in parts, so that a page can show it as a card with buttons. Ours;
    /// a bridge that does not know it shows the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question: Option<Card>,
    /// The question that this post says the end of. Ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question_closed: Option<Closing>,
    /// The code of the question that this post and those before it have shown whole. Ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub question_shown: Option<String>,
}

impl Post {
    pub fn new(
        thread_id: ThreadId,
        kind: PostKind,
        author: String,
        body: String,
        client_msg_id: ClientMsgId,
    ) -> Post {
        Post {
            thread_id,
            body,
            kind,
            author,
            role: Role::Agent,
            client_msg_id,
            question: None,
            question_closed: None,
            question_shown: None,
        }
    }
}

/// A question in parts. All text is plain text from outside: no Markdown, no markup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Card {
    /// What an answer names it by.
    pub code: String,
    #[serde(rename = "agent")]
    pub engine: Engine,
    /// `read`, `edit`, `run`, `fetch`, `mcp`, `other`, or `choice` for a question of the engine's own.
    pub kind: String,
    /// The engine's name of the tool.
    pub tool: String,
    /// What is asked in words, such as `asks to delete a file`.
    pub asks: String,
    /// The command line, path or URL, and the changes, as far as `details` has them: for a page that
    /// does not know those.
    pub subject: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub diff: String,
    /// All that it is about, part by part; what is too long has a [`DetailForm::Cut`] in it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<CardDetail>,
    /// If those are cut: all of it, uncut.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub whole: Vec<CardDetail>,
    /// Where it would act.
    pub directory: String,
    /// The project, if that is elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The rule by which it is asked, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Why it is asked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// The rule that `always` would add on this thread; none if it can't be shown whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub always: Option<String>,
    /// What that rule allows, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<CardChoice>,
    /// RFC 3339.
    pub expires_at: String,
}

/// A part of what a question is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardDetail {
    pub form: DetailForm,
    /// In our words: what is done to the file, or what is left out.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub title: String,
    /// The agent's: the path of a file, the name of an argument.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DetailForm {
    /// The command line, path or address.
    Text,
    /// What changes in a file.
    Diff,
    /// An argument of the tool.
    Field,
    /// Here something is left out; the title says how much.
    Cut,
}

/// One of the engine's own questions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CardChoice {
    pub question: String,
    pub options: Vec<CardOption>,
    #[serde(rename = "multiple")]
    pub is_multiple: bool,
    /// Words of one's own are an answer too.
    #[serde(rename = "open")]
    pub is_open: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardOption {
    pub label: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// The end of a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    pub code: String,
    pub outcome: Outcome,
}

/// How a question ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Allowed,
    /// And everything like it on this thread.
    Always,
    Denied,
    /// A question of the engine's own got its answer.
    Answered,
    /// No answer came in time.
    Expired,
    /// The engine took it back, its turn ended, or the daemon did.
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Agent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PostKind {
    Status,
    Question,
    Result,
    Error,
}

/// What this machine can do: the body of `POST /api/bridge/machine`. Ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineInfo {
    #[serde(rename = "agentId")]
    pub machine: MachineId,
    /// Of this program.
    pub version: String,
    pub engines: Vec<EngineInfo>,
    /// Where fresh sessions may work; the first is the default.
    pub project_dirs: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EngineInfo {
    pub name: Engine,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Why it can't be used, and what to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
}

/// Whether a thread is being worked on; shown, never stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Activity {
    Working,
    Idle,
}

/// The answer to a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub won: bool,
    pub winner: Option<MachineId>,
}

/// The answer to a post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Posted {
    /// When it was stored, by the bridge's clock; none if the bridge does not say.
    pub at: Option<Timestamp>,
    /// False if the post is a turn's and the bridge had another message under its `clientMsgId` and kept
    /// that one: another daemon of this name does the same work.
    pub is_ours: bool,
}

impl Posted {
    /// Reads the `message` of the answer to `post`.
    pub fn read(post: &Post, message: &Value) -> Posted {
        let field = |name: &str| message.get(name).and_then(Value::as_str);
        let name = field("clientMsgId").unwrap_or(post.client_msg_id.as_str());
        let is_other =
            |stored: &str| name == post.client_msg_id.as_str() && !is_same_text(&post.body, stored);
        Posted {
            at: field("createdAt").and_then(Timestamp::parse),
            is_ours: !is_of_turn(&post.client_msg_id) || !field("body").is_some_and(is_other),
        }
    }
}

/// Whether this is the name of a turn's post, which no later process of ours uses again (protocol section
/// 12). What the daemon itself says may be said once more after a crash, in other words.
fn is_of_turn(name: &ClientMsgId) -> bool {
    let mut parts = name.as_str().rsplit('.').map(str::parse::<u32>);
    matches!((parts.next(), parts.next()), (Some(Ok(_)), Some(Ok(1..))))
}

/// Whether `stored` may be what a bridge made of `ours`: it may trim it, cut it at some length, change
/// blanks and markup, or escape characters, which adds some.
fn is_same_text(ours: &str, stored: &str) -> bool {
    fn words(text: &str) -> impl Iterator<Item = char> {
        text.chars().filter(|c| c.is_alphanumeric())
    }
    let is_cut = words(ours).zip(words(stored)).all(|(a, b)| a == b);
    let mut longer = words(stored);
    let mut is_escaped = || words(ours).all(|c| longer.any(|other| other == c));
    is_cut || is_escaped()
}

/// The answer to `whoami`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whoami {
    pub account_id: Option<String>,
    pub user: Option<String>,
    pub email: Option<String>,
    pub status: Option<String>,
    pub token_prefix: Option<String>,
    pub server_time: Option<String>,
}

/// A field as text: strings that are not blank, and numbers.
pub fn text(object: &Map<String, Value>, key: &str) -> Option<String> {
    match object.get(key)? {
        Value::String(text) if !text.trim().is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A field that decides something: only a missing one and `null` are nothing.
fn word(object: &Map<String, Value>, key: &str) -> Option<String> {
    match object.get(key)? {
        Value::Null => None,
        Value::String(text) => Some(cut(text, WORD_CHARS)),
        other => Some(cut(&other.to_string(), WORD_CHARS)),
    }
}

/// An id that is too long goes by its hash, so that it is still recognised, and is nobody else's.
fn id(text: String) -> String {
    if text.len() <= ID_BYTES { text } else { format!("sha256-{}", hex(&Sha256::digest(text))) }
}

fn cut(text: &str, chars: usize) -> String {
    text.chars().take(chars).collect()
}

/// A body that is no string is shown as the JSON that it is, so that nothing is swallowed.
fn body(value: Option<Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text,
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_read_whole() {
        let data = r#"{"threadId":"t1","messageId":"m1","author":"ann","role":"human","body":"hi",
            "createdAt":"2026-11-22T00:00:00Z","agent":"Codex","agentId":"mac","attachmentIds":["a",7],
            "externalAdoption":{"sessionId":"s","projectDir":"/p","projectName":"p","source":"codex"},
            "via":"token"}"#;
        let reply = Reply::parse(data).unwrap();
        assert!(reply.is_by_token);
        assert_eq!(reply.engine, Some(Engine::CODEX));
        assert_eq!(reply.machine, Some(MachineId::new("mac")));
        assert_eq!(reply.attachment_ids, ["a"]);
        let stored = serde_json::to_string(&reply).unwrap();
        assert_eq!(
            serde_json::from_str::<Reply>(&stored).unwrap(),
            reply,
            "what is stored is read back"
        );
    }

    /// Whether a bridge that answers `message` to a post of `ours` has another one's post.
    #[track_caller]
    fn check_posted(ours: &str, message: Value, is_ours: bool) {
        assert_eq!(posted("m.1.1", ours, &message).is_ours, is_ours, "{ours:?} {message}");
    }

    fn posted(name: &str, ours: &str, message: &Value) -> Posted {
        let (name, author) = (ClientMsgId::new(name), "claude-bridge".to_owned());
        let post = Post::new(ThreadId::new("t"), PostKind::Result, author, ours.to_owned(), name);
        Posted::read(&post, message)
    }

    #[test]
    fn the_post_of_another_daemon_is_told_from_ours_as_a_bridge_stored_it() {
        let ours = "Done: **all** 3 tests pass.\r\n\nNext?\n";
        let escaped = "Done: &lt;b&gt;all&lt;/b&gt; 3 tests pass.&#10;Next?";
        for same in [ours, escaped, "Done: all 3 tests pass. Next?", "Done: all", "", " "] {
            check_posted(ours, serde_json::json!({"_id": "1", "body": same}), true);
        }
        for said_nothing in [Value::Null, serde_json::json!({"_id": "1"}), 7.into()] {
            check_posted(ours, said_nothing, true);
        }
        check_posted(ours, serde_json::json!({"body": "x", "clientMsgId": "other"}), true);
        check_posted(ours, serde_json::json!({"body": 7, "clientMsgId": "m.1.1"}), true);
        check_posted(ours, serde_json::json!({"body": "x", "clientMsgId": "m.1.1"}), false);
        check_posted(ours, serde_json::json!({"body": "Done: all 4 tests pass."}), false);
    }

    #[test]
    fn what_the_daemon_says_in_other_words_after_a_crash_is_ours() {
        let stored = serde_json::json!({"body": "other words"});
        let entry = "00066181f6c32ac8-677cccec";
        let others = ["m.0.1".to_owned(), "turn.K7Q2.closed".to_owned()];
        let own = ["held.0a1b2c3d", "say", "wait", "answer", "show.2", "resumed.2"];
        for name in others.into_iter().chain(own.map(|own| format!("{entry}.{own}"))) {
            assert!(posted(&name, "ours", &stored).is_ours, "{name}");
        }
        for name in ["m.1.1", "m.12.3", "00066181f6c32ac8-677cccec.2.1", "a.b.1.1"] {
            assert!(!posted(name, "ours", &stored).is_ours, "{name}");
        }
    }

    #[test]
    fn other_types_are_tolerated() {
        for data in [
            r#"{"threadId":"t"}"#,
            r#"{"threadId":"t","body":null,"agent":null,"agentId":null,"attachmentIds":null}"#,
            r#"{"threadId":"t","messageId":[],"author":{},"role":1.5,"agent":false,"attachmentIds":"a"}"#,
            r#"{"threadId":"t","externalAdoption":{"sessionId":""},"createdAt":{}}"#,
            r#"{"threadId":7,"body":{"a":1}}"#,
        ] {
            let reply = Reply::parse(data).unwrap_or_else(|why| panic!("{data}: {why:?}"));
            assert_eq!((reply.message_id, reply.machine), (None, None), "{data}");
        }
        assert_eq!(
            Reply::parse(r#"{"threadId":"t","_id":"m"}"#).unwrap().message_id,
            Some(MessageId::new("m"))
        );
        assert_eq!(Reply::parse(r#"{"threadId":"t","body":[1]}"#).unwrap().body, "[1]");
    }

    #[test]
    fn who_wrote_it_and_when_is_not_guessed() {
        let reply = |field: &str, value: &str| {
            Reply::parse(&format!(r#"{{"threadId":"t","{field}":{value}}}"#)).unwrap()
        };
        for value in
            [r#"["human"]"#, r#"{"human":1}"#, "true", "7", r#"" human""#, r#""Human""#, r#""""#]
        {
            let role = reply("role", value).role;
            assert!(role.as_deref().is_some_and(|it| it != "human"), "{value}: {role:?}");
        }
        let times = [
            r#""yesterday""#,
            r#""""#,
            r#"" ""#,
            "[]",
            "{}",
            "false",
            "1795365693000",
            r#""1969-07-20T20:17:40Z""#,
            r#""-000001-01-01T00:00:00Z""#,
            r#""2026-11-22T16:41:33Z\u00a0""#,
        ];
        for value in times {
            assert!(reply("createdAt", value).has_bad_time(), "{value}");
        }
        for value in ["null", r#""2026-11-22T16:41:33Z""#] {
            assert!(!reply("createdAt", value).has_bad_time(), "{value}");
        }
        assert_eq!(reply("role", "null").role, None);
        for value in [r#""Token""#, r#"["token"]"#, "null"] {
            assert!(!reply("via", value).is_by_token, "{value}");
        }
    }

    #[test]
    fn what_is_too_long_is_bounded_where_it_enters() {
        let long = "é".repeat(100_000);
        let reply = |field: &str| {
            let value =
                serde_json::json!({"threadId": "t", field: long, "attachmentIds": [long, "a"]});
            Reply::parse(&value.to_string()).unwrap()
        };
        let message = reply("messageId").message_id.unwrap();
        assert_eq!(message.as_str().len(), 71);
        assert_eq!(reply("_id").message_id, Some(message), "it is recognised");
        assert_eq!(reply("agentId").machine.unwrap().as_str().len(), 71);
        assert_eq!(reply("agentId").attachment_ids, ["a"]);
        for field in ["author", "role", "createdAt", "agent", "projectDir", "via"] {
            let reply = serde_json::to_string(&reply(field)).unwrap();
            assert!(reply.len() < 10_000, "{field}: {}", reply.len());
        }
        for length in [ID_BYTES, ID_BYTES + 1, 65_600, 1_000_000] {
            let data = serde_json::json!({"threadId": "t".repeat(length)}).to_string();
            let expected = if length == ID_BYTES { None } else { Some(NoReply::LongThread) };
            assert_eq!(Reply::parse(&data).err(), expected, "{length}");
        }
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        for (data, why) in [
            ("", NoReply::NotAnObject),
            ("[]", NoReply::NotAnObject),
            ("<html>", NoReply::NotAnObject),
            ("{}", NoReply::NoThread),
            (r#"{"threadId":"  "}"#, NoReply::NoThread),
            (r#"{"threadId":null}"#, NoReply::NoThread),
            (r#"{"threadId":{}}"#, NoReply::NoThread),
        ] {
            assert_eq!(Reply::parse(data), Err(why), "{data}");
        }
    }
}
