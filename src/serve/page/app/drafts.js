// What was written and not yet taken by the bridge, per thread. It is kept in the browser until the
// bridge has it, and sent again under the same `clientMsgId`, so that nothing is lost and nothing
// is stored twice.

/** The draft of a thread that does not exist yet. */
const NEW_THREAD = "";

const drafts = new Map();

/** Not of another account that signs in on this browser. */
const draftKey = (threadId) => `obto.draft.${state.session?.accountId ?? ""}.${threadId}`;

/** `{ body, files: [{ id, name }], extra, sent: { clientMsgId, text }, waiting, sending, error }` */
function draftOf(threadId) {
  if (!drafts.has(threadId)) drafts.set(threadId, { body: "", files: [], sent: null, ...storedDraft(threadId) });
  return drafts.get(threadId);
}

function storedDraft(threadId) {
  try {
    const { body, files, sent, extra, waiting } = JSON.parse(localStorage.getItem(draftKey(threadId)) ?? "{}");
    const good = asList(files).filter((it) => typeof it?.id === "string");
    return { body: asText(body), files: good, sent: sent ?? null, extra, waiting: Boolean(waiting) };
  } catch {
    return {};
  }
}

/** A full or forbidden storage costs only what a reload would keep. */
function keepDraft(threadId) {
  const { body, files, sent, extra, waiting } = draftOf(threadId);
  try {
    if (!body && files.length === 0) localStorage.removeItem(draftKey(threadId));
    else {
      const kept = files.filter((it) => it.id).map(({ id, name }) => ({ id, name }));
      localStorage.setItem(draftKey(threadId), JSON.stringify({ body, files: kept, sent, extra, waiting }));
    }
  } catch {
    // Nothing to be done about it.
  }
}

function forgetDraft(threadId) {
  drafts.delete(threadId);
  try {
    localStorage.removeItem(draftKey(threadId));
  } catch {
    // Nothing to be done about it.
  }
}

/**
 * Sends the draft. Only the very same content is sent under the same id: what was changed is
 * another message, and the bridge would take it for the first one.
 */
async function sendDraft(threadId) {
  const draft = draftOf(threadId);
  const ids = draft.files.map((it) => it.id);
  if (draft.sending || (!draft.body.trim() && ids.length === 0) || draft.files.some((it) => it.uploading)) return null;
  const request = { threadId: threadId || undefined, body: draft.body, attachmentIds: ids, ...draft.extra };
  const text = JSON.stringify(request);
  if (draft.sent?.text !== text) draft.sent = { clientMsgId: randomId(), text };
  Object.assign(draft, { sending: true, waiting: true, error: null });
  keepDraft(threadId);
  touch("drafts");
  try {
    const answer = await api.post("/api/reply", { ...request, clientMsgId: draft.sent.clientMsgId });
    forgetDraft(threadId);
    if (answer.message) receive({ ...answer.message, threadId: answer.threadId });
    return answer;
  } catch (error) {
    draft.error = error.message;
    draft.waiting = error.isPassing;
    keepDraft(threadId);
    return null;
  } finally {
    draft.sending = false;
    touch("drafts");
  }
}

/** After an outage: what could not be delivered goes now. */
async function sendWaiting() {
  const prefix = draftKey("");
  const stored = Object.keys(localStorage).filter((it) => it.startsWith(prefix)).map((it) => it.slice(prefix.length));
  for (const threadId of new Set([...drafts.keys(), ...stored])) {
    // A new thread opens when it is sent, which would surprise who reads another.
    if (threadId !== NEW_THREAD && draftOf(threadId).waiting) await sendDraft(threadId);
  }
}

const UPLOAD_TYPES = ["image/png", "image/jpeg", "image/gif", "image/webp"];
const UPLOAD_BYTES = 25 * 1024 * 1024;
const UPLOADS_MAX = 10;

/** Uploads pictures at once, so that sending is quick later. */
function attach(threadId, files) {
  const draft = draftOf(threadId);
  for (const file of files) {
    const entry = { name: file.name || "picture", preview: URL.createObjectURL(file), uploading: true };
    if (draft.files.length >= UPLOADS_MAX) {
      draft.error = `A message takes ${UPLOADS_MAX} pictures.`;
      break;
    }
    draft.files.push(entry);
    upload(entry, file).finally(() => {
      entry.uploading = false;
      keepDraft(threadId);
      touch("drafts");
    });
  }
  touch("drafts");
}

async function upload(entry, file) {
  try {
    if (!UPLOAD_TYPES.includes(file.type)) throw new Error("Only PNG, JPEG, GIF and WebP are taken.");
    if (file.size > UPLOAD_BYTES) throw new Error("The picture is larger than 25 MB.");
    const body = { name: entry.name, mediaType: file.type, data: await base64Of(file) };
    entry.id = asText((await api.post("/api/bridge/attachment/upload", body, UPLOAD_MS)).attachmentId);
  } catch (error) {
    entry.error = error.message;
  }
}

function base64Of(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Error("The file can't be read."));
    reader.readAsDataURL(file);
  });
}

function detach(threadId, entry) {
  const draft = draftOf(threadId);
  draft.files = draft.files.filter((it) => it !== entry);
  if (entry.preview) URL.revokeObjectURL(entry.preview);
  keepDraft(threadId);
  touch("drafts");
}
