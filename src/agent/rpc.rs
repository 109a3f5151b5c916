//! JSON-RPC as Codex and ACP agents speak it: both sides send requests, each in an id space of its
//! own. [`Rpc`] keeps the ids of ours and what was asked with them, and sorts what comes in. Pure.

use std::{collections::BTreeMap, mem};

use serde_json::{Value, json};

use super::Actions;

/// The code for a request that is not served here.
pub const METHOD_NOT_FOUND: i64 = -32601;

/// No engine has more than a handful of our requests open. A peer that answers none of them costs
/// the oldest tags, not memory.
const PENDING_MAX: usize = 64;

/// Messages of ours have no `jsonrpc` field (codex 0.169.0).
pub const BARE: bool = true;

/// One side of a connection. `T` is the caller's tag for a request of its own: what the response
/// is the response to. Messages say `"jsonrpc": "2.0"` unless they are [`BARE`]. So must responses;
/// what else comes in is taken either way.
#[derive(Debug)]
pub struct Rpc<T, const IS_BARE: bool = false> {
    last_id: u64,
    pending: BTreeMap<u64, T>,
}

/// What a value from the peer is.
#[derive(Debug)]
pub enum RpcMessage<T> {
    /// Waits for [`Rpc::result`] or [`Rpc::error`] with the same id, which may be any JSON.
    Request {
        id: Value,
        method: String,
        params: Value,
    },
    Notification {
        method: String,
        params: Value,
    },
    /// The answer to a request of ours. Each tag comes back at most once.
    Response {
        tag: T,
        result: Result<Value, RpcError>,
    },
    /// None of these, or a response to nothing that was asked.
    Junk,
}

/// The peer's refusal of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct RpcError {
    /// 0 if the peer gave none. Codex uses -32600 for nearly everything: go by the message.
    pub code: i64,
    pub message: String,
    pub data: Value,
}

impl<T, const IS_BARE: bool> Default for Rpc<T, IS_BARE> {
    fn default() -> Self {
        Rpc { last_id: 0, pending: BTreeMap::new() }
    }
}

impl<T, const IS_BARE: bool> Rpc<T, IS_BARE> {
    /// Sends a request with a new id; the response to it will carry `tag`.
    pub fn request(&mut self, method: &str, params: Value, tag: T, actions: &mut Actions) {
        self.last_id += 1;
        let id = self.last_id;
        if self.pending.len() >= PENDING_MAX {
            self.pending.pop_first();
        }
        self.pending.insert(id, tag);
        let mut request = json!({ "id": id, "method": method });
        // Moved: `json!` would copy it, and a prompt may be megabytes long.
        request["params"] = params;
        actions.write(Self::message(request));
    }

    /// Waits for none of its answers any more; the tags of those that were open.
    pub fn abandon(&mut self) -> impl Iterator<Item = T> + use<T, IS_BARE> {
        mem::take(&mut self.pending).into_values()
    }

    /// A message that has no answer. Params that are null are left out.
    pub fn notification(&self, method: &str, params: Value) -> Value {
        let mut message = json!({ "method": method });
        if !params.is_null() {
            message["params"] = params;
        }
        Self::message(message)
    }

    /// The answer to the peer's request `id`.
    pub fn result(&self, id: &Value, result: Value) -> Value {
        let mut answer = json!({ "id": id });
        answer["result"] = result;
        Self::message(answer)
    }

    /// The refusal of the peer's request `id`.
    pub fn error(&self, id: &Value, code: i64, message: &str) -> Value {
        Self::message(json!({ "id": id, "error": { "code": code, "message": message } }))
    }

