//! What codex asks, and how it is stopped.

use crate::{
    control::{stop, tests_of},
    homes::Engine,
};

tests_of! { Engine::Codex;
    what_is_approved_happens_and_what_is_not_does_not,
    always_holds_for_the_same_and_for_nothing_else,
    an_edit_is_put_with_its_diff,
    nobody_answering_is_a_refusal,
    two_at_once_are_answered_in_reverse_order,
    a_stop_while_it_asks_ends_turn_and_question,
    a_daemon_killed_while_it_asks_says_so_and_continues,
    rules_decide_before_the_human,
    its_own_question_is_answered_by_number_and_in_words,
    without_relay_its_own_question_is_not_offered,
}

#[test]
fn a_stop_ends_a_command() {
    stop::a_stop_ends_a_command(Engine::Codex);
}
