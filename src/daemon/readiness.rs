//! Tells others how the daemon is: systemd by its notify protocol (`sd_notify`), and scripts by a file that
//! is there while the daemon is ready.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::{self, Write},
    os::unix::{
        ffi::OsStrExt,
        net::{SocketAddr, UnixDatagram},
    },
    path::{Path, PathBuf},
    process,
    time::{Duration, Instant},
};

/// Whom to tell.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `NOTIFY_SOCKET`: a path, or an abstract name behind `@`.
    pub socket: Option<OsString>,
    /// `WATCHDOG_USEC`: the daemon is killed when it has not been heard of for so long.
    pub watchdog: Option<Duration>,
    /// Holds the process's id from the first connection until the end.
    pub file: Option<PathBuf>,
}

#[derive(Debug)]
pub(super) struct Readiness {
    socket: Option<(UnixDatagram, SocketAddr)>,
    file: Option<PathBuf>,
    is_ready: bool,
    /// Between two signs of life, and when the next is due.
    watchdog: Option<(Duration, Instant)>,
}

impl Readiness {
    pub(super) fn new(settings: Settings) -> Readiness {
        let socket = settings.socket.and_then(|name| {
            let opened = address(&name).and_then(|address| Ok((UnixDatagram::unbound()?, address)));
            opened
                .inspect_err(|error| log::warn!(error:% = error; "NOTIFY_SOCKET can't be used"))
                .ok()
        });
        // Half of it, as `sd_watchdog_enabled` advises.
        let watchdog = settings.watchdog.filter(|_| socket.is_some()).map(|limit| limit / 2);
        // One that an earlier daemon left says nothing of this one.
        if let Some(file) = &settings.file {
            fs::remove_file(file).ok();
        }
        Readiness {
            socket,
            file: settings.file,
            is_ready: false,
            watchdog: watchdog.map(|every| (every, Instant::now())),
        }
    }

    /// The stream is open, perhaps not for the first time.
    pub(super) fn connected(&mut self) {
        if std::mem::replace(&mut self.is_ready, true) {
            return;
        }
        self.tell("READY=1\nSTATUS=connected to the bridge");
        if let Some(file) = &self.file
            && let Err(error) = write(file)
        {
            log::warn!(error:% = error, file:% = file.display(); "the ready file can't be written");
        }
    }

    /// The daemon stops, which may take this long.
    pub(super) fn stopping(&mut self, most: Duration) {
        self.remove_file();
        self.tell(&format!("STOPPING=1\nEXTEND_TIMEOUT_USEC={}", most.as_micros()));
        self.watchdog = None;
        self.tell("WATCHDOG_USEC=0");
    }

    /// When the next sign of life is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.watchdog.map(|(_, at)| at)
    }

    /// Gives a sign of life, if it is due.
    pub(super) fn ping(&mut self) {
        let now = Instant::now();
        let Some((every, at)) = self.watchdog.filter(|(_, at)| *at <= now) else { return };
        self.tell("WATCHDOG=1");
        self.watchdog = Some((every, (at + every).max(now)));
    }

    fn tell(&self, text: &str) {
        let Some((socket, address)) = &self.socket else { return };
        if let Err(error) = socket.send_to_addr(text.as_bytes(), address) {
            log::debug!(error:% = error; "the service manager could not be told");
        }
    }

    fn remove_file(&mut self) {
        if let Some(file) = self.file.take() {
            // It may be gone, or never have been there.
            fs::remove_file(file).ok();
        }
    }
}

impl Drop for Readiness {
    fn drop(&mut self) {
        self.remove_file();
    }
}

fn address(name: &OsStr) -> io::Result<SocketAddr> {
    #[cfg(target_os = "linux")]
    if let Some(name) = name.as_bytes().strip_prefix(b"@") {
        use std::os::linux::net::SocketAddrExt;
        return SocketAddr::from_abstract_name(name);
    }
    SocketAddr::from_pathname(name)
}

/// Whoever sees the file sees all of it.
fn write(file: &Path) -> io::Result<()> {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", process::id()));
    let new = file.with_file_name(name);
    let mut opened = fs::File::create(&new)?;
    writeln!(opened, "{}", process::id())?;
    fs::rename(&new, file)
}
