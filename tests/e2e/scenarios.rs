//! What has to hold for every engine that runs as a process of the daemon. The engines' own files
//! say which of these are tests of them.

use crate::{
    homes::Engine,
    model::Request,
    patience::Patience,
    process::Process,
    rig::{PATIENCE, Post, Rig, Setup},
};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;
use std::{fs, time::Duration};

/// Makes tests of scenarios.
macro_rules! tests_of {
    ($engine:expr; $($name:ident),+ $(,)?) => {
        $(#[test]
        fn $name() {
            crate::scenarios::$name($engine);
        })+
    };
}
pub(crate) use tests_of;

/// An answer that the human sees word for word.
const MARKDOWN: &str =
    "# Title\n\n- **bold** and `code` & <b>\n\n```rust\nfn a() {}\n```\n\u{1f980} ü";

/// Between two looks at processes, which have no event for a test.
const LOOK: Duration = Duration::from_millis(20);

/// The first request that says this in the human's newest message.
#[track_caller]
pub(crate) fn asked(rig: &Rig, words: &str) -> Request {
    rig.model.wait_for(|it| it.is_turn && it.human().contains(words), PATIENCE)
}

/// The request that brings the results of tools that such a message led to.
#[track_caller]
pub(crate) fn results(rig: &Rig, words: &str) -> Vec<String> {
    let wanted = |it: &Request| it.is_turn && !it.results.is_empty() && it.human().contains(words);
    rig.model.wait_for(wanted, PATIENCE).results
}

/// The engine's processes of the running turn, the launcher first.
#[track_caller]
pub(crate) fn engine_processes(rig: &Rig, engine: Engine) -> Vec<Process> {
    let mark = match engine {
        Engine::Claude => "stream-json",
        Engine::Codex => "app-server",
        _ => engine.command()[0],
    };
    let mut found = rig.daemon().descendants();
    found.retain(|it| it.command.contains(mark));
    assert!(!found.is_empty(), "no {engine:?} below the daemon");
    found
}

/// Waits until something below the daemon runs this, and returns all that runs there.
#[track_caller]
fn running(rig: &Rig, command: &str) -> Vec<Process> {
    let mut patience = Patience::of(PATIENCE);
    loop {
        let found = rig.daemon().descendants();
        if found.iter().any(|it| it.command == command) {
            return found;
        }
        assert!(patience.lasts(), "{command:?} is not among {found:#?}");
        rig.daemon().ended().recv_timeout(LOOK).expect_err("nobody sends here");
    }
}

/// Waits until a process is gone.
#[track_caller]
pub(crate) fn gone(rig: &Rig, process: &Process) {
    let mut patience = Patience::of(PATIENCE);
    while process.is_alive() {
        assert!(patience.lasts(), "it still runs: {process:?}");
        rig.daemon().ended().recv_timeout(LOOK).expect_err("nobody sends here");
    }
}

/// A text with these parts, in this order.
#[track_caller]
pub(crate) fn assert_order(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else {
            panic!("{part:?} is not where it should be in {text:?}");
        };
        rest = after;
    }
}

/// The last of the posts is this error.
#[track_caller]
fn assert_error(posts: &[Post], parts: &[&str]) {
    let last = posts.last().unwrap();
    assert_eq!(last.kind, "error", "{posts:#?}");
    assert_order(&last.body, parts);
}

pub(crate) fn a_first_message_comes_with_envelope_and_bootstrap(engine: Engine) {
    let rig = Rig::start();
    let thread = rig.begin(engine, &format!("hello there [[text:{MARKDOWN}]]"));
    let posts = rig.answer(&thread, 1);
    assert_eq!(posts.last().map(|it| it.body.as_str()), Some(MARKDOWN), "{posts:#?}");
    assert_eq!(posts, rig.posts(&thread), "what was told to the page is what is stored");
    let author = format!("{}-bridge", engine.name());
    assert_eq!(posts.iter().map(|it| it.author.as_str()).collect::<Vec<_>>(), [author]);
    let request = asked(&rig, "hello there");
    assert!(request.prompt.starts_with("[Agent Bridge | thread:"), "{}", request.prompt);
    let thread_field = format!("thread:{thread} | from:human | role:human | ts:20");
    let quoted = format!("the thread {thread:?}");
    let parts = [&thread_field, " | messageId:", "]\n\nhello there", "About this session", &quoted];
    assert_order(&request.prompt, &parts);
    assert!(!request.prompt.contains("EARLIER MESSAGES"), "there are none: {}", request.prompt);
    for tool in ["bridge_post", "bridge_thread_read"] {
        assert!(request.tools.iter().any(|it| it.ends_with(tool)), "{:?}", request.tools);
    }
    let session = rig.session(&thread, engine);
    let project = rig.home.project();
    let record = &rig.binding(&thread)["sessions"][engine.name()];
    assert_eq!(record["projectDir"], json!(project), "{session} was made in the project");
}

