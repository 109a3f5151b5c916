//! The world: a bridge, machines with their disks and processes, turns, people, clocks and trouble.
//! Everything that is going to happen is in one queue, by time; which of two things happens first
//! is a matter of dice. First there is trouble, then it is calm, and everything must come to rest.

mod bridge;
mod checks;
mod connection;
mod effects;
mod machine;
mod people;
mod process;
mod trouble;
mod turn;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet},
    time::Duration,
};

use fastrand::Rng;
use obto_bridge::store::entry::EntryId;

use self::{
    bridge::{Bridge, Message, Thread},
    machine::{Disk, Machine},
};
use crate::parts::{Count, Counts, Key, Mutation, NAMES, Outcome, TWIN, ensure};

/// More means that it never comes to rest.
const STEPS_MAX: u32 = 60_000;

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Op {
    /// A person writes something.
    Person,
    /// Something breaks.
    Trouble,
    Calm,
    /// A claim that was given up reaches the bridge.
    LateClaim {
        machine: usize,
        thread: usize,
    },
    Start {
        machine: usize,
    },
    /// Something of a process: nothing, if that is gone.
    Of {
        machine: usize,
        life: u32,
        task: Task,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Task {
    Tick {
        timer: u32,
    },
    Connect,
    /// The stream gives the next thing, on this connection.
    Deliver {
        link: u32,
    },
    Claim {
        thread: usize,
    },
    History {
        number: u64,
    },
    Record {
        number: u32,
    },
    AskedTime,
    WriteState,
    Send,
    Turn {
        number: u32,
    },
    /// The time to end turns in is over.
    End,
    /// A message that came in is to have begun by now.
    IsDue {
        entry: EntryId,
        since: Duration,
    },
}

pub(crate) struct World {
    rng: Rng,
    mutation: Mutation,
    now: Duration,
    queue: BinaryHeap<Reverse<(Duration, u32, Op)>>,
    bridge: Bridge,
    machines: Vec<Machine>,
    messages: Vec<Message>,
    /// The message of each entry, by its number.
    entries: Vec<usize>,
    /// Messages that people still write.
    to_write: u32,
    max_turns: usize,
    /// Engines write without asking.
    is_free: bool,
    /// Times can be odd, and machines' clocks wrong.
    has_odd_times: bool,
    is_calm: bool,
    is_over: bool,
    /// Codes of questions so far.
    codes: u32,
    /// The message that each question was asked for, and what allowed it.
    asked: HashMap<Key, usize>,
    pub(crate) counts: Counts,
    pub(crate) is_traced: bool,
    pub(crate) trace: Vec<String>,
}

impl World {
    pub(crate) fn new(seed: u64, mutation: Mutation) -> World {
        let mut rng = Rng::with_seed(seed);
        let thread = || Thread {
            owner: None,
            messages: Vec::new(),
            sick_until: Duration::ZERO,
            slow_until: Duration::ZERO,
            question: None,
            is_held: false,
            has_moved: false,
        };
        let has_replay = rng.bool();
        let bridge = Bridge {
            skew: Duration::ZERO,
            back: Duration::ZERO,
            has_replay,
            says_hello: has_replay || rng.bool(),
            knows_instances: rng.u32(0..4) == 0,
            threads: (0..rng.usize(1..7)).map(|_| thread()).collect(),
            log: Vec::new(),
            pruned: 0,
            posts: HashMap::new(),
            questions: HashMap::new(),
            closed: HashSet::new(),
        };
        let has_odd_times = rng.u32(0..3) == 0;
        let mut machine = |_| {
            let skew = if has_odd_times { rng.u64(0..100) * 3_600 } else { rng.u64(0..5) };
            let skew = Duration::from_secs(skew);
            let is_ahead = rng.bool();
            Machine {
                disk: Disk::default(),
                process: None,
                life: 0,
                ahead: if is_ahead { skew } else { Duration::ZERO },
                behind: if is_ahead { Duration::ZERO } else { skew },
            }
        };
        let machines = (0..NAMES.len()).map(&mut machine).collect();
        World {
            mutation,
            now: Duration::from_secs(1),
            queue: BinaryHeap::new(),
            bridge,
            machines,
            messages: Vec::new(),
            entries: Vec::new(),
            to_write: rng.u32(4..20),
            max_turns: rng.usize(1..4),
            is_free: rng.u32(0..4) == 0,
            has_odd_times,
            is_calm: false,
            is_over: false,
            codes: rng.u32(..),
            asked: HashMap::new(),
            counts: Counts::default(),
            is_traced: false,
            trace: Vec::new(),
            rng,
        }
    }

    pub(crate) fn run(&mut self) -> Outcome {
        for machine in 0..TWIN {
            let at = self.between(0, 2_000);
            self.after(at, Op::Start { machine });
        }
        for op in [Op::Person, Op::Trouble] {
            let at = self.between(0, 3_000);
            self.after(at, op);
        }
        for _ in 0..STEPS_MAX {
            let Some(Reverse((at, _, op))) = self.queue.pop() else {
                if self.is_over {
                    return self.check_end();
                }
                self.release_all();
                self.is_over = true;
                continue;
            };
            self.now = self.now.max(at);
            self.happen(op)?;
        }
        for machine in 0..TWIN {
            let process = self.machines[machine].process.as_ref();
            let held = process.map(|it| format!("{:?}", it.coordinator));
            self.note(|| format!("{machine}: {held:?}"));
        }
        Err("it never comes to rest".to_owned())
    }

    fn happen(&mut self, op: Op) -> Outcome {
        match op {
            Op::Person => self.person(),
            Op::Trouble => return self.trouble(),
            Op::Calm => return self.calm(),
            Op::LateClaim { machine, thread } => {
                self.bridge.threads[thread].owner.get_or_insert(machine % TWIN);
            }
            Op::Start { machine } => return self.start(machine),
            Op::Of { machine, life, task } => {
                let Some(process) = &self.machines[machine].process else { return Ok(()) };
                if self.machines[machine].life != life {
                    return Ok(());
                }
                if self.now < process.sleeps_until {
                    // All that it does is later by that much.
                    let sleep = process.sleep;
                    self.after(sleep, op);
                    return Ok(());
                }
                return self.perform(machine, task);
            }
        }
        Ok(())
    }

    fn perform(&mut self, machine: usize, task: Task) -> Outcome {
        match task {
            Task::Tick { timer } => self.tick(machine, timer),
            Task::Connect => self.connect(machine),
            Task::Deliver { link } => self.deliver(machine, link),
            Task::Claim { thread } => self.land_claim(machine, thread),
            Task::History { number } => self.read_on(machine, number),
            Task::Record { number } => self.record(machine, number),
            Task::AskedTime => self.tell_time(machine),
            Task::WriteState => self.write_state(machine),
            Task::Send => self.send(machine),
            Task::Turn { number } => self.turn(machine, number),
            Task::End => self.end(machine),
            Task::IsDue { entry, since } => self.check_due(machine, entry, since),
        }
    }

    fn after(&mut self, delay: Duration, op: Op) {
        let tie = self.rng.u32(..);
        self.queue.push(Reverse((self.now + delay, tie, op)));
    }

    /// Something of the process that runs on a machine now.
    fn task_after(&mut self, delay: Duration, machine: usize, task: Task) {
        let life = self.machines[machine].life;
        self.after(delay, Op::Of { machine, life, task });
    }

    fn between(&mut self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.rng.u64(least..most))
    }

    /// How long a call or a disk takes.
    fn moment(&mut self) -> Duration {
        let most = if self.rng.u32(0..8) == 0 { 1_500 } else { 60 };
        self.between(0, most)
    }

    /// True once in `n` times, and never when it is calm.
    fn fault(&mut self, n: u32) -> bool {
        !self.is_calm && self.rng.u32(0..n) == 0
    }

    fn disk_fails(&mut self, machine: usize) -> bool {
        let fails = self.now < self.machines[machine].disk.sick_until && self.fault(2);
        if fails {
            self.counts.count(Count::DiskFault);
        }
        fails
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if self.is_traced {
            let line = format!("{:>9.3} {}", self.now.as_secs_f64(), text());
            self.trace.push(line);
        }
    }

    fn message_of(&self, entry: EntryId) -> usize {
        let at = usize::try_from(entry.sequence).expect("they are counted from 0");
        self.entries[at]
    }

    /// From now on nothing breaks.
    fn calm(&mut self) -> Outcome {
        self.note(|| "it is calm".to_owned());
        self.is_calm = true;
        if self.machines[TWIN].process.is_some() {
            self.crash(TWIN);
        }
        for machine in 0..TWIN {
            self.machines[machine].disk.sick_until = Duration::ZERO;
            match &self.machines[machine].process {
                Some(process) if !process.is_stopping => {
                    for number in self.leaving_turns(machine) {
                        self.task_after(Duration::ZERO, machine, Task::Turn { number });
                    }
                }
                Some(_) => {}
                None => self.after(Duration::ZERO, Op::Start { machine }),
            }
        }
        for thread in &mut self.bridge.threads {
            thread.sick_until = self.now;
            thread.slow_until = self.now;
        }
        ensure(self.queue.len() < 10_000, || "what is to come piles up".to_owned())
    }
}
