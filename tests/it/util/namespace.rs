//! Tests that kill and sweep run in a PID namespace of their own, where there is nothing else to
//! hit if they are wrong. [`isolated!`] starts the test binary again inside one.

use std::{
    env::{current_exe, temp_dir, vars_os},
    fmt::Display,
    fs,
    path::Path,
    time::Duration,
};

use crossbeam_channel::{Sender, bounded};
use obto_bridge::{proc::Plan, task};

use crate::util::{bin, patience};

/// Tells the inner run which namespace the outer one is in.
const OUTER: &str = "OBTO_TEST_OUTER_NAMESPACE";

/// The inner run says this, at the end of a line, when it got any further lately.
const GOES_ON: &str = "(it goes on)";

const LATELY: Duration = Duration::from_secs(1);

/// Whether a process runs; a dead one that nobody has reaped does not.
pub(crate) fn is_alive(pid: impl Display) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim_start().starts_with(['Z', 'X']))
}

/// A test that may kill.
macro_rules! isolated {
    ($(#[$meta:meta])* fn $name:ident() $body:block) => {
        $(#[$meta])*
        #[test]
        fn $name() {
            let name = concat!(module_path!(), "::", stringify!($name));
            crate::util::namespace::isolate(name, || $body);
        }
    };
}
pub(crate) use isolated;

/// Whether what runs now was started by [`isolate`], in another namespace than the one outside.
pub(crate) fn in_own_pid_namespace() -> bool {
    let outer = vars_os().find(|(name, _)| name == OUTER).map(|(_, value)| value);
    outer.is_some_and(|outer| outer != namespace())
}

fn namespace() -> std::ffi::OsString {
    fs::read_link("/proc/self/ns/pid").expect("Linux with /proc").into()
}

/// Runs a test in a namespace of its own, for as long as it gets on.
#[expect(clippy::print_stdout, reason = "what the inner run shows is shown")]
pub(crate) fn isolate(test: &str, body: impl FnOnce()) {
    if in_own_pid_namespace() {
        let _while_it_runs = say_that_it_goes_on();
        return body();
    }
    // The name as libtest knows it is without the crate's.
    let test = test.split_once("::").expect("the crate's name is a part of it").1;
    let mut errors = String::new();
    // Without root's rights a user namespace gives them.
    for rights in [&[][..], &["--user", "--map-root-user"]] {
        let output = bin::run(&inner(test, rights), b"");
        let told = String::from_utf8_lossy(&output.stdout).into_owned() + &output.stderr;
        let told = told.replace(&format!("{GOES_ON}\n"), "");
        if told.contains("running 1 test") {
            let passed = output.status.is_some_and(|status| status.success());
            assert!(!output.timed_out, "{test} is stuck in its namespace:\n{told}");
            assert!(passed, "{test} failed in its namespace:\n{told}");
            println!("{told}");
            return;
        }
        errors += &told;
    }
    panic!("{test} needs a PID namespace, and unshare can't make one here:\n{errors}");
}

/// Until the sender is dropped.
#[expect(clippy::print_stdout, reason = "the outer run listens")]
fn say_that_it_goes_on() -> Sender<()> {
    let (running, end) = bounded::<()>(0);
    let say = move || {
        let mut before = patience::steps();
        while end.recv_timeout(LATELY).is_err_and(|it| it.is_timeout()) {
            let now = patience::steps();
            if now != before {
                println!("{GOES_ON}");
            }
            before = now;
        }
    };
    drop(task::spawn("goes-on", say).expect("a thread"));
    running
}

fn inner(test: &str, rights: &[&str]) -> Plan {
    let mut args: Vec<_> = rights.iter().map(Into::into).collect();
    // The shell is init in there, and reaps what the test leaves behind. A test run that was put
    // into the background ignores INT, and every process in there would inherit that.
    let init = r#"env --default-signal=INT true 2>/dev/null && set -- env --default-signal=INT "$@"
        "$@"; exit $?"#;
    let fixed = ["--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", init, "sh"];
    args.extend(fixed.map(Into::into));
    args.push(current_exe().unwrap().into());
    args.extend([test, "--exact", "--nocapture"].map(Into::into));
    let outer = (OUTER.into(), namespace());
    Plan {
        program: Path::new("unshare").to_owned(),
        args,
        dir: temp_dir(),
        env: vars_os().filter(|(name, _)| name != OUTER).chain([outer]).collect(),
    }
}
