//! OS threads: every one has a name, small stacks, its panics caught and its end reported. Nothing
//! else in the program starts threads. (A *thread* is a conversation on the bridge; an OS thread is
//! a *task* here.)

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    thread::{Builder, JoinHandle},
};

/// Deep enough for JSON of the depth that `serde_json` allows and a TLS handshake, and small enough
/// that a hundred workers cost little. It is address space; only touched pages are memory.
const STACK_BYTES: usize = 512 * 1024;

/// A running task. Dropping it detaches; whoever must not outlive it calls [`Task::join`].
#[derive(Debug)]
pub struct Task {
    name: String,
    handle: JoinHandle<Result<(), String>>,
}

impl Task {
    /// Waits for the end. The error is the text of a panic.
    pub fn join(self) -> Result<(), String> {
        let name = self.name;
        self.handle.join().unwrap_or_else(|panic| Err(panic_text(&*panic))).inspect_err(|panic| {
            log::error!("task {name} panicked: {panic}");
        })
    }

    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Starts a task. `name` is at most 15 bytes, which is what Linux keeps of it.
/// A panic in `run` ends the task alone; [`Task::join`] tells.
///
/// # Errors
/// When the system gives no more threads: the caller decides who waits.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<Task> {
    debug_assert!(name.len() <= 15, "the system cuts {name:?}");
    let handle =
        Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(move || catch(run))?;
    Ok(Task { name: name.to_owned(), handle })
}

/// Runs `run`; a panic becomes its text.
pub fn catch(run: impl FnOnce()) -> Result<(), String> {
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
    use super::*;

    #[test]
    fn a_panic_ends_only_its_task_and_is_told() {
        let task = spawn("doomed", || panic!("on purpose")).unwrap();
        assert_eq!(task.join(), Err("on purpose".to_owned()));
        let task = spawn("fine", || ()).unwrap();
        assert_eq!(task.join(), Ok(()));
    }
}
