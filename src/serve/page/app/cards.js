// Questions of agents as cards with buttons. A card is only ever made of the `question` field of a
// message whose author is the daemon's own asker: text that looks like a card stays text. The
// buttons send the same words that a human could write. What was cut can be allowed only once all of
// it was opened here: then the words end with `whole`, which tells the daemon so.

const ASKER = /-bridge-perm$/;

const hasCard = (message) =>
  message.role === "agent" && ASKER.test(asText(message.author)) &&
  typeof message.question === "object" && message.question !== null && asText(message.question.code) !== "";

const WANTS = {
  run: "wants to run a command",
  edit: "wants to change a file",
  read: "wants to read",
  fetch: "wants to fetch",
  mcp: "wants to use a tool",
  choice: "asks you",
};

const OUTCOMES = {
  allowed: "Allowed once",
  always: "Allowed, also from now on in this thread",
  denied: "Denied",
  answered: "Answered",
  expired: "Expired without an answer",
  gone: "No longer asked",
};

const isExpired = (question) => Date.parse(question.expiresAt) <= now();

/** What shows on the card, so that it is made anew only when that changes. */
function cardFace(known, message) {
  const { code } = message.question;
  const sent = known.sent.get(code);
  return [outcomeOf(known, message) ?? "", sent?.label ?? "", sent?.error ?? "", known.opened.has(code)].join("|");
}

const isCut = (question) => asList(question.whole).length > 0;

function card(known, message) {
  const { question } = message;
  const outcome = outcomeOf(known, message);
  const sent = known.sent.get(question.code);
  const id = `card-${idOf(message)}`;
  const wish = asText(question.asks) || (WANTS[question.kind] ?? `wants to use ${asText(question.tool)}`);
  const title = make("h3.card-title", { id }, icon("shield"),
    make("span", {}, make("b", {}, asText(question.agent)), ` ${wish}`),
    make("code.card-code", {}, question.code));
  const box = make("section.card", { "aria-labelledby": id, tabindex: "-1", "data-code": question.code }, title);
  box.append(...detailBlocks(known, question), facts(question));
  if (outcome !== null) {
    box.classList.add("closed");
    box.append(make("p.card-end", { "data-outcome": outcome }, OUTCOMES[outcome] ?? outcome));
  } else if (sent && !sent.error) {
    box.append(make("p.card-sent", {}, `Sent: ${sent.label}`));
  } else {
    box.append(controls(known, question));
    if (sent?.error) box.append(make("p.problem", { role: "alert" }, sent.error));
  }
  return box;
}

/** All that the question is about; what is cut is opened by a button that stands where it is cut. */
function detailBlocks(known, question) {
  const isOpened = known.opened.has(question.code);
  const details = asList(isCut(question) && isOpened ? question.whole : question.details);
  if (details.length > 0) return details.map((it) => detailBlock(known, question, it));
  // Of a daemon that does not tell parts.
  return [
    question.subject ? subjectBlock(asText(question.subject)) : null,
    question.diff ? diffBlock(asText(question.diff)) : null,
  ].filter(Boolean);
}

function detailBlock(known, question, { form, title, name, text }) {
  if (form === "cut") {
    return make("p.card-cut", {}, make("span", {}, asText(title)), wholeButton(known, question, "small"));
  }
  if (form === "text") return subjectBlock(asText(text));
  const words = asText(title);
  const head = make("p.card-part", {}, words && `${words} `, name ? make("code", {}, asText(name)) : null);
  if (form === "diff") return make("div.card-detail", {}, head, text ? diffBlock(asText(text)) : null);
  const value = asText(text) === "" ? make("em", {}, "nothing") : asText(text);
  return make("div.card-detail.card-field", {}, head, make("pre.card-value", {}, value));
}

const wholeButton = (known, question, ...classes) =>
  make(["button.button.card-open", ...classes].join("."), { type: "button", onclick: () => openWhole(known, question) }, "Show it whole");

/** From its beginning: what was opened is to be read. */
function openWhole(known, question) {
  known.opened.add(question.code);
  touch("messages");
  requestAnimationFrame(() => requestAnimationFrame(() => {
    const box = document.querySelector(`.card[data-code="${CSS.escape(question.code)}"]`);
    box?.focus({ preventScroll: true });
    box?.scrollIntoView({ block: "start" });
  }));
  announce("The whole is shown");
}

const subjectBlock = (text) => make("pre.card-subject.scroll-x", { tabindex: "0", "aria-label": "What it would do" }, text);

function facts(question) {
  const list = make("dl.facts");
  const add = (name, value) => value && list.append(make("div", {}, make("dt", {}, name), make("dd", {}, value)));
  add("Tool", question.kind === "choice" ? "" : asText(question.tool));
  add("In", asText(question.directory));
  add("Project", asText(question.project));
  add("Reason", asText(question.reason));
  if (question.kind !== "choice" && asText(question.why)) {
    const rule = asText(question.rule);
    add("Asked", rule ? make("span", {}, "by the rule ", make("code", {}, rule), `: ${asText(question.why)}`) : `because ${asText(question.why)}`);
  }
  return list;
}

