// A thread as the page can rely on it, whatever the server sent. Pure.

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
    created_at: text(thread.created_at) ?? "",
    status: statusOf(thread.status),
    allowed_image_domains: domainsOf(thread.allowed_image_domains),
  };
}

/** Returns those of a list that have an id; nothing else can be shown or asked for. */
export function withIds(list) {
  return list.filter((each) => typeof each?.id === "string");
}
