//! Pictures: what is taken, who gets it, and when it goes.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use crate::{
    serve::{Bridge, account},
    util::http::Reply,
};

/// A PNG of 3 by 2 pixels, as far as anybody looks, with so many bytes.
fn png(length: usize) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x03\0\0\0\x02".to_vec();
    bytes.resize(length.max(bytes.len()), 7);
    bytes
}

fn upload(bridge: &Bridge, name: &str, bytes: &[u8]) -> Reply {
    let body =
        json!({ "name": name, "mediaType": "text/html", "data": BASE64_STANDARD.encode(bytes) });
    bridge.post("/api/bridge/attachment/upload", &body)
}

#[track_caller]
fn uploaded(bridge: &Bridge, bytes: &[u8]) -> String {
    upload(bridge, "a.png", bytes).ok()["attachmentId"].as_str().unwrap().to_owned()
}

#[test]
fn a_picture_goes_with_a_message_to_the_daemon_and_the_page() {
    let bridge = Bridge::start();
    let mut daemon = bridge.events("?agentId=box", None);
    daemon.expect("hello");
    let answer = upload(&bridge, "../x/cat\r\n<b>.png", &png(100)).ok();
    assert_eq!(answer["name"], "cat<b>.png");
    assert_eq!(answer["mediaType"], "image/png");
    assert_eq!(
        (&answer["bytes"], &answer["width"], &answer["height"]),
        (&json!(100), &json!(3), &json!(2))
    );
    let second = uploaded(&bridge, b"GIF89a\x01\0\x01\0");
    let ids = json!([second, answer["attachmentId"]]);
    let reply = json!({ "threadId": "t", "body": "", "attachmentIds": ids, "clientMsgId": "1" });
    let message = bridge.post("/api/reply", &reply).ok()["message"].take();
    assert_eq!(message["attachments"], ids);
    assert_eq!(message["files"][1]["id"], answer["id"]);
    assert_eq!(message["files"][1]["name"], "cat<b>.png");
    assert_eq!(message["files"][0]["mediaType"], "image/gif");
    assert_eq!(daemon.expect("reply").data["attachmentIds"], ids);
    let read = bridge.get("/api/messages?threadId=t").ok();
    assert_eq!(read["messages"][0]["files"], message["files"]);
    // The same message once more takes nothing twice; another one can't have them.
    assert_eq!(bridge.post("/api/reply", &reply).ok()["message"], message);
    let reply = json!({ "threadId": "t", "body": "b", "attachmentIds": [second] });
    assert_eq!(bridge.post("/api/reply", &reply).json()["field"], "attachmentIds");
}

/// Whoever sits at that browser next, or finds its files, must not find the picture.
#[test]
fn a_picture_stays_in_no_cache() {
    let bridge = Bridge::start();
    let id = uploaded(&bridge, &png(100));
    let reply = bridge.get(&format!("/api/bridge/attachment/{id}"));
    assert_eq!((reply.status, reply.header("cache-control")), (200, Some("no-store")));
    assert_eq!((reply.header("etag"), reply.header("last-modified")), (None, None));
}

#[test]
fn a_picture_is_shown_and_nothing_else() {
    let bridge = Bridge::start();
    let bytes = [png(100), b"<script>alert(1)</script>".to_vec()].concat();
    let id = uploaded(&bridge, &bytes);
    let path = format!("/api/bridge/attachment/{id}");
    let reply = bridge.get(&path);
    assert_eq!((reply.status, &reply.body), (200, &bytes));
    for (name, value) in [
        ("content-type", "image/png"),
        ("x-content-type-options", "nosniff"),
        ("content-security-policy", "sandbox; default-src 'none'"),
        ("cache-control", "no-store"),
    ] {
        assert_eq!(reply.header(name), Some(value), "{name}");
    }
    assert_eq!(bridge.conn().request("POST", &path, &bridge.token, None).status, 405);
    assert_eq!(bridge.conn().request("GET", &path, "", None).status, 401);
    let other = account(&bridge.server, "bob");
    let foreign = bridge.conn().request("GET", &path, &other, None);
    let unknown = bridge.get("/api/bridge/attachment/att_0");
    assert_eq!((foreign.status, foreign.json()), (404, unknown.json()));
    for id in ["", "..", "../../serve.lock", "%2e%2e", "att_%00", &"a".repeat(9000)] {
        assert_eq!(bridge.get(&format!("/api/bridge/attachment/{id}")).status, 404, "{id}");
    }
    let reply = json!({ "body": "b", "attachmentIds": [id] });
    let stolen = bridge.conn().request("POST", "/api/reply", &other, Some(&reply));
    let guessed = json!({ "body": "b", "attachmentIds": ["att_0"] });
    let guessed = bridge.conn().request("POST", "/api/reply", &other, Some(&guessed));
    assert_eq!((stolen.status, stolen.json()), (400, guessed.json()));
}

