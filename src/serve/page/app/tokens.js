// Tokens: one per machine, shown once, revoked here.

function tokensSection() {
  const list = make("ul.tokens");
  const made = make("div.made", { hidden: true, role: "status" });
  const problem = make("p.problem", { role: "alert", hidden: true });
  const attempt = async (run) => {
    set(problem, { hidden: true });
    try {
      await run();
    } catch (error) {
      problem.textContent = error.message;
      set(problem, { hidden: false });
    }
  };
  const load = async () => {
    const tokens = asList((await api.get("/api/tokens")).tokens);
    list.replaceChildren(...tokens.map((it) => tokenRow(it, () => attempt(load))));
    if (tokens.length === 0) list.append(make("li.empty-note", {}, "There are no tokens."));
  };
  const create = async () => {
    const { token } = await api.post("/api/tokens");
    made.replaceChildren(...newToken(asText(token)));
    set(made, { hidden: false });
    await load();
  };
  attempt(load);
  return make("section.sheet-part", {},
    make("h3", {}, "Tokens"),
    make("p.hint", {}, "A machine shows who it is by a token of its own. Revoke the token of a machine that you no longer trust."),
    list, problem, made,
    make("div", {}, textButton("Make a token", () => attempt(create), {}, ".primary")));
}

function tokenRow(token, reload) {
  const machine = asText(token.machine) || "not used by a machine yet";
  const used = token.lastUsedAt ? ["last used ", timeElement(asText(token.lastUsedAt), ageInWords)] : ["never used"];
  const revoke = () => confirmDialog("Revoke the token?",
    `${asText(token.prefix)}… stops working at once; what runs on ${token.machine ? asText(token.machine) : "a machine with it"} is no longer reached.`,
    "Revoke", async () => {
      await api.post("/api/tokens/revoke", { id: token.id });
      await reload();
    });
  return make("li.token", {},
    make("div", {}, make("code", {}, `${asText(token.prefix)}…`), make("b", {}, machine),
      make("small", {}, "made ", timeElement(asText(token.createdAt), ageInWords), ", ", ...used)),
    textButton("Revoke", revoke, { "aria-label": `Revoke ${asText(token.prefix)}` }, ".small.danger"));
}

/** The token goes by standard input: a command line is seen by every process of the machine. */
function newToken(token) {
  const line = `echo ${token} | obto-bridge init --base-url ${location.origin} --token -`;
  return [
    make("p", {}, make("b", {}, "This is the only time that this token is shown."), " Run this on the machine, then obto-bridge start:"),
    make("div.code-block", {}, make("div.code-head", {}, make("span", {}, "shell"), copyButton(() => line)),
      make("pre.scroll-x", { tabindex: "0", role: "region", "aria-label": "Command" }, make("code", {}, line))),
  ];
}
