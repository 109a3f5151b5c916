//! OS threads: every one has a name, a small stack, its panics caught and its end reported. Nothing
//! else in the program starts threads. (A *thread* is a conversation on the bridge; an OS thread is
//! a *task* here.)
//!
//! A loop that must know when a task ends starts it through its [`Registry`] and selects on the
//! channel of [`Ended`]. [`spawn`] alone is for tasks that are joined, or whose end shows elsewhere.

use std::{
    any::Any,
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    thread::{Builder, JoinHandle},
};

use crossbeam_channel::{Receiver, Sender, unbounded};

/// Deep enough for JSON of the depth that `serde_json` allows and a TLS handshake, and small enough
/// that a hundred workers cost little. It is address space; only touched pages are memory.
const STACK_BYTES: usize = 512 * 1024;

/// A running task. Dropping it detaches; an owner that must not outlive it calls [`Task::join`].
#[derive(Debug)]
pub struct Task(JoinHandle<Result<(), String>>);

impl Task {
    /// Waits for the end. The error is the text of a panic.
    pub fn join(self) -> Result<(), String> {
        let name = self.0.thread().name().unwrap_or_default().to_owned();
        self.0.join().unwrap_or_else(|panic| Err(panic_text(&*panic))).inspect_err(|panic| {
            log::error!("task {name} panicked: {panic}");
        })
    }

    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

/// A task that its owner must not outlive: dropping this waits for the task's end. What makes it end
/// stands before this in its owner, and so is dropped before.
#[derive(Debug)]
pub struct Joined(Option<Task>);

impl From<Task> for Joined {
    fn from(task: Task) -> Joined {
        Joined(Some(task))
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        // A panic is logged by `join`; there is nothing to add.
        drop(self.0.take().map(Task::join));
    }
}

/// Starts a task. `name` is at most 15 bytes, which is what Linux keeps of it.
/// A panic in `run` ends only this task; [`Task::join`] returns it.
///
/// # Errors
/// When the system gives no more threads: the caller decides who waits.
pub fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<Task> {
    start(name, || catch(run))
}

#[expect(clippy::disallowed_methods, reason = "this is the one place")]
fn start(
    name: &str,
    run: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> io::Result<Task> {
    debug_assert!(name.len() <= 15, "the system cuts {name:?}");
    Ok(Task(Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(run)?))
}

/// What the end of a task means to the loop that started it. `K` says which helper it was, so that
/// the loop can free what it had, or start it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskRole<K> {
    /// The loop can't go on without it.
    Essential,
    /// The loop goes on without it.
    Helper(K),
}

/// A task has ended. One comes for each task that a [`Registry`] started, however it ended, once
/// everything that its closure owned is dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended<K> {
    pub name: String,
    pub role: TaskRole<K>,
    /// The error is the text of a panic.
    pub outcome: Result<(), String>,
}

impl<K> fmt::Display for Ended<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Ok(()) => write!(f, "the task `{}` ended", self.name),
            Err(panic) => write!(f, "the task `{}` panicked: {panic}", self.name),
        }
    }
}

/// Starts tasks whose ends one loop receives.
#[derive(Clone, Debug)]
pub struct Registry<K> {
    ends: Sender<Ended<K>>,
}

/// A registry, and the ends of its tasks. The receiver disconnects when no handle of the registry
/// is left and every task has ended.
pub fn registry<K>() -> (Registry<K>, Receiver<Ended<K>>) {
    // Unbounded, so that no task waits with its end. It holds one entry for each task that ended,
    // and the loop, which limits the tasks, empties it.
    let (ends, ended) = unbounded();
    (Registry { ends }, ended)
}

impl<K: Send + 'static> Registry<K> {
    /// As [`spawn`], and the task's end goes to the loop.
    ///
    /// # Errors
    /// When the system gives no more threads; then no end is reported.
    pub fn spawn(
        &self,
        name: &str,
        role: TaskRole<K>,
        run: impl FnOnce() + Send + 'static,
    ) -> io::Result<Task> {
        let (ends, label) = (self.ends.clone(), name.to_owned());
        start(name, move || {
            let outcome = catch(run);
            ends.send(Ended { name: label, role, outcome: outcome.clone() }).ok(); // The loop may have ended.
            outcome
        })
    }
}

/// Runs `run`; a panic becomes its text.
pub fn catch<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| panic_text(&*panic))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "panic without a text".to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Nothing here takes this long.
    const DEADLINE: Duration = Duration::from_secs(20);

    #[test]
    fn a_panic_ends_only_its_task_and_is_returned() {
        let task = spawn("doomed", || panic!("on purpose")).unwrap();
        assert_eq!(task.join(), Err("on purpose".to_owned()));
        let task = spawn("fine", || ()).unwrap();
        assert_eq!(task.join(), Ok(()));
    }

    #[test]
    fn every_end_is_reported_once_with_its_role() {
        let (tasks, ended) = registry();
        let next = || ended.recv_timeout(DEADLINE).expect("a task ended");
        let doomed = tasks.spawn("stream", TaskRole::Essential, || panic!("on purpose")).unwrap();
        let end = next();
        assert_eq!((end.name.as_str(), end.role), ("stream", TaskRole::Essential));
        assert_eq!(end.to_string(), "the task `stream` panicked: on purpose");
        assert_eq!(doomed.join(), Err("on purpose".to_owned()), "it can be joined as well");

        // Detached, and told apart by their keys alone.
        for thread in ["t1", "t2"] {
            drop(tasks.clone().spawn("claim", TaskRole::Helper(thread), || ()).unwrap());
        }
        let mut keys = [next(), next()].map(|end| {
            assert_eq!((end.name.as_str(), &end.outcome), ("claim", &Ok(())));
            end.role
        });
        keys.sort_by_key(|role| matches!(role, TaskRole::Helper("t2")));
        assert_eq!(keys, [TaskRole::Helper("t1"), TaskRole::Helper("t2")]);

        drop(tasks);
        assert!(ended.recv_timeout(DEADLINE).is_err() && ended.is_empty());
    }

    /// What a task owned, for example its end of a channel, is free when its end is reported.
    #[test]
    fn an_end_comes_after_everything_that_the_task_owned_is_dropped() {
        let (tasks, ended) = registry();
        for panics in [false, true] {
            let (owned, peer) = unbounded::<()>();
            let run = move || {
                let _owned = owned;
                assert!(!panics, "on purpose");
            };
            drop(tasks.spawn("owner", TaskRole::Helper(()), run).unwrap());
            assert_eq!(ended.recv_timeout(DEADLINE).unwrap().outcome.is_err(), panics);
            assert_eq!(peer.try_recv(), Err(crossbeam_channel::TryRecvError::Disconnected));
        }
    }

    #[test]
    fn a_task_that_outlives_its_loop_just_ends() {
        let (tasks, ended) = registry();
        let (go_on, may_go_on) = unbounded::<()>();
        let run = move || may_go_on.iter().for_each(drop);
        let task = tasks.spawn("late", TaskRole::Helper(()), run).unwrap();
        drop(ended);
        drop(go_on);
        assert_eq!(task.join(), Ok(()));
    }
}
