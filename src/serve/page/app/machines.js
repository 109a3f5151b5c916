// The machines of the account: what each can do, why it can't do the rest, when it was last there.

function showMachinesView() {
  const list = make("div.machine-list");
  const show = () => {
    if (!list.isConnected && list.parentElement === null) return;
    reconcile(list, state.machines, (it) => it.agentId, machineCard, (old, it) => (old.face === JSON.stringify(it) ? old : machineCard(it)));
    set(empty, { hidden: state.machines.length > 0 });
  };
  const empty = make("p.empty-note", { hidden: true }, "No machine has connected yet. Make a token below and run the line it shows on the machine.");
  const body = make("div.sheet", {}, list, empty, tokensSection());
  showSheet("Machines", body);
  showMachinesView.show = show;
  show();
  loadMachines().catch(() => {});
}

function machineCard(machine) {
  const status = machine.connected
    ? [make("span.dot.on", { "aria-hidden": "true" }), "Connected, since ", timeElement(asText(machine.connectedSince), moment)]
    : [make("span.dot", { "aria-hidden": "true" }), "Last seen ", timeElement(asText(machine.lastSeen), ageInWords)];
  const facts = make("dl.facts", {},
    fact("Version", asText(machine.version) || "not said"),
    fact("Directories", list(machine.projectDirs)),
    fact("Capabilities", list(machine.capabilities)));
  const engines = make("ul.engines", {}, ...enginesOf(machine).map((engine) =>
    make(engine.missing ? "li.missing" : "li", {},
      make("b", {}, engine.name),
      make("span", {}, engine.missing ? asText(engine.missing) : asText(engine.version) || "ready"))));
  const conflict = machine.conflictAt && make("p.conflict", {}, "Another daemon with this name tried to connect and was refused, last at ",
    timeElement(asText(machine.conflictAt), moment), ". Give one of the two another agentId.");
  const card = make("section.machine", { "aria-label": machine.agentId },
    make("header", {}, make("h3", {}, machine.agentId), make("p.status-line", {}, ...status)), conflict, engines, facts);
  return Object.assign(card, { face: JSON.stringify(machine) });
}

const fact = (name, value) => make("div", {}, make("dt", {}, name), make("dd", {}, value || "none"));

const list = (names) => asList(names).filter((it) => typeof it === "string").join(", ");

function ageInWords(time) {
  const passed = age(time);
  if (!passed) return "never";
  return passed === "now" ? "a moment ago" : /\d (min|h|d)$/.test(passed) ? `${passed} ago` : passed;
}

const moment = (time) => `${dayOf(time) === dayOf(serverNow()) ? "" : `${dayOf(time)}, `}${hourOf(time)}`;

/** A view of the main pane with a title and one column. */
function showSheet(title, body, ...tools) {
  pane.threadId = null;
  const head = make("header.main-head", {}, backButton(), make("div.main-title", {}, make("h2.title", {}, title)), ...tools);
  $("#main").replaceChildren(head, make("div.sheet-frame", { tabindex: "0", role: "region", "aria-label": title }, body));
}

watch(["machines"], () => state.route.view === "machines" && showMachinesView.show?.());
