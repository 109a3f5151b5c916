//! Event streams, as `text/event-stream`: how they begin, with `hello` and what was missed. What happens
//! from then on is sent by the task `streams` (`live`).

use std::{io, sync::Arc};

use serde_json::json;

use crate::{
    serve::{
        http::{Detach, StreamWriter, message::Response},
        hub::{Begun, Hub, frame, words_of},
        presence::Machine,
        store::{
            Caller, Store,
            replay::{Replay, Resume},
            waiting::{Scope, WaitingThread},
        },
        visit, wire,
    },
    time,
};

/// What clients are told to wait before they come back.
const RETRY: &str = "retry: 1000\n";

/// What daemons may send besides what every bridge takes.
const ACCEPTS: &[&str] = &["machine"];

/// The response to a request for the stream. A daemon names its machine and gets only `reply`
/// events; a browser gets all.
pub fn respond(
    store: Arc<Store>,
    hub: Arc<Hub>,
    caller: Caller,
    machine: Option<Machine>,
    last: Option<String>,
) -> Response {
    if !hub.has_room(caller.account) {
        let text = format!("the account has {} streams already; close some", hub.per_account);
        return Response::error(429, text).with("Retry-After", "30");
    }
    if let Some(machine) = &machine
        && hub.refuses(caller.account, machine)
    {
        visit::tell(&store, &hub, caller.account, &machine.id);
        let text = format!(
            "another daemon named {:?} is connected to this account; give one of the two another \
             agentId",
            machine.id.as_str()
        );
        let wait = hub.heartbeat.as_secs().max(1).to_string();
        return Response::error(409, text).with("Retry-After", wait);
    }
    let run = move |writer: &mut StreamWriter<'_>| {
        writer.give_up_after(2 * hub.heartbeat);
        run(&store, &hub, caller, machine, last.as_deref(), writer)
    };
    Response::stream("text/event-stream", run).with("X-Accel-Buffering", "no")
}

/// Begins a stream. None: it is over.
fn run(
    store: &Store,
    hub: &Arc<Hub>,
    caller: Caller,
    machine: Option<Machine>,
    last: Option<&str>,
    writer: &mut StreamWriter<'_>,
) -> io::Result<Option<Detach>> {
    // Until when a daemon that names no instance has had everything: it does not recognise a message
    // that it gets twice, so it must not get one again that it may be working on.
    let since = match &machine {
        Some(Machine { id, instance: None, .. }) => {
            store.machine(caller.account, id).map_err(store_failed)?.map(|it| it.last_seen)
        }
        _ => None,
    };
    let hangup = writer.hangup();
    let resumed = store
        .resume(caller, last, || hub.subscribe(caller, machine.clone(), hangup))
        .map_err(store_failed)?;
    // Shut out, or out of room, between the request and now: the stream ends as soon as it begins.
    let Some((resume, Some(subscription))) = resumed else { return Ok(None) };
    let scope = machine.clone().filter(|_| resume.kind == Replay::None).map(|machine| Scope {
        account: caller.account,
        machine: machine.id,
        since,
        head: resume.newest_message,
    });
    let mut feed = Feed { store, hub, caller, daemon: machine.is_some(), resume, writer };
    // Those of browsers are not noted.
    let mut visit = None;
    let start = || {
        let waiting = scope.as_ref().map(|scope| store.waiting(scope)).transpose();
        let waiting = waiting.map_err(store_failed)?;
        feed.writer.send(hello(&resume, waiting.as_deref()).as_bytes())?;
        visit = machine.map(|machine| visit::begin(store, hub, caller.account, machine));
        match (&scope, waiting) {
            (Some(scope), Some(waiting)) => feed.hand_out(scope, waiting),
            _ => feed.replay(),
        }
    };
    if let Err(error) = start() {
        if let Some(visit) = visit {
            visit::end(store, hub, vec![(visit, subscription)]);
        }
        return Err(error);
    }
    let hub = Arc::clone(hub);
    Ok(Some(Box::new(move |stream| hub.go_on(Begun { stream, subscription, visit }))))
}

/// The first event. `waiting` is what is handed out next, to a daemon without a position.
fn hello(resume: &Resume, waiting: Option<&[WaitingThread]>) -> String {
    let mut hello = json!({
        "replay": resume.kind,
        "serverTime": time::now(),
        "accepts": ACCEPTS,
    });
    let count = waiting.map(|it| it.iter().map(|it| it.count).sum::<usize>());
    if let Some(count) = count {
        hello["waiting"] = count.into();
    }
    // A daemon that is cut off before it has them all has to come back without a position.
    let id = count.is_none_or(|it| it == 0).then(|| resume.epoch.id(resume.after));
    format!("{RETRY}{}", frame(id, "hello", &hello))
}

/// A stream that begins.
struct Feed<'a, 'b> {
    store: &'a Store,
    hub: &'a Hub,
    caller: Caller,
    daemon: bool,
    resume: Resume,
    writer: &'a mut StreamWriter<'b>,
}

impl Feed<'_, '_> {
    /// Sends what waits, and then the position, from where everything that comes is live.
    fn hand_out(&mut self, scope: &Scope, waiting: Vec<WaitingThread>) -> io::Result<()> {
        if waiting.is_empty() {
            return Ok(());
        }
        let mut count = 0_u64;
        for mut thread in waiting {
            loop {
                let page = self.store.next_waiting(scope, &mut thread).map_err(store_failed)?;
                if page.is_empty() {
                    break;
                }
                for message in page {
                    self.writer.send(frame(None, "reply", &wire::reply(&message)).as_bytes())?;
                    count += 1;
                }
            }
        }
        log::info!(machine = scope.machine.as_str(), count; "handed out messages that waited");
        let position = self.resume.epoch.id(self.resume.after);
        self.writer.send(format!("id: {position}\n\n").as_bytes())
    }

    fn replay(&mut self) -> io::Result<()> {
        let Resume { mut after, head, .. } = self.resume;
        loop {
            let page = self.store.events(self.caller.account, after, head, self.daemon);
            let page = page.map_err(store_failed)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.seq;
            for event in page {
                let words = words_of(&event, self.daemon, &self.hub.presence);
                self.writer.send(words.as_bytes())?;
            }
        }
    }
}

/// The client sees its stream end, and comes back.
fn store_failed(error: anyhow::Error) -> io::Error {
    log::error!("a stream could not read the store: {error:#}");
    io::Error::other("the store failed")
}
