// Sessions that were started on a machine without the bridge: shown, looked into, taken over.

const externalKey = ({ agentId, source, sessionId }) => [agentId, source, sessionId].map((it) => encodeURIComponent(asText(it))).join("/");

const EXTERNAL_MAX = 60;

function showExternal() {
  const sessions = state.external.filter((it) => typeof it?.sessionId === "string" && !it.threadId).slice(0, EXTERNAL_MAX);
  set(side.externalBox, { hidden: sessions.length === 0 });
  reconcile(side.external, sessions, externalKey, externalRow, (old, it) => externalRow(it, old));
}

function externalRow(session, old) {
  const isCurrent = state.route.view === "external" && externalKey(state.route) === externalKey(session);
  const face = JSON.stringify([session, isCurrent]);
  if (old?.face === face) return old;
  const { agentId, source, sessionId } = session;
  const at = Number(session.lastActivityAt);
  const time = timeElement(Number.isFinite(at) ? new Date(at).toISOString() : asText(session.lastActivityAt));
  return listRow(old, face, hashOf({ view: "external", agentId, source, sessionId }), isCurrent,
    make("span.thread-head", {}, make("span.thread-title", {}, titleOf(session)), time),
    make("span.thread-last", {}, asText(session.lastMessagePreview)),
    make("span.marks", {}, make("span.tag", {}, asText(source)), make("span.tag", {}, asText(session.projectName)),
      session.vanished && make("span.mark", {}, "gone from the machine")));
}

async function showExternalView({ agentId, source, sessionId }) {
  const body = make("div.sheet", {}, make("p.empty-note", {}, "Loading…"));
  showSheet("On your machine", body);
  const shown = state.route;
  try {
    const answer = await api.get("/api/bridge/external/session", { agentId, source, sessionId });
    if (state.route !== shown) return;
    const session = answer.session ?? answer;
    body.replaceChildren(...externalParts(session));
    $(".main-head .title").textContent = titleOf(session);
  } catch (error) {
    body.replaceChildren(make("p.problem", { role: "alert" }, error.message));
  }
}

function externalParts(session) {
  const { agentId, source, sessionId } = session;
  const adopt = form("Continue here", async () => {
    const answer = await api.post("/api/bridge/external/adopt", { agentId, source, sessionId });
    await loadThreads().catch(() => {});
    loadExternal().catch(() => {});
    go({ view: "thread", threadId: answer.threadId });
  }, make("p.hint", {}, session.vanished
    ? "The machine no longer has this session, so it can't be continued."
    : "Makes a thread of this session. Your next message continues it on its machine."));
  $("button[type=submit]", adopt).disabled = Boolean(session.vanished);
  const turns = asList(session.recentMessages).map((it) => make("li", {},
    make(`article.message.${it?.role === "user" ? "human" : "agent"}`, {},
      make("header.message-head", {}, make("span.author", {}, it?.role === "user" ? "You" : asText(source))),
      prose({ body: asText(it?.body) }))));
  return [
    make("dl.facts", {}, fact("Agent", asText(source)), fact("Machine", asText(agentId)), fact("Directory", asText(session.projectDir))),
    adopt,
    make("h3", {}, "The last messages"),
    turns.length > 0 ? make("ol.messages", {}, ...turns) : make("p.empty-note", {}, "None were reported."),
  ];
}
