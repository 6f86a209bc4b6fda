// The list of threads: reading, renaming, deleting, and which conversation is shown.

import { call, getPage } from "./protocol.js";
import { forgetAnswers } from "./answers.js";
import { Conversation } from "./conversation.js";
import { forgetThread, forgottenIn, keepAgain, saveDraft } from "./drafts.js";
import { isOutdated, learn, moment } from "./news.js";
import { options } from "./options.js";
import { changed, noSearch, noThreads, state, toast } from "./state.js";
import { hear, tell } from "./tabs.js";
import { activityOf, threadFrom, withIds } from "./thread_fields.js";
import { forgetVersions } from "./versions.js";

const PAGE = 30; // threads a page
const LOOK_AGAIN = 2000; // milliseconds between two looks for what has happened elsewhere

const conversations = new Map(); // by thread id; those opened since the page was loaded
let fresh = null; // the new chat, with what was typed in it
const nameless = new Set(); // chats before it, whose first message is on its way
let lookedAt = Date.now();

const events = {
  onCreated(conversation) {
    if (fresh === conversation) fresh = null;
    nameless.delete(conversation);
    conversations.set(conversation.threadId, conversation);
    saveDraft(null, fresh?.draft ?? { text: "", quote: null });
  },
  onThread(thread, askedAt) {
    if (askedAt === null) learn(thread.id);
    else if (isOutdated(thread.id, askedAt)) return inList(thread.id);
    if (putThread(thread)) tell({ thread });
  },
  onTurn({ threadId }) {
    noteActivity(threadId);
    tell({ turn: threadId });
  },
  onGone(conversation) {
    rescue(conversation);
    dropThread(conversation.threadId);
  },
  onUnsent(conversation, message) {
    if (nameless.delete(conversation)) fresh?.takeUnsent(message);
    else saveDraft(conversation.threadId, conversation.draft);
  },
};

hear(({ turn, thread, deleted }) => {
  if (thread) {
    putThread(thread);
    applyTitle(thread.id, thread.title);
  }
  if (deleted) {
    if (conversations.has(deleted)) rescue(conversations.get(deleted));
    leaveThread(deleted);
  }
  if (!turn) return;
  noteActivity(turn);
  lookAt(turn);
});

// What was typed in a thread that is gone goes on in the new chat.
function rescue(conversation) {
  newChat().takeOver(conversation);
  forgetThread(conversation.threadId);
}

// What was written to goes to the top of the list, and is unread where it isn't seen.
function noteActivity(threadId) {
  const thread = inList(threadId);
  // By a clock that is behind it would be older than it is.
  const at = [new Date().toJSON(), ...state.threads.data.slice(0, 1).map(activityOf)].sort().at(-1);
  if (thread) putThread({ ...thread, last_activity_at: at });
  if (state.conversation?.threadId !== threadId) state.unread.add(threadId);
}

// One that isn't shown is loaded again when it is.
function lookAt(threadId) {
  if (state.conversation?.threadId === threadId) state.conversation.lookAgain();
}

/** Looks whether something has happened elsewhere, when the reader comes back to the page. */
export function lookAgain() {
  if (document.visibilityState !== "visible" || Date.now() - lookedAt < LOOK_AGAIN) return;
  fetchUpdates();
}

async function refreshThreads() {
  if (state.threads.loading) return;
  const askedAt = moment();
  try {
    const page = await listThreads();
    if (!page) return;
    const last = page.data.at(-1);
    const oldest = last ? activityOf(last) : "";
    const isOlder = (thread) => page.has_more && activityOf(thread) < oldest;
    const { data, after, hasMore } = state.threads;
    state.threads.data = data.filter((thread) => isOlder(thread) || isOutdated(thread.id, askedAt));
    takePage(page, askedAt);
    if (data.some(isOlder)) state.threads = { ...state.threads, after, hasMore };
    changed();
  } catch (error) {
    console.warn(error.message); // the list stays as it is
  }
}

const inList = (threadId) => state.threads.data.find(({ id }) => id === threadId);

function dropThread(threadId) {
  learn(threadId);
  state.threads.data = state.threads.data.filter((each) => each.id !== threadId);
  changed();
}

// Says whether that was news.
function putThread(thread) {
  const { data } = state.threads;
  const known = inList(thread.id);
  if (known) {
    const { name, last_activity_at: at } = known;
    thread = { ...thread, name: thread.name ?? name, last_activity_at: thread.last_activity_at ?? at };
  }
  const isNews = JSON.stringify(known) !== JSON.stringify(thread);
  const others = known ? data.filter((each) => each.id !== thread.id) : data;
  state.threads.data = [thread, ...others].sort(byActivity);
  changed();
  return isNews;
}

const byActivity = (a, b) => (activityOf(a) < activityOf(b) ? 1 : activityOf(a) > activityOf(b) ? -1 : 0);

// By activity, where the server can; else by age, as the protocol has it.
// Null from a server that is no more the chat's.
async function listThreads(after = null) {
  const { scope } = options;
  const listed = await getPage("threads", after ? { limit: PAGE, after } : { limit: PAGE });
  if (options.scope !== scope) return null;
  state.canSearch = listed !== null;
  if (listed) return listed;
  const params = { limit: PAGE, order: "desc" };
  const page = await call("threads.list", after ? { ...params, after } : params, { asksFor: "Names" });
  return options.scope === scope ? page : null;
}

