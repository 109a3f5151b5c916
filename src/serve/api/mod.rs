//! The bridge's routes: who may call what, before any body is read. What each does is in `routes`
//! and its siblings.

mod attachments;
mod external;
mod input;
mod machines;
mod messages;
mod origin;
mod routes;
mod session;
mod threads;
mod throttle;
mod watch;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::json;

use crate::{
    ascii,
    serve::{
        Options,
        http::{
            RequestHandler,
            message::{Head, Request, Response},
        },
        hub::Hub,
        metrics::Metrics,
        page,
        password::{self, Busy, Checked},
        store::{
            AccountKey, Caller, Credential, PasswordKey, SessionKey, Store,
            accounts::{canonical, hash as hash_of},
        },
        wire::NAME_CHARS,
    },
};
use throttle::{SignInLimits, Throttle};

/// The longest wait between two accounts that are made from one address.
const REGISTRATION_WAIT: Duration = Duration::from_mins(15);

/// The handler of all routes.
#[derive(Debug)]
pub struct Api {
    store: Arc<Store>,
    hub: Arc<Hub>,
    metrics: Metrics,
    options: Options,
    passwords: password::Checker,
    /// Asked before anything that somebody could guess is looked at.
    limits: SignInLimits,
    /// Accounts that are made from an address.
    registrations: Mutex<Throttle<IpAddr>>,
    /// Held while a machine's report of its sessions is read.
    reports: Mutex<()>,
}

/// Answers the request or refuses it.
type Answer = Result<Response, Response>;

/// What a route does.
#[derive(Clone, Copy)]
enum Route {
    Open(fn(&Api, &Request) -> Answer),
    /// Needs a token, a cookie or a password.
    Known(fn(&Api, Caller, &Request) -> Answer),
    /// Needs a cookie: a token that got lost must not be good for more tokens.
    Person(fn(&Api, Person, &Request) -> Answer),
}

/// A person who has signed in with a browser.
#[derive(Clone, Copy)]
struct Person {
    caller: Caller,
    session: SessionKey,
}

/// What is done for a request that was let in.
type Admitted = Box<dyn FnOnce(&Api, &Request) -> Answer>;

/// Method and path; GET takes HEAD as well, and `:id` stands for one segment of any text.
const ROUTES: &[(&str, &str, Route)] = &[
    ("GET", "/", Route::Open(|_, _| Ok(routes::to_page()))),
    ("GET", "/healthz", Route::Open(|_, _| Ok(Response::ok(json!({}))))),
    ("GET", "/readyz", Route::Open(watch::ready)),
    ("GET", "/metrics", Route::Open(watch::metrics)),
    ("GET", "/api/view", Route::Open(|_, _| Ok(page::view()))),
    ("GET", "/api/view/icon.svg", Route::Open(|_, _| Ok(page::icon()))),
    ("GET", "/api/view/manifest.webmanifest", Route::Open(|_, _| Ok(page::manifest()))),
    ("POST", "/api/session", Route::Open(session::sign_in)),
    ("GET", "/api/session", Route::Person(session::show)),
    ("POST", "/api/session/redeem", Route::Open(session::redeem)),
    ("POST", "/api/session/end", Route::Person(session::sign_out)),
    ("POST", "/api/account/password", Route::Person(session::change_password)),
    ("GET", "/api/tokens", Route::Person(session::tokens)),
    ("POST", "/api/tokens", Route::Person(session::add_token)),
    ("POST", "/api/tokens/revoke", Route::Person(session::revoke_token)),
    ("POST", "/api/bridge/register", Route::Open(routes::register)),
    ("GET", "/api/bridge/stream", Route::Known(routes::stream)),
    ("POST", "/api/bridge/thread/claim", Route::Known(threads::claim)),
    ("POST", "/api/bridge/thread/agent", Route::Known(threads::switch_agent)),
    ("POST", "/api/bridge/agent-activity", Route::Known(threads::activity)),
    ("GET", "/api/bridge/whoami", Route::Known(routes::whoami)),
    ("POST", "/api/bridge/rotate-token", Route::Known(routes::rotate_token)),
    ("GET", "/api/bridge/machines", Route::Known(machines::list)),
    ("POST", "/api/bridge/machine", Route::Known(machines::report)),
    ("POST", "/api/message", Route::Known(messages::post_message)),
    ("POST", "/api/reply", Route::Known(messages::post_reply)),
    ("GET", "/api/messages", Route::Known(messages::list)),
    ("GET", "/api/threads", Route::Known(threads::list)),
    ("POST", "/api/thread/rename", Route::Known(threads::rename)),
    ("POST", "/api/thread/delete", Route::Known(threads::delete)),
    ("POST", "/api/thread/read", Route::Known(threads::mark_read)),
    ("POST", "/api/bridge/attachment/upload", Route::Known(attachments::upload)),
    ("GET", "/api/bridge/attachment/:id", Route::Known(attachments::fetch)),
    ("POST", "/api/bridge/external/sync", Route::Known(external::sync)),
    ("POST", "/api/bridge/external/backfill", Route::Known(external::backfill)),
    ("POST", "/api/bridge/external/adopt", Route::Known(external::adopt)),
    ("GET", "/api/bridge/external", Route::Known(external::list)),
    ("GET", "/api/bridge/external/session", Route::Known(external::session)),
];