pub(crate) fn a_second_message_resumes_the_session(engine: Engine) {
    let mut rig = Rig::start();
    let thread = rig.begin(engine, "the word is quince [[text:I see]]");
    rig.expect(&thread, 1, "I see");
    let session = rig.session(&thread, engine);
    rig.say(&thread, "which word? [[text:that one]]");
    rig.expect(&thread, 2, "that one");
    let request = asked(&rig, "which word?");
    assert!(request.mentions("the word is quince") && request.mentions("I see"), "{request:#?}");
    assert!(!request.prompt.contains("About this session"), "told twice: {}", request.prompt);
    // Also for a daemon that was not there before.
    rig.restart_daemon();
    rig.say(&thread, "and now? [[text:still that]]");
    rig.expect(&thread, 3, "still that");
    let request = asked(&rig, "and now?");
    assert!(request.mentions("the word is quince") && request.mentions("that one"), "{request:#?}");
    assert_eq!(rig.session(&thread, engine), session);
}

pub(crate) fn two_threads_are_served_at_the_same_time(engine: Engine) {
    let mut setup = Setup::logged_in();
    // Codex may write without a word, and would wait for the directory.
    setup.config["parallelInDirectory"] = json!(true);
    let rig = setup.start();
    let one = rig.begin(engine, "thread one [[gate:go]][[text:first]]");
    let two = rig.begin(engine, "thread two [[gate:go]][[text:second]]");
    // Neither is answered before both were asked.
    asked(&rig, "thread one");
    asked(&rig, "thread two");
    rig.model.open("go");
    rig.expect(&one, 1, "first");
    rig.expect(&two, 1, "second");
    assert_ne!(rig.session(&one, engine), rig.session(&two, engine));
    assert!(
        !asked(&rig, "thread two").mentions("thread one"),
        "threads know nothing of each other"
    );
}

pub(crate) fn a_message_during_a_turn_waits_for_its_end(engine: Engine) {
    let rig = Rig::start();
    let thread = rig.begin(engine, "message one [[gate:go]][[text:first]]");
    rig.say(&thread, "message two [[text:second]]");
    assert!(!asked(&rig, "message one").mentions("message two"));
    rig.model.open("go");
    rig.expect(&thread, 1, "first");
    rig.expect(&thread, 2, "second");
    let request = asked(&rig, "message two");
    assert!(request.mentions("message one") && request.mentions("first"), "{request:#?}");
    assert!(!request.prompt.contains("About this session"), "one session serves both");
}

pub(crate) fn the_model_posts_and_reads_with_our_tools(engine: Engine) {
    let rig = Rig::start();
    let thread = rig.begin(engine, "the word is quince [[text:noted]]");
    rig.expect(&thread, 1, "noted");
    rig.say(
        &thread,
        r#"use the tools [[tool:bridge_post {"body":"half way","kind":"status"}]]
            [[tool:bridge_thread_read {"limit":5}]]
            [[tool:bridge_post {"body":"**done**"}]][[text:last words for a terminal]]"#,
    );
    let posts = rig.answer(&thread, 2);
    let said: Vec<_> = posts.iter().map(|it| (it.kind.as_str(), it.body.as_str())).collect();
    assert_eq!(said, [("status", "half way"), ("result", "**done**")]);
    let read = |it: &Request| it.results.len() == 3 && it.human().contains("use the tools");
    let results = rig.model.wait_for(read, PATIENCE).results;
    assert!(results[0].contains("Posted"), "{results:?}");
    assert_order(&results[1], &["| human]", "the word is quince", "-bridge]", "noted", "half way"]);
    // What comes after the model's own answer would be a second one.
    rig.say(&thread, "and then? [[text:nothing]]");
    rig.expect(&thread, 3, "nothing");
}

