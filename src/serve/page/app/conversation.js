// One thread: its head with agent and menu, its messages, and what runs in it.

const pane = { threadId: null };

/** Closer to the end than this counts as at the end, where new messages pull the view along. */
const END_PX = 90;
/** Older messages are asked for before the human reaches the first. */
const EARLY_PX = 500;

function showConversation(threadId) {
  pane.threadId = threadId;
  pane.followed = true;
  pane.title = make("h2.title");
  pane.place = make("p.place");
  pane.agent = make("select.agent-select", { "aria-label": "Agent of this thread", onchange: switchAgent });
  pane.log = make("div.log", { role: "log", "aria-live": "off", "aria-label": "Messages", tabindex: "0" });
  pane.older = make("p.older", { hidden: true }, "Loading older messages…");
  pane.list = make("ol.messages");
  pane.working = make("div.working-line", { hidden: true });
  pane.down = make("button.jump", { type: "button", hidden: true, onclick: () => scrollToEnd(true) }, icon("down"), "New messages");
  pane.log.append(pane.older, pane.list, pane.working);
  pane.log.addEventListener("scroll", onScroll, { passive: true });
  // A reply box that grows, or a keyboard that opens, must not cover the end.
  new ResizeObserver(() => pane.followed && scrollToEnd()).observe(pane.log);
  const head = make("header.main-head", {}, backButton(), make("div.main-title", {}, pane.title, pane.place), pane.agent, menu(threadId));
  $("#main").replaceChildren(head, make("div.log-frame", {}, pane.log, pane.down), composer(threadId));
  showHead();
  showMessages();
  const known = conversation(threadId);
  if (!known.loaded) refresh(threadId).then(() => scrollToEnd());
  scrollToEnd();
}

const backButton = () => iconButton("back", "Back to the list", () => go({ view: "threads" }), { "data-back": true });

/** Closes by Esc and by a press elsewhere. */
function menu(threadId) {
  const thread = () => state.threads.get(threadId);
  const items = make("div.menu-items", { popover: "auto", id: "thread-menu" },
    make("button.menu-item", { type: "button", onclick: () => hide() || renameDialog(thread()) }, "Rename"),
    make("button.menu-item.danger", { type: "button", onclick: () => hide() || deleteDialog(thread()) }, "Delete"));
  const hide = () => items.hidePopover();
  const button = iconButton("more", "More", () => {}, { popovertarget: "thread-menu", "aria-haspopup": "true" });
  return make("div.menu", {}, button, items);
}

function renameDialog(thread) {
  const title = make("input", { type: "text", maxlength: 200, value: asText(thread?.title), required: true });
  const body = form("Rename", async () => {
    const words = oneLine(title.value);
    if (!words) throw new Error("A name is needed.");
    await api.post("/api/thread/rename", { threadId: thread.threadId, title: words });
    putThread({ threadId: thread.threadId, title: words });
    dialog.close();
  }, field("Name", title));
  const dialog = openDialog("Rename the thread", body);
  title.focus();
  title.select();
}

function deleteDialog(thread) {
  const text = `"${titleOf(thread)}" and all its messages go from the bridge, for good. What the agent did on the machine stays.`;
  confirmDialog("Delete the thread?", text, "Delete", async () => {
    await api.post("/api/thread/delete", { threadId: thread.threadId });
    dropThread(thread.threadId);
  });
}

async function switchAgent() {
  const { threadId } = pane;
  const agent = pane.agent.value;
  try {
    await api.post("/api/bridge/thread/agent", { threadId, agent });
    putThread({ threadId, agent });
    announce(`${agent} answers from now on`);
  } catch (error) {
    announce(error.message);
    conversation(threadId).error = error.message;
    touch("threads", "messages");
  }
}

