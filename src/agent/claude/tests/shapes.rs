//! What is sent, and what becomes of lines of every shape.

use proptest::prelude::*;

use super::*;
use crate::agent::ledger::OPEN_MAX;

fn begun(spec: &TurnSpec) -> Actions {
    let mut actions = Actions::default();
    Claude::default().begin(spec, &mut actions);
    actions
}

#[test]
fn a_turn_begins_with_the_handshake_and_the_prompt() {
    let mut spec = spec(None);
    spec.images = vec![Image { media_type: "image/png".to_owned(), bytes: vec![1, 2, 3] }];
    let actions = begun(&spec);
    let image = json!({
        "type": "image",
        "source": { "type": "base64", "media_type": "image/png", "data": "AQID" },
    });
    let expected = [
        json!({
            "type": "control_request",
            "request_id": "initialize",
            // Trap 16: a `systemPrompt` would replace Claude Code's own, so there is none.
            "request": {
                "subtype": "initialize", "sdkMcpServers": ["bridge"], "title": "t-7: hello",
            },
        }),
        json!({
            "type": "user",
            "session_id": "",
            // Trap 10: no `uuid`. Trap 11: the text is the last block, and `@` attaches nothing.
            "message": {
                "role": "user",
                "content": [image, { "type": "text", "text": spec.prompt }],
            },
            "parent_tool_use_id": null,
        }),
    ];
    assert_eq!(actions.write, expected);
    assert!(actions.finished.is_none());
}

#[test]
fn trap_11_files_are_not_attached() {
    assert!(ENV.contains(&("CLAUDE_CODE_DISABLE_ATTACHMENTS", "1")));
}

/// They would outlive the turn, and their questions would come after it.
#[test]
fn trap_background_tasks_are_off() {
    assert!(ENV.contains(&("CLAUDE_CODE_DISABLE_BACKGROUND_TASKS", "1")));
}

#[track_caller]
fn check_args(change: impl FnOnce(&mut TurnSpec), with: &[&str], without: &[&str]) {
    let mut spec = spec(None);
    change(&mut spec);
    let args = args(&spec).join(" ");
    for part in with {
        assert!(args.contains(part), "{args} lacks {part:?}");
    }
    for part in without {
        assert!(!args.contains(part), "{args} holds {part:?}");
    }
}

#[test]
fn the_command_line() {
    let always = [
        "--output-format stream-json --verbose --input-format stream-json",
        // Trap 12: servers of a directory that nobody has trusted are not started.
        "--strict-mcp-config",
        "--disallowedTools AskUserQuestion,EnterPlanMode,ExitPlanMode,EnterWorktree,ExitWorktree,\
         CronCreate,CronDelete,CronList,ScheduleWakeup,Workflow --",
    ];
    let fresh = format!("--session-id {FRESH}");
    let resume = format!("--resume {SESSION}");
    check_args(|_| {}, &always, &["--resume", "bypass"]);
    let ask = "--permission-prompt-tool stdio --permission-mode default";
    check_args(|_| {}, &[ask, &fresh], &[]);
    let session = |spec: &mut TurnSpec| spec.session = Some(SessionId::new(SESSION));
    check_args(session, &[ask, &resume], &["--session-id"]);
    let allow_all = |spec: &mut TurnSpec| spec.gate = Gate::AllowAll;
    check_args(allow_all, &["--permission-mode bypassPermissions"], &["--permission-prompt-tool"]);
    check_args(allow_all, &always, &[]);
    // A human can be asked. The rest still waits for somebody at the terminal.
    let asks = |spec: &mut TurnSpec| spec.asks_human = true;
    check_args(asks, &[ask, "--disallowedTools EnterPlanMode,ExitPlanMode,"], &["AskUser"]);
    let both = |spec: &mut TurnSpec| (spec.asks_human, spec.gate) = (true, Gate::AllowAll);
    check_args(both, &always, &[]);
}

