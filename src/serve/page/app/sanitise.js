// The only place where text becomes markup. The bridge renders Markdown and neutralises it; this is
// a second wall of its own make: a tree is parsed apart from the page, and what is known to be
// harmless is built anew, element by element. Nothing is copied over as it came.

/** Elements, and the attributes of each that may stay if their check says so. */
const ALLOWED = {
  a: { href: isLink, title: isAny },
  blockquote: {}, br: {}, code: { class: isLanguage }, dd: {}, del: {}, details: {}, div: {}, dl: {}, dt: {}, em: {},
  h1: {}, h2: {}, h3: {}, h4: {}, h5: {}, h6: {}, hr: {}, kbd: {}, li: {}, ol: { start: isNumber }, p: {}, pre: {},
  s: {}, span: {}, strong: {}, b: {}, i: {}, u: {}, sub: {}, summary: {}, sup: {}, table: {}, tbody: {},
  td: { class: isPlace }, tfoot: {}, th: { class: isPlace }, thead: {}, tr: {}, ul: {},
};

/** These go with all that is in them; of others only the shell goes. */
const DROPPED = new Set([
  "script", "style", "template", "iframe", "object", "embed", "noscript", "svg", "math", "title", "head", "base",
  "link", "meta", "frame", "frameset", "applet", "audio", "video", "source", "track", "canvas", "select", "textarea",
  "button", "input", "xmp", "plaintext", "noembed", "noframes", "portal", "dialog",
]);

const DEPTH_MAX = 60;

function isAny() {
  return true;
}

function isNumber(value) {
  return /^\d{1,9}$/.test(value);
}

function isLanguage(value) {
  return /^language-[\w+#.-]{1,40}$/.test(value);
}

/** How the cells of a table stand. */
function isPlace(value) {
  return ["left", "center", "right"].includes(value);
}

/** Absolute, and of a scheme that opens a page or writes a mail. */
function isLink(value) {
  try {
    return ["http:", "https:", "mailto:"].includes(new URL(value).protocol);
  } catch {
    return false;
  }
}

/** Without trusted types, as in older browsers, the text goes as it is. */
const markdownPolicy = window.trustedTypes
  ? window.trustedTypes.createPolicy("obto-markdown", { createHTML: (html) => html })
  : { createHTML: (html) => html };

/** The bridge's rendered Markdown as a fragment that is safe to insert. */
function sanitise(html) {
  // A document of its own: no script runs in it, no picture is loaded.
  const parsed = new DOMParser().parseFromString(markdownPolicy.createHTML(html), "text/html");
  const fragment = document.createDocumentFragment();
  copyChildren(parsed.body, fragment, 0);
  return fragment;
}

function copyChildren(from, to, depth) {
  for (const node of from.childNodes) copyNode(node, to, depth);
}

function copyNode(node, to, depth) {
  if (node.nodeType === Node.TEXT_NODE) {
    to.append(node.data);
    return;
  }
  if (node.nodeType !== Node.ELEMENT_NODE) return;
  const tag = node.localName;
  if (DROPPED.has(tag) || node.namespaceURI !== "http://www.w3.org/1999/xhtml") return;
  const attributes = Object.hasOwn(ALLOWED, tag) ? ALLOWED[tag] : null;
  if (tag === "img") to.append(node.getAttribute("alt") ?? "");
  if (!attributes || depth > DEPTH_MAX) {
    copyChildren(node, to, depth);
    return;
  }
  const copy = document.createElement(tag);
  for (const [name, isGood] of Object.entries(attributes)) {
    const value = node.getAttribute(name);
    if (value !== null && isGood(value)) copy.setAttribute(name, value);
  }
  if (copy.hasAttribute("href")) set(copy, { target: "_blank", rel: "noopener noreferrer nofollow" });
  copyChildren(node, copy, depth + 1);
  to.append(copy);
}

/** Rendered Markdown, or plain text if there is none. Wide things scroll by themselves. */
function prose(message) {
  const box = make("div.prose");
  if (typeof message.html !== "string") {
    box.classList.add("plain");
    box.append(asText(message.body));
    return box;
  }
  box.append(sanitise(message.html));
  for (const table of box.querySelectorAll("table")) {
    const frame = make("div.scroll-x", { tabindex: "0", role: "region", "aria-label": "Table" });
    table.replaceWith(frame);
    frame.append(table);
  }
  for (const code of box.querySelectorAll("pre")) code.replaceWith(codeBlock(code));
  // The page has headings of its own above.
  for (const heading of box.querySelectorAll("h1, h2, h3, h4, h5, h6")) {
    const level = Math.min(6, Number(heading.localName[1]) + 3);
    set(heading, { role: "heading", "aria-level": level });
  }
  return box;
}

function codeBlock(pre) {
  const language = /language-(\S+)/.exec($("code", pre)?.className ?? "")?.[1] ?? "";
  const text = pre.textContent.replace(/\n$/, "");
  const block = make("pre.scroll-x", { tabindex: "0", role: "region", "aria-label": `Code ${language}`.trim() });
  block.append(make("code", {}, text));
  const head = make("div.code-head", {}, make("span", {}, language), copyButton(() => text));
  return make("div.code-block", {}, head, block);
}
