//! Two machines of one name, as clones of a container or of a virtual machine are: one works, and the
//! other says why it does not.

use super::Bridge;
use crate::util::fake::Gate;

#[test]
fn the_second_daemon_of_a_name_does_nothing_and_says_so() {
    let (bridge, gate) = (Bridge::start(), Gate::new());
    let machines = [(); 2].map(|()| bridge.machine().with_agent("fake", &gate.acp("done")));
    let first = machines[0].connected();
    let mut second = machines[1].start();
    second.log("another daemon of this name");
    let mut ears = bridge.listen();
    for message in ["first job", "second job"] {
        bridge.say("t", message);
        let engine = gate.next();
        assert!(engine.prompt().contains(message), "{}", engine.prompt());
        drop(engine);
        ears.expect("t", "result", "done");
    }
    assert!(gate.is_empty());
    // It may when the first is gone.
    first.stop();
    second.stop();
    let _second = machines[1].connected();
    bridge.say("t", "three");
    drop(gate.next());
    ears.expect("t", "result", "done");
}