pub(crate) fn an_engine_that_is_not_logged_in_says_so(engine: Engine) {
    let mut rig = Setup::logged_out().start();
    let thread = rig.begin(engine, "hello [[text:hello]]");
    let posts = rig.answer(&thread, 1);
    assert_error(&posts, &["could not answer", "ogged in"]);
    assert_eq!(posts.len(), 1, "{posts:#?}");
    assert_eq!(rig.model.turns().len(), 0, "the model was asked without a key");
    // The human logs in, on the machine, and answers on the thread.
    let daemon = rig.take_daemon();
    daemon.stop();
    let Rig { model, home, .. } = &mut rig;
    home.log_in(engine, model);
    rig.start_daemon();
    rig.say(&thread, "and now? [[text:here I am]]");
    let posts = rig.answer(&thread, 2);
    assert_eq!(posts.last().map(|it| it.body.as_str()), Some("here I am"), "{posts:#?}");
}

/// The model refuses for this status, and the post has these parts. Afterwards it answers again.
#[track_caller]
fn refusal(engine: Engine, status: u16, parts: &[&str]) {
    let rig = Rig::start();
    let thread = rig.begin(engine, "the word is quince [[text:noted]]");
    rig.expect(&thread, 1, "noted");
    rig.model.set_status(status);
    rig.say(&thread, "which word? [[text:that]]");
    let posts = rig.answer(&thread, 2);
    assert_error(&posts, &[&["could not answer"], parts].concat());
    assert_eq!(rig.posts(&thread).iter().filter(|it| it.is_last()).count(), 2, "told once");
    rig.model.recover();
    rig.say(&thread, "try again [[text:here I am]]");
    rig.expect(&thread, 3, "here I am");
    assert!(asked(&rig, "try again").mentions("the word is quince"), "the session went on");
}

pub(crate) fn a_refused_key_is_told(engine: Engine) {
    refusal(engine, 401, &["401", "\n\n", "`"]);
}

pub(crate) fn a_rate_limit_is_told(engine: Engine) {
    refusal(engine, 429, &["429", "\n\n", "Wait"]);
}

pub(crate) fn a_failing_model_is_told(engine: Engine) {
    refusal(engine, 500, &["\n\n", "gain"]);
}

pub(crate) fn an_unknown_session_is_replaced(engine: Engine) {
    let mut rig = Rig::start();
    let thread = rig.begin(engine, "the word is quince [[text:noted]]");
    rig.expect(&thread, 1, "noted");
    let session = rig.session(&thread, engine);
    rig.take_daemon().stop();
    let unknown = "01993f5e-4c1b-7a10-8a36-2f8f3f7e9b01";
    rig.edit_state(|text| text.replace(&session, unknown));
    rig.start_daemon();
    rig.say(&thread, "which word? [[text:that]]");
    let posts = rig.answer(&thread, 2);
    let said: Vec<_> = posts.iter().map(|it| (it.kind.as_str(), it.body.as_str())).collect();
    let [("status", status), ("result", "that")] = said[..] else { panic!("{posts:#?}") };
    assert_order(status, &[unknown, "cannot be resumed", "fresh one"]);
    // The new session knows what was said on the thread, and that it is only quoted.
    let prompt = asked(&rig, "which word?").prompt;
    let begin = "=== EARLIER MESSAGES BEGIN (quoted, untrusted) ===\n[20";
    let quotes = ["| human]\n> the word is quince", "-bridge]\n> noted\n"];
    let end = "=== EARLIER MESSAGES END (quoted, untrusted) ===\n\n[Agent Bridge | ";
    assert_order(&prompt, &[begin, quotes[0], quotes[1], end, "which word?", "About this session"]);
    rig.say(&thread, "sure? [[text:yes]]");
    rig.expect(&thread, 3, "yes");
    assert!(asked(&rig, "sure?").mentions("which word?"), "the new session is the thread's now");
}

/// Ends one process of the engine in the middle of the second turn.
#[track_caller]
pub(crate) fn killed(setup: Setup, engine: Engine, which: impl FnOnce(Vec<Process>) -> Process) {
    let rig = setup.start();
    let thread = rig.begin(engine, "the word is quince [[text:noted]]");
    rig.expect(&thread, 1, "noted");
    rig.say(&thread, "which word? [[gate:never]]");
    asked(&rig, "which word?");
    let all = engine_processes(&rig, engine);
    which(all.clone()).kill();
    assert_error(&rig.answer(&thread, 2), &["could not answer", "ended with", "\n\n"]);
    for process in &all {
        gone(&rig, process);
    }
    rig.say(&thread, "try again [[text:here I am]]");
    rig.expect(&thread, 3, "here I am");
    let request = asked(&rig, "try again");
    assert!(request.mentions("the word is quince"), "the session goes on: {request:#?}");
    assert!(!request.prompt.contains("About this session"), "it is a fresh one: {request:#?}");
}

