//! What the kernel knows of a process: `/proc/PID`.

use std::{collections::BTreeMap, fs, path::PathBuf, time::SystemTime};

use anyhow::{Context as _, Result};

/// Nanoseconds of the wall clock, which the agents share with us.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Milliseconds between two times of [`now`].
pub(crate) fn ms(from: u64, to: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "hours in nanoseconds fit")]
    let nanos = |it: u64| it as f64;
    if to < from { -nanos(from - to) / 1e6 } else { nanos(to - from) / 1e6 }
}

/// A process that we started and have not reaped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process(pub(crate) u32);

/// What all tasks of a process together did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Work {
    pub(crate) cpu_ms: f64,
    /// Voluntary and involuntary.
    pub(crate) switches: f64,
    pub(crate) tasks: usize,
}

impl Process {
    /// Resident now, and at its highest, in MB.
    pub(crate) fn memory(self) -> Result<(f64, f64)> {
        let status = self.read("status")?;
        let field = |name| field(&status, name).with_context(|| format!("no {name}"));
        Ok((field("VmRSS")? * 1024.0 / 1e6, field("VmHWM")? * 1024.0 / 1e6))
    }

    pub(crate) fn descriptors(self) -> Result<usize> {
        Ok(fs::read_dir(self.path("fd"))?.count())
    }

    /// CPU of the process, and of its children that it has reaped, in milliseconds. The kernel
    /// tells it in hundredths of a second.
    pub(crate) fn cpu(self) -> Result<(f64, f64)> {
        cpu(&self.read("stat")?).context("/proc/PID/stat is not as expected")
    }

    /// What the tasks that live now did, to the nanosecond. What dead ones did is not in it.
    pub(crate) fn work(self) -> Result<BTreeMap<String, Work>> {
        let mut by_name = BTreeMap::<String, Work>::new();
        for task in fs::read_dir(self.path("task"))? {
            let dir = task?.path();
            let name = fs::read_to_string(dir.join("comm"))?.trim().to_owned();
            let status = fs::read_to_string(dir.join("status"))?;
            let nanos = fs::read_to_string(dir.join("schedstat"))?;
            let nanos = nanos.split(' ').next().and_then(|it| it.parse::<f64>().ok());
            let work = by_name.entry(name).or_default();
            work.cpu_ms += nanos.context("schedstat")? / 1e6;
            work.switches += field(&status, "voluntary_ctxt_switches").context("voluntary")?
                + field(&status, "nonvoluntary_ctxt_switches").context("nonvoluntary")?;
            work.tasks += 1;
        }
        Ok(by_name)
    }

    fn read(self, name: &str) -> Result<String> {
        let path = self.path(name);
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    }

    fn path(self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.0))
    }
}

/// The number behind `name:` in a status file.
fn field(status: &str, name: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Own and children's time from a stat file. The second field may hold anything, also brackets.
fn cpu(stat: &str) -> Option<(f64, f64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    // utime is the fourteenth field of all; the first here is the third. 100 ticks a second on
    // every Linux that the daemon runs on.
    let ticks: Vec<f64> =
        rest.split_whitespace().skip(11).take(4).map_while(|it| it.parse().ok()).collect();
    let &[user, system, child_user, child_system] = ticks.as_slice() else { return None };
    Some(((user + system) * 10.0, (child_user + child_system) * 10.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        let status = "Name:\tx\nVmHWM:\t  2048 kB\nvoluntary_ctxt_switches:\t7\n";
        assert_eq!(field(status, "VmHWM"), Some(2048.0));
        assert_eq!(field(status, "voluntary_ctxt_switches"), Some(7.0));
        assert_eq!(field(status, "ctxt_switches"), None);
        let stat = "12 (a) b) S 1 12 12 0 -1 4194560 5 0 0 0 3 4 50 60 20 0 1 0";
        assert_eq!(cpu(stat), Some((70.0, 1100.0)));
        assert_eq!(cpu("12 (x) S"), None);
    }

    #[test]
    fn our_own_process_is_there() {
        let own = Process(std::process::id());
        let (resident, peak) = own.memory().unwrap();
        assert!(resident > 0.1 && peak >= resident);
        assert!(own.descriptors().unwrap() >= 3);
        assert!(own.cpu().is_ok());
        let work = own.work().unwrap();
        assert!(work.values().map(|it| it.switches).sum::<f64>() >= 1.0);
    }

    #[test]
    fn milliseconds_may_be_negative() {
        assert_eq!(ms(1_000_000, 3_500_000), 2.5);
        assert_eq!(ms(3_500_000, 1_000_000), -2.5);
    }
}
