//! What state.json says of a thread (protocol section 6). The file is shared with the reference
//! daemon, so everything that is not understood is kept and written back: fields we do not know,
//! and fields we know whose value is of another type.

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Number, Value};

use crate::{
    ids::{Engine, MachineId, SessionId},
    store::{entry::EntryId, vec_map::VecMap},
    time::Timestamp,
};

/// A field that the reference does not have, and keeps.
const FRESH_AFTER: &str = "freshAfter";

/// What binds a thread to a machine, and to one session for each engine that was used on it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(from = "Value")]
pub struct Binding {
    /// The machine that owns the thread, as far as we know.
    pub machine: Option<MachineId>,
    pub created_at: Option<Timestamp>,
    /// What was written earlier, by the bridge's time, was another machine's. Ours.
    pub ours_since: Option<Timestamp>,
    pub sessions: VecMap<Engine, SessionRecord>,
    /// Rules that a person allowed for good on this thread, as the config file writes them. Ours.
    pub grants: Vec<String>,
    /// Codes of the questions that ended with an earlier daemon, until a person writes something else.
    /// Ours.
    pub orphaned_questions: Vec<String>,
    /// A person had stale messages run, up to this entry. Ours.
    pub released: Option<EntryId>,
    /// Of these engines, messages that came in after this entry need a new session. Ours.
    pub fresh_after: VecMap<Engine, EntryId>,
    /// What else is there.
    rest: Map<String, Value>,
    /// What else is under `sessions`.
    rest_of_sessions: Map<String, Value>,
}

/// An engine's session on a thread.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionRecord {
    pub session_id: SessionId,
    /// Absolute. A session can only be resumed there.
    pub project_dir: Option<String>,
    /// The session's own file (claude).
    pub jsonl_path: Option<String>,
    /// When that file was last changed, as far as we drove it: milliseconds since the Unix epoch,
    /// with a fraction where Node wrote it.
    pub last_jsonl_mtime_ms: Option<Number>,
    pub created_at: Option<Timestamp>,
    pub last_drive_at: Option<Timestamp>,
    rest: Map<String, Value>,
}

impl SessionRecord {
    pub fn new(session_id: SessionId) -> SessionRecord {
        SessionRecord {
            session_id,
            project_dir: None,
            jsonl_path: None,
            last_jsonl_mtime_ms: None,
            created_at: None,
            last_drive_at: None,
            rest: Map::new(),
        }
    }

    /// None if there is no session id; then nothing is taken from `object`.
    fn take(object: &mut Map<String, Value>) -> Option<SessionRecord> {
        let session_id = take(object, "sessionId")?;
        Some(SessionRecord {
            project_dir: take(object, "projectDir"),
            jsonl_path: take(object, "jsonlPath"),
            last_jsonl_mtime_ms: take(object, "lastJsonlMtimeMs"),
            created_at: take(object, "createdAt"),
            last_drive_at: take(object, "lastDriveAt"),
            ..SessionRecord::new(session_id)
        })
    }

    fn to_value(&self) -> Value {
        let mut object = self.rest.clone();
        put(&mut object, "sessionId", Some(self.session_id.as_str()));
        put(&mut object, "projectDir", self.project_dir.as_deref());
        put(&mut object, "jsonlPath", self.jsonl_path.as_deref());
        put(&mut object, "lastJsonlMtimeMs", self.last_jsonl_mtime_ms.clone());
        put(&mut object, "createdAt", self.created_at.map(|time| time.to_string()));
        put(&mut object, "lastDriveAt", self.last_drive_at.map(|time| time.to_string()));
        Value::Object(object)
    }
}

