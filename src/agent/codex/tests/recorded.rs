//! Recorded conversations, played to their end: what the person on the bridge would learn.

use expect_test::{Expect, expect};

use super::*;

/// Plays `fixture` and compares what was reported. The turn must be over, nothing left unsaid.
#[track_caller]
fn check(fixture: &str, spec: &TurnSpec, expected: Expect) -> Player {
    let mut player = Player::new(spec);
    player.play(fixture);
    assert!(player.end.is_some(), "{fixture} did not end: {:#?}", player.log);
    player.host.writes.retain(|write| write["method"] != "thread/backgroundTerminals/clean");
    assert_eq!(player.writes, [] as [Value; 0], "{fixture}");
    expected.assert_eq(&(player.log.join("\n") + "\n"));
    player
}

#[test]
fn a_turn_from_handshake_to_answer() {
    check(
        "handshake-and-turn",
        &spec(),
        expect![[r#"
            Session("01a203c4-97ff-7333-8834-f3e0f42b0f22")
            Commentary("on it now")
            Progress("Running `echo hi; echo err >&2; sleep 0.3; echo there`")
            Progress("Editing `a.txt`")
            Usage 300 in, 60 out
            => Answered { text: "done: Exit code: 0\nWall time: 0 seconds\nOutput:\nSuccess. Updated the following files:\nA a.txt" }
        "#]],
    );
}

/// A resumed thread first repeats the token usage of an older turn.
#[test]
fn a_resumed_thread() {
    check(
        "resume",
        &resuming(),
        expect![[r#"
        Session("01a203c7-2267-77e1-afe0-041b0d6be873")
        Usage 100 in, 20 out
        => Answered { text: "echo: second" }
    "#]],
    );
}

#[test]
fn a_command_is_accepted() {
    check(
        "command-accept",
        &spec(),
        expect![[r#"
            Session("01a203c5-4105-7e42-af98-ecfe6e167579")
            Progress("Running `touch /tmp/codexlab_$$ && echo escalated-ok`")
            Question 0 commandExecution Run "touch /tmp/codexlab_$$ && echo escalated-ok" {"command":"/bin/bash -lc 'touch /tmp/codexlab_$$ && echo escalated-ok'","cwd":"/home/me/project"} because "Need to write outside"
            Usage 200 in, 40 out
            => Answered { text: "done: Chunk ID: 669d9f\nWall time: 0.0000 seconds\nProcess exited with code 0\nOriginal token count: 4\nOutput:\nescalated-ok" }
        "#]],
    );
}

/// The model hears "rejected by user" and goes on.
#[test]
fn a_command_is_declined() {
    check(
        "command-decline",
        &spec(),
        expect![[r#"
            Session("01a203c5-4378-7c62-94d2-aa41340961a4")
            Progress("Running `touch /tmp/codexlab_$$ && echo escalated-ok`")
            Question 0 commandExecution Run "touch /tmp/codexlab_$$ && echo escalated-ok" {"command":"/bin/bash -lc 'touch /tmp/codexlab_$$ && echo escalated-ok'","cwd":"/home/me/project"} because "Need to write outside"
            Usage 200 in, 40 out
            => Answered { text: "done: exec_command failed: CreateProcess { message: \"Rejected(\\\"rejected by user\\\")\" }" }
        "#]],
    );
}

#[test]
fn a_question_that_somebody_else_cancels_is_gone() {
    check(
        "command-cancel",
        &spec(),
        expect![[r#"
            Session("01a203c5-45d3-7420-a7a7-ab4ddc4c4ca2")
            Progress("Running `touch /tmp/codexlab_$$ && echo escalated-ok`")
            Question 0 commandExecution Run "touch /tmp/codexlab_$$ && echo escalated-ok" {"command":"/bin/bash -lc 'touch /tmp/codexlab_$$ && echo escalated-ok'","cwd":"/home/me/project"} because "Need to write outside"
            QuestionGone(QuestionId("0"))
            Usage 100 in, 20 out
            => Interrupted
        "#]],
    );
}

/// Two files and a move: no single path stands for them.
#[test]
fn a_patch_of_many_files_is_asked_for_as_a_whole() {
    let player = check(
        "patch-move",
        &spec(),
        expect![[r#"
        Session("01a204dc-1625-78d0-9e85-67a26b8e93c8")
        Progress("Editing `a.txt` and 2 more")
        Question 0 fileChange Edit "" {"changes":[{"diff":"hello\n","kind":{"type":"add"},"path":"/home/me/project/a.txt"},{"diff":"bye\n","kind":{"type":"delete"},"path":"/home/me/project/gone.txt"},{"diff":"@@ -1,3 +1,3 @@\n one\n-two\n+2\n three\n\n\nMoved to: /home/me/project/new.txt","kind":{"move_path":"/home/me/project/new.txt","type":"update"},"path":"/home/me/project/old.txt"}]}
        Usage 200 in, 40 out
        => Answered { text: "done: patch rejected by user" }
    "#]],
    );
    let edits: Vec<(&str, &str)> =
        player.questions()[0].edits.iter().map(|it| (&it.path[..], &it.diff[..])).collect();
    assert_eq!(
        edits,
        [
            ("/home/me/project/a.txt", "+hello\n"),
            ("/home/me/project/gone.txt", "-bye\n"),
            ("/home/me/project/old.txt", " one\n-two\n+2\n three\n"),
            ("/home/me/project/new.txt", " (moved from /home/me/project/old.txt)\n"),
        ]
    );
}

/// With the feature that [`args`] switches on. The model reads the answer.
#[test]
fn the_models_own_question_is_put_and_answered() {
    let player = check(
        "ask",
        &TurnSpec { asks_human: true, ..spec() },
        expect![[r#"
        Session("01a204dc-1540-7110-a6d7-f7e118a77fa4")
        Question 0 requestUserInput Other "" {"questions":[{"header":"Colour","id":"colour","isOther":true,"isSecret":false,"options":[{"description":"r","label":"Red (Recommended)"},{"description":"b","label":"Blue"}],"question":"Which colour?"}]}
        Usage 200 in, 40 out
        => Answered { text: "done: {\"answers\":{\"colour\":{\"answers\":[\"Blue\"]}}}" }
    "#]],
    );
    let choice = &player.questions()[0].choices[0];
    assert_eq!((&choice.question[..], choice.is_open), ("Which colour?", true));
    assert_eq!(choice.options[1].label, "Blue");
}

/// Both were recorded with features that are off unless somebody switches them on.
#[test]
fn wider_permissions_are_asked_for_in_words() {
    check(
        "permissions",
        &spec(),
        expect![[r#"
        Session("01a204dc-ae31-7bb3-b41e-39905d6ced41")
        Question 0 permissions Other "network; read /etc; write /home/me/zz" {"cwd":"/home/me/project","permissions":{"fileSystem":{"entries":[{"access":"read","path":{"path":"/etc","type":"path"}},{"access":"write","path":{"path":"/home/me/zz","type":"path"}}],"read":["/etc"],"write":["/home/me/zz"]},"network":{"enabled":true}}} because "why"
        Usage 200 in, 40 out
        => Answered { text: "done: {\"permissions\":{\"network\":null,\"file_system\":null},\"scope\":\"turn\"}" }
    "#]],
    );
    check(
        "command-with-permissions",
        &spec(),
        expect![[r#"
        Session("01a204dc-af20-7ba2-8e03-2a8a39707571")
        Progress("Running `touch /home/me/zz/a`")
        Question 0 commandExecution Run "" {"additionalPermissions":{"fileSystem":{"entries":[{"access":"write","path":{"path":"/home/me/zz","type":"path"}}],"read":null,"write":["/home/me/zz"]},"network":{"enabled":true}},"command":"/bin/bash -lc 'touch /home/me/zz/a'","cwd":"/home/me/project"} because "why"
        Usage 200 in, 40 out
        => Answered { text: "done: exec_command failed: CreateProcess { message: \"Rejected(\\\"rejected by user\\\")\" }" }
    "#]],
    );
}

#[test]
fn two_questions_are_open_at_once() {
    check(
        "two-questions",
        &spec(),
        expect![[r#"
            Session("01a203da-01ff-79b3-bc57-18285c200e63")
            Progress("Running `touch /tmp/codexlab_$$ && echo escalated-ok`")
            Question 0 commandExecution Run "touch /tmp/codexlab_$$ && echo escalated-ok" {"command":"/bin/bash -lc 'touch /tmp/codexlab_$$ && echo escalated-ok'","cwd":"/home/me/project"} because "Need to write outside"
            Progress("Running `touch /tmp/codexlab_$$ && echo second`")
            Question 1 commandExecution Run "touch /tmp/codexlab_$$ && echo second" {"command":"/bin/bash -lc 'touch /tmp/codexlab_$$ && echo second'","cwd":"/home/me/project"} because "Need to write outside"
            Usage 200 in, 40 out
            => Answered { text: "done: Chunk ID: be2127\nWall time: 0.0000 seconds\nProcess exited with code 0\nOriginal token count: 2\nOutput:\nsecond" }
        "#]],
    );
}

/// The request has no diff; it is that of the item with the same id.
#[test]
fn a_patch_is_asked_for_with_its_diff() {
    check(
        "patch-accept",
        &spec(),
        expect![[r#"
            Session("01a203c5-adf6-78d0-b370-e4f9962c0fe7")
            Progress("Editing `a.txt`")
            Question 0 fileChange Edit "/home/me/project/a.txt" {"changes":[{"diff":"hello\n","kind":{"type":"add"},"path":"/home/me/project/a.txt"}]}
            Usage 200 in, 40 out
            => Answered { text: "done: Exit code: 0\nWall time: 0 seconds\nOutput:\nSuccess. Updated the following files:\nA a.txt" }
        "#]],
    );
    check(
        "patch-decline",
        &spec(),
        expect![[r#"
            Session("01a203c5-af3c-7e00-b280-89ceb9cc61ff")
            Progress("Editing `a.txt`")
            Question 0 fileChange Edit "/home/me/project/a.txt" {"changes":[{"diff":"hello\n","kind":{"type":"add"},"path":"/home/me/project/a.txt"}]}
            Usage 200 in, 40 out
            => Answered { text: "done: patch rejected by user" }
        "#]],
    );
}

#[test]
fn an_mcp_tool_asks_by_elicitation() {
    check(
        "elicitation-accept",
        &spec(),
        expect![[r#"
            Session("01a203cb-b8c1-7193-889a-60105fb20fb6")
            Progress("Calling `bridge:bridge_post`")
            Question 0 mcp__bridge__bridge_post Mcp "bridge:bridge_post" {"body":"hello human"} because "Allow the bridge MCP server to run tool \"bridge_post\"?"
            Usage 200 in, 40 out
            => Answered { text: "done: Script completed\nWall time 0.0 seconds\nOutput:\n{\"content\":[{\"type\":\"text\",\"text\":\"posted: hello human\"}]}" }
        "#]],
    );
    check(
        "elicitation-decline",
        &spec(),
        expect![[r#"
            Session("01a203cb-c046-7472-8c3b-7bf4ab4de9c8")
            Progress("Calling `bridge:bridge_post`")
            Question 0 mcp__bridge__bridge_post Mcp "bridge:bridge_post" {"body":"hello human"} because "Allow the bridge MCP server to run tool \"bridge_post\"?"
            Usage 200 in, 40 out
            => Answered { text: "done: Script completed\nWall time 0.0 seconds\nOutput:\n{\"content\":[{\"type\":\"text\",\"text\":\"user rejected MCP tool call\"}],\"isError\":true}" }
        "#]],
    );
}

#[test]
fn tools_travel_on_the_same_pipe() {
    check(
        "tool",
        &spec(),
        expect![[r#"
        Session("01a203cb-d648-7d51-a93d-65f324165371")
        ToolCall 0 "bridge_post"
        Usage 200 in, 40 out
        => Answered { text: "done: Script completed\nWall time 0.0 seconds\nOutput:\nposted ok id=7" }
    "#]],
    );
    check(
        "tool-fails",
        &spec(),
        expect![[r#"
        Session("01a203cb-ddbe-73c3-82ce-81ec5388e189")
        ToolCall 0 "bridge_post"
        Usage 200 in, 40 out
        => Answered { text: "done: bridge down" }
    "#]],
    );
}

/// 0.130.0 has no items in `turn/completed`, and repeats token usage: it must not be added up.
#[test]
fn an_old_version_ends_without_items() {
    check(
        "old-0.130-tool",
        &spec(),
        expect![[r#"
        Session("01a203d7-12c1-7971-a939-da7839071680")
        ToolCall 0 "bridge_post"
        Usage 200 in, 40 out
        => Answered { text: "done: posted ok" }
    "#]],
    );
}

#[test]
fn an_interrupt_ends_the_turn() {
    check(
        "interrupt",
        &spec(),
        expect![[r#"
            Session("01a203c6-c5e9-7883-b5a6-6b1dbe86c203")
            Progress("Running `echo begin; sleep 77; echo end`")
            Usage 100 in, 20 out
            => Interrupted
        "#]],
    );
}

/// Codex resolves a pending question after the end: nobody waits for that.
#[test]
fn an_interrupt_takes_the_question_along() {
    check(
        "interrupt-with-question",
        &spec(),
        expect![[r#"
            Session("01a203c7-8d95-7b10-85fd-8bcff0e6da4f")
            Progress("Running `echo x`")
            Question 0 commandExecution Run "echo x" {"command":"/bin/bash -lc 'echo x'","cwd":"/home/me/project"} because "J"
            QuestionGone(QuestionId("0"))
            Usage 100 in, 20 out
            => Interrupted
        "#]],
    );
}

/// Completed messages repeat after a dropped stream: they are not added up.
#[test]
fn a_dropped_stream_is_retried_and_then_fails() {
    check(
        "stream-dropped",
        &spec(),
        expect![[r#"
            Session("01a203cd-d89e-7223-abcb-b5aa482c4908")
            Commentary("partial")
            Retry "Reconnecting... 1/1 (stream disconnected before completion: stream closed before response.completed)"
            Commentary("partial")
            => Model: stream disconnected before completion: stream closed before response.completed
               Send the message again. If that does not help, try `codex` in a terminal in the project's directory.
        "#]],
    );
}

#[test]
fn the_models_errors_come_with_advice() {
    check(
        "error-401",
        &spec(),
        expect![[r#"
        Session("01a203cd-af12-7c30-9c9f-573f2429caa0")
        Retry "Reconnecting... 1/5 (unexpected status 401 Unauthorized: mock error 401, url: http://127.0.0.1:36851/v1/responses, request id: req_mock)"
        Retry "Reconnecting... 2/5 (unexpected status 401 Unauthorized: mock error 401, url: http://127.0.0.1:36851/v1/responses, request id: req_mock)"
        Retry "Reconnecting... 3/5 (unexpected status 401 Unauthorized: mock error 401, url: http://127.0.0.1:36851/v1/responses, request id: req_mock)"
        Retry "Reconnecting... 4/5 (unexpected status 401 Unauthorized: mock error 401, url: http://127.0.0.1:36851/v1/responses, request id: req_mock)"
        Retry "Reconnecting... 5/5 (unexpected status 401 Unauthorized: mock error 401, url: http://127.0.0.1:36851/v1/responses, request id: req_mock)"
        => NotLoggedIn: unexpected status 401 Unauthorized: mock error 401, url: http://127.0.0.1:36851/v1/responses, request id: req_mock
           Run `codex login` on this machine, or check the key of the provider that Codex is configured for.
    "#]],
    );
    check(
        "error-429",
        &spec(),
        expect![[r#"
        Session("01a203cd-cbec-7380-8625-c83a51c15e38")
        => RateLimited: exceeded retry limit, last status: 429 Too Many Requests, request id: req_mock
           Wait until the limit is reset, or give the thread to another agent.
    "#]],
    );
    check(
        "error-usage",
        &spec(),
        expect![[r#"
        Session("01a203cd-ce7b-78c3-95f4-f8c85b44d2cc")
        => RateLimited: You’ve hit your usage limit. Upgrade to Pro (https://chatgpt.com/explore/pro), visit https://chatgpt.com/settings/usage to purchase more credits or try again later.
           Wait until the limit is reset, or give the thread to another agent.
    "#]],
    );
    check(
        "error-500",
        &spec(),
        expect![[r#"
        Session("01a203cd-d10b-7ae0-9f3d-443b95862a91")
        => Model: We’re currently experiencing high demand, which may cause temporary errors.
           The model's service has a problem. Try again in a few minutes.
    "#]],
    );
    check(
        "error-no-key",
        &spec(),
        expect![[r#"
        Session("01a203cd-acca-78e3-a445-8a24ca8c45a9")
        => NotLoggedIn: Missing environment variable: `DUMMY_KEY`.
           Set the variable where the daemon is started, then restart the daemon.
    "#]],
    );
}

/// Without this look Codex would send unauthenticated requests for 13 seconds.
#[test]
fn who_is_not_logged_in_is_told_at_once() {
    check(
        "not-logged-in",
        &spec(),
        expect![[r"
        => NotLoggedIn: Codex is not logged in on this machine.
           Run `codex login` there, or `codex login --with-api-key`, then send the message again.
    "]],
    );
}

#[test]
fn a_session_that_is_not_here_is_gone() {
    check(
        "resume-no-rollout",
        &resuming(),
        expect![[r#"
        => SessionGone { detail: "no rollout found for thread id 01a203c2-0000-7000-8000-000000000000" }
    "#]],
    );
}

#[test]
fn a_session_that_is_open_elsewhere_is_busy() {
    check(
        "resume-active-writer",
        &resuming(),
        expect![[r"
        => Busy: Codex refused: thread 01a203dc-dbca-7f81-8cdb-a998d6c03dcc already has an active writer
           The session is open in another Codex (a terminal, an editor). Close it there, then send the message again.
    "]],
    );
}
