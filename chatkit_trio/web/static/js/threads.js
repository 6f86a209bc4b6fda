// The list of threads: reading, renaming, deleting, and which conversation is shown.

import { call } from "./protocol.js";
import { Conversation } from "./conversation.js";
import { changed, state, toast } from "./state.js";
import { threadFrom, withIds } from "./thread_fields.js";

const PAGE = 30; // threads a page

const conversations = new Map(); // by thread id; those opened since the page was loaded

const events = {
  onCreated(conversation) {
    conversations.set(conversation.threadId, conversation);
    if (state.conversation === conversation) setAddress(conversation.threadId);
  },
  onThread: putThread,
};

function putThread(thread) {
  const { data } = state.threads;
  const known = data.some((each) => each.id === thread.id);
  state.threads.data = known
    ? data.map((each) => (each.id === thread.id ? thread : each))
    : insertByAge(data, thread);
  changed();
}

function insertByAge(data, thread) {
  const index = data.findIndex((each) => each.created_at <= thread.created_at);
  return index < 0 ? [...data, thread] : data.toSpliced(index, 0, thread);
}

/** Loads the first page of threads, or the next one. */
export async function loadThreads() {
  const { after } = state.threads;
  state.threads = { ...state.threads, loading: true, error: null };
  changed();
  try {
    const params = { limit: PAGE, order: "desc" };
    const page = await call("threads.list", after ? { ...params, after } : params);
    takePage(page);
  } catch (error) {
    state.threads = { ...state.threads, loading: false, error: error.message };
  }
  changed();
}

function takePage(page) {
  const listed = withIds(page.data).map(threadFrom);
  const fresh = new Set(listed.map((thread) => thread.id));
  const kept = state.threads.data.filter((thread) => !fresh.has(thread.id));
  const data = [...kept, ...listed].sort((a, b) => (a.created_at < b.created_at ? 1 : -1));
  state.threads = {
    data,
    hasMore: page.has_more,
    after: page.after ?? null,
    loading: false,
    error: null,
  };
}

/** Says whether a thread has a turn that this page is reading. */
export function isAnswering(threadId) {
  return conversations.get(threadId)?.phase === "streaming";
}

// The address: #/t/<id> shows a thread, anything else a new chat.

function setAddress(threadId) {
  if (addressed() === threadId) return;
  history.pushState(null, "", threadId ? `#/t/${encodeURIComponent(threadId)}` : "#/");
}

function addressed() {
  const match = location.hash.match(/^#\/t\/(.+)$/);
  return match ? decodeURIComponent(match[1]) : null;
}

/** Shows what the address names; for the start of the page and for back and forward. */
export function showAddressed() {
  const threadId = addressed();
  if (threadId) showThread(threadId);
  else showNew();
}

export function showThread(threadId) {
  setAddress(threadId);
  if (!conversations.has(threadId)) {
    conversations.set(threadId, new Conversation(threadId, events));
  }
  show(conversations.get(threadId));
  state.conversation.open();
}

export function showNew() {
  setAddress(null);
  show(new Conversation(null, events));
}

function show(conversation) {
  state.conversation = conversation;
  state.menuOpen = false;
  changed();
}

export async function renameThread(thread, title) {
  const before = thread.title;
  applyTitle(thread.id, title);
  try {
    await call("threads.update", { thread_id: thread.id, title });
  } catch (error) {
    applyTitle(thread.id, before);
    toast(error.message, { level: "danger" });
  }
}

function applyTitle(threadId, title) {
  const conversation = conversations.get(threadId);
  if (conversation?.thread) conversation.thread = { ...conversation.thread, title };
  const thread = state.threads.data.find((each) => each.id === threadId);
  if (thread) putThread({ ...thread, title });
}

/** Deletes a thread; its conversation is left when it is the one shown. */
export async function deleteThread(thread) {
  try {
    await call("threads.delete", { thread_id: thread.id });
  } catch (error) {
    return toast(error.message, { level: "danger" });
  }
  conversations.get(thread.id)?.leave();
  conversations.delete(thread.id);
  state.threads.data = state.threads.data.filter((each) => each.id !== thread.id);
  if (state.conversation.threadId === thread.id) showNew();
  changed();
}
