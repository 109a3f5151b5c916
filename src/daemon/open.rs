//! The daemon's start: opens the store, takes in what an earlier daemon left, starts the tasks.

use std::{path::Path, sync::Arc, time::Instant};

use anyhow::Context;
use crossbeam_channel::{Receiver, bounded};

use super::{
    Daemon, SWEEP, Setup, calls::Calls, config, engines, machine, machine::Announcer, outbox,
    recorder::Recorder, records::Records, running::Running, status::Board,
};
use crate::{
    bridge::{
        AccessSource, Client,
        stream::{self, StreamEvent},
    },
    config::{Config, live::Live},
    coordinator::{Coordinator, Event, Recovered, Settings},
    ids::Engine,
    proc::sweep::{Before, Marked, sweep},
    store::{
        self, Disk,
        audit::Audit,
        entry::{Entry, EntryId},
        outbox::Outbox,
        seen::Seen,
        spool::Inbox,
        state::{Cursor, Store},
    },
    task,
    worker::{self, Answers, Codes, Outgoing, Shared},
};

/// Events that wait for the loop; a turn or a call with one more waits.
const EVENTS: usize = 256;

impl Daemon {
    /// Opens the store, takes in what an earlier daemon left, starts the tasks.
    pub(super) fn open(setup: Setup) -> anyhow::Result<Daemon> {
        let dir = setup.paths.state_dir.clone();
        let disk = Arc::clone(&setup.disk);
        let (inbox, recovered) = open_inbox(&disk, &dir)?;
        let cursor = Cursor::load(&*disk, &dir)?;

        // The connection is made while the rest is read.
        let live: Arc<dyn AccessSource> = Arc::new(Live::new(&setup.paths.config_file, &setup.env));
        let table = engines::table(&setup);
        let (known, capabilities) = engines::detect(&setup, &table, &dir);
        let about = machine::info(&setup.config, &known);
        let (stream, inbound) = start_stream(&setup, &live, &inbox, &cursor, known)?;

        let Storage { store, seen, outbox, audit } = Storage::open(&disk, &dir)?;
        outbox.expect_acknowledged(&recovered.iter().map(|entry| entry.id).collect());
        let client = Client::new(Arc::clone(&live), &setup.net)?;
        let (stop_now, stop) = bounded(0);
        let (drain_now, drain) = bounded(0);
        let (event, events) = bounded(EVENTS);
        let (tasks, ended) = task::registry();
        let channels = outbox::channels();
        let sending = start_sending(&setup, live, &outbox, &channels)?;
        let state_id = engines::state_id(&dir);
        end_stragglers(&state_id);
        let (opencode, keeper) = engines::opencode(&setup, &table, &state_id)?;
        let shared = Arc::new(Shared {
            settings: config::settings(&setup)?,
            client,
            inbox,
            audit,
            codes: Codes::default(),
            answers: Answers { disk, dir: dir.join("answers") },
            outgoing: Outgoing { outbox, wake: channels.wake },
            opencode,
            engines: table,
            env: engines::inherited(&setup),
            state_id,
            events: event.clone(),
            activity: channels.activity,
            drain,
            stop,
        });
        let machine = setup.config.machine.clone();
        let records = Records::new(machine.clone(), store, seen, Arc::clone(&shared));
        let settings = settings(&setup.config, records.has_lost_bindings());
        let mut daemon = Daemon {
            coordinator: Coordinator::new(settings, cursor, records.ours()),
            started: Instant::now(),
            recorder: Recorder::start(Arc::clone(&shared), &tasks, event.clone())?,
            running: Running::new(Arc::clone(&shared), tasks.clone()),
            announcer: Announcer::new(shared.client.clone(), about, tasks.clone()),
            calls: Calls { shared, machine: machine.clone(), tasks, events: event },
            records,
            board: Board::new(&dir, &machine),
            stream: Some(stream),
            sending,
            keeper,
            inbound,
            events,
            sent: channels.events,
            capabilities,
            ended,
            drain: Some(drain_now),
            stop: Some(stop_now),
            setup,
        };
        daemon.recover(recovered);
        Ok(daemon)
    }

