//! The JSON of the bridge protocol, sections 2 and 3: what our words are called on the wire, and
//! the reading of request bodies. Requests are checked strictly, so that a client learns of its
//! mistakes here and not on the hosted bridge.

use serde_json::{Map, Value, json};

use crate::{
    ids::ThreadId,
    serve::{
        http::message::Response,
        markdown::{self, Breaks},
        presence::{Machine, Presence},
        store::{
            machines,
            rows::{AccountChange, AccountEvent, Message, Role, Thread, ThreadChange, VIA_TOKEN},
        },
    },
    time::Timestamp,
};

/// Characters of a message.
pub const BODY_CHARS: usize = 1024 * 1024;
/// Characters of ids and names.
pub const NAME_CHARS: usize = 200;
/// Characters of a path; Linux takes no longer ones.
pub const PATH_CHARS: usize = 4096;
/// What the values of a request may weigh, and what an object weighs. A value takes many times the
/// memory of its text: `0,` is 32 bytes, and `{"":0},` a whole node of a map.
const WEIGHT_MAX: usize = 25_000;
const OBJECT_WEIGHT: usize = 20;
/// The latest time that is taken: the end of the year 9999, as far as RFC 3339 goes.
const MILLIS_MAX: u64 = 253_402_300_799_999;

/// `_id` and `messageId` are the same: the reference reads either.
pub fn message(message: &Message) -> Value {
    let ids: Vec<_> = message.files.iter().map(|it| &it.id).collect();
    let mut value = json!({
        "_id": message.id,
        "messageId": message.id,
        "threadId": message.thread,
        "author": message.author,
        "role": message.role,
        "kind": message.kind,
        "body": message.body,
        "createdAt": message.created,
        "attachments": ids,
        "files": message.files,
    });
    if message.role == Role::Human {
        // For daemons that read what they missed: a reply event has them as well.
        set(&mut value, "agent", message.agent.as_ref());
        set(&mut value, "projectDir", message.project_dir.as_ref());
    }
    set(&mut value, "via", message.by_token.then_some(VIA_TOKEN));
    set(&mut value, "question", message.question.as_ref());
    set(&mut value, "closed", message.closed.as_ref());
    set(&mut value, "questionClosed", message.question_closed.as_ref());
    set(&mut value, "externalAdoption", message.adoption.as_ref());
    set(&mut value, "history", message.is_history.then_some(true));
    value
}

/// The same with its body as HTML, for pages.
pub fn message_with_html(message: &Message) -> Value {
    let breaks = match message.role {
        Role::Human => Breaks::Kept,
        Role::Agent => Breaks::Soft,
    };
    let mut value = self::message(message);
    set(&mut value, "html", Some(markdown::render(&message.body, breaks)));
    value
}

fn set(value: &mut Value, key: &str, field: Option<impl serde::Serialize>) {
    if let Some(field) = field {
        value[key] = json!(field);
    }
}

/// `working` is since when it is being worked on.
pub fn thread(thread: &Thread, working: Option<Timestamp>) -> Value {
    let mut value = json!(thread);
    value["working"] = working.map(|since| json!({ "since": since })).into();
    value
}

/// `connected` is none for a machine that is not here.
pub fn machine(machine: &machines::Machine, connected: Option<&Machine>) -> Value {
    json!({
        "agentId": machine.id,
        "connected": connected.is_some(),
        "connectedSince": connected.map(|it| it.since),
        "conflictAt": connected.and_then(|it| it.conflict),
        "lastSeen": machine.last_seen,
        "version": machine.version,
        "capabilities": connected.map_or(&machine.capabilities, |it| &it.capabilities),
        "engines": machine.engines,
        "projectDirs": machine.project_dirs,
    })
}

/// Work on a thread has begun, or, without a time, has ended.
pub fn activity(thread: &ThreadId, since: Option<Timestamp>) -> Value {
    let state = if since.is_some() { "working" } else { "idle" };
    json!({ "threadId": thread, "state": state, "since": since })
}

/// The data of a `reply` event, as section 3 of the protocol has it.
pub fn reply(message: &Message) -> Value {
    let ids: Vec<_> = message.files.iter().map(|it| &it.id).collect();
    let mut value = json!({
        "threadId": message.thread,
        "messageId": message.id,
        "author": message.author,
        "role": message.role,
        "body": message.body,
        "createdAt": message.created,
        "agent": message.agent,
        "agentId": message.machine,
        "attachmentIds": ids,
        "externalAdoption": message.adoption,
    });
    set(&mut value, "projectDir", message.project_dir.as_ref());
    set(&mut value, "via", message.by_token.then_some(VIA_TOKEN));
    value
}