/** Loads the first page of threads, or the next one. */
export async function loadThreads() {
  const { after } = state.threads;
  const { scope } = options;
  const askedAt = moment();
  state.threads = { ...state.threads, loading: true, error: null };
  changed();
  try {
    const page = await listThreads(after);
    if (page) takePage(page, askedAt);
  } catch (error) {
    if (options.scope === scope) state.threads = { ...state.threads, loading: false, error: error.message };
  }
  changed();
}

function takePage(page, askedAt) {
  const named = (thread) => ({ ...thread, name: thread.name ?? page.names?.[thread.id] });
  const isNews = (thread) => !isOutdated(thread.id, askedAt);
  const listed = withIds(page.data).filter(isNews).map(named).map(threadFrom);
  const fresh = new Set(listed.map((thread) => thread.id));
  const kept = state.threads.data.filter((thread) => !fresh.has(thread.id));
  const data = [...kept, ...listed].sort(byActivity);
  state.threads = {
    data,
    hasMore: page.has_more,
    after: page.after ?? null,
    loading: false,
    isListed: true,
    error: null,
  };
}

/** Says whether a thread has a turn that this page is reading. */
export function isAnswering(threadId) {
  return conversations.get(threadId)?.phase === "streaming";
}

/** Shows a thread and loads it; null is the new chat. Returns when it is loaded. */
export async function showThread(threadId) {
  if (threadId === null) return showNew();
  if (!conversations.has(threadId)) {
    conversations.set(threadId, new Conversation(threadId, events));
  }
  show(conversations.get(threadId));
  await state.conversation.open();
}

/** Shows a thread at the item that was looked for, if it is among its newest ones or not far. */
export async function showFound(threadId, itemId) {
  await showThread(threadId);
  const { conversation } = state;
  if (conversation.threadId === threadId) await conversation.reveal(itemId);
}

/** Shows the new chat, with what was typed in it; another one if its message is on its way. */
export function showNew() {
  if (fresh?.phase !== "idle") {
    const before = fresh;
    fresh = new Conversation(null, events);
    if (before) {
      nameless.add(before);
      fresh.draft = before.giveDraft();
    }
  }
  show(fresh);
}

const newChat = () => (fresh ??= new Conversation(null, events));

const opened = () => [...conversations.values(), ...nameless, ...(fresh ? [fresh] : [])];

/** Sends what couldn't be sent while the browser was offline. */
export function sendUnsent() {
  for (const conversation of opened()) conversation.sendUnsent();
}

/** Lets go of a message that another tab has sent or deleted, as the storage tells; not of a draft. */
export function hearOfUnsent(event) {
  keepAgain(event);
  const key = forgottenIn(event);
  if (key !== null) for (const conversation of opened()) conversation.dropUnsent(key);
}

/** Lets go of all that is known, because the chat is another server's now. */
export function forgetAll() {
  for (const conversation of opened()) conversation.leave();
  conversations.clear();
  nameless.clear();
  fresh = null;
  Object.assign(state, {
    conversation: null,
    threads: noThreads(),
    search: noSearch(),
    canSearch: false,
    unread: new Set(),
    signedOut: false,
    viewed: null,
  });
}

/** Stops reading what is being answered; the server goes on as its policy says. */
export function hangUp() {
  for (const conversation of opened()) conversation.hangUp();
}

/** Looks now for what has happened elsewhere. */
export async function fetchUpdates() {
  lookedAt = Date.now();
  await Promise.all([state.conversation?.lookAgain(), refreshThreads()]);
}

function show(conversation) {
  state.conversation = conversation;
  state.unread.delete(conversation.threadId);
  state.menuOpen = false;
  changed();
}

export async function renameThread(thread, title) {
  const before = thread.title;
  applyTitle(thread.id, title);
  try {
    await call("threads.update", { thread_id: thread.id, title });
    applyTitle(thread.id, title); // the server may have told another one meanwhile
    tell({ thread: { ...thread, title } });
  } catch (error) {
    applyTitle(thread.id, before);
    toast(error.message, { level: "danger" });
  }
}

function applyTitle(threadId, title) {
  learn(threadId);
  const conversation = conversations.get(threadId);
  if (conversation?.thread) conversation.thread = { ...conversation.thread, title };
  const thread = inList(threadId);
  if (thread) putThread({ ...thread, title });
}

/** Deletes a thread; its conversation is left when it is the one shown. */
export async function deleteThread(thread) {
  try {
    await call("threads.delete", { thread_id: thread.id });
  } catch (error) {
    return toast(error.message, { level: "danger" });
  }
  tell({ deleted: thread.id });
  leaveThread(thread.id);
}

function leaveThread(threadId) {
  conversations.get(threadId)?.leave();
  conversations.delete(threadId);
  forgetThread(threadId);
  forgetAnswers(threadId);
  forgetVersions(threadId);
  if (state.conversation?.threadId === threadId) showNew();
  dropThread(threadId);
}
