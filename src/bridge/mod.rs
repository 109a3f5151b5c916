//! The client side of the bridge: one method per endpoint here, the event stream in [`stream`], the
//! posts that must not be lost in [`outbox`].

mod access;
pub mod backoff;
mod dial;
mod error;
mod headers;
mod http;
mod net;
mod one_piece;
pub mod outbox;
pub mod proxy;
mod resolver;
pub mod sse;
pub mod stream;
mod tls;
mod trouble;
mod ways;
pub mod wire;

use std::sync::Arc;

use serde_json::{Map, Value, json};
use ureq::{Agent, http::header};

pub use self::{
    access::{Access, AccessSource},
    error::Error,
    headers::Headers,
    net::Net,
};
use self::{
    error::excerpt,
    http::{Answer, JSON, Request, Target, is_stale, percent, send_once},
    wire::{Activity, Claim, MachineInfo, Post, Posted, Reply, Whoami, text},
};
use crate::{
    config::Token,
    ids::{MachineId, MessageId, ThreadId},
};

/// The largest answer that is read, in bytes.
const MAX_ANSWER: u64 = 32 * 1024 * 1024;
/// The bridge's own cap on an attachment is 25 MB (protocol section 2).
const MAX_ATTACHMENT: u64 = 26 * 1024 * 1024;

/// A new account, from `register`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registered {
    pub account_id: Option<String>,
    pub token: Token,
    pub user: Option<String>,
}

/// The bridge's endpoints. Clones share their connections.
#[derive(Clone, Debug)]
pub struct Client {
    access: Arc<dyn AccessSource>,
    agent: Agent,
}

impl Client {
    /// # Errors
    /// When the CA file can't be read.
    pub fn new(access: Arc<dyn AccessSource>, net: &Net) -> anyhow::Result<Client> {
        Ok(Client { access, agent: dial::agent(net.request_config(), net.ways()?) })
    }

    /// Ends every request of this client and its clones, now and later, with an error.
    pub fn shutdown(&self) {
        self.agent.clone().shutdown();
    }

    /// Asks for an unowned thread. Ours for certain if `won`, or if the winner is this machine.
    pub fn claim(&self, thread: &ThreadId, machine: &MachineId) -> Result<Claim, Error> {
        let body = json!({"threadId": thread, "agentId": machine});
        let (answer, request) = self.post_json("/api/bridge/thread/claim", &body)?;
        let Some(won) = answer.get("won").and_then(Value::as_bool) else {
            return Err(unexpected(request, &answer));
        };
        Ok(Claim { won, winner: text(&answer, "winner").map(MachineId::new) })
    }

    /// Shows whether the thread is being worked on. Nothing depends on it.
    pub fn activity(&self, thread: &ThreadId, state: Activity) -> Result<(), Error> {
        let body = json!({"threadId": thread, "state": state});
        self.post_json("/api/bridge/agent-activity", &body).map(drop)
    }

    /// Reports what this machine can do. Only for a bridge that accepts `machine`.
    pub fn machine(&self, info: &MachineInfo) -> Result<(), Error> {
        self.post_json("/api/bridge/machine", info).map(drop)
    }

    /// Posts a message. May be repeated: `clientMsgId` is stored once.
    pub fn post(&self, post: &Post) -> Result<Posted, Error> {
        let (answer, request) = self.post_json("/api/message", post)?;
        if answer.get("ok") == Some(&Value::Bool(false)) {
            return Err(unexpected(request, &answer));
        }
        Ok(Posted::read(post, answer.get("message").unwrap_or(&Value::Null)))
    }

    /// Says something on a thread as its person does, for an engine of a machine. A bridge of our own
    /// gives a new thread to that machine. The answer is the message's id. Never repeated: a bridge may
    /// store it twice.
    pub fn say(
        &self,
        thread: &ThreadId,
        body: &str,
        engine: &str,
        machine: &MachineId,
    ) -> Result<Option<MessageId>, Error> {
        let body = json!({"threadId": thread, "body": body, "agent": engine, "agentId": machine});
        let body = serde_json::to_vec(&body).expect("our own types become JSON");
        let (answer, _) = self.json(Request {
            path: "/api/reply",
            body: Some((JSON, &body)),
            ..Request::default()
        })?;
        let message = answer.get("message").and_then(Value::as_object);
        Ok(message.and_then(|message| text(message, "messageId")).map(MessageId::new))
    }

    /// Messages after the server time `since`, oldest first.
    pub fn messages_since(&self, thread: &ThreadId, since: &str) -> Result<Vec<Reply>, Error> {
        self.messages(thread, &[("threadId", thread.as_str()), ("since", since)])
    }

    /// The `limit` newest messages before the server time `before`, oldest first.
    pub fn messages_before(
        &self,
        thread: &ThreadId,
        before: &str,
        limit: u32,
    ) -> Result<Vec<Reply>, Error> {
        let limit = limit.to_string();
        self.messages(
            thread,
            &[("threadId", thread.as_str()), ("before", before), ("limit", &limit)],
        )
    }

    fn messages(&self, thread: &ThreadId, query: &[(&str, &str)]) -> Result<Vec<Reply>, Error> {
        let request =
            Request { path: "/api/messages", query, repeatable: true, ..Request::default() };
        let (mut answer, request) = self.json(request)?;
        let Some(list) = answer.get_mut("messages").and_then(Value::as_array_mut) else {
            return Err(unexpected(request, &answer));
        };
        Ok(list.drain(..).filter_map(|value| Reply::stored(value, thread)).collect())
    }

