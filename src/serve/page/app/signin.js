// Signing in: with a password, or for the first time by a one-time link.

const PASSWORD_MIN = 8;

function showSignIn(note = "") {
  const name = make("input", { type: "text", autocomplete: "username", autocapitalize: "none", spellcheck: "false", required: true });
  const password = make("input", { type: "password", autocomplete: "current-password", required: true });
  const body = form("Sign in", async () => {
    if (!name.value || !password.value) throw new Error("Name and password are needed.");
    await enter(await api.post("/api/session", { username: name.value.trim(), password: password.value }));
  }, field("Name", name), field("Password", password));
  showGate("Sign in", note, body);
  name.focus();
}

/** The code is in the address after #, which browsers send to nobody. */
function showWelcome(code) {
  const first = make("input", { type: "password", autocomplete: "new-password", required: true });
  const again = make("input", { type: "password", autocomplete: "new-password", required: true });
  const body = form("Set the password and go in", async () => {
    checkNewPassword(first.value, again.value);
    const session = await api.post("/api/session/redeem", { code, password: first.value });
    history.replaceState(null, "", location.pathname);
    await enter(session);
  }, field("New password", first, `At least ${PASSWORD_MIN} characters.`), field("The same again", again));
  showGate("Welcome", "This link works once. Choose the password that you sign in with from now on.", body);
  first.focus();
}

function checkNewPassword(first, again) {
  if (first.length < PASSWORD_MIN) throw new Error(`The password needs at least ${PASSWORD_MIN} characters.`);
  if (first !== again) throw new Error("The two passwords are not the same.");
}

function showGate(title, note, body) {
  set($("#app"), { hidden: true });
  const card = make("div.gate-card", {}, make("span.brand-mark.large", { "aria-hidden": "true" }), make("h1", {}, title), note && make("p", {}, note), body);
  set($("#gate"), { hidden: false }).replaceChildren(card);
  document.title = `${title} · Agent Bridge`;
}

/** With a session: the page itself. */
async function enter(session) {
  api.csrf = asText(session.csrf);
  state.session = { user: asText(session.user), accountId: asText(session.accountId) };
  set($("#gate"), { hidden: true }).replaceChildren();
  set($("#app"), { hidden: false });
  startLive();
  // The stream reads everything when it opens; this shows something sooner.
  await Promise.all([loadThreads(), loadMachines()]).catch(() => {});
  onRoute();
}

/** Nothing of the account stays on the page. */
function leave(note) {
  if (!state.session) return;
  stopLive();
  Object.assign(state, { session: null, machines: [], external: [], search: "", moreThreads: false });
  state.threads.clear();
  state.conversations.clear();
  drafts.clear();
  readUpTo.clear();
  found = null;
  api.csrf = "";
  for (const dialog of document.querySelectorAll("dialog")) dialog.close();
  $("#main").replaceChildren();
  side.search.value = "";
  touch("threads", "external");
  // Now, and not with the next frame.
  flush();
  showSignIn(note);
}

function showAccountView() {
  const old = make("input", { type: "password", autocomplete: "current-password" });
  const first = make("input", { type: "password", autocomplete: "new-password" });
  const again = make("input", { type: "password", autocomplete: "new-password" });
  const change = form("Change the password", async () => {
    checkNewPassword(first.value, again.value);
    const answer = await api.post("/api/account/password", { old: old.value, new: first.value });
    if (answer.csrf) api.csrf = asText(answer.csrf);
    for (const input of [old, first, again]) input.value = "";
    announce("The password is changed");
  }, make("input", { type: "text", autocomplete: "username", value: state.session?.user ?? "", hidden: true }),
  field("Password now", old), field("New password", first, `At least ${PASSWORD_MIN} characters.`), field("The same again", again));
  const end = textButton("Sign out", async () => {
    await api.post("/api/session/end").catch(() => {});
    leave("You are signed out.");
  });
  showSheet("Account", make("div.sheet", {},
    make("section.sheet-part", {}, make("h3", {}, "Signed in"), make("p", {}, "You are ", make("b", {}, state.session?.user ?? ""), "."), make("div", {}, end)),
    make("section.sheet-part", {}, make("h3", {}, "Look"), themePicker()),
    make("section.sheet-part", {}, make("h3", {}, "Password"), change),
    make("section.sheet-part", {}, make("h3", {}, "Keys"), keyTable())));
}

const THEMES = { "": "As the system", light: "Light", dark: "Dark" };

function themePicker() {
  const chosen = document.documentElement.dataset.theme ?? "";
  return make("fieldset.segments", {}, make("legend.unseen", {}, "Colours"), ...Object.entries(THEMES).map(([value, label]) =>
    make("label", {}, make("input", { type: "radio", name: "theme", value, checked: value === chosen, onchange: () => setTheme(value) }), make("span", {}, label))));
}

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
  const isDark = theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  $("meta[name=theme-color]").content = isDark ? "#17191a" : "#f6f5f2";
  try {
    localStorage.setItem("obto.theme", theme);
  } catch {
    // Then it holds until the page is left.
  }
}

function keyTable() {
  const keys = [["/", "search"], ["n", "new thread"], ["j k", "move in the list"], ["r", "reply"], ["Ctrl Enter", "send"], ["Esc", "back to the list"]];
  return make("dl.keys", {}, ...keys.map(([key, does]) => make("div", {}, make("dt", {}, ...key.split(" ").map((it) => make("kbd", {}, it))), make("dd", {}, does))));
}
