//! The routes about threads as a whole.

use serde_json::json;

use crate::{
    ids::{Engine, MachineId},
    serve::{
        api::{
            Answer, Api,
            input::{limit_param, no_thread, thread_id, time_param},
        },
        http::message::{Request, Response},
        store::Caller,
        wire::{self, Fields},
    },
    time::Timestamp,
};

const LIMIT_DEFAULT: u32 = 100;
const TITLE_CHARS: usize = 200;
const SEARCH_CHARS: usize = 200;

/// `next` is ours: where to go on, also if a search has found nothing yet.
pub(super) fn list(api: &Api, caller: Caller, request: &Request) -> Answer {
    let head = &request.head;
    let limit = limit_param(head)?.unwrap_or(LIMIT_DEFAULT);
    let before = time_param(head, "before")?.unwrap_or(Timestamp::from_millis(u64::MAX));
    let search = head.param("q").map(|it| it.trim().to_owned()).filter(|it| !it.is_empty());
    if let Some(text) = &search
        && SEARCH_CHARS < text.chars().count()
    {
        let what = format!("is longer than {SEARCH_CHARS} characters");
        return Err(wire::bad_field(413, "q", &what));
    }
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let found = api.store.threads(caller.account, before, limit, search.as_deref())?;
    let presence = &api.hub.presence;
    let threads: Vec<_> = found
        .threads
        .iter()
        .map(|it| wire::thread(it, presence.since(caller.account, &it.id)))
        .collect();
    Ok(Response::ok(json!({
        "threads": threads,
        "more": found.next.is_some(),
        "next": found.next,
    })))
}

pub(super) fn claim(api: &Api, caller: Caller, request: &Request) -> Answer {
    let fields = Fields::parse(&request.body)?;
    let thread = thread_id(&fields)?;
    let machine = MachineId::new(fields.name("agentId")?);
    let claimed = api.store.claim(caller.account, &thread, &machine)?;
    let (won, winner) = claimed.ok_or_else(no_thread)?;
    Ok(Response::ok(json!({ "won": won, "winner": winner })))
}

pub(super) fn switch_agent(api: &Api, caller: Caller, request: &Request) -> Answer {
    let fields = Fields::parse(&request.body)?;
    let thread = thread_id(&fields)?;
    let agent = Engine::new(&fields.name("agent")?);
    found(api.store.set_agent(caller.account, &thread, &agent))?;
    Ok(Response::ok(json!({ "threadId": thread, "agent": agent })))
}

/// Told to browsers that look right now, and stored nowhere.
pub(super) fn activity(api: &Api, caller: Caller, request: &Request) -> Answer {
    let fields = Fields::parse(&request.body)?;
    let thread = thread_id(&fields)?;
    let state = fields.one_of("state", &["working", "idle"])?;
    let known = api.store.thread(caller.account, &thread)?;
    let known = known.ok_or_else(no_thread)?;
    let presence = &api.hub.presence;
    let since = if state == "working" {
        Some(presence.begin(caller.account, &thread, known.machine))
    } else {
        presence.end(caller.account, &thread);
        None
    };
    let data = wire::activity(&thread, since);
    api.hub.publish_transient(caller.account, "activity", &data);
    Ok(Response::ok(json!({})))
}

pub(super) fn rename(api: &Api, caller: Caller, request: &Request) -> Answer {
    let fields = Fields::parse(&request.body)?;
    let thread = thread_id(&fields)?;
    let title = fields.optional_line("title", TITLE_CHARS)?;
    let title = title.ok_or_else(|| fields.bad(400, "title", "is missing"))?;
    let title = title.trim();
    found(api.store.rename(caller.account, &thread, title))?;
    Ok(Response::ok(json!({ "threadId": thread, "title": title })))
}

pub(super) fn delete(api: &Api, caller: Caller, request: &Request) -> Answer {
    let fields = Fields::parse(&request.body)?;
    let thread = thread_id(&fields)?;
    found(api.store.delete_thread(caller.account, &thread))?;
    api.hub.presence.end(caller.account, &thread);
    Ok(Response::ok(json!({ "threadId": thread })))
}

pub(super) fn mark_read(api: &Api, caller: Caller, request: &Request) -> Answer {
    let fields = Fields::parse(&request.body)?;
    let thread = thread_id(&fields)?;
    let up_to = fields.optional_time("upTo")?;
    let up_to = up_to.ok_or_else(|| fields.bad(400, "upTo", "is missing"))?;
    found(api.store.mark_read(caller.account, &thread, up_to))?;
    Ok(Response::ok(json!({ "threadId": thread })))
}

/// What the store says of a change to a thread that may not be there.
fn found(changed: anyhow::Result<bool>) -> Result<(), Response> {
    if changed? { Ok(()) } else { Err(no_thread()) }
}
