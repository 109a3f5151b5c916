//! opencode, driven by the daemon: one server for all threads. Its start is most of what a test
//! costs, so one test walks through all that can be seen on the same server.

use crate::{
    homes::Engine,
    patience::Patience,
    process::{self, Process},
    rig::{PATIENCE, Rig, Setup, check},
    scenarios::tests_of,
};
use serde_json::json;
use std::{fs, time::Duration};

/// How often processes are looked at.
const LOOK: Duration = Duration::from_millis(20);

/// What opencode keeps of its sessions.
const STORE: &str = ".local/share/opencode";

/// The servers that the daemon has started.
fn servers(rig: &Rig) -> Vec<Process> {
    let mut all = rig.daemon().descendants();
    all.retain(|it| it.command.contains("opencode serve"));
    // What a server starts looks like it for a moment.
    let is_child = |it: &Process| all.iter().any(|other| it.is_child_of(other));
    all.iter().filter(|it| !is_child(it)).cloned().collect()
}

/// The one server that there is.
#[track_caller]
fn server(rig: &Rig) -> Process {
    let mut all = servers(rig);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

/// Waits for a command of a tool.
#[track_caller]
fn wait_for_command(rig: &Rig, command: &str) -> Process {
    let mut patience = Patience::of(PATIENCE);
    loop {
        let all = rig.daemon().descendants();
        if let Some(found) = all.iter().find(|it| it.command == command) {
            return found.clone();
        }
        assert!(patience.lasts(), "{command} does not run, only {all:#?}");
        rig.daemon().ended().recv_timeout(LOOK).expect_err("nobody sends here");
    }
}

tests_of! { Engine::Opencode;
    a_message_during_a_turn_waits_for_its_end,
    a_first_turn_goes_on_after_the_daemon_was_killed,
    commands_for_a_terminal_are_plain_words,
    allow_all_asks_nobody,
    a_long_answer_comes_whole,
    an_engine_is_given_no_token_of_ours,
}

#[test]
fn threads_share_a_server_and_no_memory() {
    let mut rig = Rig::start();
    let one = rig.begin(Engine::Opencode, "the word is quince [[gate:both]][[text:**noted**]]");
    let two = rig.begin(Engine::Opencode, "the word is medlar [[gate:both]][[text:noted, too]]");
    let first = rig.model.wait_for(|it| it.mentions("quince"), PATIENCE);
    // Neither is answered before both are there.
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

    let server = server(&rig);
    let left = process::marked(&rig.home);
    assert!(left.contains(&server), "{left:?}");
    rig.take_daemon().stop();
    let left = process::marked(&rig.home);
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn the_human_is_told_what_ails_the_model() {
    let rig = Rig::start();
    let thread = rig.begin(Engine::Opencode, "the word is quince [[text:noted]]");
    rig.expect(&thread, 1, "noted");

    rig.model.set_status(401);
    rig.say(&thread, "[[text:never]]");
    check(
        &rig.answer(&thread, 2),
        &[("error", &["opencode could not answer", "Incorrect API key", "`opencode auth login`"])],
    );
    for (n, status, words) in [(3, 429, "Rate limit"), (4, 500, "had an error")] {
        rig.model.set_status_with_retry_after(status, 1);
        rig.say(&thread, "[[text:never]]");
        check(
            &rig.answer(&thread, n),
            &[("status", &["tries again", words]), ("error", &["could not answer", words])],
        );
    }
    rig.model.recover();
    rig.say(&thread, "[[error:500x1@1]][[text:well again]]");
    check(&rig.answer(&thread, 5), &[("status", &["tries again"]), ("result", &["well again"])]);
    let well =
        rig.model.wait_for(|it| it.status == Some(200) && it.mentions("well again"), PATIENCE);
    assert!(well.mentions("the word is quince"));
}

#[test]
fn what_changes_anything_is_refused_and_the_model_knows_why() {
    let rig = Rig::start();
    fs::write(rig.home.project().join("notes.txt"), "the word is quince").unwrap();
    let file = rig.home.project().join("notes.txt");
    let thread = rig.begin(
        Engine::Opencode,
        &format!(
            "[[shell:touch made]][[write:{}|x]][[tool:read {{\"filePath\":{:?}}}]][[text:over]]",
            rig.home.project().join("written").display(),
            file.display().to_string()
        ),
    );
    rig.expect(&thread, 1, "over");
    let request = rig.model.wait_for(|it| it.results.len() == 3, PATIENCE);
    let results = &request.results;
    for refused in &results[..2] {
        assert!(refused.contains("not allowed on this machine"), "{refused}");
        assert!(refused.contains("Do not look for a way around"), "{refused}");
    }
    assert!(results[2].contains("the word is quince"), "{}", results[2]);
    for name in ["made", "written"] {
        assert!(!rig.home.project().join(name).exists(), "{name}");
    }
}

#[test]
fn a_session_that_is_gone_is_replaced_and_the_human_told() {
    let mut rig = Rig::start();
    let thread = rig.begin(Engine::Opencode, "the word is quince [[text:noted]]");
    rig.expect(&thread, 1, "noted");
    let before = rig.session(&thread, Engine::Opencode);
    rig.take_daemon().stop();
    fs::remove_dir_all(rig.home.path(STORE)).unwrap();
    rig.start_daemon();
    rig.say(&thread, "which word? [[text:see above]]");
    check(
        &rig.answer(&thread, 2),
        &[("status", &[&before, "cannot be resumed"]), ("result", &["see above"])],
    );
    let fresh = rig.model.wait_for(|it| it.human().contains("which word?"), PATIENCE);
    assert!(fresh.prompt.contains("> the word is quince"), "{}", fresh.prompt);
    rig.take_daemon().stop();
    assert_ne!(rig.session(&thread, Engine::Opencode), before);
}

#[test]
fn nothing_goes_to_a_provider_that_nobody_chose() {
    let setup = Setup::logged_out();
    let mut rig = setup.start();
    let thread = rig.begin(Engine::Opencode, "secret [[text:never]]");
    check(
        &rig.answer(&thread, 1),
        &[("error", &["no model provider is set up", "`opencode auth login`", "Nothing was sent"])],
    );
    assert_eq!(rig.model.requests().len(), 0);
    // The person does as told, and the daemon runs on.
    let Rig { home, model, .. } = &mut rig;
    home.log_in(Engine::Opencode, model);
    rig.say(&thread, "[[text:at last]]");
    rig.expect(&thread, 2, "at last");
}

#[test]
fn a_server_that_dies_costs_one_turn() {
    let mut setup = Setup::logged_in();
    setup.config["allowAll"] = json!(true);
    let rig = setup.start();
    let thread = rig.begin(Engine::Opencode, "the word is quince [[text:noted]]");
    rig.expect(&thread, 1, "noted");
    rig.say(&thread, "[[shell:touch begun; sleep 600]]");
    let command = wait_for_command(&rig, "sleep 600");
    let old = server(&rig);
    old.kill();
    check(&rig.answer(&thread, 2), &[("error", &["opencode could not answer", "server"])]);
    rig.say(&thread, "which word? [[text:again]]");
    rig.expect(&thread, 3, "again");
    let resumed = rig.model.wait_for(|it| it.human().contains("which word?"), PATIENCE);
    assert!(resumed.mentions("the word is quince"));
    assert_ne!(server(&rig), old);
    assert!(!command.is_alive(), "the command of a dead server runs on: {command:?}");
}

#[test]
fn a_stop_in_mid_turn_leaves_nothing_and_the_next_start_goes_on() {
    let mut setup = Setup::logged_in();
    setup.config["allowAll"] = json!(true);
    setup.config["drainSeconds"] = json!(0);
    let mut rig = setup.start();
    let script =
        "the word is quince [[shell:test -e begun || { touch begun; sleep 600; }]][[text:over]]";
    let thread = rig.begin(Engine::Opencode, script);
    rig.model.wait_for(|it| it.is_turn && it.status == Some(200), PATIENCE);
    wait_for_command(&rig, "sleep 600");
    rig.take_daemon().stop();
    let left = process::marked(&rig.home);
    assert!(left.is_empty(), "{left:?}");
    rig.start_daemon();
    let posts = rig.answer(&thread, 1);
    let statuses = &posts[..posts.len() - 1];
    assert!(statuses.iter().any(|it| it.body.contains("is stopping")), "{posts:#?}");
    assert!(statuses.iter().any(|it| it.body.contains("session is resumed")), "{posts:#?}");
    let resumed = rig.model.wait_for(|it| it.prompt.contains("interrupted"), PATIENCE);
    assert!(resumed.mentions("the word is quince"));
}

#[test]
fn a_killed_daemon_leaves_its_server_for_the_next_one_to_end() {
    let mut rig = Rig::start();
    let thread = rig.begin(Engine::Opencode, "the word is quince [[text:noted]]");
    rig.expect(&thread, 1, "noted");
    rig.session(&thread, Engine::Opencode);
    let old = server(&rig);
    rig.take_daemon().kill9();
    rig.start_daemon();
    rig.say(&thread, "which word? [[text:again]]");
    rig.expect(&thread, 2, "again");
    let resumed = rig.model.wait_for(|it| it.human().contains("which word?"), PATIENCE);
    assert!(resumed.mentions("the word is quince"));
    assert!(!old.is_alive(), "{old:?}");
}

#[test]
fn a_missing_program_is_named() {
    let mut setup = Setup::logged_in();
    setup.config["agents"]["opencode"] = json!({"command": ["/nowhere/opencode"]});
    let rig = setup.start();
    let thread = rig.begin(Engine::Opencode, "[[text:never]]");
    check(&rig.answer(&thread, 1), &[("error", &["`/nowhere/opencode` was not found"])]);
    assert_eq!(rig.model.requests().len(), 0);
}

#[test]
fn history_goes_along_to_another_engine_and_back() {
    let rig = Rig::start();
    let thread = rig.begin(Engine::Opencode, "the word is quince [[text:noted]]");
    rig.expect(&thread, 1, "noted");
    rig.switch(&thread, Engine::CodexAcp, "which word? [[text:quince]]");
    rig.expect(&thread, 2, "quince");
    let handed = rig.model.wait_for(|it| it.human().contains("which word?"), PATIENCE);
    assert!(handed.prompt.contains("> the word is quince"), "{}", handed.prompt);
    assert!(handed.prompt.contains("> noted"), "{}", handed.prompt);
    rig.switch(&thread, Engine::Opencode, "and now? [[text:still]]");
    rig.expect(&thread, 3, "still");
    let back = rig.model.wait_for(|it| it.human().contains("and now?"), PATIENCE);
    assert!(back.mentions("the word is quince"));
    let authors: Vec<_> = rig.posts(&thread).into_iter().map(|it| it.author).collect();
    assert_eq!(authors, ["opencode-bridge", "codex-acp-bridge", "opencode-bridge"]);
}
