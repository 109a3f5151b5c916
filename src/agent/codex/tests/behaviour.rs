//! What no recording shows, or shows only by the way: each rule of the protocol by itself.

use expect_test::expect;
use proptest::prelude::*;

use super::*;
use crate::agent::Image;

/// What goes to codex before the model is asked anything. A resume without directory, sandbox and
/// policy comes back read-only.
#[test]
fn the_handshake_says_everything() {
    let image = Image { media_type: "image/png".to_owned(), bytes: vec![1, 2, 3] };
    for (spec, expected) in [
        (
            TurnSpec { images: vec![image], title: "bridge".to_owned(), ..spec() },
            expect![[r#"
                {"id":3,"method":"thread/start","params":{"approvalPolicy":"on-request","cwd":"/home/me/project","dynamicTools":"ours","sandbox":"workspace-write"}}
                {"id":4,"method":"turn/start","params":{"input":[{"type":"image","url":"data:image/png;base64,AQID"},{"text":"hello","type":"text"}],"threadId":"t"}}
                {"id":5,"method":"thread/name/set","params":{"name":"bridge","threadId":"t"}}"#]],
        ),
        (
            TurnSpec { sandbox: Sandbox::ReadOnly, title: "bridge".to_owned(), ..resuming() },
            expect![[r#"
                {"id":3,"method":"thread/resume","params":{"approvalPolicy":"on-request","cwd":"/home/me/project","excludeTurns":true,"sandbox":"read-only","threadId":"01a203c7-2267-77e1-afe0-041b0d6be873"}}
                {"id":4,"method":"turn/start","params":{"input":[{"text":"hello","type":"text"}],"threadId":"t"}}"#]],
        ),
        (
            TurnSpec { gate: Gate::AllowAll, ..spec() },
            expect![[r#"
                {"id":3,"method":"thread/start","params":{"approvalPolicy":"never","cwd":"/home/me/project","dynamicTools":"ours","sandbox":"danger-full-access"}}
                {"id":4,"method":"turn/start","params":{"input":[{"text":"hello","type":"text"}],"threadId":"t"}}"#]],
        ),
    ] {
        let mut player = Player::new(&spec);
        player.hear(json!({"id": 1, "result": {"userAgent": "obto-bridge/0.169.0"}}));
        // An older codex may not know `account/read`.
        player.hear(json!({"id": 2, "error": {"code": -32600, "message": "unknown variant"}}));
        player.hear(json!({"id": 3, "result": {"thread": {"id": "t"}}}));
        player.hear(json!({"id": 4, "result": {"turn": {"id": "u"}}}));
        player.note("item/started", json!({"item": {"type": "userMessage", "id": "m"}}));
        player.note("item/completed", json!({"item": {"type": "userMessage", "id": "m"}}));
        let hello = player.host.writes.remove(0);
        assert_eq!(hello["method"], "initialize");
        assert_eq!(hello["params"]["capabilities"]["experimentalApi"], true);
        assert_eq!(player.host.writes.remove(0), json!({"method": "initialized"}));
        assert_eq!(player.host.writes.remove(0)["method"], "account/read");
        if let Some(given) = player.host.writes[0]["params"].get_mut("dynamicTools") {
            assert_eq!(*given, json!(tools::dynamic_tools()));
            *given = json!("ours");
        }
        expected.assert_eq(&writes(&player));
    }
}

/// Only a profile keeps commands from reading; what the person set for the mode goes on to hold.
#[test]
fn the_bridges_own_files_are_denied_in_the_sandbox() {
    let own = || TurnSpec { own_files: vec!["/home/me/.own".to_owned()], ..spec() };
    let opened = |spec: &TurnSpec, version: &str, config: Value| {
        let mut player = Player::new(spec);
        player
            .hear(json!({"id": 1, "result": {"userAgent": format!("obto-bridge/{version} (x)")}}));
        player.hear(json!({"id": 2, "result": {"account": {}}}));
        if player.host.writes[3]["method"] == "config/read" {
            assert_eq!(player.host.writes[3]["params"]["cwd"], "/home/me/project");
            player.hear(json!({"id": 3, "result": {"config": config}}));
        }
        player.host.writes.pop().unwrap()["params"].clone()
    };
    let settings = json!({"sandbox_workspace_write": {
        "writable_roots": ["/more"], "network_access": true, "exclude_slash_tmp": true,
    }});
    let params = opened(&own(), "0.169.0", settings.clone());
    assert_eq!((&params["permissions"], &params["sandbox"]), (&json!("obto-bridge"), &Value::Null));
    let profile = |params: &Value| params["config"]["permissions"]["obto-bridge"].clone();
    let files = json!({"/more": "write", ":slash_tmp": "read", "/home/me/.own": "deny"});
    assert_eq!(
        profile(&params),
        json!({"extends": ":workspace", "filesystem": files, "network": {"enabled": true}})
    );
    let only = json!({"/home/me/.own": "deny"});
    assert_eq!(
        profile(&opened(&own(), "1.0.0", Value::Null)),
        json!({"extends": ":workspace", "filesystem": only})
    );
    let reading = TurnSpec { sandbox: Sandbox::ReadOnly, ..own() };
    assert_eq!(
        profile(&opened(&reading, "0.170.1", settings)),
        json!({"extends": ":read-only", "filesystem": only})
    );
    let all = TurnSpec { gate: Gate::AllowAll, ..own() };
    for (spec, version, sandbox) in [
        (&own(), "0.130.0", "workspace-write"),
        (&own(), "new", "workspace-write"),
        (&spec(), "0.169.0", "workspace-write"),
        (&all, "0.169.0", "danger-full-access"),
    ] {
        let params = opened(spec, version, Value::Null);
        assert_eq!((&params["sandbox"], &params["permissions"]), (&json!(sandbox), &Value::Null));
    }
}

#[test]
fn the_command_line_overrides_what_would_get_in_the_way() {
    let tricky = TurnSpec { project_dir: "/home/me/a \"b\"".into(), ..spec() };
    for (spec, expected) in [
        (
            tricky,
            expect![[r#"
            app-server
            -c
            approval_policy="on-request"
            -c
            features.unbounded_connection_retries=false
            -c
            projects={"/home/me/a \"b\""={trust_level="trusted"}}"#]],
        ),
        // Nothing is trusted for a sandbox that writes nothing.
        (
            TurnSpec { sandbox: Sandbox::ReadOnly, ..spec() },
            expect![[r#"
            app-server
            -c
            approval_policy="on-request"
            -c
            features.unbounded_connection_retries=false"#]],
        ),
        // The model may ask its own questions, too.
        (
            TurnSpec { asks_human: true, sandbox: Sandbox::ReadOnly, ..spec() },
            expect![[r#"
            app-server
            -c
            approval_policy="on-request"
            -c
            features.unbounded_connection_retries=false
            -c
            features.default_mode_request_user_input=true
            -c
            suppress_unstable_features_warning=true"#]],
        ),
        (
            TurnSpec {
                gate: Gate::AllowAll,
                asks_human: true,
                sandbox: Sandbox::ReadOnly,
                ..spec()
            },
            expect![[r#"
            app-server
            -c
            approval_policy="never"
            -c
            features.unbounded_connection_retries=false
            -c
            projects={"/home/me/project"={trust_level="trusted"}}"#]],
        ),
    ] {
        expected.assert_eq(&wire::args(&spec).join("\n"));
    }
}

/// Codex takes other ids for names and may start something new.
#[test]
fn a_session_that_is_no_uuid_is_not_even_asked_for() {
    let spec = TurnSpec { session: Some(SessionId::new("my session")), ..spec() };
    let player = Player::new(&spec);
    assert_eq!(
        player.log,
        ["=> SessionGone { detail: \"\\\"my session\\\" is no id of a Codex session\" }"]
    );
    assert!(player.writes.is_empty());
}

/// A thread without an item has no rollout on disk: its id is worth nothing yet.
#[test]
fn the_session_is_told_with_the_first_item() {
    let mut player = Player::working(&spec());
    player.hear(json!({"method": "thread/started", "params": {"thread": {"id": "t"}}}));
    player
        .hear(json!({"method": "turn/started", "params": {"threadId": "t", "turn": {"id": "u"}}}));
    assert_eq!(player.log, [] as [&str; 0]);
    player.note("item/started", json!({"item": {"type": "userMessage", "id": "m"}}));
    assert_eq!(player.log, ["Session(\"t\")"]);
}

/// Helpers' threads and older turns have messages, usage, errors and ends of their own.
#[test]
fn other_threads_and_turns_do_not_touch_the_turn() {
    let mut player = Player::working(&spec());
    for (thread, turn) in [("other", "u"), ("t", "other")] {
        let mut hear = |method: &str, mut params: Value| {
            params["threadId"] = json!(thread);
            params["turnId"] = json!(turn);
            player.hear(json!({"method": method, "params": params}));
        };
        hear("item/completed", json!({"item": {"type": "agentMessage", "text": "foreign"}}));
        hear("item/started", json!({"item": {"type": "commandExecution", "command": "x"}}));
        hear("error", json!({"error": {"message": "foreign"}, "willRetry": true}));
        let tokens = json!({"inputTokens": 9, "outputTokens": 9});
        hear("thread/tokenUsage/updated", json!({"tokenUsage": {"total": tokens, "last": tokens}}));
        hear("turn/completed", json!({"turn": {"id": turn, "status": "completed"}}));
    }
    assert_eq!(player.log, [] as [&str; 0]);
    player.note("item/completed", json!({"item": {"type": "agentMessage", "text": "ours"}}));
    player.note("turn/completed", json!({"turn": {"id": "u", "status": "completed"}}));
    assert_eq!(player.log[1..], ["=> Answered { text: \"ours\" }"]);
}

#[test]
fn why_something_is_refused_is_told_once_and_before_the_refusal() {
    let mut player = Player::working(&spec());
    for id in [5, 6] {
        let params = json!({"command": "touch x"});
        let method = "item/commandExecution/requestApproval";
        player.hear(json!({"id": id, "method": method, "params": params}));
        let verdict = Verdict::Deny { reason: "nobody is asked".to_owned() };
        let question = QuestionId(id.to_string());
        player.tell(TurnCommand::Decide { question, verdict });
    }
    let input =
        json!([{"type": "text", "text": "Agent Bridge, on what is rejected now: nobody is asked"}]);
    let params = json!({"threadId": "t", "expectedTurnId": "u", "input": input});
    let declined = |id| json!({"id": id, "result": {"decision": "decline"}});
    let steer = json!({"id": 5, "method": "turn/steer", "params": params});
    assert_eq!(player.writes, [steer, declined(5), declined(6)]);
    // Too late, or unknown to this version: the refusal itself is what matters.
    player.hear(json!({"id": 5, "error": {"code": -32600, "message": "no active turn"}}));
    assert!(player.end.is_none());
}

/// A person's second reason is not that of the first refusal.
#[test]
fn another_reason_is_told_too() {
    let mut player = Player::working(&spec());
    for (id, reason) in [(5, "a"), (6, "b"), (7, "a"), (8, " ")] {
        let method = "item/commandExecution/requestApproval";
        player.hear(json!({"id": id, "method": method, "params": {"command": "touch x"}}));
        let verdict = Verdict::Deny { reason: reason.to_owned() };
        player.tell(TurnCommand::Decide { question: QuestionId(id.to_string()), verdict });
    }
    let steers = player.writes.iter().filter(|it| it["method"] == "turn/steer").count();
    assert_eq!((steers, player.writes.len()), (2, 6));
}

/// Nothing may stay open: Codex would wait for it for ever.
#[test]
fn requests_that_are_not_served_are_refused_at_once() {
    for method in ["item/tool/requestUserInput", "execCommandApproval", "currentTime/read", ""] {
        let mut player = Player::working(&spec());
        player.hear(json!({"id": 5, "method": method, "params": {}}));
        let error = json!({"code": -32601, "message": "unsupported"});
        assert_eq!(player.writes, [json!({"id": 5, "error": error})]);
    }
    let mut player = Player::working(&spec());
    player.hear(
        json!({"id": 6, "method": "mcpServer/elicitation/request", "params": {"mode": "url"}}),
    );
    assert_eq!(player.writes[0]["result"]["action"], "decline");
    player.host.writes.clear();
    player.hear(json!({"id": 7, "method": "item/tool/call", "params": {"tool": "unheard_of"}}));
    assert_eq!(player.writes[0]["result"]["success"], false);
    assert_eq!(player.log, [] as [&str; 0]);
}

#[test]
fn more_questions_than_anyone_reads_are_refused() {
    let mut player = Player::working(&spec());
    for id in 0..=OPEN_MAX {
        let method = "item/commandExecution/requestApproval";
        player.hear(json!({"id": id, "method": method, "params": {"command": "ls"}}));
    }
    assert_eq!(player.log.len(), OPEN_MAX);
    assert_eq!(player.writes.len(), 1);
    assert_eq!(player.writes[0]["error"]["code"], METHOD_NOT_FOUND);
}

#[test]
fn late_and_repeated_answers_are_dropped() {
    let question = QuestionId("5".to_owned());
    let decide = TurnCommand::Decide { question, verdict: Verdict::Allow };
    let mut player = Player::working(&spec());
    player.tell(decide.clone());
    player.tell(TurnCommand::ToolResult { call: "5".to_owned(), result: Ok(String::new()) });
    let method = "item/commandExecution/requestApproval";
    player.hear(json!({"id": 5, "method": method, "params": {"command": "ls"}}));
    player.tell(decide.clone());
    player.tell(decide.clone());
    assert_eq!(player.writes, [json!({"id": 5, "result": {"decision": "accept"}})]);
    // Its own answer is no reason to say that the question is gone.
    player.note("serverRequest/resolved", json!({"requestId": 5}));
    player.note("turn/completed", json!({"turn": {"id": "u", "status": "interrupted"}}));
    let log = player.log.len();
    player.tell(decide);
    player.tell(TurnCommand::Interrupt);
    player.hear(json!({"id": 6, "method": method, "params": {}}));
    player.exit(Exit::Code(0), "");
    assert_eq!((player.writes.len(), player.log.len()), (1, log));
}

/// Codex would say that they are gone only after the end of the turn.
#[test]
fn trap_an_interrupt_takes_every_question_back() {
    let method = "item/commandExecution/requestApproval";
    let ask = |player: &mut Player, id: u64| {
        player.hear(json!({"id": id, "method": method, "params": {"command": "ls"}}));
    };
    let mut player = Player::working(&spec());
    ask(&mut player, 5);
    ask(&mut player, 6);
    player.log.clear();
    player.tell(TurnCommand::Interrupt);
    assert_eq!(player.log, ["QuestionGone(QuestionId(\"5\"))", "QuestionGone(QuestionId(\"6\"))"]);
    player.host.writes.clear();
    let question = QuestionId("5".to_owned());
    player.tell(TurnCommand::Decide { question, verdict: Verdict::Allow });
    assert_eq!(player.writes, [] as [Value; 0]);
    ask(&mut player, 7);
    assert_eq!(player.writes[0]["error"]["message"], "unsupported");
    player.note("serverRequest/resolved", json!({"requestId": 5}));
    assert_eq!(player.log.len(), 2);
    // So does the end of the process.
    let mut player = Player::working(&spec());
    ask(&mut player, 5);
    player.exit(Exit::Signal(9), "");
    assert_eq!(player.log[1], "QuestionGone(QuestionId(\"5\"))");
}

/// What Codex stores for a session outlives the thread's rules, and what it stores in files
/// outlives everything.
#[test]
fn trap_nothing_is_stored_for_always() {
    let permissions = json!({"permissions": {"network": {"enabled": true}}});
    let tool = json!({"codex_approval_kind": "mcp_tool_call", "persist": ["session", "always"]});
    let elicitation = json!({"mode": "form", "serverName": "s", "_meta": tool});
    let command = json!({"command": "ls", "proposedExecpolicyAmendment": ["ls"]});
    for (method, params) in [
        ("item/commandExecution/requestApproval", command),
        ("item/fileChange/requestApproval", json!({})),
        ("item/permissions/requestApproval", permissions),
        ("mcpServer/elicitation/request", elicitation),
    ] {
        let [once, always] = [Verdict::Allow, Verdict::AllowAlways].map(|verdict| {
            let mut player = Player::working(&spec());
            player.hear(json!({"id": 5, "method": method, "params": params}));
            player.tell(TurnCommand::Decide { question: QuestionId("5".to_owned()), verdict });
            writes(&player)
        });
        assert_eq!(once, always, "{method}");
        for word in ["ession", "mendment", "persist"] {
            assert!(!always.contains(word), "{always}");
        }
    }
}

#[test]
fn a_limit_that_is_used_up_is_told_with_its_end() {
    let mut player = Player::working(&spec());
    let limits = json!({
        "primary": {"usedPercent": 100, "resetsAt": 1_800_000_000_u64},
        "secondary": {"usedPercent": 40, "resetsAt": 1_900_000_000_u64},
    });
    player.hear(json!({"method": "account/rateLimits/updated", "params": {"rateLimits": limits}}));
    let sparse = json!({"rateLimits": {"primary": {"usedPercent": 100}}});
    player.hear(json!({"method": "account/rateLimits/updated", "params": sparse}));
    let error = json!({"message": "no more", "codexErrorInfo": "usageLimitExceeded"});
    let turn = json!({"id": "u", "status": "failed", "error": error});
    player.note("turn/completed", json!({ "turn": turn }));
    assert!(
        player.log[0].contains("The limit is reset at 2027-01-15T08:00:00"),
        "{:?}",
        player.log
    );
}

/// An INT would leave a running command behind.
#[test]
fn trap_the_ladder_has_no_int() {
    use crate::agent::{
        description::{Launch, Process},
        stdio::LadderStep,
    };
    let Launch::Process(Process { ladder, .. }) = &description::DESCRIPTION.launch else {
        panic!("no process of its own");
    };
    assert_eq!(ladder[0].0, LadderStep::CloseInput);
    let signals = ladder.iter().filter(|(step, _)| matches!(step, LadderStep::Signal(..)));
    let signals: Vec<String> = signals.map(|(step, _)| format!("{step:?}")).collect();
    assert!(signals.len() == 1 && signals[0].contains("TERM"), "{signals:?}");
}

/// The interrupt alone leaves a running command alive.
#[test]
fn trap_an_interrupt_also_ends_commands() {
    let mut player = Player::working(&spec());
    player.tell(TurnCommand::Interrupt);
    expect![[r#"
        {"id":5,"method":"turn/interrupt","params":{"threadId":"t","turnId":"u"}}
        {"id":6,"method":"thread/backgroundTerminals/clean","params":{"threadId":"t"}}"#]]
    .assert_eq(&writes(&player));
    player.hear(json!({"id": 6, "error": {"code": -32600, "message": "requires experimentalApi"}}));
    assert!(player.end.is_none());
    player.hear(
        json!({"id": 5, "error": {"code": -32600, "message": "no active turn to interrupt"}}),
    );
    assert_eq!(player.log, ["=> Interrupted"]);
}

#[test]
fn an_interrupt_before_the_turn_ends_it_at_once() {
    let mut player = Player::new(&spec());
    player.tell(TurnCommand::Interrupt);
    assert_eq!(player.log, ["=> Interrupted"]);
}

#[test]
fn an_exit_before_the_end_is_a_crash_unless_it_was_wished_for() {
    let exit = |player: &mut Player| {
        player.exit(Exit::Signal(9), "\u{1b}[31mERROR\u{1b}[0m out of memory\n");
        player.log.join("\n")
    };
    let crash = exit(&mut Player::working(&spec()));
    assert!(
        crash.starts_with("=> Crashed: Codex ended with signal 9: ERROR out of memory\n"),
        "{crash}"
    );
    let mut stopped = Player::working(&spec());
    stopped.tell(TurnCommand::Interrupt);
    assert_eq!(exit(&mut stopped), "=> Interrupted");
}

/// Refusals on the way to the turn; `id` is that of our request.
#[test]
fn a_refused_handshake_ends_the_turn() {
    for (id, message, expected) in [
        (1, "Not today", "=> Protocol: Codex refused: Not today"),
        (3, "failed to load configuration: x", "=> Refused: Codex refused: failed"),
        (4, "Input exceeds the maximum length", "=> Refused: Codex refused: Input"),
    ] {
        let mut player = Player::new(&spec());
        for ok in 1..id {
            player.hear(json!({"id": ok, "result": {"thread": {"id": "t"}}}));
        }
        let data = json!({"input_error_code": if id == 4 { "input_too_large" } else { "" }});
        let error = json!({"code": -32600, "message": message, "data": data});
        player.hear(json!({"id": id, "error": error}));
        assert!(player.log[0].starts_with(expected), "{:?}", player.log);
    }
}

#[test]
fn progress_is_told_when_an_item_starts() {
    let mut player = Player::working(&spec());
    player.session_known();
    for item in [
        json!({"type": "commandExecution", "command": "/bin/bash -lc 'a\n  b'"}),
        json!({"type": "fileChange", "id": "f", "changes": [{"path": "/home/me/project/a"}, {}]}),
        json!({"type": "webSearch", "query": "rust"}),
        json!({"type": "webSearch", "query": ""}),
        json!({"type": "mcpToolCall", "server": "s", "tool": "t"}),
        json!({"type": "imageView", "path": "/tmp/a.png"}),
        json!({"type": "collabAgentToolCall", "tool": "spawnAgent", "prompt": "find it"}),
        json!({"type": "collabAgentToolCall", "tool": "wait", "prompt": null}),
        json!({"type": "contextCompaction", "id": "c"}),
        json!({"type": "dynamicToolCall", "tool": "bridge_post"}),
        json!({"type": "reasoning"}),
        json!({"type": 7}),
        json!(7),
    ] {
        player.note("item/started", json!({ "item": item }));
        player.note("item/completed", json!({ "item": item }));
    }
    expect![[r#"
        Progress("Running `a b`")
        Progress("Editing `a`")
        Progress("Searching `rust`")
        Progress("Searching…")
        Progress("Calling `s:t`")
        Progress("Reading `/tmp/a.png`")
        Progress("Asking subagent: `find it`")
        Progress("Condensing the conversation so far")"#]]
    .assert_eq(&player.log.join("\n"));
}

/// Values that look like Codex's, with anything in the place of anything.
fn almost_codex() -> impl Strategy<Value = Value> {
    let words = &[
        "t",
        "u",
        "completed",
        "failed",
        "agentMessage",
        "fileChange",
        "commandExecution",
        "form",
        "commentary",
        "mcp_tool_call",
        "ls",
    ];
    let keys = &[
        "id",
        "threadId",
        "turnId",
        "turn",
        "thread",
        "item",
        "type",
        "text",
        "changes",
        "error",
        "message",
        "codexErrorInfo",
        "status",
        "items",
        "tokenUsage",
        "total",
        "last",
        "requestId",
        "command",
        "permissions",
        "_meta",
        "mode",
        "tool",
        "arguments",
        "willRetry",
        "phase",
    ];
    let params = tests::any_json(words, keys, &[0, 1, 2, 3]);
    let method = prop::sample::select(vec![
        "turn/started",
        "turn/completed",
        "item/started",
        "item/completed",
        "error",
        "serverRequest/resolved",
        "thread/tokenUsage/updated",
        "item/tool/call",
        "item/commandExecution/requestApproval",
        "item/fileChange/requestApproval",
        "item/permissions/requestApproval",
        "mcpServer/elicitation/request",
        "unknown",
    ]);
    prop_oneof![
        params.clone(),
        (0..8u64, params.clone()).prop_map(|(id, result)| json!({"id": id, "result": result})),
        (0..8u64, params.clone()).prop_map(|(id, error)| json!({"id": id, "error": error})),
        (method.clone(), params.clone())
            .prop_map(|(method, params)| json!({"method": method, "params": params})),
        (params.clone(), method, params)
            .prop_map(|(id, method, params)| json!({"id": id, "method": method, "params": params})),
    ]
}

proptest! {
    /// Whatever comes, nothing panics, a request gets an answer or becomes an event, and the turn
    /// ends once ([`Host`] checks that).
    #[test]
    fn arbitrary_values_never_panic(
        values in prop::collection::vec(almost_codex(), 0..12),
        working in any::<bool>(),
    ) {
        let mut player = if working { Player::working(&spec()) } else { Player::new(&resuming()) };
        for value in values {
            let asks = value["method"].is_string() && !value["id"].is_null() && player.end.is_none();
            let before = player.writes.len() + player.log.len();
            player.hear(value);
            prop_assert!(!asks || player.writes.len() + player.log.len() > before);
        }
        player.tell(TurnCommand::Interrupt);
        player.exit(Exit::Unknown, "");
        prop_assert!(player.end.is_some());
    }
}

#[test]
fn a_thread_that_is_not_opened_in_time_is_gone() {
    let opening = |spec: &TurnSpec| {
        let mut played = Host::<Codex>::begun(spec);
        played.value(json!({ "id": 1, "result": {} }));
        played
            .value(json!({ "id": 2, "result": { "account": null, "requiresOpenaiAuth": false } }));
        assert!(played.protocol.is_opening());
        played.overdue();
        played
    };
    let gone = "Codex did not open it in time".to_owned();
    assert_eq!(opening(&resuming()).end, Some(TurnEnd::SessionGone { detail: gone }));
    assert_eq!(opening(&spec()).end, None);
}