impl From<Value> for Binding {
    /// Reads a binding of either version. What is no object becomes an empty binding.
    fn from(value: Value) -> Binding {
        let Value::Object(mut rest) = value else { return Binding::default() };
        let mut binding = Binding::default();
        match rest.remove("sessions") {
            Some(Value::Object(sessions)) => binding.take_sessions(sessions),
            Some(other) => {
                rest.insert("sessions".to_owned(), other);
            }
            None => binding.migrate_flat(&mut rest),
        }
        if let Some(marks) = rest.get(FRESH_AFTER).and_then(marks) {
            rest.remove(FRESH_AFTER);
            binding.fresh_after = marks;
        }
        binding.machine = take(&mut rest, "agentId");
        binding.created_at = take(&mut rest, "createdAt").or(binding.created_at);
        binding.ours_since = take(&mut rest, "oursSince");
        binding.grants = take(&mut rest, "grants").unwrap_or_default();
        binding.orphaned_questions = take(&mut rest, "diedAsking").unwrap_or_default();
        let released: Option<String> = take(&mut rest, "released");
        binding.released = released.as_deref().and_then(EntryId::parse);
        binding.rest = left(rest);
        binding
    }
}

impl Binding {
    /// A thread that was just won.
    pub fn new(machine: MachineId, created_at: Timestamp) -> Binding {
        let (machine, created_at) = (Some(machine), Some(created_at));
        Binding { machine, created_at, ..Binding::default() }
    }

    fn take_sessions(&mut self, sessions: Map<String, Value>) {
        for (name, mut value) in sessions {
            let engine = Engine::new(&name);
            let record = match &mut value {
                Value::Object(object) if engine.as_str() == name => {
                    SessionRecord::take(object).map(|it| (it, std::mem::take(object)))
                }
                _ => None,
            };
            match record {
                Some((record, rest)) => {
                    self.sessions.insert(engine, SessionRecord { rest: left(rest), ..record });
                }
                None => {
                    self.rest_of_sessions.insert(name, value);
                }
            }
        }
    }

    /// Version 1 knew one engine and had its session directly under the thread.
    fn migrate_flat(&mut self, object: &mut Map<String, Value>) {
        if let Some(record) = SessionRecord::take(object) {
            self.created_at = record.created_at;
            self.sessions.insert(Engine::CLAUDE, record);
        }
    }

    /// As version 1.1 has it.
    pub fn to_value(&self) -> Value {
        let mut object = self.rest.clone();
        put(&mut object, "createdAt", self.created_at.map(|time| time.to_string()));
        put(&mut object, "agentId", self.machine.as_ref().map(MachineId::as_str));
        put(&mut object, "oursSince", self.ours_since.map(|time| time.to_string()));
        put(&mut object, "released", self.released.map(|entry| entry.to_string()));
        if !self.fresh_after.is_empty() {
            let marks = self.fresh_after.iter();
            let marks = marks.map(|(name, entry)| (name.to_string(), entry.to_string().into()));
            object.insert(FRESH_AFTER.to_owned(), Value::Object(marks.collect()));
        }
        let mut sessions = self.rest_of_sessions.clone();
        for (engine, record) in self.sessions.iter() {
            sessions.insert(engine.as_str().to_owned(), record.to_value());
        }
        for (key, texts) in [("grants", &self.grants), ("diedAsking", &self.orphaned_questions)] {
            put(&mut object, key, (!texts.is_empty()).then(|| texts.clone()));
        }
        if !sessions.is_empty() || !object.contains_key("sessions") {
            object.insert("sessions".to_owned(), Value::Object(sessions));
        }
        Value::Object(object)
    }
}

/// Takes a field out that has the right type; any other stays where it is.
fn take<T: DeserializeOwned>(object: &mut Map<String, Value>, key: &str) -> Option<T> {
    let value = T::deserialize(object.get(key)?).ok()?;
    object.remove(key);
    Some(value)
}

/// What is left of an object. An emptied one would keep its memory.
fn left(rest: Map<String, Value>) -> Map<String, Value> {
    if rest.is_empty() { Map::new() } else { rest }
}

fn marks(value: &Value) -> Option<VecMap<Engine, EntryId>> {
    let mark = |(name, value): (&String, &Value)| {
        let engine = Some(Engine::new(name)).filter(|engine| engine.as_str() == name)?;
        Some((engine, EntryId::parse(value.as_str()?)?))
    };
    let marks: VecMap<_, _> = value.as_object()?.iter().map(mark).collect::<Option<_>>()?;
    (!marks.is_empty()).then_some(marks)
}

fn put(object: &mut Map<String, Value>, key: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        object.insert(key.to_owned(), value.into());
    }
}
