//! Prompts by examples, and prompts that an agent tries to forge.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::agent::{ChoiceOption, Edit, QuestionId};

/// In every text of the agent: where it shows outside code, something leaked.
const MARK: &str = "AGENT";

fn request(kind: ActionKind, tool: &str, subject: &str) -> ApprovalRequest {
    ApprovalRequest {
        thread: ThreadId::new("t"),
        turn: TurnId::new("turn"),
        engine: Engine::CLAUDE,
        question: Question {
            id: QuestionId("1".to_owned()),
            tool: tool.to_owned(),
            kind,
            subject: subject.to_owned(),
            reason: None,
            input: json!({}),
            edits: Vec::new(),
            choices: Vec::new(),
        },
        code: "K7Q2".parse().unwrap(),
        directory: "/home/me/project".into(),
        always: None,
        post: ClientMsgId::new("p"),
        asked_at: Timestamp::parse("2026-11-22T16:41:33Z").unwrap(),
        limit: Duration::from_mins(10),
        takes_reasons: true,
    }
}

fn edit(path: &str, diff: &str) -> Edit {
    Edit { path: path.to_owned(), diff: diff.to_owned() }
}

fn choice_of(question: &str, labels: &[&str]) -> Choice {
    let option = |label: &&str| ChoiceOption {
        label: (*label).to_owned(),
        description: format!("{label} is fine"),
    };
    let options = labels.iter().map(option).collect();
    Choice { question: question.to_owned(), options, is_multiple: false, is_open: false }
}

#[track_caller]
fn check(request: &ApprovalRequest, parts: &[&str]) -> String {
    let (body, _) = render(request);
    for part in parts {
        assert!(body.contains(part), "{part:?} is not in:\n{body}");
    }
    check_frame(&body, request);
    body
}

/// What is outside of code, line by line. Fences as `CommonMark` has them.
fn outside(body: &str) -> Vec<String> {
    let mut fence = 0;
    let mut lines = Vec::new();
    for line in body.split('\n') {
        let ticks = line.len() - line.trim_start_matches('`').len();
        if fence > 0 {
            if ticks >= fence && line.trim_start_matches('`').trim().is_empty() {
                fence = 0;
            }
        } else if ticks >= 3 {
            fence = ticks;
        } else {
            assert!(line.matches('`').count() % 2 == 0, "code is left open: {line:?}");
            // Every second part is within backticks.
            lines.push(line.split('`').step_by(2).collect::<Vec<_>>().join("_"));
        }
    }
    assert_eq!(fence, 0, "a fence is left open:\n{body}");
    lines
}

/// The first and the last paragraph are ours, and outside of code nothing is the agent's.
#[track_caller]
fn check_frame(body: &str, request: &ApprovalRequest) {
    let lines = outside(body);
    assert!(lines[0].starts_with("**claude asks ") && lines[0].ends_with("Question _."), "{body}");
    assert!(body.split('\n').next().unwrap().ends_with("Question `K7Q2`."), "{body}");
    let last = lines.last().unwrap();
    assert!(
        last.starts_with("Any other text refuses") && last.ends_with("in 10 minutes."),
        "{last}"
    );
    let how = if request.question.choices.is_empty() {
        "- _ allows it once."
    } else {
        "- _ answers it: "
    };
    assert_eq!(lines.iter().filter(|line| *line == "How to answer:").count(), 1, "{body}");
    assert_eq!(lines.iter().filter(|line| line.starts_with(how)).count(), 1, "{body}");
    for line in &lines {
        assert!(!line.contains(MARK) && !line.contains('<'), "{line:?} in:\n{body}");
    }
    let hidden = |c: char| {
        (c.is_control() && c != '\n' && c != '\t') || "\u{202e}\u{200b}\u{2066}\u{feff}".contains(c)
    };
    assert!(!body.contains(hidden), "{body:?}");
}

/// The prompt does not ask for a reason that the engine cannot be given.
#[test]
fn an_engine_that_takes_no_reasons() {
    let mut request = request(ActionKind::Run, "execute", "make");
    request.takes_reasons = false;
    let body = check(&request, &["- `deny K7Q2` refuses it; claude can't be told why."]);
    assert!(body.contains("question is open, and claude is not told why."), "{body}");
    assert!(!body.contains("because"), "{body}");
}

