//! Stragglers: engines put commands into sessions of their own, so killing an engine's group is not
//! enough (measured for claude 2.1.197, codex 0.169.0 and opencode 1.18.33). Every process of a turn
//! inherits a marker, as a variable and, since an environment can be cleared, as a resource limit
//! (`limit`). What still carries either afterwards is ended here.
//!
//! Works on Linux, where `/proc` shows both. Elsewhere nothing is found.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// The variable. Its value is the daemon's state id, a dot, and the turn's id: see [`marker`].
pub const MARKER: &str = "OBTO_BRIDGE_TURN";

/// The marker's value for one turn of one daemon.
pub fn marker(state_id: &str, turn: &str) -> String {
    format!("{state_id}.{turn}")
}

/// Whose stragglers.
#[derive(Clone, Copy, Debug)]
pub enum Marked<'a> {
    /// One turn's: the whole value of the marker.
    Turn(&'a str),
    /// Every turn's of the daemon with this state id. Other daemons' are left alone.
    Daemon(&'a str),
}

impl Marked<'_> {
    /// Whether a marker with this value is meant. Nothing empty ever is.
    #[cfg_attr(not(any(target_os = "linux", test)), expect(dead_code, reason = "see above"))]
    fn covers(self, value: &[u8]) -> bool {
        match self {
            Marked::Turn(whole) => !whole.is_empty() && value == whole.as_bytes(),
            Marked::Daemon(id) => {
                !id.is_empty()
                    && value.strip_prefix(id.as_bytes()).is_some_and(|rest| rest.starts_with(b"."))
            }
        }
    }
}

/// Processes that were there before a turn began, none of which is the turn's. Looking at the
/// others alone saves most of a sweep.
#[derive(Clone, Debug, Default)]
pub struct Before {
    /// With the inodes of their directories in `/proc`: a number alone may be another process's a
    /// moment later. Sorted.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "see above"))]
    known: Arc<[(i32, u64)]>,
}

/// What the last sweep saw.
static LAST: Mutex<Option<Before>> = Mutex::new(None);

impl Before {
    /// The processes that the last sweep saw, so that no start waits for a look at all of them. What
    /// has come since then is looked at once more than it needs to be.
    pub fn last() -> Before {
        LAST.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default()
    }
}