/// Method and path of every route, for tests that go through all of them.
pub fn routes() -> impl Iterator<Item = (&'static str, &'static str)> {
    ROUTES.iter().map(|(method, path, _)| (*method, *path))
}

impl Api {
    pub fn new(store: Arc<Store>, hub: Arc<Hub>, metrics: Metrics, options: Options) -> Api {
        Api {
            store,
            hub,
            metrics,
            passwords: password::Checker::new(options.password_cost),
            options,
            limits: SignInLimits::new(),
            registrations: Mutex::new(Throttle::new(5, REGISTRATION_WAIT)),
            reports: Mutex::default(),
        }
    }

    /// Who calls: by bearer token, by user name and password, or by cookie.
    fn caller(&self, head: &Head) -> Result<Caller, Response> {
        let caller = match head.header("authorization") {
            None => session::caller(self, head)?,
            Some(given) => {
                let (scheme, secret) = given.split_once(' ').unwrap_or((given, ""));
                match scheme.to_ascii_lowercase().as_str() {
                    "bearer" => {
                        let token = ascii::trim(secret);
                        self.by_secret(head, token, || self.store.authenticate(token))?
                    }
                    "basic" => self.basic(head, ascii::trim(secret))?,
                    _ => None,
                }
            }
        };
        // No Basic challenge: a browser would put its own window in front of the page.
        caller.ok_or_else(|| {
            let text = "the token, password or session is missing, unknown or no longer good";
            Response::error(401, text).with("WWW-Authenticate", "Bearer realm=\"obto-bridge\"")
        })
    }

    fn basic(&self, head: &Head, secret: &str) -> Result<Option<Caller>, Response> {
        if changes_something(head) {
            origin::require_json(head)?;
        }
        let decoded = BASE64_STANDARD.decode(secret).ok().and_then(|it| String::from_utf8(it).ok());
        let Some((username, password)) = decoded.as_deref().and_then(|it| it.split_once(':'))
        else {
            return Ok(None);
        };
        let found = self.login(head, username, password, true)?;
        Ok(found.map(|(account, key)| Caller { account, access: Credential::Password(key) }))
    }

    /// Who has this token or cookie, if it may be tried now.
    fn by_secret(
        &self,
        head: &Head,
        secret: &str,
        look_up: impl FnOnce() -> anyhow::Result<Option<Caller>>,
    ) -> Result<Option<Caller>, Response> {
        let (address, now) = (origin::client(&self.options, head), self.options.clock.now());
        let found = self.limits.secret(hash_of(secret), address, now, look_up);
        Ok(found.map_err(come_later)??)
    }

    /// The account of a user name and its password, and which password that is. The answer does not
    /// tell an unknown name from a wrong password. `often`: the caller sends its password with every
    /// request, and most of them need not cost a hash.
    fn login(
        &self,
        head: &Head,
        username: &str,
        password: &str,
        often: bool,
    ) -> Result<Option<(AccountKey, PasswordKey)>, Response> {
        // No name is longer, and what is kept of those that are must not be much.
        let name: String = canonical(username).chars().take(NAME_CHARS).collect();
        let (address, now) = (origin::client(&self.options, head), self.options.clock.now());
        let found = self.store.login(username)?;
        let stored = found.as_ref().map(|(_, stored)| stored.as_str());
        let is_remembered =
            || often && stored.is_some_and(|it| self.passwords.remembers(password, it));
        let tried = self.limits.password(name, address, now, is_remembered).map_err(come_later)?;
        let Some(tried) = tried else {
            return Ok(found.map(|(account, stored)| (account, PasswordKey::of(&stored))));
        };
        let verdict = match self.passwords.check(password, stored) {
            Ok(verdict) => verdict,
            Err(busy) => {
                tried.untested();
                return Err(busy.into());
            }
        };
        let Some((account, mut stored)) = found.filter(|_| verdict != Checked::Wrong) else {
            return Ok(None);
        };
        tried.right();
        if verdict == Checked::RightButWeak {
            let better = self.hash(password)?;
            self.store.strengthen(account, &stored, &better)?;
            stored = better;
        }
        Ok(Some((account, PasswordKey::of(&stored))))
    }

