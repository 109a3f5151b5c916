//! The daemon's start: opens the store, takes in what an earlier daemon left, starts the tasks.

use std::{sync::Arc, time::Instant};

use anyhow::Context;
use crossbeam_channel::{Receiver, bounded};

use super::{
    Daemon, SWEEP, Setup,
    calls::Calls,
    engines::{self, Detection},
    machine,
    machine::Announcer,
    readiness::Readiness,
    recorder,
    records::Records,
    running::RunningTurns,
    status::Board,
};
use crate::{
    agent::{self, Sandbox},
    bridge::{
        AccessSource, Client, outbox,
        stream::{self, StreamEvent},
    },
    config::{Config, live::Live},
    coordinator::{Coordinator, Event, LeaveRules, Recovered, Settings},
    ids::Engine,
    permission::{OwnFiles, Policy},
    proc::sweep::{Before, Marked, sweep},
    store::{
        self,
        audit::Audit,
        cursor::Cursor,
        entry::{Entry, EntryId},
        inbox::Inbox,
        messages::{self, Opened},
        state::StateStore,
    },
    task,
    worker::{self, Answers, Codes, Shared},
};

/// Events that wait for the loop; a turn or a call with one more waits.
const EVENTS: usize = 64;

impl Daemon {
    /// Opens the store, takes in what an earlier daemon left, starts the tasks.
    pub(super) fn open(setup: Setup) -> anyhow::Result<Daemon> {
        let dir = setup.paths.state_dir.clone();
        let disk = Arc::clone(&setup.disk);
        let shared_disk = || Arc::clone(&disk);
        let Opened { journal, inbox, entries, outbox, seen, cursor, stored, running } =
            messages::open(shared_disk(), &dir)?;

        // The connection is made while the rest is read.
        let live: Arc<dyn AccessSource> = Arc::new(Live::new(&setup.paths.config_file, &setup.env));
        let table = agent::engines::table(setup.config.agents.clone(), &setup.own_program);
        let detection = Detection::new(&setup, &table, &dir);
        let known = detection.present();
        let about = machine::info(&setup.config, &known);
        let (stream, inbound) = start_stream(&setup, &live, &inbox, &cursor, known)?;
        let capabilities = detection.start();

        let store = StateStore::open(shared_disk(), journal, &dir)?;
        let audit = Audit::open(shared_disk(), &dir.join("audit.jsonl"))
            .with_context(|| format!("opening the audit in {}", dir.display()))?;
        let client = Client::new(Arc::clone(&live), &setup.net)?;
        let (stop_now, stop) = bounded(0);
        let (drain_now, drain) = bounded(0);
        let (event, events) = bounded(EVENTS);
        let (tasks, ended) = task::registry();
        // The sending task shuts its client down when it leaves.
        let sending = Client::new(live, &setup.net)?;
        let outbox::OutboxHandle { task: sending, wake, activity, notices } =
            outbox::start(sending, outbox.clone(), outbox::Settings::default())
                .context("starting the tasks that send posts")?;
        let state_id = engines::state_id(&dir);
        end_stragglers(&state_id);
        let (opencode, keeper) = engines::opencode(&setup, &table, &state_id)?;
        let own = OwnFiles::new(setup.paths.own(&setup.config, &setup.env));
        let shared = Arc::new(Shared {
            policy: Policy::new(&setup.config.permissions, own).map_err(anyhow::Error::msg)?,
            // `Config` has refused other words.
            sandbox: Sandbox::parse(&setup.config.codex_sandbox).unwrap_or_default(),
            opencode_model: engines::opencode_model(&setup.config),
            progress: setup.config.progress.then_some(setup.progress_every),
            client,
            inbox,
            audit,
            codes: Codes::default(),
            answers: Answers { disk, dir: dir.join("answers") },
            outbox,
            wake,
            opencode,
            engines: table,
            env: engines::inherited(&setup),
            config: setup.config,
            state_id,
            events: event,
            activity,
            is_ephemeral: setup.is_ephemeral,
            reports: setup.reports,
            drain,
            stop,
        });
        let records = Records::new(store, seen, Arc::clone(&shared));
        let settings = settings(&shared.config, records.store.is_broken(), setup.leave);
        let mut daemon = Daemon {
            coordinator: Coordinator::new(settings, cursor, records.ours()),
            started: Instant::now(),
            decisions: recorder::start(Arc::clone(&shared), &tasks)?,
            running: RunningTurns::default(),
            announcer: Announcer::new(about),
            readiness: Readiness::new(setup.readiness),
            board: Board::new(&dir, &shared.config.machine),
            calls: Calls { shared, tasks },
            records,
            stream: Some(stream),
            sending,
            keeper,
            inbound,
            events,
            sent: notices,
            capabilities,
            ended,
            stored,
            journal: running,
            drain: Some(drain_now),
            stop: Some(stop_now),
            exit_on_auth_failure: setup.exit_on_auth_failure,
        };
        let recovered = entries.into_iter().map(|entry| daemon.recovered(entry)).collect();
        daemon.step(Event::Recovered(recovered));
        Ok(daemon)
    }

    fn recovered(&self, entry: Entry) -> Recovered {
        let Entry { id, reply, progress } = entry;
        let session = progress.as_ref().and_then(|progress| progress.session.clone());
        let record = |session| worker::record(session, &self.calls.shared.config.project_dir);
        Recovered {
            entry: id,
            reply: Arc::new(reply),
            has_answer: self.calls.shared.outbox.finishes(id),
            session: session.map(record),
            progress,
        }
    }
}

fn settings(config: &Config, has_lost_bindings: bool, leave: LeaveRules) -> Settings {
    Settings {
        machine: config.machine.clone(),
        author: config.engine.author(),
        max_turns: config.max_turns,
        parallel_in_directory: config.parallel_in_directory,
        offline_max_age: config.offline_max_age,
        project_dir: config.project_dir.to_string(),
        has_lost_bindings,
        leave,
    }
}

/// Ends what the engines of an earlier daemon of this directory left running.
fn end_stragglers(state_id: &str) {
    let stragglers = sweep(Marked::Daemon(state_id), &Before::default(), SWEEP);
    if stragglers > 0 {
        log::warn!(processes = stragglers; "ended what an earlier daemon's engines had left running");
    }
}

fn start_stream(
    setup: &Setup,
    live: &Arc<dyn AccessSource>,
    inbox: &Inbox,
    cursor: &Cursor,
    engines: Vec<Engine>,
) -> anyhow::Result<(stream::StreamHandle, Receiver<StreamEvent<EntryId>>)> {
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
        inbox.put(reply, Coordinator::extra_room(reply))
    })
}
