//! Killing is the most dangerous thing that this program does, so there is one function that does
//! it, `send`, and it can't be reached with a bare number: only with a [`ChildHandle`] made from a
//! child that did start, or from [`super::sweep`] for a process that carries our marker.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
    process::{Child, ExitStatus},
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

#[cfg(target_os = "linux")]
use rustix::process::{PidfdFlags, pidfd_open};
use rustix::{
    io::Errno,
    process::{
        Pid, Signal, WaitId, WaitIdOptions, getpid, getppid, kill_process, kill_process_group,
        waitid,
    },
};

/// Whether [`ChildHandle::hold`] works here: not before Linux 5.3, under some system call filters,
/// and elsewhere.
pub(super) fn can_hold() -> bool {
    static CAN: LazyLock<bool> = LazyLock::new(|| {
        #[cfg(target_os = "linux")]
        return !matches!(
            pidfd_open(getpid(), PidfdFlags::empty()),
            Err(Errno::NOSYS | Errno::PERM)
        );
        #[cfg(not(target_os = "linux"))]
        false
    });
    *CAN
}

/// A child, until it has been reaped: from then on its number may belong to another process, and
/// every signal is refused. Clones are the same handle.
#[derive(Clone, Debug)]
pub struct ChildHandle {
    pid: Pid,
    /// Until it is, the number is the child's, also if that has ended. Signals are sent, and the child
    /// is reaped, under this lock and nowhere else.
    is_reaped: Arc<Mutex<bool>>,
}

/// Who of a child's family gets a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    Process,
    Group,
}

impl ChildHandle {
    /// The child must have been started as the leader of its own group.
    pub(super) fn of(child: &Child) -> ChildHandle {
        ChildHandle { pid: Pid::from_child(child), is_reaped: Arc::default() }
    }

    /// For logs and tests; there is no way back from it to a handle.
    pub fn id(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Sends a signal. False: the child has been reaped, and nothing was sent.
    ///
    /// # Errors
    /// When the system or `send` refuses.
    pub fn signal(&self, signal: Signal, to: To) -> io::Result<bool> {
        let is_reaped = self.is_reaped.lock().unwrap_or_else(PoisonError::into_inner);
        if *is_reaped {
            return Ok(false);
        }
        let target = match to {
            To::Process => SignalTarget::Process(self.pid),
            To::Group => SignalTarget::Group(self.pid),
        };
        send(target, signal).map(|()| true)
    }

    /// A descriptor that is readable once the child has ended. For a child that was not reaped.
    pub(super) fn hold(&self) -> io::Result<OwnedFd> {
        #[cfg(target_os = "linux")]
        return Ok(pidfd_open(self.pid, PidfdFlags::empty())?);
        #[cfg(not(target_os = "linux"))]
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Waits for the child's end and reaps it. What is left of its group is killed in between: only
    /// then is the group's number still sure to be the child's.
    pub(super) fn reap(&self, mut child: Child) -> io::Result<ExitStatus> {
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while let Err(Errno::INTR) = waitid(WaitId::Pid(self.pid), ended) {}
        let mut is_reaped = self.is_reaped.lock().unwrap_or_else(PoisonError::into_inner);
        // Some systems refuse to signal a group of which nothing but the dead leader is left.
        send(SignalTarget::Group(self.pid), Signal::KILL).ok();
        *is_reaped = true;
        child.wait()
    }
}

/// Whom [`send`] is to signal.
#[derive(Clone, Copy, Debug)]
pub(super) enum SignalTarget<'fd> {
    Process(Pid),
    Group(Pid),
    /// A process found by its marker, held by a pidfd.
    #[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "pidfds are Linux's"))]
    Held(Pid, BorrowedFd<'fd>),
}

/// Sends a signal: nothing else in the program does.
///
/// # Errors
/// When the target is init, ourselves, our group or our parent, whatever the caller thinks that it
/// knows; and when the system refuses.
pub(super) fn send(target: SignalTarget<'_>, signal: Signal) -> io::Result<()> {
    let (SignalTarget::Process(pid) | SignalTarget::Group(pid) | SignalTarget::Held(pid, _)) =
        target;
    if let Some(whose) = forbidden(pid) {
        let text = format!("refused to send signal {} to {target:?}: {whose}", signal.as_raw());
        log::error!("{text}");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    match target {
        SignalTarget::Process(pid) => kill_process(pid, signal)?,
        SignalTarget::Group(pid) => kill_process_group(pid, signal)?,
        #[cfg(target_os = "linux")]
        SignalTarget::Held(_, fd) => rustix::process::pidfd_send_signal(fd, signal)?,
        #[cfg(not(target_os = "linux"))]
        SignalTarget::Held(..) => return Err(io::ErrorKind::Unsupported.into()),
    }
    Ok(())
}

/// Whose number this is, if it is one that must never be signalled. Numbers of 0 and below can't
/// be expressed by `Pid`.
fn forbidden(pid: Pid) -> Option<&'static str> {
    if pid.as_raw_nonzero().get() <= 1 {
        Some("that is init")
    } else if pid == getpid() {
        Some("that is this process")
    } else if Some(pid) == own_group() {
        Some("that is this process's group")
    } else if Some(pid) == getppid() {
        Some("that is this process's parent")
    } else {
        None
    }
}

/// Not by `rustix::process::getpgrp`, which does not expect the 0 that the system gives when the
/// group's leader is outside of our PID namespace.
#[cfg(target_os = "linux")]
fn own_group() -> Option<Pid> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is a name, and may hold anything; the group is the fifth.
    let (_, rest) = stat.rsplit_once(')')?;
    Pid::from_raw(rest.split_ascii_whitespace().nth(2)?.parse().ok()?)
}

#[cfg(not(target_os = "linux"))]
fn own_group() -> Option<Pid> {
    Some(rustix::process::getpgrp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_numbers_are_never_signalled() {
        let parent = getppid().unwrap_or(Pid::INIT);
        let group = own_group().unwrap_or(Pid::INIT);
        for pid in [Pid::INIT, getpid(), group, parent] {
            assert!(forbidden(pid).is_some(), "{pid:?}");
            for target in [SignalTarget::Process(pid), SignalTarget::Group(pid)] {
                // Signal 0 can't be named here; CONT does no harm if this test ever fails.
                let refused = send(target, Signal::CONT).unwrap_err();
                assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied, "{target:?}");
            }
        }
    }
}
