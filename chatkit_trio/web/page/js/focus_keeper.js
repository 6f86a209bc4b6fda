// The focus stays in the chat when what has it goes away, as a button does whose work is done.

import { focusComposer } from "./composer.js";
import { isTouch } from "./keys.js";
import { find, place } from "./place.js";
import { state } from "./state.js";

const CAN_HAVE_FOCUS = "button:not(:disabled), a[href], input:not(:disabled), select:not(:disabled), textarea:not(:disabled)";
const ATTRIBUTES = ["disabled", "inert"];

let last = null; // what had the focus, from the inside out: the element, and all that it is in
let isWaiting = false; // until that can have the focus again
let observer = null;

const isUsable = (element) => element.isConnected && !element.closest("[inert]") && !element.disabled;

function remember({ target }) {
  isWaiting = false;
  last = [];
  for (let each = target; each instanceof Element; each = each.parentElement) last.push(each);
}

// Who leaves it isn't followed. What goes away is left too, but can't be gone back to.
function forget({ relatedTarget, target }) {
  const leave = () => {
    if (last?.[0] === target && isUsable(target)) last = null;
  };
  if (relatedTarget) last = null;
  else setTimeout(leave);
}

const isElsewhere = ({ activeElement: around }) => around && around !== document.body;

function look() {
  if (!last) return;
  const [element, ...parents] = last;
  isWaiting ||= element.isConnected && !isUsable(element);
  if (place.root.activeElement || isElsewhere(place.host.getRootNode())) return;
  if (!element.isConnected) goOn(parents);
  else if (isWaiting && isUsable(element)) element.focus();
}

function goOn(parents) {
  last = null;
  const box = parents.find((each) => each.isConnected && each.matches(".widget *, .entries, .toasts"));
  // The message box is behind the drawer as long as that is open, unless the drawer itself has gone.
  const next = box?.querySelector(CAN_HAVE_FOCUS) ?? (state.menuOpen && find("[data-testid=new-thread]"));
  if (next) next.focus();
  else if (isTouch()) find(".log")?.focus({ preventScroll: true });
  else focusComposer();
}

/** Watches what is drawn in the chat. */
export function keepFocus() {
  place.root.addEventListener("focusin", remember);
  place.root.addEventListener("focusout", forget);
  observer = new MutationObserver(look);
  observer.observe(place.root, { childList: true, subtree: true, attributeFilter: ATTRIBUTES });
}

export function letFocusGo() {
  place.root.removeEventListener("focusin", remember);
  place.root.removeEventListener("focusout", forget);
  observer?.disconnect();
  last = null;
}