    fn hash(&self, password: &str) -> Result<String, Response> {
        Ok(self.passwords.hash(password)??)
    }

    fn let_in(&self, head: &Head) -> Result<(Admitted, usize), Response> {
        origin::refuse_foreign_host(&self.options, head)?;
        let action = route(head)?;
        origin::refuse_foreign_page(&self.options, head)?;
        let limit = input::body_bytes(&head.path, self.options.body_bytes);
        match action {
            Route::Open(run) => Ok((Box::new(run), limit)),
            Route::Known(run) => {
                let caller = self.caller(head)?;
                Ok((Box::new(move |api, request| run(api, caller, request)), limit))
            }
            Route::Person(run) => {
                let caller = self.caller(head)?;
                let Credential::Session(session) = caller.access else {
                    return Err(Response::error(403, "this needs somebody who has signed in"));
                };
                let person = Person { caller, session };
                Ok((Box::new(move |api, request| run(api, person, request)), limit))
            }
        }
    }
}

impl RequestHandler for Api {
    type Admitted = Admitted;

    fn admit(&self, head: &Head) -> Result<(Admitted, usize), Response> {
        let secure = origin::is_pinned(&self.options, head);
        self.let_in(head).map_err(|refusal| finish(secure, refusal))
    }

    fn handle(&self, admitted: Admitted, request: Request) -> Response {
        let secure = origin::is_pinned(&self.options, &request.head);
        finish(secure, admitted(self, &request).unwrap_or_else(|refusal| refusal))
    }
}

/// What is to be done, or that there is nothing.
fn route(head: &Head) -> Result<Route, Response> {
    let method = if head.method == "HEAD" { "GET" } else { &head.method };
    let here = || ROUTES.iter().filter(|(_, path, _)| is_at(path, &head.path));
    // Whole words go before `:id`.
    let exact = here().filter(|(_, path, _)| *path == head.path);
    let found = exact.chain(here()).find(|(known, ..)| *known == method);
    if let Some((.., action)) = found {
        return Ok(*action);
    }
    let mut allow: Vec<&str> = here().map(|(method, ..)| *method).collect();
    if allow.contains(&"GET") {
        allow.push("HEAD");
    }
    allow.sort_unstable();
    if allow.is_empty() {
        return Err(Response::error(404, "there is no such route"));
    }
    let allow = allow.join(", ");
    Err(Response::error(405, format!("this route takes {allow}")).with("Allow", allow))
}

/// Adds what a response over a secured connection says besides.
fn finish(secure: bool, response: Response) -> Response {
    if secure { response.with("Strict-Transport-Security", "max-age=31536000") } else { response }
}

/// Whether a route's path is that of a request.
fn is_at(route: &str, path: &str) -> bool {
    match route.strip_suffix(":id").map(|before| path.strip_prefix(before)) {
        None => route == path,
        Some(id) => id.is_some_and(|id| !id.is_empty() && !id.contains('/')),
    }
}

fn changes_something(head: &Head) -> bool {
    !matches!(head.method.as_str(), "GET" | "HEAD")
}

fn come_later(wait: Duration) -> Response {
    let secs = wait.as_millis().div_ceil(1000).max(1);
    Response::error(429, format!("too many tries; come again in {secs} seconds"))
        .with("Retry-After", secs.to_string())
}

impl From<Busy> for Response {
    fn from(_: Busy) -> Response {
        let text = "too many passwords are being checked; try again";
        Response::error(503, text).with("Retry-After", "1")
    }
}

/// An error of the server: the log has it, the caller is told only that there was one.
impl From<anyhow::Error> for Response {
    fn from(error: anyhow::Error) -> Response {
        log::error!("a request failed: {error:#}");
        Response::error(500, "internal error; see the server's log")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_segment_stands_for_an_id() {
        #[track_caller]
        fn check(route: &str, path: &str, expected: bool) {
            assert_eq!(is_at(route, path), expected, "{route} {path}");
        }
        check("/a", "/a", true);
        check("/a", "/a/", false);
        check("/a/:id", "/a/b", true);
        check("/a/:id", "/a/", false);
        check("/a/:id", "/a", false);
        check("/a/:id", "/a/b/c", false);
        check("/a/:id", "/a/..%2fb", true);
    }

    #[test]
    fn no_route_is_there_twice() {
        let mut all: Vec<_> = routes().collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
