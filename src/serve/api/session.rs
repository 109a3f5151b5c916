//! Signing in and out, passwords, and the tokens that somebody hands to machines. A browser proves
//! itself by a cookie that no script can read, and what it changes by a token that only our own page
//! can: both are one secret, of which the file has a hash.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    ascii, ids,
    serve::{
        api::{Answer, Api, Person, changes_something, come_later, origin},
        http::message::{Head, Request, Response},
        password,
        store::{AccountKey, Caller, Credential, PasswordKey, TokenKey},
        wire::{self, Fields},
    },
    time,
};

/// Over TLS a browser takes a cookie of this name only from the host itself, and only secured.
const SECURE_COOKIE: &str = "__Host-obto_session";
const PLAIN_COOKIE: &str = "obto_session";

/// Who has the cookie of this request, if anybody. What changes something also has to come from our
/// own page.
pub(super) fn caller(api: &Api, head: &Head) -> Result<Option<Caller>, Response> {
    let Some(cookie) = cookie(api, head) else { return Ok(None) };
    let (lifetime, now) = (api.options.lifetime, api.options.clock.now());
    let caller = api.by_secret(head, cookie, || api.store.session(cookie, lifetime, now))?;
    if caller.is_some() && changes_something(head) {
        origin::refuse_unknown_page(head)?;
        let given = head.header("x-csrf-token").unwrap_or_default();
        if !password::is_same(given.as_bytes(), csrf(cookie).as_bytes()) {
            let text = "the X-CSRF-Token header is missing or not that of this session";
            return Err(Response::error(403, text));
        }
        origin::require_json(head)?;
    }
    Ok(caller)
}

fn cookie_name(api: &Api, head: &Head) -> &'static str {
    if origin::is_secure(&api.options, head) { SECURE_COOKIE } else { PLAIN_COOKIE }
}

fn cookie<'a>(api: &Api, head: &'a Head) -> Option<&'a str> {
    let name = cookie_name(api, head);
    let pairs =
        head.header("cookie")?.split(';').filter_map(|pair| ascii::trim(pair).split_once('='));
    pairs.into_iter().find(|(it, _)| *it == name).map(|(_, value)| value)
}

/// What a page of ours has to send besides its cookie. It tells nothing of the cookie.
fn csrf(cookie: &str) -> String {
    ids::hex(&Sha256::new_with_prefix("csrf ").chain_update(cookie).finalize())
}

pub(super) fn sign_in(api: &Api, request: &Request) -> Answer {
    origin::require_json(&request.head)?;
    let fields = Fields::parse(&request.body)?;
    let username = fields.name("username")?;
    let password = fields.text("password", password::CHARS_MAX)?;
    let (account, key) = api
        .login(&request.head, &username, &password, false)?
        .ok_or_else(|| Response::error(401, "the user name or the password is wrong"))?;
    begin(api, &request.head, account, key)
}

/// Sets the password of whoever has the code of a one-time link.
pub(super) fn redeem(api: &Api, request: &Request) -> Answer {
    origin::require_json(&request.head)?;
    let fields = Fields::parse(&request.body)?;
    let (code, password) = (fields.name("code")?, new_password(&fields, "password")?);
    let address = origin::client(&api.options, &request.head);
    let now = api.options.clock.now();
    let tried = api.limits.link(address, now).map_err(come_later)?;
    let spent = || {
        let text = "this link was used already or is too old; whoever runs the bridge gets another \
                    with: obto-bridge serve user passwd NAME";
        Response::error(401, text)
    };
    if !api.store.is_welcome(&code, now)? {
        return Err(spent());
    }
    tried.right();
    let hash = api.hash(&password)?;
    let account = api.store.redeem(&code, &hash, now)?.ok_or_else(spent)?;
    api.hub.hang_up(|it| it.account == account && it.token().is_none());
    begin(api, &request.head, account, PasswordKey::of(&hash))
}

