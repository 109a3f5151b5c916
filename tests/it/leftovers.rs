//! What engines leave behind: whatever ended the turn or the daemon, nothing with our marker is left
//! afterwards, and nobody else was touched.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use obto_bridge::proc::{Child, ChildEvent, Plan, sweep::MARKER};
use rustix::process::Signal;

use crate::{
    crash::rig::{Bridge, Machine},
    util::{
        bin::Running,
        daemon::can_resume,
        hosted::Hosted,
        namespace::{is_alive, isolated},
        patience::{self, comes_true},
    },
};

/// A process that has nothing to do with us and writes down every signal that it gets.
pub(crate) struct Bystander {
    child: Child,
    /// What it heard.
    heard: PathBuf,
}

/// Says `here`, and from then on the names of all signals that can be heard. Ends with its input.
const LISTEN: &str = r#"
for it in HUP INT QUIT USR1 USR2 ALRM TERM CONT; do trap "echo $it >> '$0'" $it; done
echo here
while read line || [ $? -gt 128 ]; do :; done
"#;

impl Bystander {
    /// `marker` is that of another daemon's turn, if any.
    pub(crate) fn start(machine: &Machine, name: &str, marker: Option<&str>) -> Bystander {
        let heard = machine.path(name);
        let child = Child::spawn(&Plan {
            program: "/bin/sh".into(),
            args: vec!["-c".into(), LISTEN.into(), heard.clone().into()],
            dir: machine.home.path().to_owned(),
            env: marker.map(|marker| (MARKER.into(), marker.into())).into_iter().collect(),
        })
        .unwrap();
        assert!(matches!(patience::recv(child.events()), Ok(ChildEvent::Line(_))));
        Bystander { child, heard }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.handle().id()
    }

    /// It lives, and heard nothing.
    #[track_caller]
    pub(crate) fn check(&self) {
        let heard = fs::read_to_string(&self.heard).unwrap_or_default();
        assert_eq!(heard, "", "a bystander was signalled");
        assert!(self.child.events().is_empty() && is_alive(self.pid()), "a bystander is gone");
    }
}

/// The process that the engine left behind.
fn left(machine: &Machine, token: &str) -> i32 {
    let file = machine.path(&format!("left-{token}"));
    let mut pid = None;
    assert!(comes_true(|| {
        pid = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
        pid.is_some()
    }));
    pid.unwrap()
}

pub(crate) fn start(machine: &Machine) -> Running {
    let mut daemon = machine.home.command(&["start"]).start();
    daemon.line("connected to the bridge");
    daemon
}

fn gone(pid: i32) -> bool {
    comes_true(|| !is_alive(pid))
}

/// The daemon's processes, by their marker.
fn marked() -> usize {
    let carries = |path: &Path| {
        let environ = fs::read(path.join("environ")).unwrap_or_default();
        let mut variables = environ.split(|byte| *byte == 0);
        variables.any(|it| it.starts_with(MARKER.as_bytes()) && !it.ends_with(b"=other.turn"))
    };
    fs::read_dir("/proc").unwrap().flatten().filter(|entry| carries(&entry.path())).count()
}

isolated! {
    fn nothing_is_left_of_a_turn_however_it_ends() {
        let bridge = Bridge::start();
        let machine = Machine::new(&bridge, "ada");
        let others = Bystander::start(&machine, "others", Some("other.turn"));
        let nobodys = Bystander::start(&machine, "nobodys", None);

        // The turn ends by itself.
        let daemon = start(&machine);
        machine.say("t1", "one", "answer-leave", None);
        assert!(gone(left(&machine, "one")));
        assert!(comes_true(|| machine.said_if_any("t1") == ["answer: one"]));

        // A number that was just freed belongs to somebody else now.
        let reused = reuse(&machine, left(&machine, "one"));
        machine.say("t1", "two", "answer-leave", None);
        assert!(gone(left(&machine, "two")));

        // The daemon is told to end.
        machine.say("t2", "three", "hang-leave", None);
        let three = left(&machine, "three");
        assert!(is_alive(three));
        daemon.signal(Signal::TERM);
        daemon.end().expect(0, &[]);
        assert!(!is_alive(three));

        // It is told twice.
        let daemon = start(&machine);
        machine.say("t3", "four", "hang-leave", None);
        let four = left(&machine, "four");
        daemon.signal(Signal::TERM);
        daemon.signal(Signal::TERM);
        drop(daemon.end());
        assert!(!is_alive(four));

        // It is killed, and started again.
        let daemon = start(&machine);
        machine.say("t4", "five", "hang-leave", None);
        let five = left(&machine, "five");
        // A turn without a session is not begun again.
        assert!(comes_true(|| can_resume(&machine.state(""), "t4")));
        daemon.signal(Signal::KILL);
        drop(daemon.end());
        assert!(is_alive(five), "nobody was there to end it");
        let daemon = start(&machine);
        assert!(!is_alive(five), "swept before the first turn");
        let mut said = Vec::new();
        let is_answered = comes_true(|| {
            said = machine.said_if_any("t4");
            said.iter().any(|it| it == "answer: five")
        });
        assert!(is_answered, "{said:?}");
        daemon.signal(Signal::TERM);
        drop(daemon.end());
        assert_eq!(marked(), 0);
        for bystander in [others, nobodys].iter().chain(&reused) {
            bystander.check();
        }
    }
}

/// A bystander with this number. None: something else was faster, every time.
fn reuse(machine: &Machine, pid: i32) -> Option<Bystander> {
    // The four tasks that serve the child's pipes take numbers, too, and come before it.
    for (attempt, before) in [5, 5, 5, 4, 6].into_iter().enumerate() {
        let mut last = File::options().write(true).open("/proc/sys/kernel/ns_last_pid").unwrap();
        last.write_all((pid - before).to_string().as_bytes()).unwrap();
        let bystander = Bystander::start(machine, &format!("reused-{attempt}"), None);
        if bystander.pid() == pid {
            return Some(bystander);
        }
    }
    None
}

// The daemon is killed, and what its engine left has no marker in its environment, which was the
// only place where it was looked for.
isolated! {
    fn the_next_start_ends_what_has_shed_its_environment() {
        let bridge = Hosted::start();
        let script = "cd \"$HOME\"; env -i setsid sh -c 'echo $$ > left-x; exec sleep 1000' & exec sleep 1000";
        let machine = bridge.machine();
        let left = machine.home.path().join("left-x");
        let agent = ["/bin/sh", "-c", script].map(str::to_owned);
        let machine = machine.with_agent("sly", &agent);
        let daemon = machine.connected();
        bridge.say("t", "hello");
        let mut pid = None;
        assert!(comes_true(|| {
            pid = fs::read_to_string(&left).ok().and_then(|text| text.trim().parse().ok());
            pid.is_some()
        }));
        let pid: i32 = pid.unwrap();
        daemon.kill();
        assert!(is_alive(pid), "nobody was there to end it");
        let _daemon = machine.connected();
        assert!(gone(pid));
    }
}