function diffBlock(diff) {
  const block = make("pre.diff.scroll-x", { tabindex: "0", role: "region", "aria-label": "Changes" });
  for (const line of diff.split("\n")) {
    const kind = { "+": "added", "-": "removed", "@": "place" }[line[0]];
    block.append(make(kind ? `span.${kind}` : "span", {}, `${line}\n`));
  }
  return block;
}

/** Counts down; an expired question can't be answered, even before the daemon says so. */
function controls(known, question) {
  const box = make("div.card-controls");
  const remaining = timeElement(asText(question.expiresAt), () => {
    const left = Date.parse(question.expiresAt) - now();
    if (left <= 0) for (const it of box.querySelectorAll("button, input")) it.disabled = true;
    if (Number.isNaN(left)) return "";
    return left <= 0 ? "Expired" : `Expires in ${clockTime(left)}`;
  });
  remaining.classList.add("card-left");
  const choices = asList(question.choices);
  box.append(...(choices.length > 0 ? choiceControls(known, question, choices) : permissionControls(known, question)), remaining);
  remaining.renew();
  return box;
}

function permissionControls(known, question) {
  const whole = isCut(question) ? " whole" : "";
  const isHidden = isCut(question) && !known.opened.has(question.code);
  const answer = (words, label) => answerCard(known, question.code, words, label);
  const reason = make("input", { type: "text", placeholder: "Reason, for the agent", "aria-label": "Reason for denying", maxlength: 2000 });
  const deny = form("Deny", () => {
    const why = oneLine(reason.value);
    return answer(`deny ${question.code}${why ? ` because ${why}` : ""}`, "deny");
  }, reason);
  deny.classList.add("deny-form");
  $("button[type=submit]", deny).classList.replace("primary", "danger");
  deny.hidden = true;
  const showDeny = textButton("Deny…", () => {
    deny.hidden = !deny.hidden;
    showDeny.setAttribute("aria-expanded", String(!deny.hidden));
    if (!deny.hidden) reason.focus();
  }, { "aria-expanded": "false" });
  const always = asText(question.always);
  return [
    make("div.card-buttons", {},
      ...(isHidden ? [wholeButton(known, question, "primary")] : [
        textButton("Allow once", () => answer(`approve ${question.code}${whole}`, "allow once"), {}, ".primary"),
        always && textButton("Always for this thread", () => answer(`always ${question.code}${whole}`, "always for this thread"), { "aria-describedby": `always-${question.code}` }),
      ]),
      showDeny),
    isHidden && make("p.hint", {}, "It was cut. It can be allowed once it is shown whole."),
    !isHidden && always && make("p.hint", { id: `always-${question.code}` }, question.grant ? `Always allows ${asText(question.grant)}: ` : "Always allows: ", make("code", {}, always)),
    deny,
  ].filter(Boolean);
}

function choiceControls(known, question, choices) {
  const groups = choices.map((choice, at) => choiceGroup(question.code, choice, at));
  const body = form("Answer", () => {
    // One line for each question.
    const answers = groups.map((it) => it.answer());
    if (answers.some((it) => it === "")) throw new Error("Choose, or write your own words.");
    return answerCard(known, question.code, `${question.code} ${answers.join("\n")}`, "your answer");
  }, ...groups.map((it) => it.element));
  const decline = textButton("Decline", () => answerCard(known, question.code, `deny ${question.code}`, "decline"));
  $(".form-end", body).append(decline);
  return [body];
}

function choiceGroup(code, choice, at) {
  const type = choice.multiple ? "checkbox" : "radio";
  const inputs = [];
  const element = make("fieldset.choice", {}, make("legend", {}, asText(choice.question)));
  for (const [index, option] of asList(choice.options).entries()) {
    const input = make("input", { type, name: `choice-${code}-${at}`, value: String(index + 1) });
    inputs.push(input);
    const words = make("span", {}, asText(option?.label));
    if (option?.description) words.append(make("small", {}, asText(option.description)));
    element.append(make("label.option", {}, input, words));
  }
  const own = choice.open ? make("input", { type: "text", placeholder: "Or in your own words", "aria-label": "In your own words", maxlength: 4000 }) : null;
  if (own) element.append(own);
  const answer = () => oneLine(own?.value ?? "") || inputs.filter((it) => it.checked).map((it) => it.value).join(",");
  return { element, answer };
}

const oneLine = (text) => text.replace(/\s+/g, " ").trim();

async function answerCard(known, code, words, label) {
  known.sent.set(code, { label });
  touch("messages");
  try {
    await say(known.threadId, words);
    announce(`Sent: ${label}`);
  } catch (error) {
    known.sent.set(code, { label, error: `Not sent. ${error.message}` });
    touch("messages");
  }
}
