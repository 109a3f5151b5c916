//! The marker in a form that nothing sheds. A process can drop its environment, its session, its
//! descriptors and its name, and a parent that ends takes even the parentage along; its resource
//! limits stay with it and with everything that it starts. Linux still has one that it has not
//! enforced since 2.4.24, the number of file locks, so its value can say whose a process is.
//!
//! A child subreaper would not do: it gets the orphans of all turns alike, without a word of which
//! turn each one is from, and loses them when the daemon is killed.
//!
//! Linux only. Elsewhere children are started without it.

use std::{ffi::OsStr, io, process};

/// Starts a child with the limit that its marker stands for; one without a marker gets ours.
///
/// # Errors
/// Those of `spawn`; `EAGAIN` if another child has been in the middle of being started for long.
pub(super) fn spawn(
    marker: Option<&OsStr>,
    spawn: impl FnOnce() -> io::Result<process::Child>,
) -> io::Result<process::Child> {
    #[cfg(target_os = "linux")]
    let _held = linux::hold(marker)?;
    #[cfg(not(target_os = "linux"))]
    let _ = marker;
    spawn()
}

#[cfg(target_os = "linux")]
pub(super) use linux::{carries, of_daemon, of_turn};

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        ffi::OsStr,
        fs::File,
        io::{self, Read as _},
        sync::LazyLock,
        time::Duration,
    };

    use crossbeam_channel::{Receiver, Sender, bounded};
    use rustix::{
        io::Errno,
        process::{Pid, Resource, Rlimit, getrlimit, setrlimit},
    };
    use sha2::{Digest, Sha256};

    /// Our own limit is what a child inherits, so that one child is started at a time. Full while
    /// one is.
    static TURNSTILE: LazyLock<(Sender<()>, Receiver<()>)> = LazyLock::new(|| bounded(1));

    /// The program of a start may be on a file system that hangs.
    const WAIT: Duration = Duration::from_secs(5);

    /// More than `/proc/PID/limits` is long.
    const MAX_LIMITS: u64 = 16 << 10;

    /// So that no limit that a person would set is one of ours.
    const OURS: u64 = 1 << 62;

    /// The limit of a turn's processes: OURS, 30 bits for the daemon and 32 for the turn.
    pub(crate) fn of_turn(marker: &str) -> Option<u64> {
        let (daemon, turn) = marker.split_once('.')?;
        Some(of_daemon(daemon)? << 32 | u64::from(hash(turn)))
    }

    /// The upper half of the limits of all its turns.
    pub(crate) fn of_daemon(state_id: &str) -> Option<u64> {
        (!state_id.is_empty()).then(|| (OURS >> 32) | u64::from(hash(state_id) >> 2))
    }

    fn hash(text: &str) -> u32 {
        let digest = Sha256::digest(text);
        u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]])
    }

    /// Whether a process's limit is such a one.
    pub(crate) fn carries(pid: Pid, is_meant: impl FnOnce(u64) -> bool) -> bool {
        let mut limits = Vec::new();
        File::open(format!("/proc/{}/limits", pid.as_raw_nonzero()))
            .and_then(|file| file.take(MAX_LIMITS).read_to_end(&mut limits))
            .is_ok()
            && soft(&limits).is_some_and(is_meant)
    }

    /// The soft limit of file locks; none if there is no limit.
    fn soft(limits: &[u8]) -> Option<u64> {
        let name = b"Max file locks";
        let line = limits.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(name))?;
        str::from_utf8(line).ok()?.split_ascii_whitespace().next()?.parse().ok()
    }

    /// While this exists, what is started gets the limit.
    pub(super) struct Held {
        own: Option<Rlimit>,
    }

    pub(super) fn hold(marker: Option<&OsStr>) -> io::Result<Held> {
        TURNSTILE.0.send_timeout((), WAIT).map_err(|_| io::Error::from(Errno::AGAIN))?;
        let mut held = Held { own: None };
        if let Some(limit) = marker.and_then(OsStr::to_str).and_then(of_turn) {
            let own = getrlimit(Resource::Locks);
            match setrlimit(Resource::Locks, Rlimit { current: Some(limit), ..own }) {
                Ok(()) => held.own = Some(own),
                Err(error) => log::debug!("a child can't be given its limit: {error}"),
            }
        }
        Ok(held)
    }

    impl Drop for Held {
        fn drop(&mut self) {
            let restored = self.own.take().map_or(Ok(()), |own| setrlimit(Resource::Locks, own));
            if let Err(error) = restored {
                log::error!("the limit of file locks can't be set back: {error}");
            }
            TURNSTILE.1.try_recv().ok(); // It is ours that is in there.
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_limit_is_one_turns_of_one_daemon() {
            let turn = of_turn("state.turn").unwrap();
            assert_eq!(Some(turn >> 32), of_daemon("state"));
            for other in ["state.turn2", "state2.turn", "state.", "s.tate.turn"] {
                assert_ne!(Some(turn), of_turn(other), "{other}");
            }
            assert_ne!(Some(turn >> 32), of_daemon("state2"));
            assert_eq!(
                (of_daemon(""), of_turn(""), of_turn(".t"), of_turn("state")),
                Default::default()
            );
            assert!(turn < i64::MAX.unsigned_abs() && OURS <= turn);
        }

        #[test]
        fn the_limit_is_read_as_the_kernel_writes_it() {
            let limits = b"Limit Soft Limit Hard Limit Units\nMax locked memory 1 2 bytes\n\
                           Max file locks            7                    unlimited    locks     \n";
            assert_eq!(soft(limits), Some(7));
            assert_eq!(soft(b"Max file locks unlimited unlimited locks\n"), None);
            assert_eq!((soft(b""), soft(b"Max file locks\n")), (None, None));
        }
    }
}
