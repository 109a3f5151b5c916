//! The bridge's routes: who may call what, before any body is read. What each does is in `routes`
//! and the modules beside it.

mod attachments;
mod external;
mod input;
mod machines;
mod messages;
mod routes;
mod threads;

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};

use crate::serve::{
    Options,
    http::{
        Handler,
        message::{Head, Request, Response},
    },
    password,
    store::{Caller, Store},
    stream::Hub,
};

/// A registration is a short form; nobody has been asked for a token yet.
const FORM_BYTES: usize = 16 * 1024;

/// The handler of all routes.
#[derive(Debug)]
pub struct Api {
    store: Arc<Store>,
    hub: Arc<Hub>,
    options: Options,
    passwords: password::Checker,
    /// Checked when the user name is unknown, so that an answer takes as long either way.
    /// Made when it is first needed, because that takes as long as a check.
    no_password: OnceLock<String>,
}

/// Answers the request or refuses it.
type Answer = Result<Response, Response>;

/// What a route does.
#[derive(Clone, Copy)]
enum Action {
    Open(fn(&Api, &Request) -> Answer),
    /// Needs a token or a password.
    Known(fn(&Api, Caller, &Request) -> Answer),
}

/// A request that was let in, and as whom.
#[derive(Clone, Copy, Debug)]
pub enum Admitted {
    Open(fn(&Api, &Request) -> Answer),
    Known(fn(&Api, Caller, &Request) -> Answer, Caller),
}

/// Method and path; a path takes one method, and HEAD where that is GET.
const ROUTES: &[(&str, &str, Action)] = &[
    ("GET", "/healthz", Action::Open(routes::health)),
    ("POST", "/api/bridge/register", Action::Open(routes::register)),
    ("GET", "/api/bridge/stream", Action::Known(routes::stream)),
    ("POST", "/api/bridge/thread/claim", Action::Known(threads::claim)),
    ("POST", "/api/bridge/thread/agent", Action::Known(threads::switch_agent)),
    ("POST", "/api/bridge/agent-activity", Action::Known(threads::activity)),
    ("GET", "/api/bridge/whoami", Action::Known(routes::whoami)),
    ("POST", "/api/bridge/rotate-token", Action::Known(routes::rotate_token)),
    ("GET", "/api/bridge/machines", Action::Known(machines::list)),
    ("POST", "/api/bridge/machine", Action::Known(machines::report)),
    ("POST", "/api/message", Action::Known(messages::post_message)),
    ("POST", "/api/reply", Action::Known(messages::post_reply)),
    ("GET", "/api/messages", Action::Known(messages::list)),
    ("GET", "/api/threads", Action::Known(threads::list)),
    ("POST", "/api/thread/rename", Action::Known(threads::rename)),
    ("POST", "/api/thread/delete", Action::Known(threads::delete)),
    ("POST", "/api/thread/read", Action::Known(threads::mark_read)),
    ("GET", "/api/view", Action::Known(routes::view)),
    ("POST", "/api/bridge/attachment/upload", Action::Known(attachments::upload)),
    ("POST", "/api/bridge/external/sync", Action::Known(external::sync)),
    ("POST", "/api/bridge/external/backfill", Action::Known(external::backfill)),
    ("POST", "/api/bridge/external/adopt", Action::Known(external::adopt)),
    ("GET", "/api/bridge/external", Action::Known(external::list)),
    ("GET", "/api/bridge/external/session", Action::Known(external::session)),
];

impl Api {
    pub fn new(store: Arc<Store>, hub: Arc<Hub>, options: Options) -> Api {
        let (passwords, no_password) = (password::Checker::default(), OnceLock::new());
        Api { store, hub, options, passwords, no_password }
    }

    /// Who calls, by bearer token or by user name and password.
    fn caller(&self, head: &Head) -> Result<Caller, Response> {
        let given = head.header("authorization").unwrap_or_default();
        let (scheme, secret) = given.split_once(' ').unwrap_or((given, ""));
        let secret = secret.trim();
        let caller = if scheme.eq_ignore_ascii_case("bearer") {
            self.store.authenticate(secret).map_err(internal)?
        } else if scheme.eq_ignore_ascii_case("basic") {
            refuse_forgery(head)?;
            self.login(secret)?
        } else {
            None
        };
        caller.ok_or_else(|| {
            Response::error(401, "the token or password is missing, unknown or revoked")
                .with("WWW-Authenticate", "Bearer realm=\"obto-bridge\"")
                .with("WWW-Authenticate", "Basic realm=\"obto-bridge\", charset=\"UTF-8\"")
        })
    }

