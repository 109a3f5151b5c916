// Live updates: one event stream, read by hand and not by EventSource, which hides the heartbeats
// that tell a quiet stream from a dead one, gives up on some errors for good, and can't be made to
// look at once when the machine wakes. While there is no stream the page asks every few seconds.

/** The bridge sends a comment after 15 silent seconds. */
const SILENCE_MS = 40_000;
const POLL_MS = 4_000;
const RETRY_MS = { first: 500, most: 15_000 };
/** An outage shorter than this is not worth a word. */
const PATIENCE_MS = 2_500;

const live = {
  running: false,
  lastId: "",
  heardAt: 0,
  retryMs: RETRY_MS.first,
  abort: null,
  /** Wakes the wait before the next try. */
  wake: () => {},
  downSince: 0,
};

/** Runs until `stopLive`. */
async function startLive() {
  if (live.running) return;
  live.running = true;
  const poller = setInterval(pollWhileDown, POLL_MS);
  const watchdog = setInterval(refuseSilence, 5_000);
  while (live.running) {
    await readStream().catch(() => {});
    if (!live.running) break;
    markOutage();
    live.downSince ||= Date.now();
    setLink("down");
    await pause(live.retryMs * (0.5 + Math.random() / 2));
    live.retryMs = Math.min(RETRY_MS.most, live.retryMs * 2);
  }
  clearInterval(poller);
  clearInterval(watchdog);
}

function stopLive() {
  live.running = false;
  live.lastId = "";
  live.abort?.abort();
  live.wake();
}

function pause(milliseconds) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    live.wake = () => {
      clearTimeout(timer);
      resolve();
    };
  });
}

function setLink(link) {
  if (state.link === link) return;
  state.link = link;
  touch("link");
}

async function readStream() {
  live.abort = new AbortController();
  live.heardAt = Date.now();
  const headers = { Accept: "text/event-stream" };
  if (live.lastId) headers["Last-Event-ID"] = live.lastId;
  const { signal } = live.abort;
  const options = { headers, signal, credentials: "same-origin", cache: "no-store" };
  const response = await fetch("/api/bridge/stream", options);
  if (response.status === 401) api.onSignedOut();
  if (!response.ok || !response.body) throw new Error("no stream");
  const parser = new EventParser(onEvent);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    live.heardAt = Date.now();
    parser.push(value);
  }
}

/** Server-sent events as the HTML standard has them. */
class EventParser {
  constructor(onEvent) {
    Object.assign(this, { onEvent, rest: "", name: "", data: [], id: null });
  }

  push(text) {
    const lines = (this.rest + text).split(/\r\n|\n|\r(?!$)/);
    this.rest = lines.pop();
    for (const line of lines) this.line(line);
  }

  line(line) {
    if (line === "") {
      if (this.data.length > 0) this.onEvent(this.name || "message", this.data.join("\n"), this.id);
      Object.assign(this, { name: "", data: [], id: null });
      return;
    }
    const [, key, value] = /^([^:]*)(?:: ?(.*))?$/s.exec(line);
    if (key === "event") this.name = value ?? "";
    if (key === "data") this.data.push(value ?? "");
    if (key === "id") this.id = value ?? "";
  }
}

function onEvent(name, text, id) {
  let data;
  try {
    data = JSON.parse(text);
  } catch {
    return;
  }
  if (typeof data !== "object" || data === null) return;
  handlers[name]?.(data);
  // After it was acted upon: what fails is sent again.
  if (id !== null) live.lastId = id;
}

const handlers = {
  hello: onHello,
  reply: onMessage,
  message: onMessage,
  activity({ threadId, state: activity, since }) {
    const thread = state.threads.get(threadId);
    if (!thread) return;
    putThread({ threadId, working: activity === "working" ? { since: asText(since) || serverNow() } : null });
  },
  thread(data) {
    if (data.change === "deleted") dropThread(data.threadId);
    else putThread(data);
  },
  machine: putMachine,
};

const serverNow = () => new Date(now()).toISOString();

/** The stream is there. Whatever it could not replay is read. */
function onHello({ serverTime, replay }) {
  setClock(serverTime);
  endOutage(replay === "complete");
  live.retryMs = RETRY_MS.first;
  live.downSince = 0;
  setLink("open");
  catchUp().catch(() => {});
}

/** Reads what may have been missed; what is known already changes nothing. */
async function catchUp() {
  const { threadId } = state.route;
  await Promise.all([loadThreads(), loadMachines(), threadId ? refresh(threadId) : null]);
  loadExternal().catch(() => {});
  await sendWaiting();
}

function onMessage(message) {
  const isNew = receive(message);
  const thread = state.threads.get(message.threadId);
  if (!thread) loadThreads().catch(() => {});
  if (isNew && state.route.threadId === message.threadId) announceMessage(message);
}

/** Only while there is no stream, and somebody looks. */
async function pollWhileDown() {
  if (state.link === "open" || document.hidden || !live.running) return;
  const { threadId } = state.route;
  try {
    await loadThreads();
    if (threadId) await loadNewest(threadId);
    await sendWaiting();
    // The bridge is there again, so the stream need not wait any longer.
    live.wake();
  } catch {
    // The next one may do better.
  }
}

function refuseSilence() {
  if (Date.now() - live.heardAt > SILENCE_MS) live.abort?.abort();
  touch("link");
}

/** The machine woke, the tab came back, or the network did: look at once. */
function lookNow() {
  if (!live.running) return;
  if (state.link !== "open" || Date.now() - live.heardAt > SILENCE_MS / 2) {
    live.retryMs = RETRY_MS.first;
    live.abort?.abort();
    live.wake();
  } else {
    catchUp().catch(() => {});
  }
}

/** Whether the outage is long enough to speak of. */
const isCutOff = () => state.link === "down" && live.downSince > 0 && Date.now() - live.downSince > PATIENCE_MS;