    /// Sorts a value from the peer; a response ends its pending request.
    pub fn classify(&mut self, mut value: Value) -> RpcMessage<T> {
        let Some(object) = value.as_object_mut() else {
            return RpcMessage::Junk;
        };
        if let Some(method) = object.get("method").and_then(Value::as_str).map(str::to_owned) {
            let params = object.get_mut("params").map(Value::take).unwrap_or_default();
            // A null id is ambiguous, so the peer cannot be waiting for an answer to it.
            return match object.get_mut("id").map(Value::take).unwrap_or_default() {
                Value::Null => RpcMessage::Notification { method, params },
                id => RpcMessage::Request { id, method, params },
            };
        }
        // A line of a log may have an `id`, too. A response has a result, which may be null, or an
        // error; some agents send both, one of them null.
        let is_ours = IS_BARE || object.get("jsonrpc").is_some_and(|version| version == "2.0");
        let error = object.get_mut("error").map(Value::take).unwrap_or_default();
        let result = match (object.remove("result"), error) {
            (Some(result), Value::Null) => Ok(result),
            (None | Some(Value::Null), error) if !error.is_null() => Err(RpcError::read(error)),
            _ => return RpcMessage::Junk,
        };
        let asked = object.get("id").and_then(Value::as_u64).filter(|_| is_ours);
        match asked.and_then(|id| self.pending.remove(&id)) {
            Some(tag) => RpcMessage::Response { tag, result },
            None => RpcMessage::Junk,
        }
    }

    fn message(mut message: Value) -> Value {
        if !IS_BARE {
            message["jsonrpc"] = json!("2.0");
        }
        message
    }
}