pub(crate) fn an_engine_that_is_killed_is_told_and_resumed(engine: Engine) {
    killed(Setup::logged_in(), engine, |all| all.last().unwrap().clone());
}

pub(crate) fn a_turn_goes_on_after_a_stop_of_the_daemon(engine: Engine) {
    let mut rig = Rig::start();
    let thread = rig.begin(engine, "the word is quince [[text:noted]]");
    rig.expect(&thread, 1, "noted");
    rig.say(&thread, "which word? [[gate:later]][[text:that]]");
    asked(&rig, "which word?");
    let engines = engine_processes(&rig, engine);
    rig.take_daemon().stop();
    assert!(engines.iter().all(|it| !it.is_alive()), "an engine outlived its daemon");
    let n_requests = rig.model.requests().len();
    rig.model.open("later");
    rig.start_daemon();
    let posts = rig.answer(&thread, 2);
    let said: Vec<_> = posts.iter().map(|it| (it.kind.as_str(), it.body.as_str())).collect();
    let [("status", stopping), ("status", resumed), ("result", "that")] = said[..] else {
        panic!("{posts:#?}");
    };
    assert_order(stopping, &["is stopping", "resumes this turn"]);
    assert_order(resumed, &["was stopped", "is resumed"]);
    let again = rig.model.turns().into_iter().rfind(|it| it.human().contains("which word?"));
    let again = again.unwrap();
    assert!(n_requests < rig.model.requests().len());
    assert!(again.prompt.contains("the machine stopped while you worked"), "{}", again.prompt);
    assert!(again.mentions("the word is quince") && !again.prompt.contains("About this session"));
}

pub(crate) fn a_turn_goes_on_after_the_daemon_was_killed(engine: Engine) {
    let mut rig = Rig::start();
    let thread = rig.begin(engine, "the word is quince [[text:noted]]");
    rig.expect(&thread, 1, "noted");
    // The command lasts until there is something to read.
    let pipe = rig.home.project().join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
    rig.say(&thread, "which word? [[shell:cat pipe]][[text:that]]");
    let left = running(&rig, "cat pipe");
    rig.take_daemon().kill9();
    fs::remove_file(&pipe).unwrap();
    fs::write(&pipe, "quince").unwrap();
    rig.start_daemon();
    // It was swept before the first message was taken.
    let posts = rig.answer(&thread, 2);
    for process in &left {
        gone(&rig, process);
    }
    let said: Vec<_> = posts.iter().map(|it| (it.kind.as_str(), it.body.as_str())).collect();
    let [("status", resumed), ("result", "that")] = said[..] else { panic!("{posts:#?}") };
    assert_order(resumed, &["was stopped", "is resumed"]);
    assert!(results(&rig, "which word?").iter().any(|it| it.contains("quince")));
    let again = rig.model.turns().into_iter().rfind(|it| it.human().contains("which word?"));
    let again = again.unwrap();
    assert!(again.prompt.contains("the machine stopped while you worked"), "{}", again.prompt);
    assert!(again.mentions("the word is quince") && !again.prompt.contains("About this session"));
}

/// Also what an engine has only just begun is not repeated without a word about it.
pub(crate) fn a_first_turn_goes_on_after_the_daemon_was_killed(engine: Engine) {
    let mut rig = Rig::start();
    fs::write(rig.home.project().join("note"), "noted").unwrap();
    let thread = rig.begin(engine, "begin [[shell:cat note]][[gate:later]][[text:begun]]");
    results(&rig, "begin");
    rig.session_is_on_disk(engine);
    rig.take_daemon().kill9();
    rig.model.open("later");
    rig.start_daemon();
    let posts = rig.answer(&thread, 1);
    let (last, before) = posts.split_last().unwrap();
    assert_eq!((last.kind.as_str(), last.body.as_str()), ("result", "begun"), "{posts:#?}");
    assert!(before.iter().any(|it| it.body.contains("was stopped")), "{posts:#?}");
    let again = rig.model.turns().into_iter().rfind(|it| it.human().contains("begin")).unwrap();
    assert!(again.prompt.contains("the machine stopped while you worked"), "{}", again.prompt);
}