fn begin(api: &Api, head: &Head, account: AccountKey, password: PasswordKey) -> Answer {
    let (lifetime, now) = (api.options.lifetime, api.options.clock.now());
    let (session, secret) = api
        .store
        .begin_session(account, password, lifetime, now)?
        .ok_or_else(|| Response::error(401, "the password has just been changed"))?;
    let caller = Caller { account, access: Credential::Session(session) };
    let answer = Response::ok(described(api, caller, secret.reveal())?);
    let seconds = lifetime.absolute.as_secs();
    Ok(answer.with("Set-Cookie", set_cookie(api, head, secret.reveal(), seconds)))
}

fn set_cookie(api: &Api, head: &Head, value: &str, seconds: u64) -> String {
    let name = cookie_name(api, head);
    let secure = if name == SECURE_COOKIE { "; Secure" } else { "" };
    format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}")
}

fn described(api: &Api, caller: Caller, cookie: &str) -> Result<Value, Response> {
    let account = api.store.account(caller)?;
    Ok(json!({
        "user": account.username,
        "accountId": account.account_id,
        "csrf": csrf(cookie),
    }))
}

pub(super) fn show(api: &Api, person: Person, request: &Request) -> Answer {
    let cookie = cookie(api, &request.head).unwrap_or_default();
    Ok(Response::ok(described(api, person.caller, cookie)?))
}

pub(super) fn sign_out(api: &Api, person: Person, request: &Request) -> Answer {
    api.store.end_session(person.session)?;
    api.hub.hang_up(|it| it.access == Credential::Session(person.session));
    let gone = set_cookie(api, &request.head, "", 0);
    Ok(Response::ok(json!({})).with("Set-Cookie", gone))
}

/// Ends all other sessions: whoever had the old password is out.
pub(super) fn change_password(api: &Api, person: Person, request: &Request) -> Answer {
    let fields = Fields::parse(&request.body)?;
    let old = fields.text("old", password::CHARS_MAX)?;
    let new = new_password(&fields, "new")?;
    let username = api.store.account(person.caller)?.username;
    if api.login(&request.head, &username, &old, false)?.is_none() {
        return Err(wire::bad_field(403, "old", "is not the password"));
    }
    let hash = api.hash(&new)?;
    let account = person.caller.account;
    api.store.set_password(account, &hash, Some(person.session))?;
    api.hub.hang_up(|it| it.account == account && it.token().is_none() && it != person.caller);
    Ok(Response::ok(json!({})))
}

/// A password that somebody chose.
fn new_password(fields: &Fields, name: &str) -> Result<String, Response> {
    let password = fields.text(name, password::CHARS_MAX)?;
    match password::problem(&password) {
        Some(problem) => Err(wire::bad_field(400, name, &problem)),
        None => Ok(password),
    }
}

pub(super) fn tokens(api: &Api, person: Person, _: &Request) -> Answer {
    let connected: Vec<TokenKey> = api.hub.callers().iter().filter_map(|it| it.token()).collect();
    let mut tokens = api.store.tokens(person.caller.account)?;
    // A stream is used as long as it lasts.
    for token in tokens.iter_mut().filter(|it| connected.contains(&it.id)) {
        token.last_used_at = Some(time::now());
    }
    Ok(Response::ok(json!({ "tokens": tokens })))
}

pub(super) fn add_token(api: &Api, person: Person, _: &Request) -> Answer {
    let added = api.store.add_token(person.caller.account)?;
    let (key, token) = added
        .ok_or_else(|| Response::error(409, "there are too many tokens; revoke some of them"))?;
    Ok(Response::ok(json!({ "token": token.reveal(), "id": key })))
}

pub(super) fn revoke_token(api: &Api, person: Person, request: &Request) -> Answer {
    let id = Fields::parse(&request.body)?.name("id")?;
    let unknown = || Response::error(404, "there is no such token on this account");
    let token = TokenKey::parse(&id).ok_or_else(unknown)?;
    if !api.store.revoke_token(person.caller.account, token)? {
        return Err(unknown());
    }
    api.hub.hang_up(|it| it.access == Credential::Token(token));
    Ok(Response::ok(json!({})))
}
