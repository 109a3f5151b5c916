//! Codex, driven by the daemon.

use crate::{
    homes::Engine,
    rig::Setup,
    scenarios::{killed, tests_of},
};
use serde_json::json;

tests_of! { Engine::Codex;
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

/// Without `process.execve`, in older Node, the npm package's launcher stays and may die alone.
#[test]
fn a_launcher_that_is_killed_takes_codex_with_it() {
    let mut setup = Setup::logged_in();
    let launcher = ["sh", "-c", "codex \"$@\"; exit $?", "codex"];
    setup.config["agents"]["codex"] = json!({"command": launcher});
    killed(setup, Engine::Codex, |all| {
        assert!(all[0].command.contains("sh -c") && 1 < all.len(), "no launcher: {all:#?}");
        all[0].clone()
    });
}
