// The page's one mutable state, and the one way to say that it changed.

const listeners = new Set();
let scheduled = false;

export const state = {
  conversation: null,
  threads: { data: [], hasMore: false, after: null, loading: true, error: null },
  menuOpen: false,
  dialog: null,
  toasts: [],
  status: "",
};

export function subscribe(listener) {
  listeners.add(listener);
}

/** Draws the page again, at most once a frame however often it is called. */
export function changed() {
  document.body.dataset.state = state.conversation?.phase ?? "loading";
  if (scheduled) return;
  scheduled = true;
  nextFrame(notify);
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