#[test]
fn what_is_no_picture_or_too_much_is_refused() {
    let bridge = Bridge::with(|options| options.attachment_bytes = 26 * 1024 * 1024 + 100);
    let check = |body: Value, status: u16| {
        let reply = bridge.post("/api/bridge/attachment/upload", &body);
        assert_eq!(reply.status, status, "{}", reply.json());
        assert_eq!(reply.json()["ok"], false);
    };
    let html = BASE64_STANDARD.encode("<html><script>alert(1)</script>");
    let svg = BASE64_STANDARD.encode("<svg xmlns='http://www.w3.org/2000/svg'/>");
    check(json!({}), 400);
    check(json!({ "data": 7 }), 400);
    check(json!({ "data": "???" }), 400);
    check(json!({ "data": "" }), 415);
    check(json!({ "data": html, "mediaType": "image/png", "name": "a.png" }), 415);
    check(json!({ "data": svg, "mediaType": "image/svg+xml" }), 415);
    check(json!({ "data": html, "name": ["a"] }), 400);
    let most = 25 * 1024 * 1024;
    check(json!({ "data": BASE64_STANDARD.encode(png(most + 1)) }), 413);
    let id = uploaded(&bridge, &png(most));
    assert_eq!(bridge.get(&format!("/api/bridge/attachment/{id}")).body.len(), most);
    check(json!({ "data": BASE64_STANDARD.encode(png(2 * 1024 * 1024)) }), 507);
    // Another account has room of its own.
    let other = account(&bridge.server, "bob");
    let body = json!({ "data": BASE64_STANDARD.encode(png(2 * 1024 * 1024)) });
    bridge.conn().request("POST", "/api/bridge/attachment/upload", &other, Some(&body)).ok();
}

#[test]
fn pictures_go_with_their_thread() {
    let bridge = Bridge::with(|options| options.attachment_bytes = 150);
    let id = uploaded(&bridge, &png(100));
    let reply = json!({ "threadId": "t", "body": "see", "attachmentIds": [id] });
    bridge.post("/api/reply", &reply).ok();
    assert_eq!(upload(&bridge, "a", &png(100)).status, 507);
    bridge.post("/api/thread/delete", &json!({ "threadId": "t" })).ok();
    assert_eq!(bridge.get(&format!("/api/bridge/attachment/{id}")).status, 404);
    uploaded(&bridge, &png(100));
}

#[test]
fn ids_are_taken_as_a_whole_or_not_at_all() {
    let bridge = Bridge::start();
    let id = uploaded(&bridge, &png(100));
    let check = |ids: Value, status: u16| {
        let reply = bridge.post("/api/reply", &json!({ "body": "b", "attachmentIds": ids }));
        assert_eq!((reply.status, &reply.json()["field"]), (status, &json!("attachmentIds")));
    };
    check(json!([id, "att_unknown"]), 400);
    check(json!([id, id]), 400);
    check(json!([id, 7]), 400);
    check(json!({ "id": id }), 400);
    check(json!(vec![&id; 21]), 413);
    assert_eq!(bridge.get("/api/threads").ok()["threads"], json!([]));
    bridge.post("/api/reply", &json!({ "body": "b", "attachmentIds": [id] })).ok();
}