function showHead() {
  if (state.route.view !== "thread" || !pane.threadId) return;
  const thread = state.threads.get(pane.threadId);
  if (pane.title.textContent !== titleOf(thread)) pane.title.textContent = titleOf(thread);
  const machine = state.machines.find((it) => it.agentId === thread?.agentId);
  const where = [asText(thread?.agentId), asText(thread?.projectDir)].filter(Boolean).join(" · ");
  const isAway = machine && !machine.connected;
  pane.place.replaceChildren(where || "No machine yet", isAway ? make("span.away", {}, " · not connected") : "");
  pane.place.title = where;
  showAgents(thread, machine);
  showWorking(thread);
}

function showAgents(thread, machine) {
  const engines = (machine ? [machine] : state.machines).flatMap(enginesOf);
  const offers = new Map(engines.map((it) => [it.name, it]));
  const current = asText(thread?.agent);
  if (current && !offers.has(current)) offers.set(current, { name: current });
  const face = JSON.stringify([[...offers.values()], current]);
  if (pane.agent.face === face || document.activeElement === pane.agent && pane.agent.matches(":open")) return;
  pane.agent.face = face;
  pane.agent.replaceChildren(...[...offers.values()].map(({ name, missing }) =>
    make("option", { value: name, disabled: Boolean(missing) && name !== current }, missing ? `${name} (not available)` : name)));
  pane.agent.value = current;
  set(pane.agent, { hidden: offers.size === 0 });
}

function showWorking(thread) {
  const since = asText(thread?.working?.since);
  if (pane.working.since === since && pane.working.agent === thread?.agent) return;
  Object.assign(pane.working, { since, agent: thread?.agent });
  set(pane.working, { hidden: !since });
  if (!since) {
    pane.working.replaceChildren();
    return;
  }
  const wasAtEnd = isAtEnd();
  const running = timeElement(since, () => clockTime(now() - Date.parse(since)));
  const stop = make("button.button.small.stop", { type: "button", onclick: () => stopTurn(stop) }, icon("stop"), "Stop");
  const words = make("span", { role: "status" }, `${asText(thread.agent) || "The agent"} is working`);
  pane.working.replaceChildren(make("span.pulse", { "aria-hidden": "true" }), words, running, stop);
  if (wasAtEnd) scrollToEnd();
}

async function stopTurn(button) {
  button.disabled = true;
  try {
    await say(pane.threadId, "/stop");
    announce("Stop was asked for");
  } catch (error) {
    button.disabled = false;
    conversation(pane.threadId).error = `Not stopped. ${error.message}`;
    touch("messages");
  }
}

function showMessages() {
  if (state.route.view !== "thread" || !pane.threadId) return;
  const known = conversation(pane.threadId);
  const wasAtEnd = isAtEnd();
  const { scrollHeight, scrollTop } = pane.log;
  const first = pane.list.firstElementChild;
  const newest = pane.list.lastElementChild?.dataset.key;
  reconcile(pane.list, known.messages, idOf, (it) => messageItem(known, it), (old, it) => (old.face === faceOf(known, it) ? old : messageItem(known, it)));
  markDays();
  showEdges(known);
  // What came above must not move what is being read.
  const grewAbove = first?.isConnected && pane.list.firstElementChild !== first;
  if (grewAbove) pane.log.scrollTop = scrollTop + pane.log.scrollHeight - scrollHeight;
  else if (wasAtEnd) scrollToEnd();
  else if (newest && newest !== pane.list.lastElementChild?.dataset.key) set(pane.down, { hidden: false });
  markRead(pane.threadId);
}

function showEdges(known) {
  pane.list.querySelector(".edge-note")?.remove();
  set(pane.older, { hidden: !known.loading });
  let note = $(".log-note", pane.log);
  const text = known.gone ? "This thread is not on this account." : known.error ?? (known.loaded ? "" : "Loading…");
  if (!text) note?.remove();
  else if (note?.textContent !== text) {
    note?.remove();
    note = make("p.log-note", { role: known.error ? "alert" : null }, text);
    pane.log.insertBefore(note, pane.working);
  }
}

