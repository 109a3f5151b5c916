//! What each route does: read the request, ask the store, answer as section 2 of the protocol says.

use std::sync::Arc;

use serde_json::json;

use crate::{
    ids::{self, ClientMsgId, Engine, MachineId, ThreadId},
    serve::{
        api::{Answer, Api, come_later, internal, origin},
        http::message::{Head, Request, Response, form_field},
        page, password,
        store::{
            Caller,
            accounts::{NewAccount, name_problem},
            messages::{Draft, Range, Role},
        },
        stream::{self, Machine},
        wire::{self, Fields, NAME_CHARS},
    },
    time::{self, Timestamp},
};

const LIMIT_DEFAULT: u32 = 100;
const LIMIT_MAX: u32 = 1000;
const KINDS: &[&str] = &["status", "question", "result", "error"];
const CAPABILITIES_MAX: usize = 64;

#[expect(clippy::unnecessary_wraps, reason = "a route like the others")]
pub(super) fn home(_: &Api, _: &Request) -> Answer {
    Ok(Response::redirect("/api/view"))
}

#[expect(clippy::unnecessary_wraps, reason = "a route like the others")]
pub(super) fn health(_: &Api, _: &Request) -> Answer {
    Ok(Response::json(200, &json!({ "ok": true })))
}

pub(super) fn not_yet(_: &Api, _: Caller, _: &Request) -> Answer {
    Err(Response::error(501, "this bridge has no attachments and no external sessions"))
}

pub(super) fn register(api: &Api, request: &Request) -> Answer {
    if !api.options.allow_register {
        return Err(Response::error(403, "registration is closed on this bridge"));
    }
    let form =
        str::from_utf8(&request.body).map_err(|_| Response::error(400, "the form is not UTF-8"))?;
    let field = |name| {
        let value = form_field(form, name).unwrap_or_default();
        match value.chars().count() {
            0 => Err(wire::bad_field(400, name, "is missing")),
            count if NAME_CHARS < count || value.contains(char::is_control) => {
                Err(wire::bad_field(400, name, "is too long or has control characters"))
            }
            _ => Ok(value),
        }
    };
    let (email, username, password) = (field("email")?, field("username")?, field("password")?);
    if !email.contains('@') {
        return Err(wire::bad_field(400, "email", "is no e-mail address"));
    }
    if let Some(problem) = name_problem(&username) {
        return Err(wire::bad_field(400, "username", problem));
    }
    if let Some(problem) = password::problem(&password) {
        return Err(wire::bad_field(400, "password", &problem));
    }
    let address = origin::client(&api.options, &request.head);
    api.registrations.enter(&address, api.options.clock.now()).map_err(come_later)?;
    let password = api.hash(&password)?;
    let new = NewAccount { username: &username, email: Some(&email), password: Some(&password) };
    let Some((account_id, token)) = api.store.create_account(new).map_err(internal)? else {
        return Err(wire::bad_field(409, "username", "is taken"));
    };
    let answer = json!({
        "ok": true,
        "accountId": account_id.as_str(),
        "apiToken": token.reveal(),
        "basicAuthUser": username,
        "plan": "self-hosted",
    });
    Ok(Response::json(200, &answer))
}

pub(super) fn whoami(api: &Api, caller: Caller, _: &Request) -> Answer {
    let account = api.store.account(caller).map_err(internal)?;
    let answer = json!({
        "ok": true,
        "account": {
            "accountId": account.account_id.as_str(),
            "basicAuthUser": account.username,
            "email": account.email,
            "status": "active",
            "apiTokenPrefix": account.token_prefix,
        },
        "server": { "time": time::now() },
    });
    Ok(Response::json(200, &answer))
}

pub(super) fn rotate_token(api: &Api, caller: Caller, _: &Request) -> Answer {
    let Some(old) = caller.token else {
        return Err(Response::error(400, "call this with the token that is to be replaced"));
    };
    let rotated =
        api.store.rotate(old, || api.hub.hang_up(|it| it.token == Some(old))).map_err(internal)?;
    let token = rotated.ok_or_else(|| Response::error(401, "the token has just been replaced"))?;
    Ok(Response::json(200, &json!({ "ok": true, "apiToken": token.reveal() })))
}