    /// Takes in what an earlier daemon left in the inbox.
    fn recover(&mut self, entries: Vec<Entry>) {
        let recovered = entries.into_iter().map(|entry| self.recovered(entry)).collect();
        self.step(Event::Recovered(recovered));
    }

    fn recovered(&self, entry: Entry) -> Recovered {
        let Entry { id, reply, progress } = entry;
        let session = progress.as_ref().and_then(|progress| progress.session.clone());
        let record = |session| worker::record(session, self.setup.config.project_dir.as_std_path());
        Recovered {
            entry: id,
            reply: Arc::new(reply),
            has_answer: self.calls.shared.outgoing.outbox.finishes(id),
            session: session.map(record),
            progress,
        }
    }
}

fn open_inbox(disk: &Arc<dyn Disk>, dir: &Path) -> anyhow::Result<(Inbox, Vec<Entry>)> {
    Inbox::open(Arc::clone(disk), &dir.join("inbox"))
        .with_context(|| format!("opening the inbox in {}", dir.display()))
}

/// What the state directory holds beside the inbox and the cursor.
struct Storage {
    store: Store,
    seen: Seen,
    outbox: Outbox,
    audit: Audit,
}

impl Storage {
    fn open(disk: &Arc<dyn Disk>, dir: &Path) -> anyhow::Result<Storage> {
        let disk = || Arc::clone(disk);
        let what = |what: &str| format!("opening the {what} in {}", dir.display());
        Ok(Storage {
            store: Store::open(disk(), dir)?,
            seen: Seen::open(disk(), &dir.join("seen"))
                .with_context(|| what("journal of done messages"))?,
            outbox: Outbox::open(disk(), &dir.join("outbox")).with_context(|| what("outbox"))?,
            audit: Audit::open(disk(), &dir.join("audit.jsonl")).with_context(|| what("audit"))?,
        })
    }
}

fn settings(config: &Config, has_lost_bindings: bool) -> Settings {
    Settings {
        machine: config.machine.clone(),
        author: config.engine.author(),
        max_turns: config.max_turns,
        parallel_in_directory: config.parallel_in_directory,
        offline_max_age: config.offline_max_age,
        project_dir: config.project_dir.to_string(),
        has_lost_bindings,
    }
}

/// Ends what the engines of an earlier daemon of this directory left running.
fn end_stragglers(state_id: &str) {
    let stragglers = sweep(Marked::Daemon(state_id), &Before::default(), SWEEP);
    if stragglers > 0 {
        log::warn!(processes = stragglers; "ended what an earlier daemon's engines had left running");
    }
}

fn start_sending(
    setup: &Setup,
    live: Arc<dyn AccessSource>,
    outbox: &Outbox,
    channels: &outbox::Channels,
) -> anyhow::Result<task::Task> {
    // The sending task shuts its client down when it leaves.
    let client = Client::new(live, &setup.net)?;
    outbox::start(client, outbox, channels).context("starting the tasks that send posts")
}

fn start_stream(
    setup: &Setup,
    live: &Arc<dyn AccessSource>,
    inbox: &Inbox,
    cursor: &Cursor,
    engines: Vec<Engine>,
) -> anyhow::Result<(stream::Handle, Receiver<StreamEvent<EntryId>>)> {
    let dir = &setup.paths.state_dir;
    let instance = store::instance(&*setup.disk, dir)
        .with_context(|| format!("naming the state directory {}", dir.display()))?;
    let settings = stream::Settings {
        instance,
        capabilities: engines.iter().map(ToString::to_string).collect(),
        last_event_id: cursor.last_event_id.clone(),
        idle: setup.config.stream_idle_timeout,
        ..stream::Settings::new(setup.config.machine.clone())
    };
    let inbox = inbox.clone();
    stream::start(Arc::clone(live), &setup.net, settings, move |reply| {
        inbox.put_beyond(reply, Coordinator::extra_room(reply))
    })
}