/// What browsers are told.
pub fn for_browsers(event: &AccountEvent, presence: &Presence) -> Value {
    match &event.change {
        AccountChange::Message(message) => message_with_html(message),
        AccountChange::Claimed { thread, machine } => {
            json!({ "threadId": thread, "agentId": machine })
        }
        AccountChange::Thread { change: ThreadChange::Deleted, thread } => {
            json!({ "threadId": thread.id, "change": ThreadChange::Deleted.as_str() })
        }
        AccountChange::Thread { change, thread } => {
            let mut value = self::thread(thread, presence.since(event.account, &thread.id));
            set(&mut value, "change", Some(change.as_str()));
            value
        }
    }
}

/// An object in a request's body.
#[derive(Debug)]
pub struct Fields {
    object: Map<String, Value>,
    /// Where it is in the body, for refusals: nothing, or for example `sessions[3].`.
    place: String,
}

impl Fields {
    pub fn parse(body: &[u8]) -> Result<Fields, Response> {
        Fields::parse_up_to(body, WEIGHT_MAX)
    }

    /// With a bound of its own for a list that is really long.
    pub fn parse_up_to(body: &[u8], weight: usize) -> Result<Fields, Response> {
        if weight < self::weight(body) {
            return Err(Response::error(413, "the request body has too many values"));
        }
        match serde_json::from_slice(body) {
            Ok(Value::Object(object)) => Ok(Fields { object, place: String::new() }),
            Ok(_) => Err(Response::error(400, "the request body is no JSON object")),
            Err(error) => {
                Err(Response::error(400, format!("the request body is no JSON: {error}")))
            }
        }
    }

    /// The refusal of one of these fields.
    pub fn bad(&self, status: u16, name: &str, what: &str) -> Response {
        bad_field(status, &format!("{}{name}", self.place), what)
    }

    /// A field as it came; `null` is as good as missing.
    pub fn value(&self, name: &str) -> Option<&Value> {
        self.object.get(name).filter(|it| !it.is_null())
    }

    /// A string that must be there, of at most `max` characters; it may be blank.
    pub fn text(&self, name: &str, max: usize) -> Result<String, Response> {
        self.optional_text(name, max)?.ok_or_else(|| self.bad(400, name, "is missing"))
    }

    pub fn optional_text(&self, name: &str, max: usize) -> Result<Option<String>, Response> {
        match self.str(name)? {
            Some(text) if max < text.chars().count() => {
                Err(self.bad(413, name, &format!("is longer than {max} characters")))
            }
            text => Ok(text.map(str::to_owned)),
        }
    }

    /// A string of any length.
    pub fn str(&self, name: &str) -> Result<Option<&str>, Response> {
        match self.value(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.bad(400, name, "is no string")),
        }
    }

    /// An id or name: not blank, and without control characters.
    pub fn name(&self, name: &str) -> Result<String, Response> {
        self.optional_name(name)?.ok_or_else(|| self.bad(400, name, "is missing"))
    }

    pub fn optional_name(&self, name: &str) -> Result<Option<String>, Response> {
        self.optional_line(name, NAME_CHARS)
    }

    /// Like a name, with a length of its own.
    pub fn optional_line(&self, name: &str, max: usize) -> Result<Option<String>, Response> {
        let text = self.optional_text(name, max)?;
        if let Some(what) = text.as_deref().and_then(bad_line) {
            return Err(self.bad(400, name, what));
        }
        Ok(text)
    }

    /// One of a few words.
    pub fn one_of(&self, name: &str, words: &[&str]) -> Result<String, Response> {
        let word = self.name(name)?;
        if words.contains(&word.as_str()) {
            Ok(word)
        } else {
            Err(self.bad(400, name, &format!("is none of: {}", words.join(", "))))
        }
    }

    /// A list of at most `max` lines of at most `chars` characters; a missing one is empty.
    pub fn lines(&self, name: &str, max: usize, chars: usize) -> Result<Vec<String>, Response> {
        let mut lines = Vec::new();
        for item in self.items(name, max)? {
            let Value::String(line) = item else {
                return Err(self.bad(400, name, "is no list of strings"));
            };
            if chars < line.chars().count() {
                return Err(self.bad(413, name, &format!("has one over {chars} characters")));
            }
            if let Some(what) = bad_line(line) {
                return Err(self.bad(400, name, &format!("has one that {what}")));
            }
            lines.push(line.clone());
        }
        Ok(lines)
    }

    /// A list of at most `max` objects; a missing one is empty.
    pub fn objects(&self, name: &str, max: usize) -> Result<Vec<Fields>, Response> {
        let mut objects = Vec::new();
        for (at, item) in self.items(name, max)?.iter().enumerate() {
            let Value::Object(object) = item else {
                return Err(self.bad(400, name, "is no list of objects"));
            };
            let place = format!("{}{name}[{at}].", self.place);
            objects.push(Fields { object: object.clone(), place });
        }
        Ok(objects)
    }

    fn items(&self, name: &str, max: usize) -> Result<&[Value], Response> {
        match self.value(name) {
            None => Ok(&[]),
            Some(Value::Array(items)) if max < items.len() => {
                Err(self.bad(413, name, &format!("has more than {max} entries")))
            }
            Some(Value::Array(items)) => Ok(items),
            Some(_) => Err(self.bad(400, name, "is no list")),
        }
    }

    /// A time as RFC 3339 or as milliseconds since 1970.
    pub fn optional_time(&self, name: &str) -> Result<Option<Timestamp>, Response> {
        let time = match self.value(name) {
            None => return Ok(None),
            Some(Value::String(text)) => Timestamp::parse(text),
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a float that is out of range becomes the nearest end, and is checked"
            )]
            Some(Value::Number(number)) => number
                .as_u64()
                .or_else(|| number.as_f64().filter(|it| 0.0 <= *it).map(|it| it as u64))
                .map(Timestamp::from_millis),
            Some(_) => None,
        };
        time.filter(|it| it.as_millis() <= MILLIS_MAX)
            .map(Some)
            .ok_or_else(|| self.bad(400, name, "is no RFC 3339 time and no milliseconds"))
    }
}

