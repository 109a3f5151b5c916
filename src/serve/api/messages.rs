//! The routes that say something on a thread, and the one that reads it.

use serde_json::json;

use crate::{
    ids::{self, ClientMsgId, Engine, MachineId, ThreadId},
    serve::{
        api::{
            Answer, Api,
            input::{LIMIT_MAX, limit_param, name_param, no_thread, thread_id, time_param},
        },
        card,
        http::message::{Request, Response},
        store::{
            Caller,
            messages::{Draft, Range, Refusal},
            rows::{Message, Role},
        },
        wire::{self, BODY_CHARS, Fields, NAME_CHARS, PATH_CHARS},
    },
    time::Timestamp,
};

const LIMIT_DEFAULT: u32 = 100;
const KINDS: &[&str] = &["status", "question", "result", "error"];
const ATTACHMENTS_MAX: usize = 20;
/// An answer with HTML holds about this much text: HTML may be several times as long.
const HTML_BYTES: usize = 1024 * 1024;

pub(super) fn post_message(api: &Api, caller: Caller, request: &Request) -> Answer {
    let fields = Fields::parse(&request.body)?;
    if let Some(role) = fields.optional_name("role")?
        && role != "agent"
    {
        return Err(wire::bad_field(400, "role", "must be \"agent\" on this route"));
    }
    let (thread, author) = (thread_id(&fields)?, fields.name("author")?);
    let body = fields.text("body", BODY_CHARS)?;
    let draft = Draft {
        kind: Some(fields.one_of("kind", KINDS)?),
        client_msg_id: fields.optional_name("clientMsgId")?.map(ClientMsgId::new),
        question: fields.value("question").and_then(card::question),
        closing: fields.value("questionClosed").and_then(card::closing),
        ..Draft::new(thread, Role::Agent, author, body)
    };
    let message = post(api, caller, draft)?;
    Ok(answer(&message, wire::message(&message)))
}

/// Makes the thread if it is new, and its id if there is none.
pub(super) fn post_reply(api: &Api, caller: Caller, request: &Request) -> Answer {
    let fields = Fields::parse(&request.body)?;
    let thread = fields.optional_name("threadId")?;
    let thread = thread.unwrap_or_else(|| format!("thread_{}", ids::random_hex()));
    let attachments = fields.lines("attachmentIds", ATTACHMENTS_MAX, NAME_CHARS)?;
    let body = fields.text("body", BODY_CHARS)?;
    // A picture says enough.
    if body.trim().is_empty() && attachments.is_empty() {
        return Err(wire::bad_field(400, "body", "is blank"));
    }
    let author = api.store.account(caller)?.username;
    let draft = Draft {
        // What the body says of it does not count.
        by_token: caller.token().is_some(),
        client_msg_id: fields.optional_name("clientMsgId")?.map(ClientMsgId::new),
        agent: fields.optional_name("agent")?.map(|it| Engine::new(&it)),
        machine: fields.optional_name("agentId")?.map(MachineId::new),
        project_dir: fields.optional_line("projectDir", PATH_CHARS)?,
        attachments,
        ..Draft::new(ThreadId::new(thread), Role::Human, author, body)
    };
    let message = post(api, caller, draft)?;
    Ok(answer(&message, wire::message_with_html(&message)))
}

fn answer(message: &Message, value: serde_json::Value) -> Response {
    Response::ok(json!({ "threadId": message.thread, "message": value }))
}

fn post(api: &Api, caller: Caller, draft: Draft) -> Result<Box<Message>, Response> {
    let posted = api.store.post(caller.account, draft)?;
    posted.map_err(|refusal| match refusal {
        Refusal::NoThread => no_thread(),
        Refusal::Attachment => {
            wire::bad_field(400, "attachmentIds", "has one that is unknown or used already")
        }
        Refusal::Machine => wire::bad_field(400, "agentId", "is no machine of this account"),
        Refusal::ProjectDir => {
            wire::bad_field(400, "projectDir", "is none that the machine offers")
        }
        Refusal::OtherMachine => {
            wire::bad_field(409, "agentId", "is not the machine that has the thread")
        }
        Refusal::OtherProjectDir => {
            wire::bad_field(409, "projectDir", "can't be changed once there is a thread")
        }
    })
}

/// `more` is ours: the answer was cut at `limit` or at its size, and goes on after its last
/// message (`since`) or before its first (`before`). So is `html=1`.
pub(super) fn list(api: &Api, caller: Caller, request: &Request) -> Answer {
    let head = &request.head;
    let thread = ThreadId::new(name_param(head, "threadId")?);
    let range = match (time_param(head, "since")?, time_param(head, "before")?) {
        (Some(_), Some(_)) => {
            return Err(wire::bad_field(400, "since", "and before exclude each other"));
        }
        (Some(since), None) => Range::Since(since),
        (None, Some(before)) => Range::Before(before),
        (None, None) => Range::Before(Timestamp::from_millis(u64::MAX)),
    };
    let limit = match (limit_param(head)?, range) {
        (Some(limit), _) => limit,
        // Who reads on from a time wants all that came after it.
        (None, Range::Since(_)) => LIMIT_MAX,
        (None, Range::Before(_)) => LIMIT_DEFAULT,
    };
    let html = head.param("html").is_some_and(|it| it == "1");
    let (bytes, show): (usize, fn(&Message) -> serde_json::Value) =
        if html { (HTML_BYTES, wire::message_with_html) } else { (usize::MAX, wire::message) };
    let page =
        api.store.messages(caller.account, &thread, range, limit, bytes)?.ok_or_else(no_thread)?;
    let messages: Vec<_> = page.messages.iter().map(show).collect();
    Ok(Response::ok(json!({ "messages": messages, "more": page.more })))
}
