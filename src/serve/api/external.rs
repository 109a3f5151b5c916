//! Sessions that were started on a machine (protocol section 10): reported by its daemon, listed
//! for people, taken over into threads, and their history.

use serde_json::json;

use crate::{
    ids::{MachineId, SessionId},
    serve::{
        api::{
            Answer, Api,
            input::{daemon_only, name_param, no_thread, thread_id},
        },
        http::message::{Request, Response},
        lock,
        store::{
            Caller,
            external::{ExternalSession, NoBackfill, SessionTurn},
        },
        wire::{BODY_CHARS, Fields, NAME_CHARS, PATH_CHARS},
    },
};

const SESSIONS_MAX: usize = 1000;
const PRESENT_MAX: usize = 100_000;
/// Of the values in a report: so many sessions with all that they may have, and so many ids.
const WEIGHT_MAX: usize = SESSIONS_MAX * (30 + RECENT_MAX * 23) + PRESENT_MAX;
const RECENT_MAX: usize = 10;
const BACKFILL_MAX: usize = 1000;
const TITLE_CHARS: usize = 80;
const PREVIEW_CHARS: usize = 200;
const RECENT_CHARS: usize = 3000;

pub(super) fn sync(api: &Api, caller: Caller, request: &Request) -> Answer {
    daemon_only(caller)?;
    // A large report takes much memory for a moment, so they take turns.
    let _turn = lock(&api.reports);
    let fields = Fields::parse_up_to(&request.body, WEIGHT_MAX)?;
    let machine = MachineId::new(fields.name("agentId")?);
    let sessions = fields.objects("sessions", SESSIONS_MAX)?;
    let sessions: Vec<_> = sessions.iter().map(session_from).collect::<Result<_, _>>()?;
    let present = fields.lines("presentSessionIds", PRESENT_MAX, NAME_CHARS)?;
    let synced = api.store.sync_sessions(caller.account, &machine, &sessions, &present)?;
    Ok(Response::ok(json!(synced)))
}

/// Texts that are longer than the protocol says are cut; ids and paths that are, are refused.
fn session_from(fields: &Fields) -> Result<ExternalSession, Response> {
    let recent = fields.objects("recentMessages", RECENT_MAX)?;
    let recent = recent.iter().map(|it| turn_from(it, RECENT_CHARS)).collect::<Result<_, _>>()?;
    Ok(ExternalSession {
        source: fields.name("source")?,
        id: SessionId::new(fields.name("sessionId")?),
        project_dir: fields.optional_line("projectDir", PATH_CHARS)?,
        project_name: fields.optional_name("projectName")?,
        title: cut(fields, "title", TITLE_CHARS)?.unwrap_or_default(),
        last_activity: fields.optional_time("lastActivityAt")?,
        preview: cut(fields, "lastMessagePreview", PREVIEW_CHARS)?,
        preview_author: cut(fields, "lastMessageAuthor", NAME_CHARS)?,
        recent,
    })
}

fn turn_from(fields: &Fields, chars: usize) -> Result<SessionTurn, Response> {
    let role = fields.one_of("role", &["user", "assistant"])?;
    let body = cut(fields, "body", chars)?;
    Ok(SessionTurn {
        is_human: role == "user",
        body: body.ok_or_else(|| fields.bad(400, "body", "is missing"))?,
        time: fields.optional_time("ts")?,
    })
}

fn cut(fields: &Fields, name: &str, chars: usize) -> Result<Option<String>, Response> {
    Ok(fields.str(name)?.map(|text| text.chars().take(chars).collect()))
}

pub(super) fn list(api: &Api, caller: Caller, _: &Request) -> Answer {
    let sessions = api.store.sessions(caller.account)?;
    Ok(Response::ok(json!({ "sessions": sessions })))
}

pub(super) fn session(api: &Api, caller: Caller, request: &Request) -> Answer {
    let head = &request.head;
    let machine = MachineId::new(name_param(head, "agentId")?);
    let source = name_param(head, "source")?;
    let id = SessionId::new(name_param(head, "sessionId")?);
    let found = api.store.external_session(caller.account, &machine, &source, &id)?;
    let found = found.ok_or_else(no_session)?;
    let recent = found.session.recent.iter().map(|turn| {
        let role = if turn.is_human { "user" } else { "assistant" };
        json!({ "role": role, "body": turn.body, "ts": turn.time })
    });
    let mut answer = json!(found);
    answer["recentMessages"] = recent.collect();
    Ok(Response::ok(answer))
}

pub(super) fn adopt(api: &Api, caller: Caller, request: &Request) -> Answer {
    let fields = Fields::parse(&request.body)?;
    let machine = MachineId::new(fields.name("agentId")?);
    let source = fields.name("source")?;
    let id = SessionId::new(fields.name("sessionId")?);
    let found = api.store.external_session(caller.account, &machine, &source, &id)?;
    let found = found.ok_or_else(no_session)?;
    if found.vanished && found.thread.is_none() {
        return Err(Response::error(409, "the machine has this session no longer"));
    }
    let author = api.store.account(caller)?.username;
    let thread = api.store.adopt(caller.account, &found, &author)?.ok_or_else(no_session)?;
    Ok(Response::ok(json!({ "threadId": thread })))
}

/// Only from the machine that has the thread: it alone has the session.
pub(super) fn backfill(api: &Api, caller: Caller, request: &Request) -> Answer {
    daemon_only(caller)?;
    let fields = Fields::parse(&request.body)?;
    let thread = thread_id(&fields)?;
    let session = SessionId::new(fields.name("sessionId")?);
    let turns = fields.objects("messages", BACKFILL_MAX)?;
    let turns: Vec<_> =
        turns.iter().map(|it| turn_from(it, BODY_CHARS)).collect::<Result<_, _>>()?;
    let connected = |machine: &MachineId| api.hub.is_connected(caller, machine);
    let done = api.store.backfill(caller, &thread, &session, &turns, connected)?.map_err(
        |why| match why {
            NoBackfill::NoThread => no_thread(),
            NoBackfill::OtherMachine => {
                Response::error(403, "only the machine that has the thread may send its history")
            }
            NoBackfill::OtherSession => {
                fields.bad(409, "sessionId", "is not the session that the thread was made of")
            }
        },
    )?;
    Ok(Response::ok(json!(done)))
}

fn no_session() -> Response {
    Response::error(404, "there is no such session on this account")
}
