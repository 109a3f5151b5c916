// The messages of each thread: every one once, in the bridge's order, without gaps. They come from
// pages that are read and from the stream, in any order and more than once.

const PAGE = 40;

/** What is known of a thread's messages, oldest first. */
function conversation(threadId) {
  if (!state.conversations.has(threadId)) {
    state.conversations.set(threadId, {
      threadId,
      messages: [],
      ids: new Set(),
      /** There may be older ones on the bridge. */
      more: true,
      loaded: false,
      /** The newest before the stream broke off: what follows it may not be known. */
      mark: null,
      loading: null,
      error: null,
      /** Question code → what was sent for it, until the daemon closes it. */
      sent: new Map(),
      /** Codes of the questions that were cut and are shown whole here. */
      opened: new Set(),
    });
  }
  return state.conversations.get(threadId);
}

const idOf = (message) => asText(message.messageId) || asText(message._id);

/** Takes in a message. True if it is new. */
function putMessage(known, message) {
  const id = idOf(message);
  if (!id) return false;
  if (known.ids.has(id)) {
    const at = known.messages.findIndex((it) => idOf(it) === id);
    // A question learns that it was closed.
    known.messages[at] = { ...known.messages[at], ...message };
    return false;
  }
  known.ids.add(id);
  // Times grow within a thread, so most go to the end.
  let at = known.messages.length;
  while (at > 0 && known.messages[at - 1].createdAt > message.createdAt) at -= 1;
  known.messages.splice(at, 0, message);
  return true;
}

/**
 * One from the stream. Threads that were never opened are read when they are; one that is just being
 * read takes it now, since the page that is under way may be older.
 */
function receive(message) {
  const known = state.conversations.get(asText(message.threadId));
  const isNew = known ? putMessage(known, message) : false;
  noteLast(message);
  touch("messages");
  return isNew;
}

/** The list shows it, too. The bridge tells the rest of the thread by itself when it changes. */
function noteLast(message) {
  const thread = state.threads.get(asText(message.threadId));
  if (!thread || asText(message.createdAt) <= asText(thread.lastAt)) return;
  const { author, role, kind, createdAt } = message;
  const preview = asText(message.body).slice(0, 200);
  const isRead = role === "human" || isShown(message.threadId);
  const unread = (Number(thread.unread) || 0) + (isRead ? 0 : 1);
  putThread({ ...thread, lastAt: createdAt, unread, last: { author, role, kind, preview } });
}

/** Reads the newest page. What is newer than it comes by the stream. */
async function loadNewest(threadId) {
  const known = conversation(threadId);
  const mark = known.mark ?? known.messages.at(-1)?.createdAt;
  const answer = await api.get("/api/messages", { threadId, limit: PAGE, html: 1 });
  const page = asList(answer.messages);
  const more = answer.more ?? page.length >= PAGE;
  // We slept too long: between what we have and this page there are others. They are read again, as
  // older ones are.
  const hasGap = mark !== undefined && more && page.length > 0 && page[0].createdAt > mark;
  if (hasGap) setMessages(known, known.messages.filter((it) => it.createdAt >= page[0].createdAt));
  if (!known.loaded || hasGap) known.more = more;
  for (const message of page) putMessage(known, message);
  Object.assign(known, { loaded: true, mark: null, error: null });
  touch("messages");
}

function setMessages(known, messages) {
  known.messages = messages;
  known.ids = new Set(messages.map(idOf));
}

/** The stream broke off. */
function markOutage() {
  const known = state.conversations.get(state.route.threadId);
  if (known?.loaded) known.mark ??= known.messages.at(-1)?.createdAt ?? null;
}

/** The stream is back, and has or has not all that was missed. Threads that are not open forget. */
function endOutage(isReplayed) {
  for (const known of state.conversations.values()) {
    if (isReplayed) known.mark = null;
    if (isReplayed || known.threadId === state.route.threadId) continue;
    setMessages(known, []);
    Object.assign(known, { loaded: false, more: true });
  }
}

async function loadOlder(threadId) {
  const known = conversation(threadId);
  if (!known.loaded || !known.more || known.loading) return;
  const before = known.messages[0]?.createdAt;
  known.loading = api.get("/api/messages", { threadId, before, limit: PAGE, html: 1 });
  try {
    const answer = await known.loading;
    const page = asList(answer.messages);
    for (const message of page) putMessage(known, message);
    known.more = answer.more ?? page.length >= PAGE;
  } finally {
    known.loading = null;
    touch("messages");
  }
}

/** Opens a thread, or asks what came since it was last looked at. */
async function refresh(threadId) {
  const known = conversation(threadId);
  try {
    await loadNewest(threadId);
  } catch (error) {
    known.error = error.message;
    if (error.status === 404) known.gone = true;
    touch("messages");
  }
}

/** Whether the human has it before their eyes. */
const isShown = (threadId) => state.route.threadId === threadId && !document.hidden && document.hasFocus();

const readUpTo = new Map();

/** Tells the bridge how far the human has seen. */
function markRead(threadId) {
  const newest = state.conversations.get(threadId)?.messages.at(-1)?.createdAt;
  const thread = state.threads.get(threadId);
  if (!newest || !thread || !isShown(threadId)) return;
  if (!thread.unread && readUpTo.get(threadId) === newest) return;
  if (readUpTo.get(threadId) === newest) return;
  readUpTo.set(threadId, newest);
  if (thread.unread) putThread({ ...thread, unread: 0 });
  api.post("/api/thread/read", { threadId, upTo: newest }).catch(() => readUpTo.delete(threadId));
}

/** How a question ended: as the bridge noted on it, or as a later message says. */
function outcomeOf(known, message) {
  if (typeof message.closed === "string") return message.closed;
  const code = message.question?.code;
  const end = known.messages.find(
    (it) => it.role === "agent" && it.createdAt > message.createdAt && it.questionClosed?.code === code,
  );
  return end ? asText(end.questionClosed.outcome) : null;
}

/** Sends words on a thread, such as an answer to a card, and shows them at once. */
async function say(threadId, body) {
  const { message } = await api.post("/api/reply", { threadId, body, clientMsgId: randomId() });
  if (message) receive({ ...message, threadId });
}
