//! A model server that answers as the prompt says.
//!
//! It speaks the APIs of all engines on one port, keeps every request, and lets
//! a test wait for one. Whoever brings no key gets a 401, as from the real ones.
//! It is in the test's process, so that a test can hold an answer back until it
//! has seen what it waits for.

mod answer;
mod anthropic;
mod chat;
mod gemini;
mod http;
mod responses;
mod script;

use crate::patience::Patience;
use answer::{Answer, End, Seen};
use http::{Events, Incoming};
use script::{Op, Refusal};
use serde_json::{Value, json};
use std::{
    collections::{HashMap, HashSet},
    io::{self, Read},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Which API a request came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Api {
    Anthropic,
    Responses,
    Chat,
    Gemini,
    /// Nothing of a model's, such as a probe for whether the server is there.
    Other,
}

impl Api {
    /// Which one a path is of, and what is asked for in a request to it.
    fn of(path: &str, body: &Value) -> (Api, Seen) {
        match path.rsplit('/').next().unwrap_or_default() {
            "messages" => (Api::Anthropic, anthropic::seen(body)),
            "responses" => (Api::Responses, responses::seen(body)),
            "completions" => (Api::Chat, chat::seen(body)),
            call if call.ends_with("enerateContent") => (Api::Gemini, gemini::seen(body)),
            _ => (Api::Other, Seen::default()),
        }
    }

    fn streams(self, path: &str, body: &Value) -> bool {
        match self {
            Api::Anthropic | Api::Chat => body["stream"] == true,
            Api::Gemini => path.ends_with(":streamGenerateContent"),
            Api::Responses | Api::Other => true,
        }
    }

    fn whole(self, answer: &Answer) -> Value {
        match self {
            Api::Anthropic => anthropic::whole(answer),
            Api::Gemini => gemini::whole(answer),
            _ => chat::whole(answer),
        }
    }

    fn stream(self, events: &mut Events<'_>, answer: &Answer) -> io::Result<()> {
        match self {
            Api::Anthropic => anthropic::stream(events, answer),
            Api::Chat => chat::stream(events, answer),
            Api::Gemini => gemini::stream(events, answer),
            Api::Responses | Api::Other => responses::stream(events, answer),
        }
    }

    fn end(self, events: &mut Events<'_>, answer: &Answer) -> io::Result<()> {
        match self {
            Api::Anthropic => anthropic::end(events, answer),
            Api::Chat => chat::end(events, answer),
            Api::Gemini => gemini::end(events, answer),
            Api::Responses | Api::Other => responses::end(events, answer),
        }
    }

    fn fail(self, events: &mut Events<'_>, code: &str, message: &str) -> io::Result<()> {
        match self {
            Api::Anthropic => anthropic::fail(events, code, message),
            Api::Chat => chat::fail(events, code, message),
            Api::Gemini => gemini::fail(events, code, message),
            Api::Responses | Api::Other => responses::fail(events, code, message),
        }
    }

    fn error(self, status: u16) -> Value {
        match self {
            Api::Anthropic => anthropic::error(status),
            Api::Gemini => gemini::error(status),
            _ => responses::error(status),
        }
    }
}

/// A request that an engine has sent.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) api: Api,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body: Value,
    /// The last message of the human, with envelope, history and bootstrap.
    pub(crate) prompt: String,
    /// Results of tools since that message.
    pub(crate) results: Vec<String>,
    /// Names of the tools that the engine offers.
    pub(crate) tools: Vec<String>,
    /// Part of a turn, and not what the engine asks for itself, such as a title.
    pub(crate) is_turn: bool,
    /// Whether a key or token came along.
    pub(crate) authorized: bool,
    /// The HTTP status, once answered.
    pub(crate) status: Option<u16>,
    /// When all but the end of a streamed answer was written.
    pub(crate) over: Option<Instant>,
    /// The engine hung up before the answer was over.
    pub(crate) abandoned: bool,
}

impl Request {
    /// The human's message from its envelope header on.
    pub(crate) fn human(&self) -> &str {
        script::scripted(&self.prompt)
    }

    /// Whether any text that was sent holds these words: instructions, earlier
    /// messages, results of tools.
    pub(crate) fn mentions(&self, words: &str) -> bool {
        fn any(value: &Value, words: &str) -> bool {
            match value {
                Value::String(text) => text.contains(words),
                Value::Array(items) => items.iter().any(|it| any(it, words)),
                Value::Object(fields) => fields.values().any(|it| any(it, words)),
                _ => false,
            }
        }
        any(&self.body, words)
    }
}

/// The server. Dropping it ends all that it holds open.
#[derive(Debug)]
pub(crate) struct Model {
    shared: Arc<Shared>,
    address: SocketAddr,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    requests: Vec<Request>,
    open_gates: HashSet<String>,
    /// Instead of any answer.
    refusal: Option<Refusal>,
    /// How often each response with a counted error was asked for.
    tries: HashMap<String, u32>,
    streams: Vec<TcpStream>,
    workers: Vec<JoinHandle<()>>,
    closed: bool,
}