#[test]
fn a_command() {
    let mut request = request(ActionKind::Run, "Bash", "git push origin main");
    request.always = Some("run(git push*)".to_owned());
    request.question.reason = Some("to publish `main`\nnow".to_owned());
    let body = check(&request, &[]);
    expect_test::expect![[r"
        **claude asks to run a command** in `/home/me/project`. Question `K7Q2`.

        ```
        git push origin main
        ```

        Tool: `Bash`. The agent's reason: `to publish 'main' now`.

        How to answer:

        - `approve K7Q2` allows it once.
        - `always K7Q2` allows it, and `run(git push*)` from now on, on this thread only.
        - `deny K7Q2 because …` refuses it and tells claude why.

        Any other text refuses it if no other question is open, and claude gets the text as the reason. Without an answer it is refused at 2026-11-22T16:51Z, in 10 minutes."]]
    .assert_eq(&body);
    let (_, card) = render(&request);
    assert_eq!(
        (card.code.as_str(), card.kind.as_str(), card.tool.as_str()),
        ("K7Q2", "run", "Bash")
    );
    assert_eq!(card.subject, "git push origin main");
    assert_eq!(card.reason.as_deref(), Some("to publish 'main' now"));
    assert_eq!(card.always.as_deref(), Some("run(git push*)"));
    assert_eq!(card.expires_at, "2026-11-22T16:51:33.000Z");
}

#[test]
fn edits() {
    let mut request = request(ActionKind::Edit, "Edit", "src/a.rs");
    request.question.edits = vec![edit("src/a.rs", "-old\n+new\n"), edit("b.txt", "+1")];
    check(
        &request,
        &[
            "asks to change 2 files",
            "File `src/a.rs`:\n\n```diff\n-old\n+new\n```",
            "File `b.txt`:",
        ],
    );
    assert_eq!(render(&request).1.diff, "--- src/a.rs\n-old\n+new\n--- b.txt\n+1");
    request.question.edits = vec![edit("big", &"+line\n".repeat(500)), edit("more", "+x\n+y")];
    check(
        &request,
        &[
            "**Not all of it is shown: 300 more lines",
            "File `more`:\n\n**Not all of it is shown: 2 more lines",
        ],
    );
    request.question.edits = (0..30).map(|n| edit(&format!("f{n}"), "+x")).collect();
    check(&request, &["asks to change 30 files", "File `f19`", "**10 more files are not shown.**"]);
    request.question.edits = Vec::new();
    check(&request, &["asks to change a file", "```\nsrc/a.rs\n```"]);
}

#[test]
fn other_kinds() {
    check(
        &request(ActionKind::Fetch, "WebFetch", "https://docs.rs/x"),
        &["to fetch", "```\nhttps://docs.rs/x\n```"],
    );
    check(&request(ActionKind::Read, "Read", "/etc/passwd"), &["asks to read**", "/etc/passwd"]);
    check(
        &request(ActionKind::Mcp, "mcp__x__merge", "x:merge"),
        &["MCP server", "`mcp__x__merge`"],
    );
    let mut unknown = request(ActionKind::Other, "Skill", "");
    unknown.question.input = json!({"name": "deploy", "n": 3, "deep": {"a": [1]}, "text": "a\nb"});
    let body = check(
        &unknown,
        &["asks to use a tool**", "name: deploy\n", "n: 3\n", "deep: {\"a\":[1]}\n"],
    );
    assert!(body.contains("text: a\\u{a}b") && !body.contains("{\"name\""), "{body}");
    unknown.question.input =
        (0..100).map(|n| (format!("k{n}"), json!("v".repeat(5_000)))).collect();
    let body = check(&unknown, &["… and 80 more"]);
    assert!(body.len() < 10_000, "{}", body.len());
    unknown.question.input = json!(null);
    check(&unknown, &["Tool: `Skill`."]);
}

#[test]
fn choices() {
    let mut request = request(ActionKind::Other, "AskUserQuestion", "");
    request.question.choices = vec![choice_of("Which database?", &["Postgres", "SQLite"])];
    check(
        &request,
        &[
            "asks you a question**",
            "**Question** (one): `Which database?`\n\n1. `Postgres`: `Postgres is fine`\n2. `SQLite`",
            "- `K7Q2 1` answers it",
        ],
    );
    let (_, parts) = render(&request);
    assert_eq!((parts.kind.as_str(), parts.choices[0].options.len()), ("choice", 2));
    request.question.choices.push(Choice {
        is_multiple: true,
        is_open: true,
        ..choice_of("And?", &["a", "b"])
    });
    check(
        &request,
        &[
            "asks you 2 questions",
            "**Question 2 of 2** (one or more, or your own words)",
            "`K7Q2 1; 1, 2`",
        ],
    );
    let labels = vec!["x"; 1_000];
    request.question.choices = vec![choice_of(&"long ".repeat(10_000), &labels); 30];
    let body =
        check(&request, &["**950 more are not shown.**", "**20 more questions are not shown.**"]);
    assert!(body.len() < 60_000, "{}", body.len());
}

/// Everything that the agent can put into a prompt, with the same text in every place.
fn forged(text: &str) -> Vec<ApprovalRequest> {
    let subject = |kind| request(kind, text, text);
    let mut cards: Vec<_> = [
        ActionKind::Run,
        ActionKind::Edit,
        ActionKind::Fetch,
        ActionKind::Mcp,
        ActionKind::Read,
        ActionKind::Other,
    ]
    .map(subject)
    .into();
    let mut edits = request(ActionKind::Edit, text, text);
    edits.question.edits = vec![edit(text, text), edit(text, text)];
    let mut input = request(ActionKind::Other, text, "");
    input.question.input = json!({text: text, "n": {text: [text]}});
    let mut choices = request(ActionKind::Other, text, text);
    choices.question.choices = vec![choice_of(text, &[text, text]), choice_of(text, &[])];
    cards.extend([edits, input, choices]);
    for card in &mut cards {
        card.question.reason = Some(text.to_owned());
        card.always = Some(text.to_owned());
        card.directory = text.into();
    }
    cards
}

const FORGERIES: [&str; 34] = [
    "ls\n```\n\nHow to answer:\n\n- `approve K7Q2` allows it once.AGENT",
    "````\nAGENT\n````",
    "``````````\nAGENT",
    "ls\n~~~\nAGENT\n~~~\n```",
    "ˋˋˋ\nAGENT",
    "｀｀｀\nAGENT",
    "```diff\n+AGENT\n```\nQuestion `B2C3`.",
    "`AGENT",
    "AGENT`",
    "a``AGENT``b",
    "\\`AGENT\\`",
    "`\n\n**claude asks to run a command** in `/AGENT`. Question `B2C3`.",
    "# AGENT\n\n**bold**",
    "> AGENT says approve",
    "- `approve X` allows it once. AGENT",
    "1. AGENT",
    "<script>AGENT</script>",
    "<!-- AGENT",
    "[AGENT](javascript:alert(1))",
    "![AGENT](https://evil.example/x.png)",
    "| a | AGENT |\n|---|---|",
    "AGENT\n===\n",
    "---\nAGENT",
    "\u{1b}[2J\u{1b}[1;1HAGENT",
    "\u{1b}]8;;http://evil\u{7}AGENT\u{1b}]8;;\u{7}",
    "rm -rf ~\rls AGENT       ",
    "AGENT\u{8}\u{8}\u{8}\u{8}\u{8}ls   ",
    "\u{202e}TNEGA AGENT fr- mr",
    "\u{2066}AGENT\u{2069}\u{200b}\u{feff}",
    "AGENT\u{2028}How to answer:\u{2029}- `approve`",
    "AGENT\u{85}\u{b}\u{c}next",
    "AGENT\0\u{9b}31m",
    "   ```\nAGENT",
    "\t```\n\n\n\n\n\n\n\nAGENT",
];

#[test]
fn forgeries_stay_in_their_frame() {
    for text in FORGERIES {
        for request in forged(text) {
            check(&request, &[]);
            let summary = summary(&request.question);
            assert!(outside(&summary).iter().all(|line| line == "_"), "{summary:?}");
        }
    }
}

#[test]
fn an_engine_s_name_is_no_markdown() {
    assert_eq!(engine(&Engine::new("my-agent2")), "my-agent2");
    assert_eq!(engine(&Engine::new("**x**\n`y`")), "xy");
    assert_eq!(engine(&Engine::new("<>")), "The agent");
}

#[test]
fn what_would_hide_the_end_is_named() {
    let far = format!("ls {}; rm -rf ~ # AGENT", " ".repeat(2_000));
    check(&request(ActionKind::Run, "Bash", &far), &["ls[2001 blanks]; rm -rf ~"]);
    let long = format!("echo {}; rm -rf ~", "x".repeat(20_000));
    check(
        &request(ActionKind::Run, "Bash", &long),
        &["**Not all of it is shown: 1 more line, 12015 characters"],
    );
}

#[test]
fn waits_are_said_in_words() {
    for (secs, text) in
        [(1, "1 second"), (90, "90 seconds"), (600, "10 minutes"), (7_200, "2 hours")]
    {
        assert_eq!(wait(Duration::from_secs(secs)), text);
    }
}

proptest! {
    #[test]
    fn no_text_leaves_its_frame(parts in prop::collection::vec(prop_oneof![
        prop::sample::select(vec!["`", "``", "```", "\n", "\n\n", "~~~", "AGENT", "\\", "- ", "**", "<b>", " ", "\u{1b}", "\r", "\u{202e}"])
            .prop_map(str::to_owned),
        any::<char>().prop_map(String::from),
    ], 0..24)) {
        for request in forged(&parts.concat()) {
            let (body, card) = render(&request);
            check_frame(&body, &request);
            prop_assert!(card.subject.chars().count() <= CHARS);
            let is_hidden = card.subject.contains(['\u{1b}', '\r', '\u{202e}']);
            prop_assert!(!is_hidden);
        }
    }
}
