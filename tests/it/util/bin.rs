//! The real binary, in a home directory of its own and with an environment of nothing but what a
//! test gives. Every wait has a deadline, nothing outlives its test, and a failure shows the command
//! with all it printed.

use std::{
    ffi::OsString,
    fmt::Write,
    fs, mem,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use obto_bridge::proc::{Child, ChildEvent, Output, Plan, kill::To};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::util::patience::Patience;

/// More than all that any command has to say takes.
const LONGEST: Duration = Duration::from_mins(30);

/// A home directory.
pub(crate) struct Home {
    dir: TempDir,
}

/// A command to be.
pub(crate) struct Command {
    plan: Plan,
    input: Vec<u8>,
}

/// A command that has ended.
#[derive(Debug)]
pub(crate) struct Ran {
    command: String,
    code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A command that goes on until it is told to end; dropping it kills it.
pub(crate) struct Running {
    child: Child,
    command: String,
    stdout: String,
}

/// Runs a program to its end, for as long as it says something now and then.
#[track_caller]
pub(crate) fn run(plan: &Plan, input: &[u8]) -> Output {
    let mut child = Child::spawn(plan).unwrap();
    // One that reads nothing may have ended already.
    if !input.is_empty() {
        child.send(input.to_vec()).unwrap();
    }
    child.close_input();
    let mut output =
        Output { status: None, stdout: Vec::new(), stderr: String::new(), timed_out: false };
    let (mut patience, mut whole) = (Patience::new(), Patience::of(LONGEST));
    loop {
        match patience.recv(child.events()) {
            Ok(ChildEvent::Line(line) | ChildEvent::LongLine(line)) => {
                output.stdout.extend(line.into_iter().chain([b'\n']));
                if output.timed_out || whole.lasts() {
                    patience.renew();
                    continue;
                }
            }
            Ok(ChildEvent::Exit { status, stderr_tail }) => {
                return Output { status, stderr: stderr_tail, ..output };
            }
            Err(_) if !output.timed_out => {}
            Err(_) => return output,
        }
        output.timed_out = true;
        child.handle().signal(Signal::KILL, To::Group).unwrap();
    }
}

impl Home {
    pub(crate) fn new() -> Home {
        Home { dir: TempDir::new().unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path().join(".obto-bridge/config.json")
    }

    /// The config file as it is now.
    #[track_caller]
    pub(crate) fn read_config(&self) -> Value {
        serde_json::from_slice(&fs::read(self.config()).unwrap()).unwrap()
    }

    /// Puts a file below the home directory.
    #[expect(clippy::disallowed_methods, reason = "a test prepares files that need not be durable")]
    pub(crate) fn put(&self, name: &str, text: &str) {
        let file = self.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Puts a program there; its path.
    pub(crate) fn put_program(&self, name: &str, text: &str) -> String {
        self.put(name, text);
        let path = self.path().join(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let env = [("HOME", self.path().as_os_str()), ("PATH", "/usr/bin:/bin".as_ref())];
        let plan = Plan {
            program: env!("CARGO_BIN_EXE_obto-bridge").into(),
            args: args.iter().map(OsString::from).collect(),
            dir: self.path().to_owned(),
            env: env.map(|(name, value)| (name.into(), value.to_owned())).into(),
        };
        Command { plan, input: Vec::new() }
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        self.command(args).run()
    }
}

impl Command {
    pub(crate) fn env(mut self, name: &str, value: &str) -> Command {
        self.plan.env.push((name.into(), value.into()));
        self
    }

    pub(crate) fn input(mut self, text: &str) -> Command {
        self.input.extend_from_slice(text.as_bytes());
        self
    }

    /// Runs another program with its arguments and surroundings.
    pub(crate) fn program(mut self, program: &str) -> Command {
        self.plan.program = program.into();
        self
    }

    /// Runs it from a shell, after `script`.
    pub(crate) fn after(mut self, script: &str) -> Command {
        let shell = ["-c".into(), format!(r#"{script}; exec "$0" "$@""#).into()];
        let program = self.plan.program.into_os_string();
        self.plan.args = shell.into_iter().chain([program]).chain(self.plan.args).collect();
        self.plan.program = "/bin/sh".into();
        self
    }

    /// For whoever wants to watch it closely.
    pub(crate) fn plan(self) -> Plan {
        self.plan
    }

    fn line(&self) -> String {
        let words = self.plan.args.iter().map(|word| word.to_string_lossy());
        words.fold("obto-bridge".to_owned(), |line, word| line + " " + &word)
    }

    /// Runs it to its end.
    #[track_caller]
    pub(crate) fn run(self) -> Ran {
        let output = run(&self.plan, &self.input);
        let ran = Ran {
            command: self.line(),
            code: output.status.and_then(|status| status.code()),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: output.stderr,
        };
        assert!(!output.timed_out, "it did not end:\n{}", ran.report());
        ran
    }

    pub(crate) fn start(self) -> Running {
        let child = Child::spawn(&self.plan).unwrap();
        Running { command: self.line(), child, stdout: String::new() }
    }
}

impl Ran {
    fn report(&self) -> String {
        let Ran { command, code, stdout, stderr } = self;
        format!("$ {command}\n{stdout}--- standard error:\n{stderr}\n--- exit code {code:?}")
    }

    /// Checks the exit code, and words in what was printed on either stream.
    #[track_caller]
    pub(crate) fn expect(self, code: i32, words: &[&str]) -> Ran {
        assert_eq!(self.code, Some(code), "the exit code:\n{}", self.report());
        for word in words {
            let found = self.stdout.contains(word) || self.stderr.contains(word);
            assert!(found, "{word:?} is missing:\n{}", self.report());
        }
        self
    }

    /// Checks that this was printed nowhere.
    #[track_caller]
    pub(crate) fn without(self, word: &str) -> Ran {
        let found = self.stdout.contains(word) || self.stderr.contains(word);
        assert!(!found, "{word:?} was printed:\n{}", self.report());
        self
    }
}

impl Running {
    /// Waits for a line with `word` in it.
    #[track_caller]
    pub(crate) fn line(&mut self, word: &str) -> String {
        let mut patience = Patience::new();
        loop {
            match patience.recv(self.child.events()) {
                Ok(ChildEvent::Line(line)) => {
                    let line = String::from_utf8(line).unwrap();
                    writeln!(self.stdout, "{line}").unwrap();
                    if line.contains(word) {
                        return line;
                    }
                }
                other => panic!("no {word:?}: {other:?}\n$ {}\n{}", self.command, self.stdout),
            }
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.handle().id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.child.handle().signal(signal, To::Process).unwrap();
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn end(mut self) -> Ran {
        let mut patience = Patience::new();
        loop {
            match patience.recv(self.child.events()) {
                Ok(ChildEvent::Line(line) | ChildEvent::LongLine(line)) => {
                    writeln!(self.stdout, "{}", String::from_utf8(line).unwrap()).unwrap();
                }
                Ok(ChildEvent::Exit { status, stderr_tail }) => {
                    return Ran {
                        command: mem::take(&mut self.command),
                        code: status.and_then(|status| status.code()),
                        stdout: mem::take(&mut self.stdout),
                        stderr: stderr_tail,
                    };
                }
                Err(error) => panic!("no end: {error}\n$ {}\n{}", self.command, self.stdout),
            }
        }
    }
}

impl Drop for Running {
    #[expect(clippy::print_stdout, reason = "what a failed test shows")]
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        println!("$ {}\n{}", self.command, self.stdout);
        for event in self.child.events().try_iter() {
            match event {
                ChildEvent::Line(line) => println!("{}", String::from_utf8_lossy(&line)),
                other => println!("{other:?}"),
            }
        }
    }
}
