//! A thread that goes from one engine to another and back.

use crate::{
    homes::Engine::{Claude, Codex},
    rig::Rig,
    scenarios::{asked, assert_order},
};

#[test]
fn each_side_of_a_switch_is_resumed_and_the_new_one_is_told_the_rest() {
    let mut rig = Rig::start();
    let thread = rig.begin(Claude, "the word is quince [[text:claude noted]]");
    rig.expect(&thread, 1, "claude noted");
    let claude = rig.session(&thread, Claude);

    rig.switch(&thread, Codex, "ask codex [[text:codex answers]]");
    rig.expect(&thread, 2, "codex answers");
    assert_eq!(rig.posts(&thread)[1].author, "codex-bridge");
    let prompt = asked(&rig, "ask codex").prompt;
    let border = ["EARLIER MESSAGES BEGIN", "EARLIER MESSAGES END"];
    let quotes = ["| human]\n> the word is quince", "| claude-bridge]\n> claude noted"];
    let after = ["[Agent Bridge | thread:", "ask codex", "About this session"];
    assert_order(
        &prompt,
        &[border[0], quotes[0], quotes[1], border[1], after[0], after[1], after[2]],
    );
    let codex = rig.session(&thread, Codex);
    assert_eq!(rig.session(&thread, Claude), claude, "the other side is kept");

    rig.restart_daemon();
    rig.switch(&thread, Claude, "back to claude [[text:claude again]]");
    rig.expect(&thread, 3, "claude again");
    let back = asked(&rig, "back to claude");
    assert!(back.mentions("the word is quince") && back.mentions("claude noted"), "{back:#?}");
    assert!(!back.prompt.contains("About this session"), "it is resumed: {}", back.prompt);

    rig.switch(&thread, Codex, "codex once more [[text:codex again]]");
    rig.expect(&thread, 4, "codex again");
    let back = asked(&rig, "codex once more");
    assert!(back.mentions("codex answers") && !back.prompt.contains("About this session"));
    assert_eq!((rig.session(&thread, Claude), rig.session(&thread, Codex)), (claude, codex));
}
