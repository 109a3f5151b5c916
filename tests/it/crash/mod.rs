//! Crash points: for every disk operation of every kind of turn, it fails there, the program ends
//! there, and the power goes there; then a daemon starts on what is left. Whatever happens, every
//! message has one answer, or its human is told why not; no post stands there twice, and no engine
//! is given a prompt again without being told so (ARCHITECTURE.md: crashes).

pub(crate) mod disk;
mod human;
mod kinds;
pub(crate) mod rig;

use std::{cell::RefCell, sync::Arc};

use crossbeam_channel::{Receiver, unbounded};
use obto_bridge::{
    signals::Signal,
    store::{RealDisk, lock::Held},
    task,
};

use self::{
    disk::{Fault, FaultyDisk},
    human::Human,
    kinds::{Ends, Kind},
    rig::{Bridge, Daemon, Machine},
};
use crate::util::{namespace::isolated, patience::comes_true};

/// Cases at the same time. Most of them wait for a second, until a disk is tried again.
const AT_ONCE: usize = 16;

/// Starts that one case may need: stopped once, crashed once, refused once, and looked at again.
const LIVES: usize = 5;

isolated! {
    fn whatever_the_disk_does_every_message_is_answered_once() {
        try_each(&Kind::ALL, 1);
    }
}

isolated! {
    /// Nothing is done without an answer or twice, no answer is a prompt, and whoever answered or was
    /// asked hears what became of it.
    fn whatever_the_disk_does_every_question_has_one_end() {
        try_each(&Kind::ASKING, 3);
    }
}

/// Tries every `step`-th operation of each kind.
#[expect(clippy::print_stdout, reason = "the figures are for a person")]
fn try_each(kinds: &[Kind], step: usize) {
    let bridge = Bridge::start();
    let run = move |(kind, fault)| {
        let mut operations = Vec::new();
        let caught = task::catch(|| operations = Case::new(&bridge, kind, fault).run());
        caught.map(|()| (kind, operations))
    };
    let points = each(kinds.iter().map(|kind| (*kind, Fault::None)).collect(), run.clone());
    let mut cases = Vec::new();
    for (number, (kind, operations)) in points.into_iter().map(Result::unwrap).enumerate() {
        println!("{kind:?}: {} operations: {operations:?}", operations.len());
        let sampled = operations.iter().enumerate().skip(number % step).step_by(step);
        for (n, operation) in sampled {
            cases.push((kind, Fault::Once(n)));
            // A crash at one that changes nothing is a crash at the next one that does.
            if disk::changes(operation) {
                cases.extend([(kind, Fault::Crash(n)), (kind, Fault::PowerLoss(n))]);
            }
        }
        // Tasks run side by side, so another run may have an operation more.
        cases.push((kind, Fault::Crash(operations.len())));
    }
    let count = cases.len();
    let failed: Vec<String> = each(cases, run).into_iter().filter_map(Result::err).collect();
    println!("{count} cases");
    assert!(failed.is_empty(), "{} of {count} cases failed:\n{}", failed.len(), failed.join("\n"));
}