impl RpcError {
    fn read(mut error: Value) -> RpcError {
        let data = error.get_mut("data").map(Value::take).unwrap_or_default();
        let message = match error.get("message").and_then(Value::as_str) {
            Some(message) => message.to_owned(),
            None => error.to_string(),
        };
        RpcError { code: error.get("code").and_then(Value::as_i64).unwrap_or(0), message, data }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Hands in `value` while requests 1 ("first") and 2 ("second") are open.
    #[track_caller]
    fn check(value: Value, expected: &str) {
        let mut rpc = Rpc::<_, BARE>::default();
        let mut actions = Actions::default();
        rpc.request("a", Value::Null, "first", &mut actions);
        rpc.request("b", Value::Null, "second", &mut actions);
        let text = match rpc.classify(value.clone()) {
            RpcMessage::Request { id, method, params } => format!("request {id} {method} {params}"),
            RpcMessage::Notification { method, params } => {
                format!("notification {method} {params}")
            }
            RpcMessage::Response { tag, result: Ok(result) } => format!("{tag}: {result}"),
            RpcMessage::Response { tag, result: Err(error) } => {
                format!("{tag}: {} (code {})", error.message, error.code)
            }
            RpcMessage::Junk => "junk".to_owned(),
        };
        assert_eq!(text, expected, "{value}");
    }

    #[test]
    fn sorts_what_comes_in() {
        check(json!({"id": 0, "method": "ask", "params": {"a": 1}}), r#"request 0 ask {"a":1}"#);
        check(json!({"id": "x-1", "method": "ask"}), r#"request "x-1" ask null"#);
        check(json!({"jsonrpc": "2.0", "method": "note", "params": []}), "notification note []");
        check(json!({"id": null, "method": "note"}), "notification note null");
        check(json!({"id": 2, "result": {"ok": true}}), r#"second: {"ok":true}"#);
        check(json!({"id": 1, "result": null}), "first: null");
        check(
            json!({"id": 1, "error": {"code": -32600, "message": "no"}}),
            "first: no (code -32600)",
        );
        check(json!({"id": 1, "error": null, "result": 7}), "first: 7");
        check(json!({"id": 1, "error": "odd", "result": null}), "first: \"odd\" (code 0)");
        check(json!({"id": 1, "error": "odd"}), "first: \"odd\" (code 0)");
        for junk in [
            json!({"id": 1}),
            json!({"id": 1, "error": null}),
            json!({"id": 1, "result": 1, "error": {"message": "both"}}),
            json!({"id": 1, "level": "info", "msg": "starting"}),
            json!({"id": 3, "result": 1}),
            json!({"id": "1", "result": 1}),
            json!({"id": -1, "result": 1}),
            json!({"method": 5, "id": 9}),
            json!({}),
            json!([1]),
            json!("text"),
            Value::Null,
        ] {
            check(junk, "junk");
        }
    }

    /// `{"level":"info","msg":"starting","id":1}` was the answer to `initialize`.
    #[test]
    fn what_only_looks_like_a_response_answers_nothing() {
        for line in [
            json!({"id": 1, "level": "info", "msg": "starting"}),
            json!({"id": 1, "result": "done", "level": "info"}),
            json!({"id": 1, "error": "no such file", "level": "warn"}),
            json!({"id": 1, "jsonrpc": "1.0", "result": {}}),
            json!({"id": 1, "jsonrpc": 2.0, "result": {}}),
            json!({"id": 1, "jsonrpc": "2.0"}),
            json!({"id": 1, "jsonrpc": "2.0", "result": {}, "error": {}}),
        ] {
            let mut rpc = Rpc::<_>::default();
            rpc.request("a", json!({}), (), &mut Actions::default());
            assert!(matches!(rpc.classify(line.clone()), RpcMessage::Junk), "{line}");
            // It is still waited for.
            let response = json!({"id": 1, "jsonrpc": "2.0", "result": {}});
            assert!(matches!(rpc.classify(response), RpcMessage::Response { .. }), "{line}");
        }
    }

    #[test]
    fn each_response_is_taken_once() {
        let mut rpc = Rpc::<_, BARE>::default();
        rpc.request("a", json!({}), (), &mut Actions::default());
        let response = json!({"id": 1, "result": null});
        assert!(matches!(rpc.classify(response.clone()), RpcMessage::Response { .. }));
        assert!(matches!(rpc.classify(response), RpcMessage::Junk));
    }

    #[test]
    fn only_the_newer_dialect_names_itself() {
        let mut bare = Rpc::<_, BARE>::default();
        let mut v2 = Rpc::<_>::default();
        let mut actions = Actions::default();
        bare.request("m", json!({"a": 1}), (), &mut actions);
        v2.request("m", json!({}), (), &mut actions);
        let expected = [
            json!({"id": 1, "method": "m", "params": {"a": 1}}),
            json!({"jsonrpc": "2.0", "id": 1, "method": "m", "params": {}}),
        ];
        assert_eq!(actions.write, expected);
        assert_eq!(bare.notification("initialized", Value::Null), json!({"method": "initialized"}));
        assert_eq!(
            v2.notification("n", json!({"a": 1})),
            json!({"jsonrpc": "2.0", "method": "n", "params": {"a": 1}})
        );
        assert_eq!(
            bare.error(&json!("x"), METHOD_NOT_FOUND, "no"),
            json!({"id": "x", "error": {"code": -32601, "message": "no"}})
        );
        assert_eq!(
            v2.result(&json!(0), json!({"ok": true})),
            json!({"jsonrpc": "2.0", "id": 0, "result": {"ok": true}})
        );
    }

    #[test]
    fn a_peer_that_never_answers_costs_no_memory() {
        let mut rpc = Rpc::<_, BARE>::default();
        for tag in 0..=PENDING_MAX {
            rpc.request("m", Value::Null, tag, &mut Actions::default());
        }
        assert_eq!(rpc.pending.len(), PENDING_MAX);
        assert!(matches!(rpc.classify(json!({"id": 1, "result": 0})), RpcMessage::Junk));
        assert!(matches!(
            rpc.classify(json!({"id": PENDING_MAX + 1, "result": 0})),
            RpcMessage::Response { tag: PENDING_MAX, .. }
        ));
    }

    proptest! {
        #[test]
        fn arbitrary_objects_never_panic(
            id in prop::option::of(any::<i64>()),
            keys in prop::collection::vec("id|method|params|result|error|message|code", 0..5),
            text in ".{0,8}",
        ) {
            let mut value = json!({ "id": id });
            for key in keys {
                let inner = value.clone();
                value[&key] = if text.len() % 2 == 0 { inner } else { json!(text) };
            }
            let mut rpc = Rpc::<_>::default();
            rpc.request("m", Value::Null, (), &mut Actions::default());
            rpc.classify(value);
        }
    }
}