impl Model {
    /// Starts on a free port.
    pub(crate) fn start() -> Model {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::<Shared>::default();
        let acceptor = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.accept(&listener)
        });
        Model { shared, address, acceptor: Some(acceptor) }
    }

    /// Where it listens, without a path.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All requests so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.lock().requests.clone()
    }

    /// Those requests so far that are part of a turn.
    pub(crate) fn turns(&self) -> Vec<Request> {
        self.requests().into_iter().filter(|it| it.is_turn).collect()
    }

    /// Waits for the first request of which this is true. It may become true
    /// later than the request came: when it is answered or abandoned.
    ///
    /// # Panics
    ///
    /// When the time is over, with what has come instead.
    #[track_caller]
    pub(crate) fn wait_for(
        &self,
        wanted: impl Fn(&Request) -> bool,
        patience: Duration,
    ) -> Request {
        let mut left = Patience::of(patience);
        let mut state = self.shared.lock();
        loop {
            if let Some(request) = state.requests.iter().find(|it| wanted(it)) {
                return request.clone();
            }
            if !left.lasts() {
                let seen: Vec<String> = state.requests.iter().map(brief).collect();
                panic!(
                    "no such request in {patience:?}; there were {}:\n{}",
                    seen.len(),
                    seen.join("\n")
                );
            }
            state = self.shared.wait(state, Patience::SLICE);
        }
    }

    /// Lets go of the answers that wait at `[[gate:name]]`, now and later.
    pub(crate) fn open(&self, gate: &str) {
        self.shared.lock().open_gates.insert(gate.to_owned());
        self.shared.changed.notify_all();
    }

    /// Answers every request with this error, until [`Model::recover`].
    pub(crate) fn set_status(&self, status: u16) {
        self.shared.lock().refusal = Some(Refusal { status, ..Refusal::default() });
    }

    /// Like [`Model::set_status`], and says when to come back.
    pub(crate) fn set_status_with_retry_after(&self, status: u16, seconds: u32) {
        self.shared.lock().refusal =
            Some(Refusal { status, retry_after: Some(seconds), ..Refusal::default() });
    }

    /// Answers as the prompts say again.
    pub(crate) fn recover(&self) {
        self.shared.lock().refusal = None;
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        let workers = {
            let mut state = self.shared.lock();
            state.closed = true;
            for stream in &state.streams {
                // Its worker may have closed it already.
                drop(stream.shutdown(Shutdown::Both));
            }
            std::mem::take(&mut state.workers)
        };
        self.shared.changed.notify_all();
        // Wakes the acceptor, which then sees that it's over.
        drop(TcpStream::connect(self.address));
        for thread in workers.into_iter().chain(self.acceptor.take()) {
            // A panic of a worker has been printed; a second one here would abort.
            drop(thread.join());
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>, time: Duration) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { continue };
            let mut state = self.lock();
            if state.closed {
                return;
            }
            let Ok(copy) = stream.try_clone() else { continue };
            state.streams.push(copy);
            let shared = Arc::clone(self);
            state.workers.push(std::thread::spawn(move || {
                // An engine may hang up at any time, and tests see to it that it does.
                drop(shared.serve(&stream));
                // The copy in the list would keep the connection open.
                drop(stream.shutdown(Shutdown::Both));
            }));
        }
    }

    fn serve(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let incoming = http::read(stream)?;
        let body = serde_json::from_slice(&incoming.body).unwrap_or(Value::Null);
        let path = incoming.path.split('?').next().unwrap_or_default();
        let (api, seen) = Api::of(path, &body);
        // A GET of the path of a model is an attempt to upgrade to a web socket.
        let is_upgrade = api != Api::Other && incoming.method == "GET";
        let shown_api = if is_upgrade { Api::Other } else { api };
        let id = self.record(shown_api, &incoming, body.clone(), &seen);
        let refusal = self.lock().refusal.clone();
        let refusal = match refusal {
            None if !incoming.authorized => Some(Refusal { status: 401, ..Refusal::default() }),
            None if is_upgrade => Some(Refusal { status: 426, ..Refusal::default() }),
            refusal => refusal,
        };
        let outcome = match (api, refusal) {
            (Api::Other, _) => self.answer_other(id, path, stream),
            (_, Some(refusal)) => self.refuse(id, api, &refusal, stream),
            (_, None) => self.answer(id, (api, path), &body, &seen, stream),
        };
        self.update(id, |it| it.abandoned |= outcome.is_err());
        outcome
    }

    fn record(&self, api: Api, incoming: &Incoming, body: Value, seen: &Seen) -> usize {
        let mut state = self.lock();
        state.requests.push(Request {
            api,
            method: incoming.method.clone(),
            path: incoming.path.clone(),
            body,
            prompt: seen.prompt.clone(),
            results: seen.results.clone(),
            tools: seen.offers.iter().map(|it| it.name.clone()).collect(),
            is_turn: api != Api::Other && !seen.aside,
            authorized: incoming.authorized,
            status: None,
            over: None,
            abandoned: false,
        });
        self.changed.notify_all();
        state.requests.len() - 1
    }

    fn update(&self, id: usize, change: impl FnOnce(&mut Request)) {
        change(&mut self.lock().requests[id]);
        self.changed.notify_all();
    }

    fn answer_other(&self, id: usize, path: &str, stream: &TcpStream) -> io::Result<()> {
        let (status, body) = if path.ends_with("/count_tokens") {
            (200, json!({"input_tokens": 100}))
        } else if path.ends_with(":countTokens") {
            (200, json!({"totalTokens": 100}))
        } else if path == "/" {
            (200, json!({}))
        } else {
            (404, responses::error(404))
        };
        self.update(id, |it| it.status = Some(status));
        http::json(stream, status, None, &body)
    }

    fn answer(
        &self,
        id: usize,
        (api, path): (Api, &str),
        body: &Value,
        seen: &Seen,
        stream: &TcpStream,
    ) -> io::Result<()> {
        let human = script::scripted(&seen.prompt);
        let responses = script::responses(script::parse(human));
        let last = seen.results.last().map_or("", String::as_str);
        let ops = if seen.aside {
            vec![Op::Text("Scripted title".to_owned())]
        } else if responses.is_empty() {
            vec![Op::Text(format!("echo: {}", head(human, 200)))]
        } else if let Some(due) = script::due(&responses, seen.results.len()) {
            due.to_vec()
        } else {
            vec![Op::Text(format!("done: {}", head(last, 400)))]
        };
        let mut pace = Duration::ZERO;
        for op in &ops {
            match op {
                Op::Gate(gate) => self.wait_until(None, |it| it.open_gates.contains(gate)),
                Op::Sleep(time) => self.wait_until(Some(*time), |_| false),
                Op::Pace(time) => pace = *time,
                Op::Error(refusal) => {
                    let key = format!("{} {human}", seen.results.len());
                    let mut state = self.lock();
                    let tries = state.tries.entry(key).or_default();
                    *tries += 1;
                    let is_due = refusal.times.is_none_or(|times| *tries <= times);
                    drop(state);
                    if is_due {
                        return self.refuse(id, api, refusal, stream);
                    }
                }
                _ => {}
            }
        }
        let model = body["model"].as_str().unwrap_or("scripted");
        let answer = Answer::play(format!("scripted{id}"), model, &ops, seen);
        self.update(id, |it| it.status = Some(200));
        if !api.streams(path, body) {
            return http::json(stream, 200, None, &api.whole(&answer));
        }
        let pause = || {
            if !pace.is_zero() {
                self.wait_until(Some(pace), |_| false);
            }
        };
        let mut events = Events::begin(stream, &pause)?;
        api.stream(&mut events, &answer)?;
        // Before the end is sent: a test that hears of the answer finds it.
        self.update(id, |it| it.over = Some(Instant::now()));
        match &answer.end {
            End::Complete => api.end(&mut events, &answer)?,
            End::Fail { code, message } => api.fail(&mut events, code, message)?,
            End::Hang(time) => return hang(stream, *time),
            End::Cut => return Ok(()),
        }
        events.finish()
    }

    /// Waits for a change, the end of the time, or that of the server.
    fn wait_until(&self, time: Option<Duration>, over: impl Fn(&State) -> bool) {
        let deadline = time.map(|it| Instant::now() + it);
        let mut state = self.lock();
        while !state.closed && !over(&state) {
            let left =
                deadline.map_or(Duration::MAX, |it| it.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return;
            }
            state = self.wait(state, left.min(Duration::from_hours(1)));
        }
    }

    fn refuse(&self, id: usize, api: Api, refusal: &Refusal, stream: &TcpStream) -> io::Result<()> {
        self.update(id, |it| it.status = Some(refusal.status));
        let body = match &refusal.body {
            Some(body) => body.clone(),
            None => api.error(refusal.status),
        };
        http::json(stream, refusal.status, refusal.retry_after, &body)
    }
}

/// Sends nothing more. An engine that hangs up meanwhile is an error.
fn hang(mut stream: &TcpStream, time: Duration) -> io::Result<()> {
    stream.set_read_timeout(Some(time))?;
    match stream.read(&mut [0]) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(_) => Ok(()),
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Ok(()),
        Err(e) => Err(e),
    }
}

fn head(text: &str, n_chars: usize) -> String {
    text.chars().take(n_chars).collect()
}

/// A request in one line, for a test that fails.
fn brief(request: &Request) -> String {
    let Request { api, method, path, status, abandoned, results, .. } = request;
    let n_results = results.len();
    let human = head(request.human(), 300);
    format!(
        "  {api:?} {method} {path} -> {status:?}, abandoned: {abandoned}, {n_results} results, {human:?}"
    )
}
