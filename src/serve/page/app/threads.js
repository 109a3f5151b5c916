// The list of threads: title, last message, age, what is unread, working or waiting for an answer.

const side = {};

function buildSide() {
  side.search = make("input.search", {
    type: "search", placeholder: "Search", "aria-label": "Search conversations", autocomplete: "off",
    oninput: onSearch, onkeydown: onSearchKey,
  });
  side.list = make("ul.threads", { "aria-label": "Threads" });
  side.note = make("p.side-note", { hidden: true });
  side.more = textButton("Show older", () => loadOlderThreads().catch(() => {}), { hidden: true }, ".quiet.wide");
  side.external = make("ul.threads.external");
  side.externalBox = make("details.side-group", { hidden: true }, make("summary", {}, "On your machines"), side.external);
  $("#side").append(
    make("div.search-box", {}, icon("search"), side.search),
    make("div.side-scroll", {}, side.note, side.list, side.more, side.externalBox),
  );
  $("#side-tools").append(
    iconButton("machine", "Machines", () => go({ view: "machines" })),
    iconButton("person", "Account", () => go({ view: "account" })),
    iconButton("plus", "New thread", () => openNewThread(), { "data-primary": true }),
  );
  side.list.addEventListener("keydown", onListKey);
  side.external.addEventListener("keydown", onListKey);
  watch(["threads", "route", "search", "drafts"], showThreads);
  watch(["external", "route", "threads"], showExternal);
}

/** Threads that the bridge found for the words in the search field; none while there are no words. */
let found = null;
let searchTimer = 0;

function onSearch() {
  state.search = side.search.value.trim();
  clearTimeout(searchTimer);
  searchTimer = setTimeout(runSearch, 200);
}

async function runSearch() {
  const words = state.search;
  const answer = words ? await api.get("/api/threads", { limit: 50, q: words }).catch(() => null) : null;
  if (words !== state.search) return;
  found = answer ? asList(answer.threads) : null;
  touch("search");
  if (found) announce(`${found.length} found`);
}

function onSearchKey(event) {
  if (event.key === "Escape" && side.search.value) {
    event.stopPropagation();
    side.search.value = "";
    onSearch();
  }
  if (event.key === "ArrowDown") {
    event.preventDefault();
    $("a", side.list)?.focus();
  }
}

function onListKey(event) {
  const step = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 }[event.key];
  if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  event.stopPropagation();
  moveFocus(rowLinks(), step);
}

const rowLinks = () => [...$("#side").querySelectorAll("a.thread")].filter((it) => it.offsetParent !== null);

function showThreads() {
  const threads = found ? found.map((it) => ({ ...it, ...state.threads.get(it.threadId) })) : threadsInOrder();
  reconcile(side.list, threads, (it) => it.threadId, threadRow, (_, it) => threadRow(it, _));
  set(side.more, { hidden: Boolean(found) || !state.moreThreads });
  const note = found ? "Nothing found." : "No conversations yet. Start one with +.";
  side.note.textContent = threads.length > 0 ? "" : note;
  set(side.note, { hidden: threads.length > 0 });
  showTitle();
}

/** The row of a thread; nothing is done to one that stands there if nothing of it changed. */
function threadRow(thread, old) {
  const isCurrent = state.route.threadId === thread.threadId;
  const face = JSON.stringify([thread.title, thread.last, thread.lastAt, thread.unread, thread.working, thread.agent,
    thread.openQuestions, isCurrent, hasDraft(thread.threadId)]);
  if (old?.face === face) return old;
  const row = listRow(old, face, hashOf({ view: "thread", threadId: thread.threadId }), isCurrent,
    make("span.thread-head", {},
      make("span.thread-title", {}, titleOf(thread)),
      timeElement(thread.lastAt)),
    make("span.thread-last", {}, ...lastLine(thread)),
    marks(thread));
  row.firstElementChild.classList.toggle("unread", Boolean(thread.unread));
  return row;
}

/** A row that is a link. One that stands there keeps its link: it may have the focus, or get it back when a dialog closes. */
function listRow(old, face, href, isCurrent, ...parts) {
  const row = old ?? make("li", {}, make("a.thread", { href }));
  set(row.firstElementChild, { "aria-current": isCurrent && "page" }).replaceChildren(...parts);
  return Object.assign(row, { face });
}

const titleOf = (thread) => asText(thread?.title).trim() || "Untitled";

/** Of the thread that is open, the reply box tells. */
function hasDraft(threadId) {
  const { body, files } = draftOf(threadId);
  return threadId !== state.route.threadId && (body.trim() !== "" || files.length > 0);
}

function lastLine({ last, threadId }) {
  if (hasDraft(threadId)) return [make("span.draft-mark", {}, "Draft: "), draftOf(threadId).body || "picture"];
  if (!last) return ["No messages"];
  const who = last.role === "human" ? "You: " : "";
  return [who + (asText(last.preview).trim() || "(picture)")];
}

function marks(thread) {
  const unread = Number(thread.unread) || 0;
  return make("span.marks", {},
    asText(thread.agent) && make("span.tag", {}, thread.agent),
    thread.working && make("span.mark.working", {}, "working"),
    thread.openQuestions > 0 && make("span.mark.asks", {}, "asks you"),
    unread > 0 && make("span.badge", {}, String(Math.min(unread, 99)), make("span.unseen", {}, " unread")));
}

/** The tab says how much is unread. */
function showTitle() {
  const unread = unreadTotal();
  const here = state.route.view === "thread" ? titleOf(state.threads.get(state.route.threadId)) : "";
  document.title = `${unread > 0 ? `(${unread}) ` : ""}${here ? `${here} · ` : ""}Agent Bridge`;
}
