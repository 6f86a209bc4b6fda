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

/** Scrolls a box so that an element in it is seen, and nothing that is around the box. */
export function showIn(box, element, { atTop = false } = {}) {
  const [outer, inner] = [box, element].map((each) => each.getBoundingClientRect());
  if (atTop || inner.top < outer.top) box.scrollTop += inner.top - outer.top;
  else if (inner.bottom > outer.bottom) box.scrollTop += inner.bottom - outer.bottom;
}

/** Tells the page around by an event on the element. */
export function dispatch(name, detail = null) {
  place.host?.dispatchEvent(new CustomEvent(name, { detail, bubbles: true, composed: true }));
}