pub(super) fn stream(api: &Api, caller: Caller, request: &Request) -> Answer {
    let head = &request.head;
    let machine = machine_of(head)?;
    if let (Some(machine), Some(token)) = (&machine, caller.token) {
        api.store.note_machine(token, &machine.id).map_err(internal)?;
    }
    let last = head.header("last-event-id").map(str::to_owned);
    let (store, hub) = (Arc::clone(&api.store), Arc::clone(&api.hub));
    Ok(stream::respond(store, hub, caller, machine, last))
}

fn machine_of(head: &Head) -> Result<Option<Machine>, Response> {
    let Some(id) = head.param("agentId") else { return Ok(None) };
    if id.trim().is_empty() || NAME_CHARS < id.chars().count() || id.contains(char::is_control) {
        return Err(wire::bad_field(
            400,
            "agentId",
            "is blank, too long or has control characters",
        ));
    }
    let capabilities = head.param("capabilities").unwrap_or_default();
    let capabilities = capabilities
        .split(',')
        .map(str::trim)
        .filter(|it| !it.is_empty())
        .take(CAPABILITIES_MAX)
        .map(str::to_lowercase)
        .collect();
    Ok(Some(Machine { id: MachineId::new(id), capabilities, since: time::now() }))
}

#[expect(clippy::unnecessary_wraps, reason = "a route like the others")]
pub(super) fn machines(api: &Api, caller: Caller, _: &Request) -> Answer {
    let machines = api.hub.machines(caller.account);
    let machines: Vec<_> = machines.iter().map(wire::machine).collect();
    Ok(Response::json(200, &json!({ "ok": true, "machines": machines })))
}

pub(super) fn claim(api: &Api, caller: Caller, request: &Request) -> Answer {
    let fields = Fields::parse(&request.body)?;
    let thread = thread_id(&fields)?;
    let machine = MachineId::new(fields.name("agentId")?);
    let claimed = api.store.claim(caller.account, &thread, &machine).map_err(internal)?;
    let (won, winner) = claimed.ok_or_else(no_thread)?;
    Ok(Response::json(200, &json!({ "ok": true, "won": won, "winner": winner })))
}

pub(super) fn switch_agent(api: &Api, caller: Caller, request: &Request) -> Answer {
    let fields = Fields::parse(&request.body)?;
    let thread = thread_id(&fields)?;
    let agent = Engine::new(&fields.name("agent")?);
    if !api.store.set_agent(caller.account, &thread, &agent).map_err(internal)? {
        return Err(no_thread());
    }
    Ok(Response::json(200, &json!({ "ok": true, "threadId": thread, "agent": agent })))
}

/// Told to browsers that look right now, and stored nowhere.
pub(super) fn activity(api: &Api, caller: Caller, request: &Request) -> Answer {
    let fields = Fields::parse(&request.body)?;
    let thread = thread_id(&fields)?;
    let state = fields.one_of("state", &["working", "idle"])?;
    if !api.store.has_thread(caller.account, &thread).map_err(internal)? {
        return Err(no_thread());
    }
    let data = json!({ "threadId": thread, "state": state });
    api.hub.publish_passing(caller.account, "activity", &data);
    Ok(Response::json(200, &json!({ "ok": true })))
}

pub(super) fn post_message(api: &Api, caller: Caller, request: &Request) -> Answer {
    let fields = Fields::parse(&request.body)?;
    if let Some(role) = fields.optional_name("role")?
        && role != "agent"
    {
        return Err(wire::bad_field(400, "role", "must be \"agent\" on this route"));
    }
    let draft = Draft {
        thread: thread_id(&fields)?,
        author: fields.name("author")?,
        role: Role::Agent,
        kind: Some(fields.one_of("kind", KINDS)?),
        body: fields.text("body", wire::BODY_CHARS)?,
        client_msg_id: fields.optional_name("clientMsgId")?.map(ClientMsgId::new),
        agent: None,
    };
    post(api, caller, draft)
}

