// What was typed and isn't sent yet, kept in the browser: the draft of each thread, and messages
// that couldn't be sent. A thread is named by its id; null is the new chat. Each server's are kept
// apart, because a page may show more than one, and each user's, if the page says who that is.

import { keep, keptKeys, readKept } from "./kept.js";
import { options } from "./options.js";
import { strings } from "./strings.js";

const draftKey = (threadId) => `chatkit-draft:${options.scope}:${threadId ?? ""}`;
const unsentKey = (key = "", scope = options.scope) => `chatkit-unsent:${scope}:${key}`;

const typed = new Map(); // the drafts that this page has written, by their keys

const write = (key, value) => keep(key, value, "What was typed");

const text = (value) => (typeof value === "string" ? value : "");

export function loadDraft(threadId) {
  const kept = readKept(draftKey(threadId));
  const tags = Array.isArray(kept?.tags) ? kept.tags.filter((tag) => tag?.id && tag.title) : [];
  const editing = typeof kept?.editing?.id === "string" ? { tags: [], ...kept.editing, text: text(kept.editing.text) } : null;
  return { text: text(kept?.text), quote: text(kept?.quote) || null, tags, editing, attachments: [] };
}

/** Keeps the words of a draft; its files are uploaded already, and die with the page. */
export function saveDraft(threadId, { text: words, quote, tags = [], editing = null }) {
  writeDraft(draftKey(threadId), words || quote || editing ? { text: words, quote, tags, editing } : null);
}

function writeDraft(key, draft) {
  typed.set(key, draft);
  write(key, draft);
}

/** Keeps a draft of this page again that went with another tab's, as the storage tells. */
export function keepAgain({ key, newValue }) {
  if (newValue === null && typed.get(key)) write(key, typed.get(key));
}

// Without an error it was on its way when its page was closed.
function errorNow({ error }) {
  return error && !(error.offline && navigator.onLine) ? error : { text: strings.unsent };
}

/** Returns the messages of a thread that couldn't be sent, the oldest first. */
export function loadUnsent(threadId) {
  return keptKeys()
    .filter((key) => key.startsWith(unsentKey()))
    .map(readKept)
    .filter((kept) => kept && kept.threadId === threadId && kept.message?.input)
    .map(({ message }) => ({ ...message, error: errorNow(message) }))
    .sort((a, b) => (a.created_at < b.created_at ? -1 : 1));
}

/** Keeps a message under a key of its own, so that two tabs can't lose each other's. */
export function saveUnsent(threadId, message, scope = options.scope) {
  const attachments = message.attachments.map(withoutBlob);
  write(unsentKey(message.key, scope), { threadId, message: { ...message, attachments } });
}

/** Returns the key of the message that another tab has let go of, by what the storage tells; or null. */
export function forgottenIn({ key, newValue }) {
  return key?.startsWith(unsentKey()) && newValue === null ? key.slice(unsentKey().length) : null;
}

export function forgetUnsent(message) {
  write(unsentKey(message.key), null);
}

// The address of a file in this page's memory means nothing to the next page.
function withoutBlob(attachment) {
  const { preview_url: url } = attachment;
  return url?.startsWith("blob:") ? { ...attachment, preview_url: undefined } : attachment;
}

/** Forgets all that was kept of a thread, because it is deleted. */
export function forgetThread(threadId) {
  writeDraft(draftKey(threadId), null);
  for (const message of loadUnsent(threadId)) forgetUnsent(message);
}

/** Forgets what was kept of all users of this server but the one that there is now. */
export function forgetOthers() {
  const { endpoint, scope } = options;
  for (const key of keptKeys().filter((each) => each.startsWith("chatkit-"))) {
    const whose = `${key.slice(key.indexOf(":") + 1)}:`;
    const isThisServers = whose.startsWith(`${endpoint}:`) || whose.startsWith(`${endpoint}#`);
    if (isThisServers && !whose.startsWith(`${scope}:`)) writeDraft(key, null);
  }
}
