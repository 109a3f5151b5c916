// The dialog for a new thread: which machine, which of the agents it really has, where, and the
// first words.

let newThread = null;

function openNewThread() {
  if (newThread?.isConnected) return;
  const draft = draftOf(NEW_THREAD);
  draft.extra ??= {};
  const machine = make("select", { onchange: () => pick("agentId", machine.value || undefined) });
  const agents = make("div.agents", { role: "radiogroup", "aria-label": "Agent" });
  const directory = make("select", { onchange: () => pick("projectDir", directory.value || undefined) });
  const text = make("textarea.first-words", { rows: 5, placeholder: "What should it do?", value: draft.body });
  const chips = make("div.chips", { hidden: true });
  const pick = (name, value) => {
    draft.extra[name] = value;
    if (name === "agentId") draft.extra = { agentId: value };
    show();
  };
  const body = form("Start", () => start(draft), field("Machine", machine),
    make("fieldset.agents-field", {}, make("legend", {}, "Agent"), agents),
    field("Directory", directory), field("Message", text), chips);
  $(".form-end", body).prepend(pickButton(() => NEW_THREAD));
  takePictures(body, () => NEW_THREAD);
  text.addEventListener("input", () => {
    draft.body = text.value;
    keepDraft(NEW_THREAD);
  });
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) body.requestSubmit();
  });
  const parts = { machine, agents, directory };
  let face = "";
  const show = () => {
    // A list that is open for choosing must not be made anew under the finger.
    const next = JSON.stringify([state.machines, draft.extra]);
    if (next !== face) showNewThread(draft, parts);
    face = JSON.stringify([state.machines, draft.extra]);
    showChips(chips, NEW_THREAD);
  };
  newThread = state.machines.length > 0 ? openDialog("New thread", body) : openDialog("New thread", noMachines());
  newThread.renew = show;
  if (state.machines.length > 0) {
    show();
    text.focus();
  }
}

const noMachines = () => make("div.form", {},
  make("p", {}, "No machine has connected yet. Connect one, then come back."),
  make("div.form-end", {}, textButton("Connect a machine", () => {
    newThread.close();
    go({ view: "machines" });
  }, {}, ".primary")));

function showNewThread(draft, { machine, agents, directory }) {
  const chosen = state.machines.find((it) => it.agentId === draft.extra.agentId) ?? state.machines[0];
  if (!chosen) return;
  draft.extra.agentId = chosen.agentId;
  machine.replaceChildren(...state.machines.map((it) =>
    make("option", { value: it.agentId }, it.connected ? it.agentId : `${it.agentId} (not connected; it begins when it is back)`)));
  machine.value = chosen.agentId;
  const engines = enginesOf(chosen);
  if (!engines.some((it) => it.name === draft.extra.agent && !it.missing)) draft.extra.agent = engines.find((it) => !it.missing)?.name;
  agents.replaceChildren(...engines.map((engine) => {
    const input = make("input", { type: "radio", name: "agent", value: engine.name, checked: engine.name === draft.extra.agent,
      disabled: Boolean(engine.missing), onchange: () => (draft.extra.agent = engine.name) });
    const note = engine.missing ? asText(engine.missing) : asText(engine.version);
    return make("label.option", {}, input, make("span", {}, engine.name, note && make("small", {}, note)));
  }));
  if (engines.length === 0) agents.append(make("p.hint", {}, "This machine has not said which agents it has; its own choice answers."));
  const dirs = asList(chosen.projectDirs).filter((it) => typeof it === "string");
  directory.replaceChildren(make("option", { value: "" }, "The machine's own choice"), ...dirs.map((it) => make("option", { value: it }, it)));
  if (!dirs.includes(draft.extra.projectDir)) draft.extra.projectDir = dirs[0];
  directory.value = draft.extra.projectDir ?? "";
  keepDraft(NEW_THREAD);
}

async function start(draft) {
  if (!draft.body.trim() && draft.files.length === 0) throw new Error("Write what it should do.");
  if (draft.files.some((it) => it.uploading)) throw new Error("A picture is still on its way.");
  const answer = await sendDraft(NEW_THREAD);
  if (!answer) throw new Error(draft.error ?? "Not sent.");
  newThread.close();
  await loadThreads().catch(() => {});
  go({ view: "thread", threadId: answer.threadId });
}

watch(["machines", "drafts"], () => newThread?.isConnected && newThread.renew());
