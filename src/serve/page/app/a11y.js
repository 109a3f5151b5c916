// For those who hear the page or drive it by keys: what is said aloud, where the focus goes, dialogs.

/** Says it once, politely. An equal text is said again. */
function announce(text) {
  const place = $("#announcer");
  const line = make("div", {}, text);
  place.append(line);
  while (place.childElementCount > 3) place.firstElementChild.remove();
}

function announceMessage(message) {
  if (message.role === "human" && message.author === state.session?.user) return;
  announce(`${asText(message.author)}: ${asText(message.body).slice(0, 300)}`);
}

/** Opens a dialog and gives it back. It leaves the page when it closes; the focus returns by itself. */
function openDialog(title, ...children) {
  const heading = make("h2", { id: "dialog-title" }, title);
  const dialog = make("dialog.dialog", { "aria-labelledby": "dialog-title" });
  const head = make("div.dialog-head", {}, heading, iconButton("close", "Close", () => dialog.close()));
  dialog.append(head, ...children);
  dialog.addEventListener("close", () => dialog.remove());
  // A press beside it closes it, as people expect.
  dialog.addEventListener("mousedown", (event) => event.target === dialog && dialog.close());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** A form whose button works once at a time and whose failure is said in it. */
function form(button, submit, ...children) {
  const problem = make("p.problem", { role: "alert", hidden: true });
  const send = make("button.button.primary", { type: "submit" }, button);
  const element = make("form.form", { novalidate: true }, ...children, problem, make("div.form-end", {}, send));
  element.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (send.disabled) return;
    set(problem, { hidden: true });
    send.disabled = true;
    try {
      await submit();
    } catch (error) {
      problem.textContent = error.message;
      set(problem, { hidden: false });
    } finally {
      send.disabled = false;
    }
  });
  return element;
}

/** Asks before something that can't be taken back. */
function confirmDialog(title, text, action, run) {
  const body = form(action, async () => {
    await run();
    dialog.close();
  }, make("p", {}, text));
  $("button[type=submit]", body).classList.add("danger");
  const dialog = openDialog(title, body);
  return dialog;
}

const isTyping = () => /^(input|textarea|select)$/i.test(document.activeElement?.localName ?? "");

/** Moves the focus among elements, stopping at either end. */
function moveFocus(elements, step) {
  const at = elements.indexOf(document.activeElement);
  const next = at < 0 ? (step > 0 ? 0 : elements.length - 1) : Math.min(elements.length - 1, Math.max(0, at + step));
  elements[next]?.focus();
}

const isCalm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