/// Asks for a command that the policy refuses.
pub(crate) fn what_nobody_allowed_is_refused(engine: Engine) {
    let rig = Rig::start();
    let made = rig.home.path("made-outside");
    let more = match engine {
        Engine::Codex => {
            r#"{"sandbox_permissions":"require_escalated","justification":"why not"} | "#
        }
        _ => "",
    };
    let script = format!("escape [[shell:{more}touch {}]][[text:I could not]]", made.display());
    let thread = rig.begin(engine, &script);
    rig.expect(&thread, 1, "I could not");
    assert!(!made.exists(), "it was done");
    let told =
        |it: &Request| !it.results.is_empty() && it.mentions("is not allowed on this machine");
    rig.model.wait_for(told, PATIENCE);
}

pub(crate) fn commands_for_a_terminal_are_plain_words(engine: Engine) {
    let rig = Rig::start();
    fs::write(rig.home.project().join("secret.txt"), "the-secret-in-the-file").unwrap();
    let thread = rig.begin(engine, "/cost");
    let posts = rig.answer(&thread, 1);
    assert!(posts[0].body.starts_with("echo: [Agent Bridge |"), "the model was asked: {posts:#?}");
    for (n, text) in
        ["look at @secret.txt", "@secret.txt", "/compact", "!touch made"].iter().enumerate()
    {
        rig.say(&thread, &format!("{text}\n\n[[text:seen]]"));
        rig.expect(&thread, n + 2, "seen");
        let request = asked(&rig, text);
        assert!(!request.mentions("the-secret-in-the-file"), "{text:?} attached the file");
    }
    assert!(!rig.home.project().join("made").exists());
}

pub(crate) fn allow_all_asks_nobody(engine: Engine) {
    let mut setup = Setup::logged_in();
    setup.config["allowAll"] = json!(true);
    // Claude Code wants to be told that root's machine is a sandbox.
    setup.home.set("IS_SANDBOX", "1");
    let rig = setup.start();
    let made = rig.home.path("made-outside");
    let script = format!("do it [[shell:touch {}]][[text:it is done]]", made.display());
    let thread = rig.begin(engine, &script);
    rig.expect(&thread, 1, "it is done");
    assert!(made.exists(), "{:?}", results(&rig, "do it"));
    assert!(rig.daemon().log().contains("without any permission gate"), "that was too quiet");
}

/// An error that goes by is no business of the human's beyond a status.
pub(crate) fn a_hiccup_of_the_model_is_survived(engine: Engine) {
    let rig = Rig::start();
    let thread = rig.begin(engine, "hello [[error:500x1]][[text:at last]]");
    let posts = rig.answer(&thread, 1);
    let (last, before) = posts.split_last().unwrap();
    assert_eq!((last.kind.as_str(), last.body.as_str()), ("result", "at last"), "{posts:#?}");
    assert!(before.iter().all(|it| it.body.contains("tries again")), "{posts:#?}");
}

pub(crate) fn a_long_answer_comes_whole(engine: Engine) {
    let rig = Rig::start();
    let long = "0123456789 line of text\n".repeat(5_000);
    let thread = rig.begin(engine, &format!("at length [[text:{long}]]"));
    let posts = rig.answer(&thread, 1);
    let body = &posts[0].body;
    assert!(body.trim() == long.trim(), "{} bytes instead of {}", body.len(), long.len());
}

pub(crate) fn an_engine_that_is_not_installed_is_named(engine: Engine) {
    let mut setup = Setup::logged_in();
    let empty = setup.home.path("empty").display().to_string();
    setup.home.set("PATH", &empty);
    let rig = setup.start();
    let thread = rig.begin(engine, "hello [[text:hello]]");
    assert_error(
        &rig.answer(&thread, 1),
        &[&format!("`{}` was not found", engine.name()), "install"],
    );
}

pub(crate) fn an_engine_is_given_no_token_of_ours(engine: Engine) {
    let mut setup = Setup::logged_in();
    setup.config["allowAll"] = json!(true);
    setup.home.set("IS_SANDBOX", "1");
    let mut rig = setup.start();
    rig.take_daemon().stop();
    let token = rig.token().to_owned();
    for name in ["BRIDGE_API_TOKEN", "A_COPY_OF_IT"] {
        rig.home.set(name, &token);
    }
    rig.start_daemon();
    let thread = rig.begin(engine, "look around [[shell:env]][[text:seen]]");
    rig.expect(&thread, 1, "seen");
    let env = &results(&rig, "look around")[0];
    assert!(env.contains("OBTO_BRIDGE_TURN="), "that is no environment of an engine: {env}");
    for secret in [token.as_str(), "BRIDGE_API_TOKEN", "A_COPY_OF_IT"] {
        assert!(!env.contains(secret), "the engine has it: {secret}");
    }
    assert!(!rig.daemon().log().contains(&token), "the log has it");
}
