// A thread as the page can rely on it, whatever the server sent. Pure.

const MOST_CHARACTERS = 80; // of a name
const MOST_OF_TITLE = 500; // characters

const text = (value) => (typeof value === "string" ? value : null);

function statusOf(status) {
  const type = text(status?.type) ?? "active";
  return { type, reason: text(status?.reason) };
}

// A rule that can't be read lets nobody load: it was meant to refuse something.
function domainsOf(domains) {
  if (domains == null) return null;
  return Array.isArray(domains) ? domains : [];
}

/** Returns the thread without its items, and with fields of the right kinds. */
export function threadFrom({ items, ...thread }) {
  return {
    ...thread,
    title: text(thread.title),
    name: text(thread.name),
    created_at: text(thread.created_at) ?? "",
    last_activity_at: text(thread.last_activity_at),
    status: statusOf(thread.status),
    allowed_image_domains: domainsOf(thread.allowed_image_domains),
  };
}

/** Returns when something happened in a thread last, as far as is known. */
export function activityOf(thread) {
  return thread.last_activity_at ?? thread.created_at;
}

/** Returns by what a thread is known: its title, or its first words; null if it has neither. */
export function titleOf(thread) {
  return (thread?.title || thread?.name)?.slice(0, MOST_OF_TITLE) || null;
}

/** Returns the first words of a message of the user, by which its thread may be known. */
export function wordsOf(message) {
  const parts = Array.isArray(message?.content) ? message.content : [];
  const words = parts.map((part) => text(part?.text) ?? "").join("").trim();
  return words ? words.slice(0, MOST_CHARACTERS).replace(/\s+/g, " ") : null;
}

/** Returns those of a list that have an id; nothing else can be shown or asked for. */
export function withIds(list) {
  return list.filter((each) => typeof each?.id === "string");
}
