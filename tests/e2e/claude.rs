//! Claude Code, driven by the daemon.

use crate::{
    homes::Engine,
    rig::{PATIENCE, Rig},
};

#[test]
fn a_first_message_comes_with_envelope_and_bootstrap() {
    let rig = Rig::start();
    let thread = rig.begin(Engine::Claude, "hi [[text:**bold** and `code`]]");
    rig.expect(&thread, 1, "**bold** and `code`");
    let request = rig.model.wait_for(|it| it.is_turn, PATIENCE);
    assert!(request.human().contains(&format!("thread:{thread}")), "{}", request.prompt);
}
