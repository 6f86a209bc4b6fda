// Earlier versions of what follows a message of the user: its answers that were asked for again, and
// the message before it was edited. The server forgets them; they are kept in this browser.

import { keep, readKept } from "./kept.js";
import { options } from "./options.js";

const MOST = 10; // of a message
const MOST_CHARACTERS = 400_000; // of a thread; the oldest go first

const keyOf = (threadId) => `chatkit-versions:${options.scope}:${threadId}`;

const isVersions = (value) => Array.isArray(value) && value.every((items) => Array.isArray(items) && items.length > 0);

/** Returns a map of versions by the id of the message: each is its items, the message first. */
export function loadVersions(threadId) {
  const kept = Object.entries(readKept(keyOf(threadId)) ?? {});
  return new Map(kept.filter(([, value]) => isVersions(value)));
}

/** Returns the map with one more version, the newest of its message. */
export function withVersion(versions, items) {
  const { id } = items[0];
  const all = new Map(versions);
  all.delete(id); // what was changed last is the last to go
  all.set(id, [...(versions.get(id) ?? []), items].slice(-MOST));
  return all;
}

/** Keeps as much of the versions as there is room for. */
export function saveVersions(threadId, versions) {
  const kept = [...versions];
  while (kept.length > 0 && JSON.stringify(kept).length > MOST_CHARACTERS) {
    if (kept[0][1].length > 1) kept[0] = [kept[0][0], kept[0][1].slice(1)];
    else kept.shift();
  }
  keep(keyOf(threadId), kept.length > 0 ? Object.fromEntries(kept) : null, "Earlier versions");
}

export function forgetVersions(threadId) {
  keep(keyOf(threadId), null, "Earlier versions");
}

/**
 * Returns what is shown of a thread: { items, versionOf }. `viewed` says which version of a message
 * is looked at, by its number; `versionOf` is the message whose earlier version ends the list.
 */
export function shownOf(items, versions, viewed) {
  for (const [place, { id }] of items.entries()) {
    const version = viewed.has(id) ? versions.get(id)?.[viewed.get(id)] : undefined;
    if (version) return { items: [...items.slice(0, place), ...version], versionOf: id };
  }
  return { items, versionOf: null };
}
