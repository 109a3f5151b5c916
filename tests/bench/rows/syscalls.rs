//! What the kernel is asked to do for a message: counts, which are the same on a quiet machine and on
//! a busy one. Of the daemon alone, not of its agents, by strace.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Write as _},
    process::{Child, ChildStderr, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::Stage;
use crate::{bridge::Event, daemon::Bench, stats::Row};

const MESSAGES: usize = 20;
const WARM_UP: usize = 10;

pub(crate) fn syscalls(bench: &Bench) -> Result<Vec<Row>> {
    let stage = Stage::new(bench, |_| Ok(()))?;
    send(&stage, 0..WARM_UP)?;
    let dir = tempfile::tempdir_in(&bench.dir)?;
    let file = dir.path().join("trace");
    let tracer = match Tracer::attach(stage.daemon.process().0, &file) {
        Ok(tracer) => tracer,
        Err(error) => {
            writeln!(io::stderr(), "system calls, syncs and new threads are left out: {error:#}")?;
            return Ok(Vec::new());
        }
    };
    send(&stage, WARM_UP..WARM_UP + MESSAGES)?;
    tracer.detach()?;
    let counts = Counts::of(&fs::read_to_string(&file)?);
    let each = |count: u32| f64::from(count) / f64::from(u32::try_from(MESSAGES).unwrap_or(1));
    Ok(vec![
        Row::told("system calls per message", each(counts.all), "each"),
        Row::at_most("… syncs", each(counts.syncs), 3.5, "each"),
        Row::told("… renames", each(counts.renames), "each"),
        Row::told("… new threads", each(counts.threads), "each"),
        Row::told("… new processes", each(counts.processes), "each"),
    ])
}

fn send(stage: &Stage, numbers: std::ops::Range<usize>) -> Result<()> {
    for number in numbers {
        let (thread, message) = (format!("t{}", number % 5), format!("m{number}"));
        let body = "How is it going?";
        stage.turn(&Event { thread: &thread, message: &message, body, is_ours: true })?;
    }
    Ok(())
}

/// A strace that follows a process. Dropping it ends it, and the process goes on.
struct Tracer {
    child: Child,
    /// It names every task that it meets there, and ends if it can't.
    said: BufReader<ChildStderr>,
}

impl Tracer {
    /// Returns when it is attached.
    fn attach(process: u32, file: &std::path::Path) -> Result<Tracer> {
        let mut command = Command::new("strace");
        // Names of the tasks tell the daemon's calls from those of its agents.
        command.args(["-f", "-Y", "-s", "0", "-o"]).arg(file);
        command.args(["-p", &process.to_string()]).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().context("starting strace")?;
        let said = BufReader::new(child.stderr.take().context("its errors are piped")?);
        let mut tracer = Tracer { child, said };
        let mut line = String::new();
        tracer.said.read_line(&mut line)?;
        if !line.contains("attached") {
            bail!("strace is not attached: {}", line.trim());
        }
        Ok(tracer)
    }

    fn detach(mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::INT)?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.child.kill().ok(); // It may have ended.
        self.child.wait().ok();
    }
}

#[derive(Debug, Default, PartialEq)]
struct Counts {
    all: u32,
    syncs: u32,
    renames: u32,
    threads: u32,
    processes: u32,
}

impl Counts {
    /// From lines such as `12<stream> fsync(7) = 0`.
    fn of(trace: &str) -> Counts {
        let mut counts = Counts::default();
        for line in trace.lines() {
            let Some((task, call)) = line.split_once('>') else { continue };
            let Some((name, arguments)) = call.trim_start().split_once('(') else { continue };
            // What was begun is counted, not its end once more, and neither signals nor exits.
            let is_call = name.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'_');
            if !is_call || task.ends_with("<instant-agent") {
                continue;
            }
            counts.all += 1;
            match name {
                "fsync" | "fdatasync" => counts.syncs += 1,
                "rename" | "renameat" | "renameat2" => counts.renames += 1,
                "clone" | "clone3" if arguments.contains("CLONE_THREAD") => counts.threads += 1,
                "clone" | "clone3" | "fork" | "vfork" => counts.processes += 1,
                _ => {}
            }
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_the_daemon_are_counted_once() {
        let trace = "\
            12<stream> fsync(7)                    = 0\n\
            13<worker> clone3({flags=CLONE_VM|CLONE_THREAD}, 88 <unfinished ...>\n\
            12<stream> fdatasync(7 <unfinished ...>\n\
            13<worker> <... clone3 resumed> => {parent_tid=[14]}, 88) = 14\n\
            12<stream> <... fdatasync resumed>)     = 0\n\
            13<worker> clone3({flags=CLONE_VM|CLONE_VFORK}, 88) = 15<worker>\n\
            15<instant-agent> read(0, \"\"..., 1)  = 0\n\
            13<worker> --- SIGCHLD {si_signo=SIGCHLD} ---\n\
            13<worker> renameat(3, \"\"..., 4, \"\"...) = 0\n\
            14<x> +++ exited with 0 +++\n";
        let (all, syncs, renames, threads, processes) = (5, 2, 1, 1, 1);
        assert_eq!(Counts::of(trace), Counts { all, syncs, renames, threads, processes });
    }
}
