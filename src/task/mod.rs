//! OS threads: every one has a name, a small stack, its panics caught and its end reported. Nothing
//! else in the program starts threads. (A *thread* is a conversation on the bridge; what an OS thread
//! runs is a *task* here.) One whose task has ended takes the next one for some seconds: `resting`.
//!
//! A loop that must know when a task ends starts it through its [`Registry`] and selects on the
//! channel of [`Ended`]. [`spawn`] alone is for tasks that are joined, or whose end shows elsewhere.

mod resting;

use std::{
    any::Any,
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use resting::Work;

/// A running task. Dropping it detaches; an owner that must not outlive it calls [`Task::join`].
#[derive(Debug)]
pub struct Task {
    end: Receiver<Result<(), String>>,
}

impl Task {
    /// Waits for the end. The error is the text of a panic.
    pub fn join(self) -> Result<(), String> {
        self.end.recv().expect("every task reports its end")
    }

    pub fn is_finished(&self) -> bool {
        !self.end.is_empty()
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
        // A panic is in the log already.
        drop(self.0.take().map(Task::join));
    }
}

/// Starts a task. `name` is at most 15 bytes, which is what Linux keeps of it.
/// A panic in `run` ends only this task; [`Task::join`] returns it.
///
/// # Errors
/// When the system gives no more threads: the caller decides who waits.
pub fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<Task> {
    let label = name.to_owned();
    start(name, run, move |outcome| {
        if let Err(panic) = outcome {
            log::error!("the task {label} panicked: {panic}");
        }
    })
}

/// `tell` hears of the end when another task can have the OS thread.
fn start(
    name: &str,
    run: impl FnOnce() + Send + 'static,
    tell: impl FnOnce(&Result<(), String>) + Send + 'static,
) -> io::Result<Task> {
    debug_assert!(name.len() <= 15, "the system cuts {name:?}");
    let (report, end) = bounded(1);
    let run = Box::new(move || {
        let outcome = catch(run);
        let tell = move || {
            tell(&outcome);
            report.send(outcome).ok(); // Nobody may want to know.
        };
        Box::new(tell) as resting::Report
    });
    resting::start(Work { name: name.to_owned(), run })?;
    Ok(Task { end })
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
        start(name, run, move |outcome| {
            ends.send(Ended { name: label, role, outcome: outcome.clone() }).ok(); // The loop may have ended.
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
    use std::{collections::HashSet, fs, thread, time::Duration};

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

    /// Others take OS threads at the same time, so that now and then a new one is needed.
    #[test]
    fn a_task_takes_the_os_thread_of_one_that_has_ended() {
        let mut used = HashSet::new();
        for number in 0..200 {
            let name = format!("rested-{number}");
            let (say, said) = bounded(1);
            let run = move || {
                let system = fs::read_to_string("/proc/thread-self/comm").ok();
                say.send((thread::current().id(), system)).unwrap();
                assert!(number % 3 > 0, "one that panicked is as good as any");
            };
            assert_eq!(spawn(&name, run).unwrap().join().is_ok(), number % 3 > 0);
            let (id, system) = said.recv().unwrap();
            used.insert(id);
            if let Some(system) = system {
                assert_eq!(system.trim(), name);
            }
        }
        assert!(used.len() < 100 || cfg!(not(target_os = "linux")), "{} were started", used.len());
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
