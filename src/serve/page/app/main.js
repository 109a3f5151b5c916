// Where everything is put together: addresses, keys, the clock, the start.

/** The address says where we are, so that back, reload and links work. */
function hashOf(route) {
  if (route.view === "thread") return `#t/${encodeURIComponent(route.threadId)}`;
  if (route.view === "external") return `#x/${externalKey(route)}`;
  return route.view === "threads" ? "#" : `#${route.view}`;
}

function routeOf(hash) {
  const [view, ...parts] = hash.replace(/^#/, "").split("/").map(decoded);
  if (view === "t" && parts[0]) return { view: "thread", threadId: parts[0] };
  if (view === "x" && parts.length === 3) return { view: "external", agentId: parts[0], source: parts[1], sessionId: parts[2] };
  return { view: ["machines", "account"].includes(view) ? view : "threads" };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function go(route) {
  const hash = hashOf(route);
  if (location.hash === hash || (hash === "#" && location.hash === "")) onRoute();
  else location.hash = hash;
}

function onRoute() {
  const code = /^#welcome=(.+)$/.exec(location.hash)?.[1];
  if (code) {
    // An account that is signed in here gives way to the one that the link is for.
    if (state.session) leave("");
    showWelcome(decoded(code));
    return;
  }
  if (!state.session) return;
  const before = state.route;
  state.route = routeOf(location.hash);
  document.body.dataset.view = state.route.view;
  if (state.route.view === "thread") showConversation(state.route.threadId);
  else if (state.route.view === "external") showExternalView(state.route);
  else if (state.route.view === "machines") showMachinesView();
  else if (state.route.view === "account") showAccountView();
  else showNothing();
  touch("route", "threads");
  focusView(before);
}

function showNothing() {
  pane.threadId = null;
  const begin = textButton("New thread", openNewThread, {}, ".primary");
  $("#main").replaceChildren(make("div.nothing", {}, make("span.brand-mark.large", { "aria-hidden": "true" }),
    make("h2", {}, "Your agents, from anywhere"), make("p", {}, "Choose a conversation, or begin one."), begin));
}

/** On a phone one pane shows at a time, and the focus goes along. */
function focusView(before) {
  const isNarrow = matchMedia("(max-width: 760px)").matches;
  if (state.route.view === "threads") {
    const row = before.threadId && side.list.querySelector(`a[href="${CSS.escape(hashOf(before))}"]`);
    (row || (isNarrow ? side.search : null))?.focus({ preventScroll: true });
  } else if (state.route.view === "thread" && !isNarrow) {
    box.text.focus({ preventScroll: true });
  } else {
    $("#main").focus({ preventScroll: true });
  }
}

function onKey(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || !state.session || $("dialog[open]")) return;
  if (event.key === "Escape") {
    if ($("[popover]:popover-open")) return;
    const row = rowLinks().find((it) => it.hasAttribute("aria-current")) ?? rowLinks()[0];
    if (matchMedia("(max-width: 760px)").matches && state.route.view !== "threads") go({ view: "threads" });
    else row?.focus();
    return;
  }
  if (isTyping()) return;
  const act = {
    "/": () => {
      if (matchMedia("(max-width: 760px)").matches) go({ view: "threads" });
      side.search.focus();
      side.search.select();
    },
    n: openNewThread,
    r: () => box.text?.isConnected && box.text.focus(),
    j: () => moveFocus(rowLinks(), 1),
    k: () => moveFocus(rowLinks(), -1),
  }[event.key];
  if (!act) return;
  event.preventDefault();
  act();
}

function showBanner() {
  const text = isCutOff() ? "The bridge can't be reached. Trying again…" : "";
  if ($("#banner").textContent !== text) $("#banner").textContent = text;
  set($("#banner"), { hidden: !text });
}

async function begin() {
  setTheme(asText(localStorage.getItem("obto.theme")));
  buildSide();
  api.onSignedOut = () => leave("The session is over. Sign in again.");
  watch(["link"], showBanner);
  addEventListener("hashchange", onRoute);
  addEventListener("keydown", onKey);
  addEventListener("online", lookNow);
  addEventListener("focus", () => state.route.threadId && markRead(state.route.threadId));
  addEventListener("pageshow", (event) => event.persisted && lookNow());
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) return;
    lookNow();
    if (state.route.threadId) markRead(state.route.threadId);
  });
  setInterval(() => {
    tick();
    showBanner();
  }, 1000);
  if (location.hash.startsWith("#welcome=")) {
    onRoute();
    return;
  }
  await resume();
}

/** Goes on with the session of this browser, once the bridge can say whether there is one. */
async function resume() {
  try {
    await enter(await api.session());
  } catch (error) {
    if (error.status === 401) showSignIn();
    else showGate("Agent Bridge", error.message, form("Try again", resume));
  }
}

begin();
