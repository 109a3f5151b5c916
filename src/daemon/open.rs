//! The daemon's start: opens the store, takes in what an earlier daemon left, starts the tasks.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Instant,
};

use anyhow::Context;
use crossbeam_channel::{Receiver, bounded, unbounded};

use super::{
    Daemon, SWEEP, Setup, catchup::Catching, config, engines, held::Held, machine, outbox,
    places::Places, questions::Questions, status::Board,
};
use crate::{
    bridge::{
        AccessSource, Client,
        stream::{self, StreamEvent},
        wire::Reply,
    },
    config::live::Live,
    dispatch::Dispatch,
    ids::{Engine, ThreadId, TurnId},
    proc::sweep::{Before, Marked, sweep},
    store::{
        audit::Audit,
        entry::{EntryId, Progress, message_key},
        outbox::Outbox,
        seen::Seen,
        spool::Inbox,
        state::{Cursor, Store},
    },
    worker::{self, Answers, Codes, Outgoing, Shared},
};

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
        let about = machine::Telling::new(machine::info(&setup.config, &known));
        let (stream, inbound) = start_stream(&setup, &live, &inbox, &cursor, known)?;

        let store = Store::open(Arc::clone(&disk), &dir)?;
        let seen = Seen::open(Arc::clone(&disk), &dir.join("seen")).with_context(|| {
            format!("opening the journal of done messages in {}", dir.display())
        })?;
        let outbox = Outbox::open(disk, &dir.join("outbox"))
            .with_context(|| format!("opening the outbox in {}", dir.display()))?;
        outbox.expect_settled(&recovered.iter().map(|entry| entry.id).collect());

        let client = Client::new(Arc::clone(&live), &setup.net)?;
        let (stop_now, stop) = bounded(0);
        let (drain_now, drain) = bounded(0);
        let (report, reports) = bounded(256);
        // Unbounded: the dispatcher limits the claims in flight.
        let (claimed_in, claimed) = unbounded();
        let channels = outbox::channels();
        // The sending task shuts its client down when it leaves.
        let sending = outbox::start(Client::new(live, &setup.net)?, &outbox, &channels)
            .context("starting the tasks that send posts")?;
        let state_id = engines::state_id(&dir);
        let stragglers = sweep(Marked::Daemon(&state_id), &Before::default(), SWEEP);
        if stragglers > 0 {
            log::warn!(processes = stragglers; "ended what an earlier daemon's engines had left running");
        }
        let shared = Arc::new(Shared {
            settings: config::settings(&setup)?,
            client,
            inbox,
            audit: Audit::open(Arc::clone(&setup.disk), &dir.join("audit.jsonl"))
                .with_context(|| format!("opening the audit in {}", dir.display()))?,
            codes: Codes::default(),
            answers: Answers { disk: Arc::clone(&setup.disk), dir: dir.join("answers") },
            outgoing: Outgoing { outbox, wake: channels.wake },
            opencode: engines::opencode(&setup, &table, &state_id)?,
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
        let ours = store
            .bindings()
            .iter()
            .filter(|(_, binding)| binding.machine.as_ref().is_none_or(|owner| *owner == machine))
            .map(|(thread, _)| thread.clone());
        let mut daemon = Daemon {
            dispatch: Dispatch::new(machine.clone(), ours),
            started,
            events: VecDeque::new(),
            shared,
            workers: HashMap::new(),
            workers_started: 0,
            early: HashMap::new(),
            places: Places::new(setup.config.max_turns, setup.config.parallel_in_directory),
            jobs: HashMap::new(),
            store,
            seen,
            settling: VecDeque::new(),
            cursor,
            cursor_due: None,
            disk_due: None,
            settle_due: None,
            claimed_in,
            claimed,
            reports,
            capabilities,
            machine: Arc::new(about),
            tells_machine: false,
            inbound,
            catching: Catching::default(),
            board: Board::new(&dir, &machine),
            held: Held::default(),
            questions: Questions::default(),
            stored: channels.asked,
            stream: Some(stream),
            sending,
            drain: Some(drain_now),
            stop: Some(stop_now),
            setup,
        };
        if !recovered.is_empty() {
            log::info!(messages = recovered.len(); "going on with messages that an earlier daemon left");
        }
        daemon.remember_died();
        let answered = recovered.iter().filter_map(|entry| {
            let progress = entry.progress.as_ref()?;
            Some((progress.turn.clone(), progress.answers.clone()?))
        });
        let answered: HashSet<(TurnId, String)> = answered.collect();
        for entry in recovered {
            daemon.recover(entry.id, entry.reply, entry.progress, &answered);
        }
        Ok(daemon)
    }

    /// A message that was in the inbox at the start.
    fn recover(
        &mut self,
        entry: EntryId,
        reply: Reply,
        progress: Option<Progress>,
        answered: &HashSet<(TurnId, String)>,
    ) {
        self.restore_session(&reply.thread_id, progress.as_ref());
        let is_answered = progress.as_ref().is_some_and(|progress| progress.is_answered);
        if is_answered || self.shared.outgoing.outbox.finishes(entry) {
            // Its answer is out, or on the way.
            self.settle(entry, Some(&message_key(entry, &reply)));
            return;
        }
        let is_over = progress.as_ref().is_some_and(|progress| {
            self.died_answering(entry, &reply, progress)
                || self.died_asking(entry, &reply, progress, answered)
        });
        if is_over {
            return;
        }
        let reply = Arc::new(reply);
        if progress.is_some() || !self.answers(entry, &reply, true) {
            self.inbound(entry, reply, progress);
        }
    }

    /// A session that the inbox knows and state.json does not: the crash came between the two.
    fn restore_session(&mut self, thread: &ThreadId, progress: Option<&Progress>) {
        let Some(Progress { engine, session: Some(session), .. }) = progress else { return };
        let mut binding = self.binding(thread);
        if !binding.sessions.contains_key(engine) {
            let record = worker::record(session.clone(), &self.setup.config.project_dir);
            binding.sessions.insert(engine.clone(), record);
            self.store.set(thread, binding);
        }
    }
}

fn start_stream(
    setup: &Setup,
    live: &Arc<dyn AccessSource>,
    inbox: &Inbox,
    cursor: &Cursor,
    engines: Vec<Engine>,
) -> anyhow::Result<(stream::Handle, Receiver<StreamEvent<EntryId>>)> {
    let settings = stream::Settings {
        capabilities: engines.iter().map(ToString::to_string).collect(),
        last_event_id: cursor.last_event_id.clone(),
        idle: setup.config.stream_idle_timeout,
        ..stream::Settings::new(setup.config.machine.clone())
    };
    let inbox = inbox.clone();
    stream::start(Arc::clone(live), &setup.net, settings, move |reply| inbox.put(reply))
}
