//! Whatever comes is answered, and never as if it were our own mistake.

use proptest::{
    collection::{btree_map, vec},
    prelude::{Just, ProptestConfig, Strategy, any, proptest},
    prop_oneof,
    sample::select,
};
use serde_json::{Value, json};

use obto_bridge::serve::api;

use crate::serve::Bridge;

/// One has no end, and the other ends all that comes after.
const LEFT_OUT: &[&str] = &["/api/bridge/stream", "/api/bridge/rotate-token"];

/// Every field of every route.
const FIELDS: &[&str] = &[
    "agent",
    "agentId",
    "always",
    "attachmentIds",
    "author",
    "body",
    "choices",
    "clientMsgId",
    "code",
    "data",
    "diff",
    "directory",
    "email",
    "engines",
    "expiresAt",
    "id",
    "kind",
    "label",
    "lastActivityAt",
    "lastMessageAuthor",
    "mediaType",
    "messages",
    "missing",
    "multiple",
    "name",
    "new",
    "old",
    "open",
    "options",
    "outcome",
    "password",
    "presentSessionIds",
    "projectDir",
    "projectDirs",
    "projectName",
    "question",
    "questionClosed",
    "recentMessages",
    "role",
    "sessionId",
    "sessions",
    "source",
    "state",
    "subject",
    "threadId",
    "title",
    "tool",
    "ts",
    "upTo",
    "username",
    "version",
];

/// Texts that mean something somewhere.
const WORDS: &[&str] = &[
    "",
    " ",
    "t",
    "s",
    "box",
    "K7",
    "agent",
    "human",
    "user",
    "assistant",
    "result",
    "question",
    "working",
    "idle",
    "claude",
    "denied",
    "ada",
    "/p",
    "..",
    "%",
    "'",
    "\"",
    "\0",
    "\u{202e}",
    "\u{fffe}",
    "2026-01-01T00:00:00Z",
    "0000-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999Z",
    "1e999",
    "-1",
    "iVBORw0KGgo=",
    "R0lGODlhAQABAA==",
    "9223372036854775807",
    "18446744073709551616",
];

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => select(WORDS).prop_map(str::to_owned),
        2 => any::<String>(),
        1 => "[a-z<>&\"'`*_\\[\\]()\\n]{0,300}",
    ]
}

/// A field with a value, most often one that the route takes.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        8 => text().prop_map(Value::from),
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<u64>().prop_map(Value::from),
        1 => any::<f64>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 40, 6, |inner| {
        prop_oneof![vec(inner.clone(), 0..4).prop_map(Value::from), object(inner)]
    })
}

fn object(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    btree_map(select(FIELDS).prop_map(str::to_owned), value, 0..12).prop_map(|it| json!(it))
}

/// A case is a request of every route. For a long look, set `PROPTEST_CASES`.
fn config() -> ProptestConfig {
    let usual = ProptestConfig::default();
    ProptestConfig { cases: usual.cases.div_ceil(10), failure_persistence: None, ..usual }
}

proptest! {
    #![proptest_config(config())]
    #[test]
    fn no_request_is_our_mistake(
        bodies in vec(object(value()), 40),
        query in vec((select(FIELDS), text()), 0..5),
        raw in "[a-z=&%+0-9]{0,40}",
    ) {
        thread_local! { static BRIDGE: Bridge = settled(); }
        BRIDGE.with(|bridge| {
            let mut bodies = bodies.iter().cycle();
            for (method, path) in api::routes().filter(|it| !LEFT_OUT.contains(&it.1)) {
                let query = query.iter().map(|(name, value)| format!("{name}={}", escaped(value)));
                let query = query.chain([raw.clone()]).collect::<Vec<_>>().join("&");
                let body = (method == "POST").then(|| bodies.next()).flatten();
                check(method, &format!("{path}?{query}"), bridge, body);
            }
        });
    }
}

/// A bridge with a thread, a machine and a session that the words name.
fn settled() -> Bridge {
    let bridge = Bridge::with(|options| options.allow_register = true);
    bridge.reply("t", "hello");
    let machine = json!({ "agentId": "box", "projectDirs": ["/p"] });
    bridge.post("/api/bridge/machine", &machine).ok();
    bridge.post("/api/bridge/thread/claim", &json!({ "threadId": "t", "agentId": "box" })).ok();
    let session =
        json!({ "agentId": "box", "sessions": [{ "source": "claude", "sessionId": "s" }] });
    bridge.post("/api/bridge/external/sync", &session).ok();
    bridge
}

fn escaped(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect::<Vec<_>>().concat()
}

fn check(method: &str, path: &str, bridge: &Bridge, body: Option<&Value>) {
    let reply = bridge.conn().request(method, path, &bridge.token, body);
    assert!(reply.status != 500, "{method} {path} {body:?}");
    if reply.header("content-type") == Some("application/json") {
        let answer = reply.json();
        assert!(answer.is_object(), "{method} {path} {body:?}: {answer}");
        // The thread may be gone now; the others need it.
        if path.starts_with("/api/thread/delete") && reply.status == 200 {
            bridge.reply(&format!("t{}", answer["threadId"].as_str().unwrap().len()), "again");
        }
    }
}
