// What the page knows. One object, changed only through its functions; whoever shows a part of it
// watches that part and is told once per frame.

const state = {
  session: null,
  /** By id. */
  threads: new Map(),
  moreThreads: false,
  search: "",
  machines: [],
  tokens: null,
  external: [],
  /** Where we are: `{ view: "threads" }`, `{ view: "thread", threadId }`, and so on. */
  route: { view: "threads" },
  /** "connecting", "open" or "down". */
  link: "connecting",
  /** threadId → what is known of its messages. */
  conversations: new Map(),
};

const watchers = new Map();
const changed = new Set();
let frame = 0;

/** Calls `show` after each change of these parts. */
function watch(parts, show) {
  for (const part of parts) {
    if (!watchers.has(part)) watchers.set(part, new Set());
    watchers.get(part).add(show);
  }
}

/** Notes that parts changed. A hidden tab draws no frames, so it is told by a timer. */
function touch(...parts) {
  for (const part of parts) changed.add(part);
  if (frame) return;
  frame = document.hidden ? setTimeout(flush, 50) : requestAnimationFrame(flush);
}

function flush() {
  frame = 0;
  const due = new Set([...changed].flatMap((part) => [...(watchers.get(part) ?? [])]));
  changed.clear();
  for (const show of due) show();
}

/** Takes in thread objects; a field that is missing stays as it was. */
function putThread(thread) {
  if (!thread || typeof thread.threadId !== "string") return;
  const known = state.threads.get(thread.threadId) ?? {};
  state.threads.set(thread.threadId, { ...known, ...thread });
  touch("threads");
}

function dropThread(threadId) {
  state.threads.delete(threadId);
  state.conversations.delete(threadId);
  forgetDraft(threadId);
  touch("threads");
  if (state.route.threadId === threadId) go({ view: "threads" });
}

/** Newest activity first. */
const threadsInOrder = () =>
  [...state.threads.values()].sort((a, b) => asText(b.lastAt).localeCompare(asText(a.lastAt)));

const unreadTotal = () => [...state.threads.values()].reduce((sum, it) => sum + (Number(it.unread) || 0), 0);

function putMachine(machine) {
  if (!machine || typeof machine.agentId !== "string") return;
  const rest = state.machines.filter((it) => it.agentId !== machine.agentId);
  const known = state.machines.find((it) => it.agentId === machine.agentId) ?? {};
  setMachines([...rest, { ...known, ...machine }]);
}

function setMachines(machines) {
  const rank = (it) => (it.connected ? 0 : 1);
  state.machines = asList(machines).toSorted((a, b) => rank(a) - rank(b) || a.agentId.localeCompare(b.agentId));
  touch("machines");
}

/** What a machine offers; a daemon that says nothing of its engines names them as capabilities. */
function enginesOf(machine) {
  const engines = asList(machine?.engines).filter((it) => typeof it?.name === "string");
  if (engines.length > 0) return engines;
  return asList(machine?.capabilities).filter((it) => typeof it === "string").map((name) => ({ name }));
}

async function loadThreads() {
  const answer = await api.get("/api/threads", { limit: 50, q: state.search });
  const search = state.search;
  if (search) return answer;
  const listed = asList(answer.threads);
  // Whatever is newer than the last of the page and not on it is gone.
  const oldest = answer.more ? asText(listed.at(-1)?.lastAt) : "";
  const ids = new Set(listed.map((it) => it.threadId));
  for (const [id, thread] of state.threads) {
    if (!ids.has(id) && asText(thread.lastAt) >= oldest) state.threads.delete(id);
  }
  for (const thread of listed) putThread(thread);
  state.moreThreads = Boolean(answer.more) && state.threads.size <= listed.length;
  touch("threads");
  return answer;
}

async function loadOlderThreads() {
  const last = threadsInOrder().at(-1);
  const answer = await api.get("/api/threads", { limit: 50, before: last?.lastAt });
  for (const thread of asList(answer.threads)) putThread(thread);
  state.moreThreads = Boolean(answer.more);
  touch("threads");
}

const loadMachines = async () => setMachines((await api.get("/api/bridge/machines")).machines);

async function loadExternal() {
  state.external = asList((await api.get("/api/bridge/external")).sessions);
  touch("external");
}
