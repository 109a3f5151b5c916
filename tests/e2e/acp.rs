//! An agent that speaks the Agent Client Protocol, driven by the daemon: codex-acp, which the config
//! names like any other, and stand-ins that misbehave.

use crate::{
    homes::Engine,
    patience::Patience,
    process::{self, Process},
    rig::{PATIENCE, Rig, Setup, check},
    scenarios::{gone, tests_of},
};
use serde_json::{Value, json};
use std::{env, fs, path::PathBuf};

/// The agents that the daemon has started.
fn agents(rig: &Rig) -> Vec<Process> {
    let mut all = rig.daemon().descendants();
    all.retain(|it| it.command.contains("codex-acp"));
    all
}

tests_of! { Engine::CodexAcp;
    a_message_during_a_turn_waits_for_its_end,
    a_turn_goes_on_after_a_stop_of_the_daemon,
    a_turn_goes_on_after_the_daemon_was_killed,
    a_first_turn_goes_on_after_the_daemon_was_killed,
    commands_for_a_terminal_are_plain_words,
    allow_all_asks_nobody,
    a_hiccup_of_the_model_is_survived,
    a_long_answer_comes_whole,
    an_engine_is_given_no_token_of_ours,
}

#[test]
fn threads_have_processes_and_memories_of_their_own() {
    let mut rig = Rig::start();
    let one = rig.begin(Engine::CodexAcp, "the word is quince [[gate:both]][[text:**noted**]]");
    let two = rig.begin(Engine::CodexAcp, "the word is medlar [[gate:both]][[text:noted, too]]");
    let first = rig.model.wait_for(|it| it.mentions("quince"), PATIENCE);
    rig.model.wait_for(|it| it.mentions("medlar"), PATIENCE);
    rig.model.open("both");
    rig.expect(&one, 1, "**noted**");
    rig.expect(&two, 1, "noted, too");
    assert!(first.authorized);
    assert!(first.human().starts_with(&format!("[Agent Bridge | thread:{one} | from:human")));
    assert!(first.human().contains("Your final answer is delivered"), "{}", first.prompt);

    rig.say(&one, "which word? [[text:again]]");
    rig.expect(&one, 2, "again");
    let resumed = rig.model.wait_for(|it| it.human().contains("which word?"), PATIENCE);
    assert!(resumed.mentions("the word is quince") && resumed.mentions("**noted**"));
    assert!(!resumed.mentions("medlar"));
    assert!(!resumed.prompt.contains("Your final answer is delivered"), "{}", resumed.prompt);
    rig.take_daemon().stop();
    let left = process::marked(&rig.home);
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_human_is_told_what_ails_the_model() {
    let rig = Rig::start();
    let thread = rig.begin(Engine::CodexAcp, "the word is quince [[text:noted]]");
    rig.expect(&thread, 1, "noted");
    let ails = [
        (401, &["Authentication required", "Log in with"][..]),
        (429, &["429 Too Many Requests", "Try again later"]),
        (500, &["high demand", "Try again"]),
    ];
    for (n, (status, words)) in (2..).zip(ails) {
        rig.model.set_status(status);
        rig.say(&thread, "[[text:never]]");
        let posts = rig.answer(&thread, n);
        check(&posts[posts.len() - 1..], &[("error", words)]);
    }
    rig.model.recover();
    rig.say(&thread, "which word? [[text:well again]]");
    rig.expect(&thread, 5, "well again");
    let well = rig.model.wait_for(|it| it.human().contains("which word?"), PATIENCE);
    assert!(well.mentions("the word is quince"));
}

#[test]
fn an_agent_that_is_not_logged_in_says_how_to() {
    let mut rig = Setup::logged_out().start();
    let thread = rig.begin(Engine::CodexAcp, "[[text:never]]");
    check(&rig.answer(&thread, 1), &[("error", &["codex-acp could not answer", "Log in with"])]);
    assert_eq!(rig.model.turns().len(), 0);
    let Rig { home, model, .. } = &mut rig;
    home.log_in(Engine::CodexAcp, model);
    rig.say(&thread, "[[text:at last]]");
    rig.expect(&thread, 2, "at last");
}

#[test]
fn a_session_that_is_gone_is_replaced_and_the_human_told() {
    let rig = Rig::start();
    let thread = rig.begin(Engine::CodexAcp, "the word is quince [[text:noted]]");
    rig.expect(&thread, 1, "noted");
    let before = rig.session(&thread, Engine::CodexAcp);
    fs::remove_dir_all(rig.home.path(".codex/sessions")).unwrap();
    rig.say(&thread, "which word? [[text:see above]]");
    check(
        &rig.answer(&thread, 2),
        &[("status", &[&before, "cannot be resumed"]), ("result", &["see above"])],
    );
    let fresh = rig.model.wait_for(|it| it.human().contains("which word?"), PATIENCE);
    assert!(fresh.prompt.contains("> the word is quince"), "{}", fresh.prompt);
}

#[test]
fn an_agent_that_dies_costs_one_turn() {
    let rig = Rig::start();
    let thread = rig.begin(Engine::CodexAcp, "the word is quince [[text:noted]]");
    rig.expect(&thread, 1, "noted");
    rig.say(&thread, "[[text:begun]][[hang:600]]");
    rig.model.wait_for(|it| it.human().contains("hang") && it.status == Some(200), PATIENCE);
    let all = rig.daemon().descendants();
    agents(&rig).remove(0).kill();
    check(&rig.answer(&thread, 2), &[("error", &["codex-acp could not answer", "signal 9"])]);
    // The answer does not wait for what else has to go.
    for process in &all {
        gone(&rig, process);
    }
    rig.say(&thread, "which word? [[text:again]]");
    rig.expect(&thread, 3, "again");
    let resumed = rig.model.wait_for(|it| it.human().contains("which word?"), PATIENCE);
    assert!(resumed.mentions("the word is quince"));
}

#[test]
fn what_the_sandbox_forbids_is_refused_and_not_run() {
    let rig = Rig::start();
    let escalated = json!({"sandbox_permissions": "require_escalated", "justification": "because"});
    let thread = rig.begin(
        Engine::CodexAcp,
        &format!("[[text:let me see]][[shell:{escalated} | touch made]][[text:over]]"),
    );
    check(
        &rig.answer(&thread, 1),
        &[("result", &["let me see", "this was refused: `touch made`"])],
    );
    assert!(!rig.home.project().join("made").exists());
    rig.say(&thread, "and now? [[text:still there]]");
    rig.expect(&thread, 2, "still there");
}

#[test]
fn a_missing_agent_is_named() {
    let mut setup = Setup::logged_in();
    setup.config["agents"]["helper"] = json!({"command": ["no-such-agent", "--acp"]});
    let rig = setup.start();
    let thread = rig.begin_with("helper", "[[text:never]]");
    check(
        &rig.answer(&thread, 1),
        &[("error", &["helper could not", "`no-such-agent` was not found"])],
    );
    let mut offered = rig.offered();
    offered.sort();
    let mut all = Engine::ALL.map(Engine::name);
    all.sort_unstable();
    assert_eq!(offered, all);
}

#[test]
fn the_echo_agent_repeats_what_it_is_told() {
    let rig = Rig::start();
    let thread = rig.begin_with("echo", "hello\n\nthere");
    rig.expect(&thread, 1, "Echo agent (no model): You said: hello\n\nthere");
    rig.say(&thread, "again");
    rig.expect(&thread, 2, "Echo agent (no model): You said: again");
    assert_eq!(rig.model.requests().len(), 0);
}

/// Plays an engine that misbehaves: `tests/fake-agent.rs`.
fn fake(directives: &[&str]) -> Value {
    let program: PathBuf =
        env::current_exe().unwrap().ancestors().nth(2).unwrap().join("examples/fake-agent");
    assert!(program.exists(), "{} is missing: cargo build --examples", program.display());
    let command: Vec<&str> =
        [program.to_str().unwrap()].into_iter().chain(directives.iter().copied()).collect();
    json!({ "command": command })
}

const ENDED: &str = "the agent ended before it had answered";
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":1,"agentCapabilities":{"sessionCapabilities":{"resume":{}}}}}"#;
const SESSION: &str = r#"{"jsonrpc":"2.0","id":2,"result":{"sessionId":"s1"}}"#;
const SAID: &str = r#"{"jsonrpc":"2.0","method":"session/update","params":{"sessionId":"s1","update":{"sessionUpdate":"agent_message_chunk","content":{"type":"text","text":"fine"}}}}"#;
const OVER: &str = r#"{"jsonrpc":"2.0","id":3,"result":{"stopReason":"end_turn"}}"#;

/// A turn with nothing wrong in it, and another end for its talk.
fn talk(end: &[&'static str]) -> Vec<&'static str> {
    [&["read", "print", INITIALIZED, "read", "print", SESSION, "read"], end].concat()
}

/// Has every one of these agents asked, checks what comes, and that each thread, and the daemon, can
/// then do something else.
#[track_caller]
fn survive(agents: Vec<(String, Value)>, fits: impl Fn(&str, &str) -> bool) {
    let mut setup = Setup::logged_out();
    setup.config["startupSeconds"] = json!(3);
    setup.config["silenceSeconds"] = json!(3);
    setup.config["turnSeconds"] = json!(6);
    setup.config["maxTurns"] = json!(8);
    for (name, command) in &agents {
        setup.config["agents"][name] = command.clone();
    }
    let rig = setup.start();
    let ask = |name: &str| (name.to_owned(), rig.begin_with(name, "hello"));
    let threads: Vec<_> = agents.iter().map(|(name, _)| ask(name)).collect();
    for (name, thread) in &threads {
        let posts = rig.answer(thread, 1);
        let body = &posts.last().expect("an answer is a post").body;
        assert!(fits(name, body), "{name}: {posts:#?}");
        rig.switch_to(thread, "echo", "and now?");
    }
    for (name, thread) in &threads {
        let posts = rig.answer(thread, 2);
        assert!(
            posts.last().is_some_and(|it| it.body.ends_with("You said: and now?")),
            "{name}: {posts:#?}"
        );
    }
    // An answer does not wait for its engine to leave.
    let mut patience = Patience::of(PATIENCE);
    let mut left = process::marked(&rig.home);
    while !left.is_empty() {
        assert!(patience.pause(), "{left:?}");
        left = process::marked(&rig.home);
    }
}

#[test]
fn an_agent_that_misbehaves_is_reported_and_nothing_else_suffers() {
    let garbage = ["print", "{no json", "print", "\u{1}", "print", SAID, "print", OVER];
    let cases: [(&str, Vec<&str>, &str); 10] = [
        ("well", talk(&["print", SAID, "print", OVER, "wait-eof"]), "fine"),
        ("garbage", talk(&garbage), "fine"),
        ("long", talk(&["spew", "40", "print", SAID, "print", OVER]), "fine"),
        ("nothing", vec!["wait-eof"], "said nothing"),
        ("gone", vec!["complain", "no licence", "exit", "3"], "no licence"),
        ("half", talk(&["raw", &SAID[..40]]), ENDED),
        ("mute", talk(&["print", OVER]), "without saying anything"),
        ("noise", vec!["babble"], "could not answer"),
        ("flood", vec!["endless"], "no JSON"),
        ("deaf", vec!["straggler", "deaf", "hang"], "its process was ended"),
    ];
    let agents = cases.iter().map(|(name, plays, _)| ((*name).to_owned(), fake(plays))).collect();
    survive(agents, |name, body| {
        cases.iter().any(|(case, _, expected)| *case == name && body.contains(expected))
    });
}

#[test]
fn an_agent_may_die_at_any_byte() {
    let whole = talk(&["print", SAID, "print", OVER]);
    let bytes: usize = [INITIALIZED, SESSION, SAID, OVER].iter().map(|it| it.len() + 1).sum();
    let deaths = (0..bytes).step_by(29).chain([bytes]).map(|at| at.to_string());
    let agents =
        deaths.map(|at| (format!("dies-at-{at}"), fake(&[&["die-at", &at][..], &whole].concat())));
    let last = format!("dies-at-{bytes}");
    survive(
        agents.collect(),
        |name, body| {
            if name == last { body == "fine" } else { body.contains(ENDED) }
        },
    );
}