/// Kills what carries the marker, again and again until nothing does, for at most `limit`. Returns
/// how many processes were signalled. This process itself is left out, and so is `before`.
pub fn sweep(marked: Marked<'_>, before: &Before, limit: Duration) -> usize {
    #[cfg(target_os = "linux")]
    return linux::sweep(marked, before, limit);
    #[cfg(not(target_os = "linux"))]
    {
        let (_, _, _) = (marked, before, limit);
        0
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        collections::HashSet,
        fs::{self, File},
        io::{self, Read as _},
        os::{fd::AsFd as _, unix::fs::DirEntryExt as _},
        sync::PoisonError,
        time::{Duration, Instant},
    };

    use crossbeam_channel::after;
    use rustix::{
        io::Errno,
        process::{Pid, PidfdFlags, Signal, getpid, pidfd_open},
    };

    use super::{
        super::{kill, limit},
        Before, LAST, MARKER, Marked,
    };

    /// A killed process keeps its environment for a moment.
    const AGAIN: Duration = Duration::from_millis(5);
    /// The system's own limit for arguments and environment is a quarter of the stack limit, 2 MB.
    const MAX_ENVIRON: u64 = 8 << 20;

    /// What the kernel lists where it can't tell the number of an inode.
    const NO_INODE: u64 = 1;

    /// A process as it was when its marker was read: a reused number has another start time.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    struct Found {
        pid: Pid,
        /// In clock ticks since boot.
        start: u64,
    }

    pub(super) fn sweep(marked: Marked<'_>, before: &Before, limit: Duration) -> usize {
        let until = Instant::now() + limit;
        let mut signalled = HashSet::new();
        // Not ours to kill, for example a setuid program's: asking again changes nothing.
        let mut refused = HashSet::new();
        // A process in the middle of an exec shows no environment. Where there was one straggler
        // there may be such another, so a second look must find nothing too.
        let mut looks = 1;
        loop {
            let mut found = find(marked, before);
            found.retain(|process| !refused.contains(process));
            looks = if found.is_empty() { looks - 1 } else { 2 };
            if looks == 0 {
                break;
            }
            for process in found {
                match end(process, marked) {
                    Ok(true) => drop(signalled.insert(process)),
                    Ok(false) => {}
                    Err(error) => {
                        log::warn!("could not end a straggler, {process:?}: {error}");
                        refused.insert(process);
                    }
                }
            }
            if Instant::now() >= until {
                // What was killed a moment ago may still be there, and is no news.
                log::debug!(
                    "the sweep ended after {limit:?}, and may not have seen the last of them"
                );
                break;
            }
            after(AGAIN).recv().ok();
        }
        signalled.len()
    }

    fn find(marked: Marked<'_>, before: &Before) -> Vec<Found> {
        let mut all: Vec<(i32, u64)> = processes().collect();
        all.sort_unstable();
        let mut environ = Vec::new();
        let others = all.iter().filter(|process| before.known.binary_search(process).is_err());
        let others = others.filter_map(|(pid, _)| Pid::from_raw(*pid));
        let found = others.filter_map(|pid| carries(pid, marked, &mut environ)).collect();
        all.retain(|(_, inode)| *inode > NO_INODE);
        *LAST.lock().unwrap_or_else(PoisonError::into_inner) = Some(Before { known: all.into() });
        found
    }

    /// All processes but this one, with the inode of each one's directory. The kernel numbers these
    /// anew for every process, and also when memory is short: one process may have several over
    /// time, but two with one number never share one.
    fn processes() -> impl Iterator<Item = (i32, u64)> {
        let own = getpid().as_raw_nonzero().get();
        let entries = fs::read_dir("/proc").inspect_err(|error| {
            log::warn!(error:% = error; "/proc can't be read: stragglers are not found");
        });
        entries.into_iter().flatten().flatten().filter_map(move |entry| {
            let number: i32 = entry.file_name().to_str()?.parse().ok()?;
            (number != own).then(|| (number, entry.ino()))
        })
    }

    /// The process with this number, if it carries the marker. `environ` is a buffer.
    fn carries(pid: Pid, marked: Marked<'_>, environ: &mut Vec<u8>) -> Option<Found> {
        let found = || start_time(pid).map(|start| Found { pid, start });
        let is_meant = |limit| match marked {
            Marked::Turn(whole) => limit::of_turn(whole) == Some(limit),
            Marked::Daemon(id) => limit::of_daemon(id) == Some(limit >> 32),
        };
        // Should the number have changed hands in between, the check before the signal tells.
        if limit::carries(pid, is_meant) {
            return found();
        }
        environ.clear();
        let file = File::open(format!("/proc/{}/environ", pid.as_raw_nonzero())).ok()?;
        file.take(MAX_ENVIRON).read_to_end(environ).ok()?;
        let carried = environ.split(|byte| *byte == 0).any(|variable| {
            variable
                .strip_prefix(MARKER.as_bytes())
                .and_then(|rest| rest.strip_prefix(b"="))
                .is_some_and(|value| marked.covers(value))
        });
        carried.then(found)?
    }

    /// Field 22 of `/proc/PID/stat`; none of a process that has ended and was not reaped, which
    /// keeps its limits. The second field may hold spaces and parentheses.
    fn start_time(pid: Pid) -> Option<u64> {
        let stat = fs::read(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
        let after_name = stat.iter().rposition(|byte| *byte == b')')?;
        let mut fields = str::from_utf8(stat.get(after_name + 1..)?).ok()?.split_ascii_whitespace();
        let has_ended = matches!(fields.next()?, "Z" | "X" | "x");
        if has_ended { None } else { fields.nth(18)?.parse().ok() }
    }

    /// Kills one. False: it is gone, or its number is another process's by now.
    fn end(found: Found, marked: Marked<'_>) -> io::Result<bool> {
        // From here on the descriptor means one process, and the check that follows is about that
        // one or, if it has just died, about another while the signal goes nowhere.
        let held = match pidfd_open(found.pid, PidfdFlags::empty()) {
            Ok(held) => Some(held),
            Err(Errno::SRCH) => return Ok(false),
            // Before Linux 5.3, and under some system call filters.
            Err(Errno::NOSYS | Errno::PERM) => None,
            Err(error) => return Err(error.into()),
        };
        if carries(found.pid, marked, &mut Vec::new()) != Some(found) {
            return Ok(false);
        }
        let target = match &held {
            Some(held) => kill::SignalTarget::Held(found.pid, held.as_fd()),
            None => kill::SignalTarget::Process(found.pid),
        };
        match kill::send(target, Signal::KILL) {
            Err(error) if error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => Ok(false),
            other => other.map(|()| true),
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_process_has_a_start_time() {
            assert!(start_time(getpid()).unwrap() > 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_one_turns_or_one_daemons() {
        let value = marker("state", "turn");
        let covers = |marked: Marked<'_>| marked.covers(value.as_bytes());
        assert!(covers(Marked::Turn("state.turn")));
        assert!(covers(Marked::Daemon("state")));
        for other in ["", "state", "state.", "state.tur", "state.turn2", "other.turn"] {
            assert!(!covers(Marked::Turn(other)), "{other}");
        }
        for other in ["", "stat", "state.", "state.turn", "other"] {
            assert!(!covers(Marked::Daemon(other)), "{other}");
        }
        assert!(!Marked::Turn("").covers(b"") && !Marked::Daemon("").covers(b".turn"));
    }
}
