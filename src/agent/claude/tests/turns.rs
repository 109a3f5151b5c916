//! Whole turns, as recorded.

use expect_test::{Expect, expect};

use super::*;

#[track_caller]
fn check(play: Play, recording: &str, expected: Expect) -> Play {
    let play = play.run(recording);
    expected.assert_eq(&play.log);
    play
}

#[test]
fn a_first_turn() {
    check(
        Play::new(None),
        "first_turn",
        expect![[r#"
        Session("151c1199-4cec-44db-9db4-01f25c85f0f9")
        Usage 10 in, 5 out, Some(0.000175)
        Answered { text: "hi from mock" }
    "#]],
    );
}

/// Trap 6: the input is echoed with the permission, and a refusal has its message.
#[test]
fn trap_6_a_permission_echoes_the_input() {
    let play = check(
        Play::new(None),
        "permission_allowed",
        expect![[r#"
        Session("8e4df718-daeb-46b1-9704-37cb369598af")
        Progress("Running `echo hi > made.txt`")
        Question "Bash" Run "echo hi > made.txt" because Some("make")
        write {"response":{"request_id":"08999b7f-5c4c-45ad-92ed-0d8ed215d7fe","response":{"behavior":"allow","updatedInput":{"command":"echo hi > made.txt","description":"make"}},"subtype":"success"},"type":"control_response"}
        Usage 20 in, 10 out, Some(0.00035)
        Answered { text: "result was (Bash completed with no output)" }
    "#]],
    );
    play.answers_as_recorded("permission_allowed");
}

#[test]
fn trap_6_a_refusal_has_a_message() {
    let deny = Verdict::Deny { reason: "not on the list".to_owned() };
    let play = check(
        Play::new(None).verdict(deny),
        "permission_denied",
        expect![[r#"
        Session("a4f2dc70-2ab0-4dbc-b4bd-758c8da1b763")
        Progress("Running `echo hi > made.txt`")
        Question "Bash" Run "echo hi > made.txt" because Some("make")
        write {"response":{"request_id":"2a90b392-b3bd-4901-867f-34bc19d6ef0b","response":{"behavior":"deny","message":"not on the list"},"subtype":"success"},"type":"control_response"}
        Usage 20 in, 10 out, Some(0.00035)
        Answered { text: "result was not on the list" }
    "#]],
    );
    play.answers_as_recorded("permission_denied");
}

#[test]
fn several_questions_are_open_at_once() {
    let play = check(
        Play::new(None),
        "permissions_parallel",
        expect![[r#"
            Session("b7a93292-d21e-4849-91a3-2d121061da95")
            Progress("Reading `/etc/hostname`")
            Question "Read" Read "/etc/hostname" because Some("Path is outside allowed working directories")
            Progress("Reading `/etc/hosts`")
            Question "Read" Read "/etc/hosts" because Some("Path is outside allowed working directories")
            Progress("Reading `/etc/passwd`")
            Question "Read" Read "/etc/passwd" because Some("Path is outside allowed working directories")
            write {"response":{"request_id":"191c262e-08e1-4373-87d6-037c1e72e9a9","response":{"behavior":"allow","updatedInput":{"file_path":"/etc/hostname"}},"subtype":"success"},"type":"control_response"}
            write {"response":{"request_id":"bd4873e0-7d72-4f09-8317-a75dfd57aaab","response":{"behavior":"allow","updatedInput":{"file_path":"/etc/hosts"}},"subtype":"success"},"type":"control_response"}
            write {"response":{"request_id":"877e62f7-c5a3-4237-8301-616eadb75448","response":{"behavior":"allow","updatedInput":{"file_path":"/etc/passwd"}},"subtype":"success"},"type":"control_response"}
            Usage 20 in, 10 out, Some(0.00035)
            Answered { text: "ok" }
        "#]],
    );
    play.answers_as_recorded("permissions_parallel");
}

/// Trap 5: MCP notifications are acknowledged; unanswered, the turn hangs without limit.
#[test]
fn trap_5_bridge_tools_with_their_handshake() {
    let mut play = Play::new(None).run("bridge_tools");
    // The tools are tested where they are made, and our version changes.
    for write in &mut play.host.writes {
        for part in ["tools", "serverInfo/version"] {
            let path = format!("/response/response/mcp_response/result/{part}");
            if let Some(part) = write.pointer_mut(&path) {
                *part = json!("…");
            }
        }
    }
    let writes: Vec<String> = play.writes.iter().map(Value::to_string).collect();
    expect![[r#"
        {"response":{"request_id":"ceedaccf-abd7-4f50-bc36-c3bab902fc79","response":{"mcp_response":{"id":0,"jsonrpc":"2.0","result":{"capabilities":{"tools":{}},"protocolVersion":"2025-11-25","serverInfo":{"name":"bridge","version":"…"}}}},"subtype":"success"},"type":"control_response"}
        {"response":{"request_id":"1c11654e-5897-40f3-b73e-42106833ad4e","response":{"mcp_response":{"id":0,"jsonrpc":"2.0","result":{}}},"subtype":"success"},"type":"control_response"}
        {"response":{"request_id":"bb109e72-e715-47a9-b950-b90bd7ca0bfe","response":{"mcp_response":{"id":1,"jsonrpc":"2.0","result":{"tools":"…"}}},"subtype":"success"},"type":"control_response"}
        {"response":{"request_id":"11d5ea10-8e25-4aa7-a468-d0ba07b206d2","response":{"behavior":"allow","updatedInput":{"body":"hello human","threadId":"t-7"}},"subtype":"success"},"type":"control_response"}
        {"response":{"request_id":"4ead13c8-65d5-4f30-a42d-bd98dfc6b583","response":{"mcp_response":{"id":2,"jsonrpc":"2.0","result":{"content":[{"text":"posted","type":"text"}]}}},"subtype":"success"},"type":"control_response"}"#]].assert_eq(&writes.join("\n"));
    let events: Vec<&str> = play.log.lines().filter(|line| !line.starts_with("write")).collect();
    expect![[r#"
        Session("54d96516-8fec-4b81-a8ec-a53fa314f39b")
        ToolCall Post { kind: "result", body: "hello human" }
        Usage 20 in, 10 out, Some(0.00035)
        Answered { text: "result posted {\"threadId\": \"t-7\", \"body\": \"hello human\"}" }"#]]
    .assert_eq(&events.join("\n"));
}

#[test]
fn an_interrupt_while_a_command_runs() {
    check(
        Play::new(None),
        "interrupt_during_bash",
        expect![[r#"
        Session("49fa16d7-f718-4d9f-b0c4-268f9877c47d")
        Progress("Running `sleep 67 & sleep 68`")
        Question "Bash" Run "sleep 67 & sleep 68" because Some("This command uses the `&` background operator, which defers execution past approval-time safety checks. Approve only if you trust it.")
        write {"response":{"request_id":"75655ac2-a352-432b-b803-b52ff5ece369","response":{"behavior":"allow","updatedInput":{"command":"sleep 67 & sleep 68"}},"subtype":"success"},"type":"control_response"}
        write {"request":{"subtype":"interrupt"},"request_id":"interrupt","type":"control_request"}
        Usage 10 in, 5 out, Some(0.000175)
        Interrupted
    "#]],
    );
}

#[test]
fn an_interrupt_takes_an_open_question_back() {
    let play = check(
        Play::new(None),
        "interrupt_while_asking",
        expect![[r#"
            Session("e6017244-67e0-4888-9d25-221f62889c28")
            Progress("Running `touch zzz`")
            Question "Bash" Run "touch zzz" because None
            write {"request":{"subtype":"interrupt"},"request_id":"interrupt","type":"control_request"}
            QuestionGone(QuestionId("4c1b3959-e338-429e-8f0d-6d93d9444cf5"))
            Usage 10 in, 5 out, Some(0.000175)
            Interrupted
        "#]],
    );
    assert_eq!(play.protocol.ledger.questions().count(), 0);
}

#[test]
fn an_interrupt_takes_an_open_tool_call_back() {
    let mut play = Play::new(None).run("interrupt_during_bridge_tool");
    assert_eq!(play.end, Some(TurnEnd::Interrupted));
    let ledger = &mut play.host.protocol.ledger;
    ledger.retain_calls(|call| panic!("the cancelled call {call} is not forgotten"));
}

/// Trap 7: a failed resume prints a result with a session id, which may be a random one.
#[test]
fn trap_7_an_unknown_session_is_gone_and_its_id_is_not_reported() {
    let play = Play::new(Some("00000000-0000-4000-8000-000000000000"));
    check(
        play,
        "resume_unknown",
        expect![[r#"
        Usage 0 in, 0 out, Some(0.0)
        SessionGone { detail: "No conversation found with session ID: 00000000-0000-4000-8000-000000000000" }
    "#]],
    );
}

/// Trap 1: `"subtype":"success"` can be a failure. Trap 15: 401 is retried for minutes, so each
/// try is told.
#[test]
fn trap_1_and_15_not_authorised() {
    check(
        Play::new(None),
        "api_401",
        expect![[r#"
        Session("3ca1b0ef-7b44-4b35-bb05-2a6da88fb98f")
        Retry { message: "authentication_failed (401), retry 1 of 1 in 1 s", next: None }
        Usage 0 in, 0 out, Some(0.0)
        Failed(Failure { kind: NotLoggedIn, message: "Failed to authenticate. API Error: 401 mock authentication_error", advice: "Run `claude` on the machine, type /login, and send the message again." })
    "#]],
    );
}

#[test]
fn rate_limited() {
    check(
        Play::new(None),
        "api_429",
        expect![[r#"
        Session("3d51dc4e-b977-448e-98dd-f76dbfb73e32")
        Usage 0 in, 0 out, Some(0.0)
        Failed(Failure { kind: RateLimited, message: "API Error: Request rejected (429) · mock rate_limit_error", advice: "Wait until the limit is lifted, then send it again." })
    "#]],
    );
}

#[test]
fn overloaded() {
    check(
        Play::new(None),
        "api_529",
        expect![[r#"
        Session("3ebfbee6-a695-4ef3-a8fd-8581cffa1850")
        Retry { message: "overloaded (529), retry 1 of 2 in 1 s", next: None }
        Retry { message: "overloaded (529), retry 2 of 2 in 2 s", next: None }
        Usage 0 in, 0 out, Some(0.0)
        Failed(Failure { kind: Model, message: "API Error: Repeated 529 Overloaded errors. The API is at capacity — this is usually temporary. Try again in a moment. If it persists, check your inference gateway (127.0.0.1:1).", advice: "This is on the side of the model's service; try again later." })
    "#]],
    );
}

#[test]
fn not_logged_in() {
    check(
        Play::new(None),
        "not_logged_in",
        expect![[r#"
        Session("0e1a609e-2975-4d10-8eb4-aefa8153bba7")
        Usage 0 in, 0 out, Some(0.0)
        Failed(Failure { kind: NotLoggedIn, message: "Not logged in · Please run /login", advice: "Run `claude` on the machine, type /login, and send the message again." })
    "#]],
    );
}

/// Trap 9: a result with `origin` belongs to a turn that the program started by itself.
#[test]
fn trap_9_a_lost_background_task_is_not_the_answer() {
    let play = Play::new(Some("9de79340-aa28-45da-87d0-19df4a51cb8c"));
    check(
        play,
        "task_lost_before_resume",
        expect![[r#"
        Session("9de79340-aa28-45da-87d0-19df4a51cb8c")
        Usage 10 in, 5 out, Some(0.000175)
        Answered { text: "resumed" }
    "#]],
    );
}

/// Trap 4: closing the pipe too early breaks questions and posts while the turn "succeeds".
#[test]
fn trap_4_the_pipe_stays_open_for_a_background_agent() {
    check(
        Play::new(None),
        "background_agent",
        expect![[r#"
            Session("d769c57a-a7dc-4b69-9986-bff3d5f966d2")
            Progress("Asking subagent: `d`")
            Usage 20 in, 10 out, Some(0.00035)
            Progress("Running `touch bgsub`")
            Question "Bash" Run "touch bgsub" because None
            write {"response":{"request_id":"a0b8011c-6f08-44ec-92f5-8c6b6128a2bb","response":{"behavior":"allow","updatedInput":{"command":"touch bgsub"}},"subtype":"success"},"type":"control_response"}
            Answered { text: "main answered" }
        "#]],
    );
}

#[test]
fn what_a_subagent_says_is_not_the_answer() {
    let play = Play::new(None).run("subagent");
    let Some(TurnEnd::Answered { text }) = &play.end else { panic!("{:?}", play.end) };
    assert!(text.starts_with("main done"), "{text}");
    let log: Vec<&str> = play.log.lines().filter(|line| !line.starts_with("write")).collect();
    expect![[r#"
        Session("3759202e-55d1-4a40-a29b-4eb219d5b7f7")
        Progress("Asking subagent: `d`")
        Question "Bash" Run "touch sub1" because None
        Progress("Running `touch sub1`")
        Usage 20 in, 10 out, Some(0.0007)
        Answered { text: "main done sub done\nagentId: a17591e82613457e8 (use SendMessage with to: 'a17591e82613457e8', summary: '<5-10 word recap>' to continue this agent)\n<usage>subagent_tokens: 15\ntool_uses: 1\nduration_ms: 190</usage>" }"#]].assert_eq(&log.join("\n"));
}