/// What the values of a JSON text weigh. It need not be well-formed.
fn weight(json: &[u8]) -> usize {
    let (mut weight, mut rest) = (0, json.iter());
    while let Some(byte) = rest.next() {
        match byte {
            b',' | b'[' => weight += 1,
            b'{' => weight += OBJECT_WEIGHT,
            // Up to the end of a string, whatever is in it.
            b'"' => {
                while let Some(byte) = rest.find(|byte| matches!(byte, b'"' | b'\\'))
                    && *byte == b'\\'
                {
                    rest.next();
                }
            }
            _ => {}
        }
    }
    weight
}

/// What is wrong with a name.
fn bad_line(text: &str) -> Option<&'static str> {
    if text.trim().is_empty() {
        Some("is blank")
    } else if text.contains(char::is_control) {
        Some("has control characters")
    } else {
        None
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
        let lines = |it: &Fields| it.lines("a", 2, 3).map(|it| it.join(","));
        check("{\"a\":[\"b\",\"c\"]}", lines, "b,c");
        check("{}", lines, "");
        for (list, expected) in [
            ("[1]", "400"),
            ("{}", "400"),
            ("[\"\"]", "400"),
            ("[\"\\u0000\"]", "400"),
            ("[\"long\"]", "413"),
            ("[\"b\",\"b\",\"b\"]", "413"),
        ] {
            check(&format!("{{\"a\":{list}}}"), lines, expected);
        }
    }

    #[test]
    fn values_are_weighed_before_they_are_made() {
        #[track_caller]
        fn check(json: &str, expected: usize) {
            assert_eq!(weight(json.as_bytes()), expected, "{json}");
        }
        check("", 0);
        check("[1,[2,3]]", 4);
        check(r#"{"a":{}}"#, 2 * OBJECT_WEIGHT);
        check(r#"["a,[{","\",{","\\",1]"#, 4);
        check("[", 1);
        check(r#""\"#, 0);
        let list = |count: usize| format!("{{\"a\":[{}0]}}", "0,".repeat(count));
        Fields::parse(list(WEIGHT_MAX - OBJECT_WEIGHT - 1).as_bytes()).unwrap();
        let refusal = Fields::parse(list(WEIGHT_MAX - OBJECT_WEIGHT).as_bytes()).unwrap_err();
        assert_eq!(refusal.status, 413);
        let deep = "[".repeat(10_000);
        assert_eq!(Fields::parse(deep.as_bytes()).unwrap_err().status, 400);
    }

    #[test]
    fn fields_of_lists_are_named_by_their_place() {
        let body = br#"{"a":[{"b":[{"c":1}]}]}"#;
        let a = Fields::parse(body).unwrap().objects("a", 1).unwrap().remove(0);
        let b = a.objects("b", 1).unwrap().remove(0);
        assert_eq!(b.place, "a[0].b[0].");
        b.name("c").unwrap_err();
    }

    #[test]
    fn times_are_text_or_milliseconds() {
        let time = |it: &Fields| {
            it.optional_time("a").map(|it| it.map(|it| it.to_string()).unwrap_or_default())
        };
        for (value, expected) in [
            ("1000", "1970-01-01T00:00:01.000Z"),
            ("1000.7", "1970-01-01T00:00:01.000Z"),
            ("\"1970-01-01T00:00:01Z\"", "1970-01-01T00:00:01.000Z"),
            ("null", ""),
            ("-1", "400"),
            ("1e300", "400"),
            ("18446744073709551615", "400"),
            ("1e999", "400"),
            ("\"soon\"", "400"),
            ("[]", "400"),
        ] {
            check(&format!("{{\"a\":{value}}}"), time, expected);
        }
    }
}