/// In the project Claude Code reads without asking.
#[test]
fn the_bridges_own_files_are_denied_to_its_own_tools() {
    let own = |spec: &mut TurnSpec| spec.own_files = vec!["/h/.own".to_owned()];
    let deny = r#""deny":["Read(//h/.own)","Read(//h/.own/**)"]"#;
    check_args(own, &["--settings {", deny, r#""ask":[]"#], &[]);
    let within = |spec: &mut TurnSpec| (own(spec), spec.has_own_files = true).1;
    check_args(within, &[deny, r#""ask":["Bash","Glob","Grep","Monitor"]"#], &[]);
    let open = |spec: &mut TurnSpec| (own(spec), spec.gate = Gate::AllowAll).1;
    check_args(open, &[], &["--settings"]);
}

/// Trap 8: `--resume` also takes titles, and then opens another conversation.
#[test]
fn trap_8_only_uuids_are_resumed() {
    for session in ["my session", "", &SESSION.to_uppercase(), "--help", "/etc/passwd.jsonl"] {
        let spec = spec(Some(session));
        assert!(!args(&spec).contains(&"--resume".to_owned()), "{session:?}");
        let actions = begun(&spec);
        assert!(matches!(actions.finished, Some(TurnEnd::SessionGone { .. })), "{session:?}");
        assert!(actions.write.is_empty(), "the prompt is not sent to a session that is not asked");
    }
}

#[test]
fn only_our_own_tools_are_allowed_without_a_question() {
    let mut play = started();
    play.value(can_use_tool("1", "mcp__bridge__bridge_thread_read", json!({"limit": 1})));
    assert_eq!(play.writes, [wire::allow("1", &json!({"limit": 1}))]);
    assert_eq!(play.log.matches("Question").count(), 0);
    for tool in ["mcp__bridge__other", "mcp__bridge", "xmcp__bridge__bridge_post", ""] {
        play.log.clear();
        play.value(can_use_tool("2", tool, json!({})));
        assert_eq!(play.log.matches("Question").count(), 1, "{tool:?}");
    }
}

#[test]
fn a_question_is_answered_once() {
    let mut play = started();
    play.value(can_use_tool("1", "Bash", json!({})));
    let decide = TurnCommand::Decide { question: QuestionId("1".into()), verdict: Verdict::Allow };
    play.command(decide);
    play.value(json!({ "type": "control_cancel_request", "request_id": "1" }));
    assert_eq!(play.writes.len(), 1);
    assert!(!play.log.contains("QuestionGone"));
}

#[test]
fn open_questions_and_calls_have_a_bound() {
    let mut actions = Actions::default();
    let mut claude = Claude::default();
    for n in 0..OPEN_MAX + 5 {
        claude.on_value(can_use_tool(&format!("q{n}"), "Bash", json!({})), &mut actions);
        claude.on_value(post_call(&format!("c{n}"), n as u64), &mut actions);
    }
    assert_eq!(actions.events.len(), 2 * OPEN_MAX);
    assert_eq!(actions.write.len(), 10, "the rest is refused, not left open");
}

#[track_caller]
fn check_mcp(message: Value, expected: Value) {
    let mut play = started();
    play.value(mcp("1", message));
    assert_eq!(play.writes, [wire::success("1", json!({ "mcp_response": expected }))]);
}

#[test]
fn mcp_messages_are_always_answered() {
    let rpc = |id: u64, method: &str| json!({ "jsonrpc": "2.0", "id": id, "method": method });
    check_mcp(rpc(7, "ping"), json!({ "jsonrpc": "2.0", "id": 7, "result": {} }));
    let unknown = json!({ "code": -32601, "message": "method not found" });
    check_mcp(rpc(8, "resources/list"), json!({ "jsonrpc": "2.0", "id": 8, "error": unknown }));
    let acknowledged = json!({ "jsonrpc": "2.0", "id": 0, "result": {} });
    for message in [json!({ "method": "notifications/x" }), json!(null), json!([]), json!("x")] {
        check_mcp(message, acknowledged.clone());
    }
    let mut initialize = rpc(0, "initialize");
    initialize["params"] = json!({ "protocolVersion": "2024-11-05" });
    let mut play = started();
    play.value(mcp("1", initialize));
    let result = &play.writes[0]["response"]["response"]["mcp_response"]["result"];
    assert_eq!(result["protocolVersion"], "2024-11-05", "the client's version is echoed");
}

#[test]
fn a_wrong_call_is_explained_to_the_model() {
    let mut play = started();
    let mut call = post_call("1", 4);
    call["request"]["message"]["params"]["arguments"] = json!({});
    play.value(call);
    assert!(!play.log.contains("ToolCall"));
    let result = &play.writes[0]["response"]["response"]["mcp_response"]["result"];
    assert_eq!(result["isError"], true);
    assert!(result["content"][0]["text"].as_str().unwrap().contains("`body` is missing"));
}

#[test]
fn a_failed_call_reaches_the_model_as_an_error() {
    let mut play = started();
    play.tool_result = Err("the bridge is away".to_owned());
    play.value(post_call("1", 4));
    let answer = &play.writes[0]["response"]["response"]["mcp_response"];
    assert_eq!(answer["id"], 4);
    assert_eq!(answer["result"]["isError"], true);
    assert_eq!(answer["result"]["content"][0]["text"], "the bridge is away");
    let post = BridgeTool::Post { kind: "result".to_owned(), body: "hi".to_owned() };
    assert!(play.log.contains(&format!("ToolCall {post:?}")));
}

#[test]
fn unknown_requests_are_answered_with_an_error() {
    let request = json!({ "subtype": "elicitation" });
    let foreign = json!({ "subtype": "mcp_message", "server_name": "other", "message": {} });
    for request in [request, foreign, json!({}), json!(null)] {
        let mut play = started();
        play.value(json!({ "type": "control_request", "request_id": "9", "request": request }));
        assert_eq!(play.writes.len(), 1);
        assert_eq!(play.writes[0]["response"]["subtype"], "error");
        assert_eq!(play.writes[0]["response"]["request_id"], "9");
    }
}

#[test]
fn a_session_is_reported_once_and_only_if_it_can_be_resumed() {
    let mut play = Play::new(None);
    for session in [json!("../x"), json!(7), json!(SESSION), json!(SESSION)] {
        play.value(json!({ "type": "system", "subtype": "init", "session_id": session }));
    }
    assert_eq!(play.log, format!("Session({SESSION:?})\n"));
}

/// JSON of any shape, mostly with the words of the protocol in it.
fn any_json() -> impl Strategy<Value = Value> {
    let words = &[
        "system",
        "init",
        "assistant",
        "result",
        "control_request",
        "control_cancel_request",
        "can_use_tool",
        "mcp_message",
        "tools/call",
        "bridge",
        "bridge_post",
        "success",
        "task_started",
        "task_updated",
        "local_agent",
        "completed",
        "api_retry",
        "tool_use",
        "1",
        "notifications/cancelled",
        "initialize",
        "Bash",
        SESSION,
    ];
    let keys = &[
        "type",
        "subtype",
        "request_id",
        "request",
        "message",
        "method",
        "params",
        "id",
        "server_name",
        "tool_name",
        "input",
        "arguments",
        "name",
        "content",
        "session_id",
        "task_id",
        "task_type",
        "patch",
        "status",
        "usage",
        "errors",
        "is_error",
        "result",
        "retry_delay_ms",
        "origin",
        "error",
        "permission_suggestions",
        "terminal_reason",
    ];
    tests::any_json(words, keys, &[0, 1])
}

/// A known kind of line with any values in it.
fn any_line() -> impl Strategy<Value = Value> {
    let kinds = proptest::sample::select(vec![
        ("system", "init"),
        ("system", "api_retry"),
        ("system", "task_started"),
        ("system", "task_updated"),
        ("assistant", ""),
        ("result", "success"),
        ("result", "error_during_execution"),
        ("control_request", ""),
        ("control_cancel_request", ""),
    ]);
    (kinds, any_json(), any_json()).prop_map(|((kind, subtype), mut line, request)| {
        if line.is_object() {
            line["type"] = json!(kind);
            line["subtype"] = json!(subtype);
            if kind == "control_request" {
                line["request_id"] = json!("1");
                line["request"] = request;
            }
        }
        line
    })
}

proptest! {
    #[test]
    fn nothing_panics_and_a_turn_ends_once(
        lines in proptest::collection::vec(prop_oneof![any_line(), any_json()], 0..12),
        interrupt in any::<bool>(),
        stderr in ".{0,40}",
    ) {
        let mut play = Play::new(None);
        for line in lines {
            let open = play.writes.len() + play.log.matches("Question").count();
            let waits = play.end.is_none()
                && line["type"] == "control_request" && line["request_id"] == "1";
            play.value(line);
            let now = play.writes.len() + play.log.matches("Question").count();
            prop_assert!(!waits || now > open, "a control request is never left open");
        }
        if interrupt {
            play.command(TurnCommand::Interrupt);
        }
        play.exit(Exit::Code(0), &stderr);
        prop_assert!(play.end.is_some());
    }
}
