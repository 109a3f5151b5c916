// Making elements. Text becomes text nodes and attributes are set by name, so nothing that came
// from outside is ever read as markup.

const $ = (selector, within = document) => within.querySelector(selector);

/** `make("button.quiet", { type: "button", onclick }, "Text", child)`; null children are left out. */
function make(what, attributes = {}, ...children) {
  const [tag, ...classes] = what.split(".");
  const element = document.createElement(tag);
  element.classList.add(...classes);
  set(element, attributes);
  element.append(...children.flat().filter((it) => it !== null && it !== undefined && it !== false));
  return element;
}

/** Functions are listeners, true and false are there and not there, all else is text. */
function set(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) {
      element.addEventListener(name.slice(2), value);
    } else if (name === "value" || name === "checked" || name === "disabled" || name === "readOnly") {
      element[name] = value;
    } else if (value === null || value === undefined || value === false) {
      element.removeAttribute(name);
    } else {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** Outlines on a field of 24 by 24. */
const ICONS = {
  plus: "M12 5v14M5 12h14",
  back: "M15 5l-7 7 7 7",
  more: "M5 12h.01M12 12h.01M19 12h.01",
  send: "M12 19V5M5 12l7-7 7 7",
  stop: "M7 7h10v10H7z",
  clip: "M20 11.5l-8.2 8.2a5 5 0 01-7.1-7.1l8.6-8.6a3.3 3.3 0 014.7 4.7l-8.5 8.5a1.6 1.6 0 01-2.3-2.3l7.6-7.6",
  close: "M6 6l12 12M18 6L6 18",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  check: "M5 12.5l4.5 4.5L19 7.5",
  machine: "M3 5h18v11H3zM8 20h8M12 16v4",
  person: "M12 12a4 4 0 100-8 4 4 0 000 8zM4.5 20c1-3.5 4-5 7.5-5s6.5 1.5 7.5 5",
  search: "M11 18a7 7 0 100-14 7 7 0 000 14zM16.5 16.500L21 21",
  down: "M12 5v14M6 13l6 6 6-6",
  shield: "M12 3l7.5 3v5.500c0 4.5-3 8-7.5 9.5-4.5-1.5-7.5-5-7.5-9.500V6z",
};

function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  for (const [key, value] of [["viewBox", "0 0 24 24"], ["aria-hidden", "true"], ["class", "icon"]]) {
    svg.setAttribute(key, value);
  }
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** A button that is only a picture, with its name for those who don't see it. */
const iconButton = (name, label, onclick, attributes = {}) =>
  make("button.icon-button", { type: "button", "aria-label": label, title: label, onclick, ...attributes }, icon(name));

const textButton = (label, onclick, attributes = {}, style = "") =>
  make(`button.button${style}`, { type: "button", onclick, ...attributes }, label);

/** A labelled field: `control` gets an id unless it has one. */
function field(label, control, hint) {
  control.id ||= `field-${(field.count = (field.count ?? 0) + 1)}`;
  const note = hint ? make("small.hint", { id: `${control.id}-hint` }, hint) : null;
  if (note) control.setAttribute("aria-describedby", note.id);
  return make("div.field", {}, make("label", { for: control.id }, label), control, note);
}

/**
 * Makes the children of `parent` those of `items`, keeping the element of each key, so that focus
 * and scroll positions stay. `update` may return another element to replace the old one.
 */
function reconcile(parent, items, keyOf, create, update = (element) => element) {
  const focused = document.activeElement;
  const old = new Map([...parent.children].map((it) => [it.dataset.key, it]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    const known = old.get(key);
    old.delete(key);
    const element = known ? update(known, item) : create(item);
    element.dataset.key = key;
    if (known && known !== element) {
      if (place === known) place = known.nextElementSibling;
      known.remove();
    }
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
  }
  for (const element of old.values()) element.remove();
  // What is moved loses it.
  if (focused !== document.activeElement && parent.contains(focused)) focused.focus({ preventScroll: true });
}

/** Works where the page is not in a secure context, too. */
async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const box = make("textarea.unseen", { value: text, readOnly: true, "aria-hidden": "true" });
  document.body.append(box);
  const before = document.activeElement;
  box.select();
  const copied = document.execCommand("copy");
  box.remove();
  before?.focus();
  if (!copied) throw new Error("the browser refused");
}

/** A button that copies and says that it did. */
function copyButton(textOf, label = "Copy") {
  const button = textButton(label, async () => {
    const said = await copyText(textOf()).then(() => "Copied", () => "Not copied");
    button.textContent = said;
    announce(said);
    setTimeout(() => (button.textContent = label), 1600);
  }, {}, ".small.copy");
  return button;
}

/** Letters that no id of ours needs to be guessed from; there is no `randomUUID` without TLS. */
function randomId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

const asText = (value) => (typeof value === "string" ? value : "");
const asList = (value) => (Array.isArray(value) ? value : []);