    /// An attachment: its stored type, and its bytes.
    pub fn attachment(&self, id: &str) -> Result<(String, Vec<u8>), Error> {
        let path = format!("/api/bridge/attachment/{}", percent(id));
        let mut answer =
            self.send(Request { path: &path, repeatable: true, ..Request::default() })?;
        let media_type = answer.header(&header::CONTENT_TYPE).unwrap_or_default().to_owned();
        Ok((media_type, answer.read(MAX_ATTACHMENT)?))
    }

    pub fn whoami(&self) -> Result<Whoami, Error> {
        let path = "/api/bridge/whoami";
        let request = Request { path, repeatable: true, ..Request::default() };
        let (answer, request) = self.json(request)?;
        let Some(account) = answer.get("account").and_then(Value::as_object) else {
            return Err(unexpected(request, &answer));
        };
        Ok(Whoami {
            account_id: text(account, "accountId"),
            user: text(account, "basicAuthUser"),
            email: text(account, "email"),
            status: text(account, "status"),
            token_prefix: text(account, "apiTokenPrefix"),
            server_time: answer
                .get("server")
                .and_then(Value::as_object)
                .and_then(|server| text(server, "time")),
        })
    }

    /// Asks for a new token; the old one is dead at once. Never repeated: the answer to a lost
    /// first try would be lost with it.
    pub fn rotate_token(&self) -> Result<Token, Error> {
        let path = "/api/bridge/rotate-token";
        let request = Request { path, body: Some((JSON, b"{}")), ..Request::default() };
        let (answer, request) = self.json(request)?;
        // The answer may hold the token, so it is not quoted.
        text(&answer, "apiToken").map(Token::new).ok_or_else(|| no_token(request))
    }

    /// Opens an account. The client is one whose [`Access`] has an empty token.
    pub fn register(&self, email: &str, user: &str, password: &str) -> Result<Registered, Error> {
        let form = [("email", email), ("username", user), ("password", password)];
        let body = form.map(|(key, value)| format!("{key}={}", percent(value))).join("&");
        let (answer, request) = self.json(Request {
            path: "/api/bridge/register",
            body: Some(("application/x-www-form-urlencoded", body.as_bytes())),
            ..Request::default()
        })?;
        match (text(&answer, "apiToken"), text(&answer, "error")) {
            (Some(token), _) => Ok(Registered {
                account_id: text(&answer, "accountId"),
                token: Token::new(token),
                user: text(&answer, "basicAuthUser"),
            }),
            (None, Some(error)) => {
                let excerpt = excerpt(&error);
                Err(Error::Status { request, code: 400, excerpt, retry_after: None })
            }
            (None, None) => Err(no_token(request)),
        }
    }

    fn post_json(
        &self,
        path: &str,
        body: &impl serde::Serialize,
    ) -> Result<(Map<String, Value>, String), Error> {
        let body = serde_json::to_vec(body).expect("our own types become JSON");
        self.json(Request {
            path,
            body: Some((JSON, &body)),
            repeatable: true,
            ..Request::default()
        })
    }

    /// Sends, and reads the JSON object that answers. The string names the request.
    fn json(&self, request: Request<'_>) -> Result<(Map<String, Value>, String), Error> {
        let mut answer = self.send(request)?;
        let body = answer.read(MAX_ANSWER)?;
        match serde_json::from_slice(&body) {
            Ok(Value::Object(object)) => Ok((object, answer.request)),
            _ => Err(answer.not_the_bridge(&body)),
        }
    }

    fn send(&self, request: Request<'_>) -> Result<Answer, Error> {
        let access = self.access.access()?;
        let target = Target::new(&access, request.path)?;
        let name = target.name(if request.body.is_some() { "POST" } else { "GET" });
        let mut response = send_once(&self.agent, &access, &target, request);
        if request.repeatable && response.as_ref().is_err_and(is_stale) {
            response = send_once(&self.agent, &access, &target, request);
        }
        let response = response.map_err(|error| Error::from_ureq(name.clone(), error))?;
        Answer { request: name, response, token: access.token }.checked()
    }
}

/// The bridge answered with an object, but not with the one that was asked for.
fn unexpected(request: String, answer: &Map<String, Value>) -> Error {
    let said = text(answer, "error").unwrap_or_else(|| Value::Object(answer.clone()).to_string());
    let wall = error::wall(200, None, "");
    Error::BadBody { request, code: 200, excerpt: excerpt(&said), wall, retry_after: None }
}

fn no_token(request: String) -> Error {
    let excerpt = "an object without apiToken".to_owned();
    let wall = error::wall(200, None, "");
    Error::BadBody { request, code: 200, excerpt, wall, retry_after: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(base_url: &str) -> Access {
        Access {
            base_url: base_url.to_owned(),
            origin_host: "h".to_owned(),
            token: Token::new("obto_secret"),
        }
    }

    #[test]
    fn nothing_prints_the_token() {
        let client = Client::new(Arc::new(access("http://h")), &Net::default()).unwrap();
        assert!(!format!("{client:?} {:?}", access("http://h")).contains("obto_secret"));
    }
}
