//! The daemon's start: opens the store, takes in what an earlier daemon left, starts the tasks.

use std::{sync::Arc, time::Instant};

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
    config::live::Live,
    coordinator::{Coordinator, Event, Recovered, Settings},
    ids::Engine,
    proc::sweep::{Before, Marked, sweep},
    store::{
        self,
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

/// Results of calls that wait for the loop; a call with one more waits.
const EVENTS: usize = 64;

impl Daemon {
    /// Opens the store, takes in what an earlier daemon left, starts the tasks.
    pub(super) fn open(setup: Setup) -> anyhow::Result<Daemon> {
        let started = Instant::now();
        let dir = setup.paths.state_dir.clone();
        let disk = Arc::clone(&setup.disk);
        let (inbox, recovered) = Inbox::open(Arc::clone(&disk), &dir.join("inbox"))
            .with_context(|| format!("opening the inbox in {}", dir.display()))?;
        let cursor = Cursor::load(&*disk, &dir)?;

        // The connection is made while the rest is read.
        let live: Arc<dyn AccessSource> = Arc::new(Live::new(&setup.paths.config_file, &setup.env));
        let table = engines::table(&setup);
        let (known, capabilities) = engines::detect(&setup, &table, &dir);
        let about = machine::info(&setup.config, &known);
        let instance = store::instance(&*disk, &dir)
            .with_context(|| format!("naming the state directory {}", dir.display()))?;
        let (stream, inbound) = start_stream(&setup, &live, &inbox, &cursor, instance, known)?;

        let store = Store::open(Arc::clone(&disk), &dir)?;
        let seen = Seen::open(Arc::clone(&disk), &dir.join("seen")).with_context(|| {
            format!("opening the journal of done messages in {}", dir.display())
        })?;
        let outbox = Outbox::open(disk, &dir.join("outbox"))
            .with_context(|| format!("opening the outbox in {}", dir.display()))?;
        outbox.expect_acknowledged(&recovered.iter().map(|entry| entry.id).collect());

        let client = Client::new(Arc::clone(&live), &setup.net)?;
        let (stop_now, stop) = bounded(0);
        let (drain_now, drain) = bounded(0);
        let (report, reports) = bounded(256);
        let (event, events) = bounded(EVENTS);
        let (tasks, ended) = task::registry();
        let channels = outbox::channels();
        // The sending task shuts its client down when it leaves.
        let sending = outbox::start(Client::new(live, &setup.net)?, &outbox, &channels)
            .context("starting the tasks that send posts")?;
        let state_id = engines::state_id(&dir);
        let stragglers = sweep(Marked::Daemon(&state_id), &Before::default(), SWEEP);
        if stragglers > 0 {
            log::warn!(processes = stragglers; "ended what an earlier daemon's engines had left running");
        }
        let (opencode, keeper) = engines::opencode(&setup, &table, &state_id)?;
        let shared = Arc::new(Shared {
            settings: config::settings(&setup)?,
            client,
            inbox,
            audit: Audit::open(Arc::clone(&setup.disk), &dir.join("audit.jsonl"))
                .with_context(|| format!("opening the audit in {}", dir.display()))?,
            codes: Codes::default(),
            answers: Answers { disk: Arc::clone(&setup.disk), dir: dir.join("answers") },
            outgoing: Outgoing { outbox, wake: channels.wake },
            opencode,
            engines: table,
            env: setup.env.vars.clone().into_iter().collect(),
            token: setup.config.token.clone(),
            state_id,
            reports: report,
            activity: channels.activity,
            drain,
            stop,
        });
        let machine = setup.config.machine.clone();
        let records = Records::new(machine.clone(), store, seen, Arc::clone(&shared));
        let settings = Settings {
            machine: machine.clone(),
            author: setup.config.engine.author(),
            max_turns: setup.config.max_turns,
            parallel_in_directory: setup.config.parallel_in_directory,
            offline_max_age: setup.config.offline_max_age,
            project_dir: setup.config.project_dir.to_string(),
            has_lost_bindings: records.has_lost_bindings(),
        };
        let mut daemon = Daemon {
            coordinator: Coordinator::new(settings, cursor, records.ours()),
            started,
            recorder: Recorder::start(Arc::clone(&shared), &tasks, event.clone())
                .context("starting the task that writes decisions down")?,
            running: Running::new(Arc::clone(&shared), tasks.clone()),
            announcer: Announcer::new(shared.client.clone(), about, tasks.clone()),
            calls: Calls { shared, machine: machine.clone(), tasks, events: event },
            records,
            board: Board::new(&dir, &machine),
            stream: Some(stream),
            sending,
            keeper,
            inbound,
            reports,
            events,
            told: channels.told,
            capabilities,
            ended,
            drain: Some(drain_now),
            stop: Some(stop_now),
            setup,
        };
        let recovered = recovered.into_iter().map(|entry| daemon.recovered(entry)).collect();
        daemon.step(Event::Recovered(recovered));
        Ok(daemon)
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

fn start_stream(
    setup: &Setup,
    live: &Arc<dyn AccessSource>,
    inbox: &Inbox,
    cursor: &Cursor,
    instance: String,
    engines: Vec<Engine>,
) -> anyhow::Result<(stream::Handle, Receiver<StreamEvent<EntryId>>)> {
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
