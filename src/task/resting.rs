//! OS threads that have no task at the moment. Starting and ending one costs more than most of what
//! a turn does, so one that is done rests for some seconds and takes the next task. What it holds
//! meanwhile is its stack, as far as that was touched.

use std::{
    io, mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::Builder,
    time::Duration,
};

/// Deep enough for JSON of the depth that `serde_json` allows and a TLS handshake, and small enough
/// that a hundred workers cost little. It is address space; only touched pages are memory.
const STACK_BYTES: usize = 512 * 1024;

/// How long an OS thread rests before it ends: a daemon that has nothing to do has none of them.
pub(super) const REST: Duration = Duration::from_secs(5);

/// As many may rest at the same time: those of eight turns, and what these call.
const RESTING_MAX: usize = 32;

/// Only where a running OS thread can be given another name.
const MAY_REST: bool = cfg!(target_os = "linux");

/// The one that has rested for the shortest time is the last. Locked for a look only.
static RESTING: Mutex<Vec<Arc<Place>>> = Mutex::new(Vec::new());

/// What an OS thread is to do. It returns how its end is reported, which happens once the OS thread
/// is ready for another one.
pub(super) struct Work {
    pub(super) name: String,
    pub(super) run: Box<dyn FnOnce() -> Report + Send>,
}

pub(super) type Report = Box<dyn FnOnce()>;

/// Where one that rests finds its work.
#[derive(Default)]
struct Place {
    work: Mutex<Option<Work>>,
    filled: Condvar,
}

/// Gives the work to an OS thread that rests, or to a new one.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub(super) fn start(work: Work) -> io::Result<()> {
    let rested = lock(&RESTING).pop();
    if let Some(place) = rested {
        *lock(&place.work) = Some(work);
        place.filled.notify_one();
        return Ok(());
    }
    // The system's own name of one that changes it is of no use.
    let name = if MAY_REST { "task".to_owned() } else { work.name.clone() };
    Builder::new().name(name).stack_size(STACK_BYTES).spawn(move || live(work))?;
    Ok(())
}

/// The life of an OS thread: one task after another.
fn live(mut work: Work) {
    let place = Arc::new(Place::default());
    loop {
        rename(&work.name);
        let report = (work.run)();
        // First, so that whoever waits for this end finds a place for its next task.
        let rests = lie_down(&place);
        report();
        rename("resting");
        let Some(next) = rests.then(|| place.wait()).flatten() else { return };
        work = next;
    }
}

fn lie_down(place: &Arc<Place>) -> bool {
    let mut resting = lock(&RESTING);
    let has_room = MAY_REST && resting.len() < RESTING_MAX;
    if has_room {
        resting.push(Arc::clone(place));
    }
    has_room
}

impl Place {
    /// None: there was none for long enough.
    fn wait(self: &Arc<Place>) -> Option<Work> {
        let mut work = lock(&self.work);
        let mut is_listed = true;
        while work.is_none() {
            if !is_listed {
                // Someone has taken this place off the list, and is about to fill it.
                work = self.filled.wait(work).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let waited = self.filled.wait_timeout(work, REST);
            let (guard, waited) = waited.unwrap_or_else(PoisonError::into_inner);
            work = guard;
            if waited.timed_out() && work.is_none() {
                drop(work);
                let mut resting = lock(&RESTING);
                let before = resting.len();
                resting.retain(|other| !Arc::ptr_eq(other, self));
                if resting.len() < before {
                    return None;
                }
                drop(resting);
                is_listed = false;
                work = lock(&self.work);
            }
        }
        mem::take(&mut *work)
    }
}

/// For people who look at the system's list of threads.
fn rename(name: &str) {
    #[cfg(target_os = "linux")]
    if let Ok(name) = std::ffi::CString::new(name) {
        rustix::thread::set_name(&name).unwrap_or_default();
    }
    #[cfg(not(target_os = "linux"))]
    let _ = name;
}

/// No code of others runs under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
