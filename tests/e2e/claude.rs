//! Claude Code, driven by the daemon.

use crate::{
    homes::Engine,
    rig::{Rig, Setup},
    scenarios::{results, tests_of},
};

tests_of! { Engine::Claude;
    a_first_message_comes_with_envelope_and_bootstrap,
    a_second_message_resumes_the_session,
    two_threads_are_served_at_the_same_time,
    a_message_during_a_turn_waits_for_its_end,
    the_model_posts_and_reads_with_our_tools,
    an_engine_that_is_not_logged_in_says_so,
    a_refused_key_is_told,
    a_rate_limit_is_told,
    a_failing_model_is_told,
    an_unknown_session_is_replaced,
    an_engine_that_is_killed_is_told_and_resumed,
    a_turn_goes_on_after_a_stop_of_the_daemon,
    a_turn_goes_on_after_the_daemon_was_killed,
    a_first_turn_goes_on_after_the_daemon_was_killed,
    what_nobody_allowed_is_refused,
    commands_for_a_terminal_are_plain_words,
    allow_all_asks_nobody,
    a_hiccup_of_the_model_is_survived,
    a_long_answer_comes_whole,
    an_engine_that_is_not_installed_is_named,
    an_engine_is_given_no_token_of_ours,
}

#[test]
fn files_are_read_anywhere_and_written_nowhere() {
    let rig = Rig::start();
    let outside = rig.home.path("outside.txt");
    std::fs::write(&outside, "what stands outside").unwrap();
    let made = rig.home.project().join("made.txt");
    let thread = rig.begin(
        Engine::Claude,
        &format!(
            r#"files [[tool:Read {{"file_path":"{}"}}]][[write:{}|no]][[text:over]]"#,
            outside.display(),
            made.display(),
        ),
    );
    rig.expect(&thread, 1, "over");
    assert!(!made.exists(), "it was written");
    assert!(results(&rig, "files")[0].contains("what stands outside"));
    let both = rig.model.turns().into_iter().find(|it| it.results.len() == 2).unwrap().results;
    assert!(both[1].contains("Write is not allowed on this machine"), "{both:?}");
}

/// In a sandbox that does not say that it is one.
#[test]
fn claude_does_not_start_for_root_without_its_gate() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut setup = Setup::logged_in();
    setup.config["allowAll"] = serde_json::json!(true);
    let rig = setup.start();
    let thread = rig.begin(Engine::Claude, "hello [[text:hello]]");
    let posts = rig.answer(&thread, 1);
    assert!(posts[0].kind == "error" && posts[0].body.contains("IS_SANDBOX=1"), "{posts:#?}");
}
