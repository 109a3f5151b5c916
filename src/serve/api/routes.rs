//! What each route does: read the request, ask the store, answer as section 2 of the protocol says.
//! Here are those about the account and the stream; the others are beside this file.

use std::sync::Arc;

use serde_json::json;

use crate::{
    ascii,
    ids::MachineId,
    serve::{
        api::{Answer, Api, come_later, input::checked_name, origin},
        http::message::{Head, Request, Response, form_field},
        lock, password,
        presence::Machine,
        store::{
            Caller, Credential,
            accounts::{NewAccount, canonical, name_problem},
        },
        stream, wire,
    },
    time,
};

const CAPABILITIES_MAX: usize = 64;

/// Sends a browser to the page.
pub(super) fn to_page() -> Response {
    Response::json(302, &json!({ "ok": true })).with("Location", "/api/view")
}

pub(super) fn register(api: &Api, request: &Request) -> Answer {
    if !api.options.allow_register {
        return Err(Response::error(403, "registration is closed on this bridge"));
    }
    let form =
        str::from_utf8(&request.body).map_err(|_| Response::error(400, "the form is not UTF-8"))?;
    let field = |name| checked_name(name, form_field(form, name).unwrap_or_default());
    let (email, username, password) = (field("email")?, field("username")?, field("password")?);
    if !email.contains('@') {
        return Err(wire::bad_field(400, "email", "is no e-mail address"));
    }
    if let Some(problem) = name_problem(&username) {
        return Err(wire::bad_field(400, "username", problem));
    }
    let username = canonical(&username);
    if let Some(problem) = password::problem(&password) {
        return Err(wire::bad_field(400, "password", &problem));
    }
    let address = origin::client(&api.options, &request.head);
    let now = api.options.clock.now();
    lock(&api.registrations).count(&address, now).map_err(come_later)?;
    let password = api.hash(&password)?;
    let new = NewAccount { username: &username, email: Some(&email), password: Some(&password) };
    let Some((account_id, token)) = api.store.create_account(new)? else {
        return Err(wire::bad_field(409, "username", "is taken"));
    };
    Ok(Response::ok(json!({
        "accountId": account_id,
        "apiToken": token.reveal(),
        "basicAuthUser": username,
        "plan": "self-hosted",
    })))
}

pub(super) fn whoami(api: &Api, caller: Caller, _: &Request) -> Answer {
    let account = api.store.account(caller)?;
    Ok(Response::ok(json!({
        "account": {
            "accountId": account.account_id,
            "basicAuthUser": account.username,
            "email": account.email,
            "status": "active",
            "apiTokenPrefix": account.token_prefix,
        },
        "server": { "time": time::now() },
    })))
}

pub(super) fn rotate_token(api: &Api, caller: Caller, _: &Request) -> Answer {
    let Some(old) = caller.token() else {
        return Err(Response::error(400, "call this with the token that is to be replaced"));
    };
    let rotated =
        api.store.rotate(old, || api.hub.hang_up(|it| it.access == Credential::Token(old)))?;
    let token = rotated.ok_or_else(|| Response::error(401, "the token has just been replaced"))?;
    Ok(Response::ok(json!({ "apiToken": token.reveal() })))
}

pub(super) fn stream(api: &Api, caller: Caller, request: &Request) -> Answer {
    let head = &request.head;
    let machine = machine_of(head)?;
    if let (Some(machine), Some(token)) = (&machine, caller.token()) {
        api.store.note_machine(token, &machine.id)?;
    }
    let last = head.header("last-event-id").map(str::to_owned);
    let (store, hub) = (Arc::clone(&api.store), Arc::clone(&api.hub));
    Ok(stream::respond(store, hub, caller, machine, last))
}

fn machine_of(head: &Head) -> Result<Option<Machine>, Response> {
    let name = |name: &str| head.param(name).map(|it| checked_name(name, it)).transpose();
    let Some(id) = name("agentId")? else { return Ok(None) };
    let instance = name("instance")?;
    let capabilities = head.param("capabilities").unwrap_or_default();
    let capabilities = capabilities
        .split(',')
        .map(ascii::trim)
        .filter(|it| !it.is_empty())
        .take(CAPABILITIES_MAX)
        .map(str::to_ascii_lowercase)
        .collect();
    let (id, since) = (MachineId::new(id), time::now());
    Ok(Some(Machine { id, instance, capabilities, since, conflict: None }))
}