/// Does something with each of `items`, a few at a time.
fn each<I, O>(items: Vec<I>, work: impl Fn(I) -> O + Clone + Send + 'static) -> Vec<O>
where
    I: Send + 'static,
    O: Send + 'static,
{
    let (queue, jobs) = unbounded();
    for item in items {
        queue.send(item).unwrap();
    }
    drop(queue);
    let (done, results) = unbounded();
    for number in 0..AT_ONCE {
        let (jobs, done, work): (Receiver<I>, _, _) = (jobs.clone(), done.clone(), work.clone());
        let run = move || jobs.iter().for_each(|job| drop(done.send(work(job))));
        drop(task::spawn(&format!("case-{number}"), run).unwrap());
    }
    drop(done);
    results.iter().collect()
}

/// One kind of turn with one fault.
struct Case {
    kind: Kind,
    fault: Fault,
    machine: Machine,
    human: RefCell<Human>,
    disk: Arc<FaultyDisk>,
    is_crashed: bool,
    /// It was stopped once, for the kind that is.
    was_stopped: bool,
    /// A daemon would not start, or did not go on, because of the fault.
    was_refused: bool,
}

/// What ended a daemon's life.
enum Life {
    Done,
    /// The engine works and is to be stopped.
    ToBeStopped,
    Crashed,
    Refused,
    /// Nothing happened for too long.
    Stuck,
}

impl Case {
    fn new(bridge: &Arc<Bridge>, kind: Kind, fault: Fault) -> Case {
        let name = format!("{kind:?}-{fault:?}").replace(['(', ')'], "-");
        let machine = Machine::new(bridge, &name);
        let disk = Arc::new(FaultyDisk::new(fault));
        let (is_crashed, was_stopped, was_refused) = (false, false, false);
        let human = RefCell::default();
        Case { kind, fault, machine, human, disk, is_crashed, was_stopped, was_refused }
    }

    /// Returns the operations that were counted.
    fn run(mut self) -> Vec<String> {
        kinds::prepare(self.kind, &self.machine);
        self.disk.arm();
        let (mut looks, mut lives) = (0, 0);
        while lives < LIVES {
            lives += 1;
            let daemon = self.start();
            match self.watch(&daemon) {
                Life::Done => {
                    if !self.stop(daemon) {
                        lives -= usize::from(!self.was_refused);
                        continue;
                    }
                    looks += 1;
                    let crashed_now = !self.is_crashed && self.crash();
                    // One more start, for what a crash at the very end brings back.
                    if !crashed_now && (looks > 1 || !self.is_crashed) {
                        break;
                    }
                }
                Life::ToBeStopped => {
                    // An earlier life may have come this far, and this one not have the lock yet.
                    if !self.stop(daemon) {
                        lives -= usize::from(!self.was_refused);
                        continue;
                    }
                    self.was_stopped = true;
                    self.crash();
                }
                Life::Crashed => {
                    // It ends without another effect on its disk.
                    daemon.signal(Signal::StopNow(15));
                    drop(daemon.join());
                    self.crash();
                }
                Life::Refused => {
                    let error = daemon.join().expect_err("nobody asked it to end");
                    if error.is::<Held>() {
                        lives -= 1;
                        continue;
                    }
                    let error = format!("{error:#}");
                    assert!(error.contains("no space left"), "{}: {error}", self.name());
                    self.was_refused = true;
                    self.crash();
                }
                Life::Stuck => panic!("{} is stuck: {}", self.name(), self.report()),
            }
        }
        self.check();
        self.disk.operations()
    }

    /// False: it never ran, for the lock was not free yet, or because of the fault. A child that
    /// another case is about to start has our descriptors, and with them the lock, until it becomes
    /// another program.
    fn stop(&mut self, daemon: Daemon) -> bool {
        match daemon.stop() {
            Ok(_) => true,
            Err(error) if error.is::<Held>() => false,
            Err(error) if format!("{error:#}").contains("no space left") => {
                self.was_refused = true;
                false
            }
            Err(error) => panic!("{}: {error:#}", self.name()),
        }
    }

    fn start(&self) -> Daemon {
        if self.is_crashed {
            self.machine.start(Arc::new(RealDisk))
        } else {
            self.machine.start(Arc::<FaultyDisk>::clone(&self.disk))
        }
    }

    /// If the disk is dead, the next start is on what is left of it.
    fn crash(&mut self) -> bool {
        let is_crash = matches!(self.fault, Fault::Crash(_) | Fault::PowerLoss(_));
        if is_crash && !self.is_crashed && !self.disk.has_fired.is_empty() {
            self.is_crashed = true;
            self.disk.undo_removals();
            return true;
        }
        false
    }

    fn watch(&self, daemon: &Daemon) -> Life {
        let is_crash = matches!(self.fault, Fault::Crash(_) | Fault::PowerLoss(_));
        let mut life = Life::Stuck;
        comes_true(|| {
            life = if !daemon.end.is_empty() {
                Life::Refused
            } else if is_crash && !self.is_crashed && !self.disk.has_fired.is_empty() {
                Life::Crashed
            } else if self.kind.is_stopped() && !self.was_stopped && self.is_in_the_middle() {
                Life::ToBeStopped
            } else if kinds::is_done(self.kind, &self.machine) {
                Life::Done
            } else {
                self.human.borrow_mut().look(self.kind, &self.machine);
                return false;
            };
            true
        });
        life
    }

    /// The engine works, or the human is asked.
    fn is_in_the_middle(&self) -> bool {
        match self.kind {
            Kind::StoppedAsking => human::is_asked(&self.machine),
            Kind::StoppedOpening => self.machine.path("opening").exists(),
            _ => !self.machine.prompts(kinds::TOKEN).is_empty(),
        }
    }

    fn check(&self) {
        let ends = Ends::of(&self.machine);
        let prompts = self.machine.prompts(kinds::TOKEN);
        let said = || format!("{}: {}", self.name(), self.report());
        assert_eq!(self.machine.prompts(kinds::BEFORE).len(), 1, "{}", said());
        assert_eq!(ends.before, 1, "{}", said());
        assert!(prompts.iter().filter(|how| *how == "first").count() <= 1, "{}", said());
        assert!(prompts.iter().filter(|how| *how == "again").count() <= 1, "{}", said());
        assert!(ends.strange.is_empty(), "{:?}: {}", ends.strange, said());
        if self.kind.asks() {
            let has_crashed = self.is_crashed || self.was_refused;
            let is_torn = matches!(self.fault, Fault::PowerLoss(_));
            let judged = human::check(self.kind, &self.machine, has_crashed, is_torn);
            judged.unwrap_or_else(|why| panic!("{why}: {}", said()));
        }
        if self.is_crashed || self.was_refused {
            ends.check_after_crash(self.kind, &prompts).unwrap_or_else(|why| {
                panic!("{why}: {}", said());
            });
        } else {
            // A disk that fails for a moment makes no difference to anybody.
            assert_eq!(ends.of_message, self.kind.ends(), "{}", said());
            assert_eq!(prompts, self.kind.prompts(), "{}", said());
        }
    }

    fn name(&self) -> String {
        format!("{:?} with {:?}", self.kind, self.fault)
    }

    fn report(&self) -> String {
        format!(
            "left {:?}, said {:?}, prompts {:?}, operations {:?}",
            self.machine.left(),
            self.machine.said(kinds::THREAD),
            self.machine.prompts(kinds::TOKEN),
            self.disk.operations()
        )
    }
}