/// Makes the thread if it is new, and its id if there is none.
pub(super) fn post_reply(api: &Api, caller: Caller, request: &Request) -> Answer {
    let fields = Fields::parse(&request.body)?;
    let thread = fields.optional_name("threadId")?;
    let thread = thread.unwrap_or_else(|| format!("thread_{}", ids::random_hex()));
    let body = fields.text("body", wire::BODY_CHARS)?;
    if body.trim().is_empty() {
        return Err(wire::bad_field(400, "body", "is blank"));
    }
    if 0 < fields.list_len("attachmentIds")? {
        return Err(wire::bad_field(501, "attachmentIds", "can't be taken: no attachments here"));
    }
    let draft = Draft {
        thread: ThreadId::new(thread),
        author: api.store.account(caller).map_err(internal)?.username,
        role: Role::Human,
        kind: None,
        body,
        client_msg_id: fields.optional_name("clientMsgId")?.map(ClientMsgId::new),
        agent: fields.optional_name("agent")?.map(|it| Engine::new(&it)),
    };
    post(api, caller, draft)
}

fn post(api: &Api, caller: Caller, draft: Draft) -> Answer {
    let message = api.store.post(caller.account, draft).map_err(internal)?;
    let message = message.ok_or_else(no_thread)?;
    let answer =
        json!({ "ok": true, "threadId": message.thread, "message": wire::message(&message) });
    Ok(Response::json(200, &answer))
}

/// `more` is ours: the answer was cut at `limit` or at its size, and goes on after its last
/// message (`since`) or before its first (`before`).
pub(super) fn messages(api: &Api, caller: Caller, request: &Request) -> Answer {
    let head = &request.head;
    let thread = match head.param("threadId") {
        Some(id) if !id.trim().is_empty() => ThreadId::new(id),
        _ => return Err(wire::bad_field(400, "threadId", "is missing")),
    };
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
    let page = api.store.messages(caller.account, &thread, range, limit).map_err(internal)?;
    let page = page.ok_or_else(no_thread)?;
    let messages: Vec<_> = page.messages.iter().map(wire::message).collect();
    Ok(Response::json(200, &json!({ "ok": true, "messages": messages, "more": page.more })))
}

pub(super) fn threads(api: &Api, caller: Caller, request: &Request) -> Answer {
    let limit = limit_param(&request.head)?.unwrap_or(LIMIT_DEFAULT);
    let threads = api.store.threads(caller.account, limit).map_err(internal)?;
    let threads: Vec<_> = threads.iter().map(wire::thread).collect();
    Ok(Response::json(200, &json!({ "ok": true, "threads": threads })))
}

#[expect(clippy::unnecessary_wraps, reason = "a route like the others")]
pub(super) fn view(_: &Api, _: &Request) -> Answer {
    Ok(page::view())
}

fn thread_id(fields: &Fields) -> Result<ThreadId, Response> {
    fields.name("threadId").map(ThreadId::new)
}

fn no_thread() -> Response {
    Response::error(404, "there is no such thread on this account")
}

fn time_param(head: &Head, name: &str) -> Result<Option<Timestamp>, Response> {
    let Some(text) = head.param(name).filter(|it| !it.is_empty()) else { return Ok(None) };
    let time = Timestamp::parse(&text);
    time.map(Some).ok_or_else(|| wire::bad_field(400, name, "is no RFC 3339 time"))
}

fn limit_param(head: &Head) -> Result<Option<u32>, Response> {
    let Some(text) = head.param("limit").filter(|it| !it.is_empty()) else { return Ok(None) };
    match text.parse() {
        Ok(limit @ 1..) => Ok(Some(LIMIT_MAX.min(limit))),
        _ => Err(wire::bad_field(400, "limit", "is no positive number")),
    }
}
