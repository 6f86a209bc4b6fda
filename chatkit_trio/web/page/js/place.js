// Where the chat stands: its element on the page, and the shadow root in which it is drawn.

export const place = { host: null, root: null };

/** Returns the first element of the chat that fits a selector, or null. */
export function find(selector) {
  return place.root?.querySelector(selector) ?? null;
}

/** Moves the focus; what is to have it can't take it before the change has been drawn. */
export function focusSoon(selector) {
  requestAnimationFrame(() => find(selector)?.focus());
}

/** Tells the page around by an event on the element. */
export function dispatch(name, detail = null) {
  place.host?.dispatchEvent(new CustomEvent(name, { detail, bubbles: true, composed: true }));
}
