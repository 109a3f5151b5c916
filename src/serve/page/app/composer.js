// The reply box. Its text stays until the bridge has it.

const box = {};

function composer(threadId) {
  Object.assign(box, { threadId });
  box.text = make("textarea.reply", {
    rows: 1, "aria-label": "Reply", placeholder: matchMedia("(pointer: coarse)").matches ? "Reply…" : "Reply… (Ctrl+Enter sends)",
    oninput: onReplyInput, onkeydown: onReplyKey,
  });
  box.files = make("div.chips", { hidden: true });
  box.note = make("div.reply-note", { hidden: true, role: "alert" });
  box.send = make("button.icon-button.send", { type: "submit", "aria-label": "Send", title: "Send (Ctrl+Enter)" }, icon("send"));
  const form = make("form.composer", { "aria-label": "Reply" },
    box.note, box.files,
    make("div.reply-row", {}, pickButton(() => box.threadId), box.text, box.send));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    sendReply();
  });
  takePictures(form, () => box.threadId);
  takePictures(pane.log, () => box.threadId);
  box.text.value = draftOf(threadId).body;
  showReply();
  return form;
}

function pickButton(threadOf) {
  const input = make("input.unseen", { type: "file", accept: UPLOAD_TYPES.join(","), multiple: true, tabindex: "-1", "aria-hidden": "true" });
  input.addEventListener("change", () => {
    attach(threadOf(), [...input.files]);
    input.value = "";
  });
  return make("span.pick", {}, iconButton("clip", "Add pictures", () => input.click()), input);
}

/** Pictures that are pasted or dropped here. */
function takePictures(element, threadOf) {
  const take = (event, data) => {
    const files = [...(data?.files ?? [])].filter((it) => it.type.startsWith("image/"));
    if (files.length === 0) return;
    event.preventDefault();
    attach(threadOf(), files);
  };
  element.addEventListener("paste", (event) => take(event, event.clipboardData));
  element.addEventListener("drop", (event) => {
    element.classList.remove("drop-here");
    take(event, event.dataTransfer);
  });
  element.addEventListener("dragover", (event) => {
    if (![...event.dataTransfer.types].includes("Files")) return;
    event.preventDefault();
    element.classList.add("drop-here");
  });
  element.addEventListener("dragleave", () => element.classList.remove("drop-here"));
}

function onReplyInput() {
  const draft = draftOf(box.threadId);
  draft.body = box.text.value;
  draft.waiting = false;
  draft.error = null;
  keepDraft(box.threadId);
  touch("drafts");
}

function onReplyKey(event) {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    sendReply();
  }
}

async function sendReply() {
  const { threadId } = box;
  const answer = await sendDraft(threadId);
  if (answer && box.threadId === threadId) {
    scrollToEnd();
    box.text.focus();
  }
}

function showReply() {
  if (state.route.view !== "thread" || !box.text?.isConnected && box.text?.parentElement === null) return;
  const draft = draftOf(box.threadId);
  if (box.text.value !== draft.body) box.text.value = draft.body;
  box.text.readOnly = Boolean(draft.sending);
  const isEmpty = !draft.body.trim() && draft.files.length === 0;
  box.send.disabled = isEmpty || Boolean(draft.sending) || draft.files.some((it) => it.uploading || it.error);
  showChips(box.files, box.threadId);
  showNote(draft);
  grow(box.text);
}

function showNote(draft) {
  const text = draft.error
    ? `Not sent. ${draft.error}${draft.waiting ? " It is sent as soon as the bridge is back." : ""}`
    : "";
  if (box.note.dataset.text === text) return;
  box.note.dataset.text = text;
  set(box.note, { hidden: !text });
  box.note.replaceChildren(...(text ? [make("span", {}, text), textButton("Try again", sendReply, {}, ".small")] : []));
}

/** The pictures of a draft, each with a way to take it back. */
function showChips(place, threadId) {
  const { files } = draftOf(threadId);
  set(place, { hidden: files.length === 0 });
  const face = JSON.stringify(files.map(({ name, id, uploading, error }) => [name, id, uploading, error]));
  if (place.dataset.face === face) return;
  place.dataset.face = face;
  place.replaceChildren(...files.map((file) => {
    const source = file.preview ?? (file.id ? fileUrl(file.id) : null);
    const said = file.error ?? (file.uploading ? "uploading…" : "");
    return make("figure.chip", {},
      source && make("img", { src: source, alt: "" }),
      make("figcaption", {}, make("span.chip-name", {}, file.name ?? "picture"), said && make("small", { class: file.error ? "bad" : null }, said)),
      iconButton("close", `Remove ${file.name ?? "picture"}`, () => detach(threadId, file)));
  }));
}

/** As high as its text, up to what the style allows. */
function grow(text) {
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight + 2}px`;
}

watch(["drafts"], showReply);