    fn login(&self, secret: &str) -> Result<Option<Caller>, Response> {
        let decoded = BASE64_STANDARD.decode(secret).ok().and_then(|it| String::from_utf8(it).ok());
        let Some((username, password)) = decoded.as_deref().and_then(|it| it.split_once(':'))
        else {
            return Ok(None);
        };
        match self.store.login(username).map_err(internal)? {
            Some((caller, stored)) if self.passwords.check(password, &stored) => Ok(Some(caller)),
            Some(_) => Ok(None),
            None => {
                // A zero byte is in no password that was ever accepted.
                let stored = self
                    .no_password
                    .get_or_init(|| password::hash("", self.options.password_rounds));
                self.passwords.check(&format!("\0{password}"), stored);
                Ok(None)
            }
        }
    }

    /// Browsers send the name they were led to; a foreign name means a foreign page.
    fn refuse_foreign_host(&self, head: &Head) -> Result<(), Response> {
        let Some(host) = head.header("host") else { return Ok(()) };
        let options = &self.options;
        let anything_goes = options.public && options.hosts.is_empty();
        let name = host_name(host);
        let known = name.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || options.hosts.iter().any(|it| it.eq_ignore_ascii_case(name));
        if anything_goes || known {
            return Ok(());
        }
        Err(Response::error(403, "this bridge is not known under that Host name"))
    }
}

impl Handler for Api {
    type Admitted = Admitted;

    fn admit(&self, head: &Head) -> Result<(Admitted, usize), Response> {
        self.refuse_foreign_host(head)?;
        let method = if head.method == "HEAD" { "GET" } else { &head.method };
        let action = match ROUTES.iter().find(|(_, path, _)| *path == head.path) {
            Some((known, _, action)) if *known == method => *action,
            Some((known, ..)) => {
                let allow = if *known == "GET" { "GET, HEAD" } else { "POST" };
                let text = format!("this route takes {allow}");
                return Err(Response::error(405, text).with("Allow", allow));
            }
            None if head.path.starts_with(attachments::PREFIX) && method == "GET" => {
                Action::Known(attachments::fetch)
            }
            None if head.path.starts_with(attachments::PREFIX) => {
                return Err(
                    Response::error(405, "this route takes GET, HEAD").with("Allow", "GET, HEAD")
                );
            }
            None => return Err(Response::error(404, "there is no such route")),
        };
        match action {
            Action::Open(run) => Ok((Admitted::Open(run), FORM_BYTES)),
            Action::Known(run) => {
                let limit = input::body_bytes(&head.path, self.options.body_bytes);
                Ok((Admitted::Known(run, self.caller(head)?), limit))
            }
        }
    }

    fn handle(&self, admitted: Admitted, request: Request) -> Response {
        let answer = match admitted {
            Admitted::Open(run) => run(self, &request),
            Admitted::Known(run, caller) => run(self, caller, &request),
        };
        answer.unwrap_or_else(|refusal| refusal)
    }
}

/// A browser adds a password by itself, also to requests that a foreign page makes. JSON from a
/// foreign page is asked about first (and never allowed); other types are not.
fn refuse_forgery(head: &Head) -> Result<(), Response> {
    if matches!(head.method.as_str(), "GET" | "HEAD") {
        return Ok(());
    }
    let content_type = head.header("content-type").unwrap_or_default();
    let media_type = content_type.split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case("application/json") {
        return Err(Response::error(415, "with a password, Content-Type must be application/json"));
    }
    let host = head.header("host").unwrap_or_default();
    let is_ours = |origin: &str| {
        origin.split_once("://").is_some_and(|(_, it)| it.eq_ignore_ascii_case(host))
    };
    match head.header("origin") {
        Some(origin) if !is_ours(origin) => {
            Err(Response::error(403, "a page of another origin may not do this"))
        }
        _ => Ok(()),
    }
}

/// `Host` without its port, and an IPv6 address without its brackets.
fn host_name(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|it| it.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

/// Ours to mend, and none of the caller's business.
fn internal(error: anyhow::Error) -> Response {
    log::error!("a request failed: {error:#}");
    Response::error(500, "internal error; see the server's log")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_told_from_ports() {
        #[track_caller]
        fn check(host: &str, expected: &str) {
            assert_eq!(host_name(host), expected);
        }
        check("localhost", "localhost");
        check("localhost:80", "localhost");
        check("[::1]:80", "::1");
        check("[::1]", "::1");
        check("", "");
    }
}
