//! The JSON of the bridge protocol, sections 2 and 3: what our words are called on the wire, and
//! the reading of request bodies. Requests are checked strictly, so that a client learns of its
//! mistakes here and not on the hosted bridge.

use serde_json::{Map, Value, json};

use crate::serve::{
    http::message::Response,
    store::{
        events::{Change, Event},
        messages::{Message, Thread},
    },
    stream::Machine,
};

/// Characters of a message.
pub const BODY_CHARS: usize = 1024 * 1024;
/// Characters of ids and names.
pub const NAME_CHARS: usize = 200;

/// `_id` and `messageId` are the same: the reference reads either.
pub fn message(message: &Message) -> Value {
    json!({
        "_id": message.id,
        "messageId": message.id,
        "threadId": message.thread,
        "author": message.author,
        "role": message.role.as_str(),
        "kind": message.kind,
        "body": message.body,
        "createdAt": message.created,
        "attachments": [],
    })
}

pub fn thread(thread: &Thread) -> Value {
    let last = &thread.last_message;
    json!({
        "threadId": thread.id,
        "title": thread.title,
        "agent": thread.agent,
        "agentId": thread.machine,
        "createdAt": thread.created,
        "lastMessageAt": last.created,
        "lastMessage": {
            "author": last.author,
            "role": last.role.as_str(),
            "kind": last.kind,
            "body": last.body,
        },
    })
}

pub fn machine(machine: &Machine) -> Value {
    json!({
        "agentId": machine.id,
        "capabilities": machine.capabilities,
        "connectedAt": machine.since,
    })
}

pub fn event_name(event: &Event) -> &'static str {
    event.change.kind()
}

pub fn event_data(event: &Event) -> Value {
    match &event.change {
        Change::Message { message, agent, machine } if event.change.is_for_daemons() => json!({
            "threadId": message.thread,
            "messageId": message.id,
            "author": message.author,
            "role": message.role.as_str(),
            "body": message.body,
            "createdAt": message.created,
            "agent": agent,
            "agentId": machine,
            "attachmentIds": [],
            "externalAdoption": null,
        }),
        Change::Message { message, .. } => self::message(message),
        Change::Claimed { thread, machine } => json!({ "threadId": thread, "agentId": machine }),
        Change::Thread { thread, agent } => json!({ "threadId": thread, "agent": agent }),
    }
}

/// The object in a request's body.
#[derive(Debug)]
pub struct Fields(Map<String, Value>);

impl Fields {
    pub fn parse(body: &[u8]) -> Result<Fields, Response> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Fields(fields)),
            Ok(_) => Err(Response::error(400, "the request body is no JSON object")),
            Err(error) => {
                Err(Response::error(400, format!("the request body is no JSON: {error}")))
            }
        }
    }

    /// A string that must be there, of at most `max` characters; it may be blank.
    pub fn text(&self, name: &str, max: usize) -> Result<String, Response> {
        self.optional_text(name, max)?.ok_or_else(|| bad_field(400, name, "is missing"))
    }

    /// `null` is as good as missing.
    pub fn optional_text(&self, name: &str, max: usize) -> Result<Option<String>, Response> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if max < text.chars().count() => {
                Err(bad_field(413, name, &format!("is longer than {max} characters")))
            }
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(bad_field(400, name, "is no string")),
        }
    }

    /// An id or name: not blank, and without control characters.
    pub fn name(&self, name: &str) -> Result<String, Response> {
        self.optional_name(name)?.ok_or_else(|| bad_field(400, name, "is missing"))
    }

    pub fn optional_name(&self, name: &str) -> Result<Option<String>, Response> {
        match self.optional_text(name, NAME_CHARS)? {
            Some(text) if text.trim().is_empty() => Err(bad_field(400, name, "is blank")),
            Some(text) if text.contains(char::is_control) => {
                Err(bad_field(400, name, "has control characters"))
            }
            text => Ok(text),
        }
    }

    /// One of a few words.
    pub fn one_of(&self, name: &str, words: &[&str]) -> Result<String, Response> {
        let word = self.name(name)?;
        if words.contains(&word.as_str()) {
            Ok(word)
        } else {
            Err(bad_field(400, name, &format!("is none of: {}", words.join(", "))))
        }
    }

    /// How many strings the list has; a missing one has none.
    pub fn list_len(&self, name: &str) -> Result<usize, Response> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(0),
            Some(Value::Array(items)) if items.iter().all(Value::is_string) => Ok(items.len()),
            Some(_) => Err(bad_field(400, name, "is no list of strings")),
        }
    }
}

/// A refusal that names the field, for people and for programs.
pub fn bad_field(status: u16, name: &str, what: &str) -> Response {
    let error = format!("{name} {what}");
    Response::json(status, &json!({ "ok": false, "error": error, "field": name }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(body: &str, read: fn(&Fields) -> Result<String, Response>, expected: &str) {
        let seen = match Fields::parse(body.as_bytes()).and_then(|fields| read(&fields)) {
            Ok(text) => text,
            Err(response) => response.status.to_string(),
        };
        assert_eq!(seen, expected, "{body}");
    }

    #[test]
    fn fields_are_checked() {
        check("[]", |it| it.name("a"), "400");
        check("nope", |it| it.name("a"), "400");
        check("{\"a\":\"b\"}", |it| it.name("a"), "b");
        check("{\"a\":\" \"}", |it| it.name("a"), "400");
        check("{\"a\":\"x\\ny\"}", |it| it.name("a"), "400");
        check("{\"a\":1}", |it| it.name("a"), "400");
        check("{\"a\":null}", |it| it.name("a"), "400");
        check("{\"a\":\"x\\ny\"}", |it| it.text("a", 3), "x\ny");
        check("{\"a\":\"äöü\"}", |it| it.text("a", 3), "äöü");
        check("{\"a\":\"äöüß\"}", |it| it.text("a", 3), "413");
        check("{\"a\":\"up\"}", |it| it.one_of("a", &["up", "down"]), "up");
        check("{\"a\":\"left\"}", |it| it.one_of("a", &["up", "down"]), "400");
        check("{\"a\":[\"b\"]}", |it| it.list_len("a").map(|len| len.to_string()), "1");
        check("{\"a\":[1]}", |it| it.list_len("a").map(|len| len.to_string()), "400");
    }
}
