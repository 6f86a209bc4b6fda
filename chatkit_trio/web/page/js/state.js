// The chat's one mutable state, and the one way to say that it changed.

import { dispatch, place } from "./place.js";
import { titleOf } from "./thread_fields.js";

const listeners = new Set();
let scheduled = false;
let told = null; // what the page around has been told

export const noThreads = () => ({ data: [], hasMore: false, after: null, loading: true, isListed: false, error: null });
export const noSearch = () => ({ query: "", hits: null, hasMore: false, after: null, loading: false, error: null });

export const state = {
  conversation: null,
  threads: noThreads(),
  search: noSearch(),
  canSearch: false, // whether the server has the routes for it
  unread: new Set(), // threads that were answered while another one was shown
  signedOut: false,
  toolId: null, // as chosen in the composer
  modelId: null,
  menuOpen: false,
  dialog: null,
  keysShown: false, // the dialog that tells the shortcuts
  viewed: null, // the attachment that is shown large
  toasts: [],
  status: "",
};

/** Calls a function when there is something to draw; returns what ends that. */
export function subscribe(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Draws the chat again, at most once a frame however often it is called. */
export function changed() {
  tell();
  if (scheduled) return;
  scheduled = true;
  nextFrame(notify);
}

// At once: who waits for the end of an answer must not see an older state.
function tell() {
  const { conversation } = state;
  const phase = conversation?.phase ?? "loading";
  const threadId = conversation?.threadId ?? null;
  const title = titleOf(conversation?.thread);
  if (place.host) place.host.dataset.state = phase;
  const isNews = !told || told.phase !== phase || told.threadId !== threadId || told.title !== title;
  if (!isNews) return;
  const before = told;
  told = { phase, threadId, title };
  if (conversation && before?.threadId !== threadId) dispatch("chatkit.thread.change", { threadId });
  dispatch("chatkit.state", told);
}

function notify() {
  scheduled = false;
  for (const listener of listeners) listener();
}

// A hidden tab gets no animation frames, but its title and state still have to be true.
function nextFrame(callback) {
  if (document.visibilityState === "visible") requestAnimationFrame(callback);
  else setTimeout(callback, 250);
}

/** Says something to users of screen readers. */
export function announce(text) {
  state.status = text;
  changed();
}

let toastCount = 0;

/** Shows a short message that goes away by itself. */
export function toast(text, { level = "info", icon = null } = {}) {
  const shown = { id: ++toastCount, text, level, icon };
  state.toasts = [...state.toasts.slice(-3), shown];
  setTimeout(() => dismissToast(shown.id), level === "info" ? 4000 : 8000);
  changed();
}

export function dismissToast(id) {
  state.toasts = state.toasts.filter((each) => each.id !== id);
  changed();
}
