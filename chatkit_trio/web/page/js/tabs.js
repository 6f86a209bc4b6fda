// The other tabs of this browser that show the same server: what happens in one is told to all.

import { options } from "./options.js";

const listeners = new Set();
let channel = null;

/** Opens the channel to the tabs with the same server and user, in the place of another one. */
export function joinTabs() {
  leaveTabs();
  if (!("BroadcastChannel" in window)) return;
  channel = new BroadcastChannel(`chatkit ${options.scope}`);
  channel.addEventListener("message", ({ data }) => {
    for (const listener of listeners) listener(data);
  });
}

export function leaveTabs() {
  channel?.close();
  channel = null;
}

/** Tells the other tabs: { turn: id }, { thread: object } or { deleted: id }. */
export function tell(news) {
  channel?.postMessage(news);
}

/** Has a function called with what the other tabs tell. */
export function hear(listener) {
  listeners.add(listener);
}
