//! state.json: what the reference daemon wrote is read, and what we write is still its format.

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use obto_bridge::{
    ids::{Engine, MachineId, SessionId, ThreadId},
    store::{
        Disk, RealDisk,
        binding::{Binding, SessionRecord},
        cursor::Cursor,
        entry::EntryId,
        messages,
        state::StateStore,
    },
    time::Timestamp,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{store::disk::MemoryDisk, util::patience};

const V1: &str = include_str!("../../fixtures/state/v1-flat.json");
const V1_1: &str = include_str!("../../fixtures/state/v1.1.json");
/// More than a write to memory takes.
const PATIENCE: Duration = Duration::from_mins(5);

fn open(disk: &Arc<MemoryDisk>) -> StateStore {
    let disk: Arc<dyn Disk> = Arc::<MemoryDisk>::clone(disk);
    open_in(disk, Path::new("/d")).unwrap()
}

fn open_in(disk: Arc<dyn Disk>, dir: &Path) -> anyhow::Result<StateStore> {
    let journal = messages::open(Arc::clone(&disk), dir).unwrap().journal;
    StateStore::open(disk, journal, dir)
}

fn with_file(text: &str) -> Arc<MemoryDisk> {
    let disk: Arc<MemoryDisk> = Arc::default();
    disk.put("/d/state.json", text.as_bytes());
    disk
}

fn on_disk(disk: &MemoryDisk) -> Value {
    serde_json::from_slice(&disk.read(Path::new("/d/state.json")).unwrap()).unwrap()
}

fn thread(name: &str) -> ThreadId {
    ThreadId::new(name)
}

fn bound() -> Binding {
    Binding::new(MachineId::new("mac"), Timestamp::from_millis(0))
}

#[test]
fn what_node_wrote_survives_a_rewrite() {
    let disk = with_file(V1_1);
    let mut store = open(&disk);
    let record = &store.get(&thread("t-1732270000000-ab12")).unwrap().sessions[&Engine::CLAUDE];
    assert_eq!(record.session_id, SessionId::new("5b0d7c2e-0d6f-4f0e-9d60-0c4f5f6f0a11"));
    assert_eq!(record.project_dir.as_deref(), Some("/home/ann/shop"));
    assert_eq!(record.last_drive_at, Timestamp::parse("2026-03-02T09:30:15.250Z"));

    store.set(&thread("new"), bound());
    drop(store);
    let mut expected: Value = serde_json::from_str(V1_1).unwrap();
    expected["bindings"]["new"] = json!({
        "agentId": "mac", "createdAt": "1970-01-01T00:00:00.000Z", "sessions": {}
    });
    assert_eq!(on_disk(&disk), expected);
}

#[test]
fn a_flat_binding_is_filed_under_claude() {
    let disk = with_file(V1);
    let mut store = open(&disk);
    let never = store.get(&thread("t-never-driven")).unwrap().clone();
    assert!(never.sessions.is_empty());
    assert_eq!(store.get(&thread("t-broken")), Some(&Binding::default()));
    store.set(&thread("t-never-driven"), never);
    drop(store);
    let expected = json!({
        "createdAt": "2026-03-01T08:00:00.000Z",
        "agentId": "anns-laptop",
        "sessions": {"claude": {
            "sessionId": "5b0d7c2e-0d6f-4f0e-9d60-0c4f5f6f0a11",
            "projectDir": "/home/ann/shop",
            "jsonlPath": "/home/ann/.claude/projects/-home-ann-shop/5b0d7c2e-0d6f-4f0e-9d60-0c4f5f6f0a11.jsonl",
            "lastJsonlMtimeMs": 1_732_270_123_456.789,
            "createdAt": "2026-03-01T08:00:00.000Z",
            "lastDriveAt": "2026-03-02T09:30:15.250Z",
        }},
    });
    assert_eq!(on_disk(&disk)["bindings"]["t-1732270000000-ab12"], expected);
}

#[test]
fn a_session_that_becomes_known_joins_what_is_there() {
    let disk = with_file(V1_1);
    let mut store = open(&disk);
    let id = thread("t-1732270000000-ab12");
    let mut binding = store.get(&id).unwrap().clone();
    let mut record = SessionRecord::new(SessionId::new("s"));
    record.project_dir = Some("/p".to_owned());
    binding.sessions.insert(Engine::new("gemini"), record);
    store.set(&id, binding);
    drop(store);
    let sessions = &on_disk(&disk)["bindings"][id.as_str()]["sessions"];
    assert_eq!(sessions["gemini"], json!({"sessionId": "s", "projectDir": "/p"}));
    assert_eq!(sessions["claude"]["colour"], "green");
}

#[test]
fn since_when_a_thread_is_ours_is_kept() {
    let mut binding = bound();
    binding.ours_since = Timestamp::parse("2026-03-02T09:30:15.250Z");
    let value = binding.to_value();
    assert_eq!(value["oursSince"], "2026-03-02T09:30:15.250Z");
    assert_eq!(Binding::from(value), binding);
    let other = json!({ "oursSince": 7, "sessions": {} });
    let binding = Binding::from(other.clone());
    assert_eq!((binding.ours_since, binding.to_value()), (None, other), "what is not ours is kept");
}

#[test]
fn where_a_new_session_begins_is_kept() {
    let mark = EntryId { sequence: 7, hash: 1 };
    let mut binding = bound();
    binding.fresh_after.insert(Engine::CLAUDE, mark);
    let value = binding.to_value();
    assert_eq!(value["freshAfter"]["claude"], mark.to_string());
    assert_eq!(Binding::from(value), binding);
    for other in [json!({}), json!(7), json!({ "claude": 7 }), json!({ "Claude": "7" })] {
        let value = json!({ "sessions": {}, "freshAfter": other });
        let binding = Binding::from(value.clone());
        assert!(binding.fresh_after.is_empty());
        assert_eq!(binding.to_value(), value, "what is not ours is kept");
    }
}

#[test]
fn a_file_that_cannot_be_understood_is_set_aside() {
    for text in ["", "{\"bindings\": {\"t\": {", "[]", "null", "{\"bindings\": []}", "{} {}"] {
        let disk = with_file(text);
        let mut store = open(&disk);
        assert!(store.bindings().is_empty(), "{text}");
        store.set(&thread("t"), bound());
        drop(store);
        let paths = disk.paths();
        let aside = paths.iter().find(|path| path.starts_with("/d/state.json.broken."));
        let aside = aside.unwrap_or_else(|| panic!("{text}: {paths:?}"));
        assert_eq!(disk.read(Path::new(aside)).unwrap(), text.as_bytes());
        assert_eq!(on_disk(&disk)["bindings"]["t"]["agentId"], "mac");
    }
}

#[test]
fn a_file_that_cannot_be_read_stops_the_start() {
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir(temp.path().join("state.json")).unwrap();
    let error = open_in(Arc::new(RealDisk), temp.path()).unwrap_err();
    assert!(format!("{error:#}").contains("state.json"), "{error:#}");
}

#[test]
fn nothing_and_null_are_no_bindings() {
    for text in ["{}", "{\"bindings\": null}", "{\"bindings\": {}}"] {
        let disk = with_file(text);
        assert!(open(&disk).bindings().is_empty());
        let file = disk.read(Path::new("/d/state.json")).unwrap();
        assert_eq!(file, text.as_bytes(), "a file is not rewritten without a change");
    }
    assert!(open(&Arc::default()).bindings().is_empty());
}

#[test]
fn a_change_says_when_it_is_on_disk() {
    let disk: Arc<MemoryDisk> = Arc::default();
    let mut store = open(&disk);
    let generation = store.set(&thread("t"), bound());
    while store.newest_written() < generation {
        patience::recv(store.written()).unwrap();
    }
    assert_eq!(on_disk(&disk)["bindings"]["t"]["agentId"], "mac");
    assert!(store.newest_written() < generation + 1);
}

#[test]
fn a_burst_costs_a_few_writes() {
    let disk: Arc<MemoryDisk> = Arc::default();
    let mut store = open(&disk);
    for number in 0..2_000 {
        store.set(&thread(&number.to_string()), bound());
    }
    assert!(store.flush(PATIENCE));
    assert!(2_000 <= store.newest_written());
    assert!(disk.operations() < 200, "{} writes", disk.operations());
    assert_eq!(on_disk(&disk)["bindings"].as_object().unwrap().len(), 2_000);
}

#[test]
fn a_failed_write_is_tried_again() {
    let disk = with_file(V1_1);
    let mut store = open(&disk);
    disk.fail(true);
    let generation = store.set(&thread("t"), bound());
    assert!(!store.flush(PATIENCE));
    assert!(store.newest_written() < generation);
    assert_eq!(
        on_disk(&disk),
        serde_json::from_str::<Value>(V1_1).unwrap(),
        "the old one is there"
    );
    disk.fail(false);
    while store.newest_written() < generation {
        patience::recv(store.written()).expect("it tries again by itself");
    }
    assert_eq!(on_disk(&disk)["bindings"]["t"]["agentId"], "mac");
}

#[test]
fn the_cursor_is_in_the_journal() {
    let disk: Arc<MemoryDisk> = Arc::default();
    let cursor_on_disk = || {
        let disk: Arc<dyn Disk> = Arc::<MemoryDisk>::clone(&disk);
        messages::open(disk, Path::new("/d")).unwrap().cursor
    };
    assert_eq!(cursor_on_disk(), Cursor::default());
    let mut cursor = Cursor {
        last_event_id: Some("42".to_owned()),
        seen_until: Timestamp::parse("2026-03-02T09:30:15.250Z"),
        behind: [(ThreadId::new("t"), Timestamp::from_millis(7))].into(),
    };
    let mut store = open(&disk);
    for event in ["41", "42"] {
        cursor.last_event_id = Some(event.to_owned());
        store.set_cursor(&cursor);
    }
    let generation = store.set_cursor(&cursor);
    assert!(store.flush(PATIENCE) && generation <= store.newest_written());
    drop(store);
    assert_eq!(cursor_on_disk(), cursor);
    assert_eq!(disk.paths(), ["/d/journal"]);
}

/// A turn makes several changes, and each write of the file is a write of all of it.
#[test]
fn changes_wait_for_each_other_unless_somebody_waits_for_them() {
    let disk: Arc<MemoryDisk> = Arc::default();
    let mut store = open(&disk);
    let before = disk.operations();
    let began = Instant::now();
    store.set(&thread("a"), bound());
    let generation = store.set(&thread("b"), bound());
    while store.newest_written() < generation {
        patience::recv(store.written()).unwrap();
    }
    assert!(Duration::from_millis(200) < began.elapsed(), "{:?}", began.elapsed());
    assert_eq!(disk.operations(), before + 1);
    let generation = store.set(&thread("c"), bound());
    store.hurry();
    while store.newest_written() < generation {
        patience::recv(store.written()).unwrap();
    }
    assert_eq!(disk.operations(), before + 2);
}

#[test]
fn one_binding_is_one_line_for_people() {
    let temp = tempfile::tempdir().unwrap();
    let mut store = open_in(Arc::new(RealDisk), temp.path()).unwrap();
    store.set(&thread("a"), bound());
    store.set(&thread("b"), bound());
    drop(store);
    let text = fs::read_to_string(temp.path().join("state.json")).unwrap();
    let expected = "{\"bindings\": {\n\
        \"a\": {\"agentId\":\"mac\",\"createdAt\":\"1970-01-01T00:00:00.000Z\",\"sessions\":{}},\n\
        \"b\": {\"agentId\":\"mac\",\"createdAt\":\"1970-01-01T00:00:00.000Z\",\"sessions\":{}}\n}}\n";
    assert_eq!(text, expected);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z\"\\\\ é]{0,6}".prop_map(Value::from),
        Just(json!("2026-03-01T08:00:00.000Z")),
    ];
    let key = prop_oneof![
        Just("sessions".to_owned()),
        Just("claude".to_owned()),
        Just("Codex".to_owned()),
        Just("sessionId".to_owned()),
        Just("agentId".to_owned()),
        Just("createdAt".to_owned()),
        Just("lastJsonlMtimeMs".to_owned()),
        "[a-z]{0,4}",
    ];
    leaf.prop_recursive(4, 40, 6, move |inner| {
        proptest::collection::btree_map(key.clone(), inner, 0..6)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
    })
}

proptest! {
    /// Whatever is in the file: nothing is lost, and reading it a second time changes nothing.
    #[test]
    fn bindings_of_any_shape_are_kept(value in any_json()) {
        let written = Binding::from(value.clone()).to_value();
        prop_assert_eq!(&Binding::from(written.clone()).to_value(), &written);
        let is_flat = value.get("sessions").is_none();
        if let (Value::Object(mut object), false) = (value, is_flat) {
            object.entry("sessions").or_insert_with(|| json!({}));
            prop_assert_eq!(written, Value::Object(object));
        }
    }
}