/** All that shows of a message; an equal face is an equal element. */
function faceOf(known, message) {
  return [message.html?.length ?? -1, message.body?.length, asList(message.files).length, hasCard(message) ? cardFace(known, message) : ""].join("|");
}

/** Words that steer, such as an answer to a card, are told small. */
const COMMAND = /^(\/\w+( all| \w{4})?|(approve|always|deny) \S{1,20}( whole| because .*)?)$/;

function messageItem(known, message) {
  const isHuman = message.role === "human";
  const kind = ["status", "question", "result", "error"].includes(message.kind) ? message.kind : "";
  const isCommand = isHuman && COMMAND.test(asText(message.body));
  const classes = ["message", isHuman ? "human" : "agent", kind && `kind-${kind}`, isCommand && "command"].filter(Boolean);
  const article = make(`article.${classes.join(".")}`);
  const head = make("header.message-head", {},
    make("span.author", {}, nameOf(message)),
    kind && kind !== "result" ? make("span.kind", {}, kind) : null,
    timeElement(asText(message.createdAt), hourOf));
  article.append(head);
  if (hasCard(message)) article.append(card(known, message));
  else if (asText(message.body)) article.append(prose(message));
  if (asList(message.files).length > 0) article.append(pictures(message.files));
  return Object.assign(make("li", {}, article), { face: faceOf(known, message), day: dayOf(message.createdAt) });
}

/** The daemon signs as `claude-bridge`; people think of claude. */
function nameOf(message) {
  const author = asText(message.author) || "unknown";
  return message.role === "agent" ? author.replace(/-bridge(-perm)?$/, "") : author;
}

const hourOf = (time) => {
  const at = new Date(time);
  return Number.isNaN(at.getTime()) ? "" : at.toLocaleTimeString(undefined, { hour: "2-digit", minute: "2-digit" });
};

const dayOf = (time) => {
  const at = new Date(time);
  return Number.isNaN(at.getTime()) ? "" : at.toLocaleDateString(undefined, { weekday: "long", day: "numeric", month: "long" });
};

/** The first message of each day says which day that is. */
function markDays() {
  let day = "";
  for (const item of pane.list.children) {
    if (item.day === day) item.removeAttribute("data-day");
    else if (item.dataset.day !== item.day) item.dataset.day = item.day;
    day = item.day;
  }
}

const fileUrl = (id) => `/api/bridge/attachment/${encodeURIComponent(id)}`;

function pictures(files) {
  return make("div.pictures", {}, ...files.filter((it) => typeof it?.id === "string").map((file) => {
    const name = asText(file.name) || "picture";
    const image = make("img", { src: fileUrl(file.id), alt: name, loading: "lazy", width: size(file.width), height: size(file.height) });
    image.addEventListener("load", () => pane.followed && scrollToEnd());
    return make("a.picture", { href: fileUrl(file.id), target: "_blank", rel: "noopener" }, image);
  }));
}

const size = (number) => (Number.isInteger(number) && number > 0 ? number : null);

const isAtEnd = () => pane.log.scrollHeight - pane.log.scrollTop - pane.log.clientHeight < END_PX;

function scrollToEnd(smoothly = false) {
  pane.followed = true;
  set(pane.down, { hidden: true });
  pane.log.scrollTo({ top: pane.log.scrollHeight, behavior: smoothly && !isCalm() ? "smooth" : "instant" });
}

function onScroll() {
  pane.followed = isAtEnd();
  if (pane.followed) set(pane.down, { hidden: true });
  if (pane.log.scrollTop < EARLY_PX) loadOlder(pane.threadId).catch(() => {});
}

/** A view that is not yet full can't be scrolled, so it is filled. */
function fillView() {
  const known = pane.threadId && state.conversations.get(pane.threadId);
  if (known?.loaded && known.more && pane.log.scrollHeight <= pane.log.clientHeight + EARLY_PX) onScroll();
}

watch(["threads", "machines", "route"], showHead);
watch(["messages"], () => {
  showMessages();
  if (state.route.view === "thread" && pane.threadId) fillView();
});
