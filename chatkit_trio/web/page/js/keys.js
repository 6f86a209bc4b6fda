// What keys mean. The shortcuts are those that browsers have nothing on and nobody types with: Alt and
// Shift together, on a Mac Control and Shift.

import { options } from "./options.js";
import { place } from "./place.js";
import { strings } from "./strings.js";

const isMac = /Mac|iP(?:hone|ad)/.test(globalThis.navigator?.platform ?? "");

/** Returns a shortcut as it is read, which is also how `aria-keyshortcuts` wants it. */
export const keysOf = (letter) => `${isMac ? "Control" : "Alt"}+Shift+${letter}`;

/** Returns what a button says that a shortcut does the work of. */
export const withKeys = (words, letter) => `${words} (${keysOf(letter)})`;

// By the letter that was typed; by the place of the key where there are other letters.
function letterOf({ key, code }) {
  return /^[a-z]$/i.test(key) ? key.toUpperCase() : (/^Key([A-Z])$/.exec(code)?.[1] ?? null);
}

/** Returns the letter of a shortcut that was pressed, or null. */
export function shortcutOf(event) {
  const { altKey, ctrlKey, metaKey, shiftKey } = event;
  const [wanted, other] = isMac ? [ctrlKey, altKey] : [altKey, ctrlKey];
  const isOne = wanted && shiftKey && !other && !metaKey && !composes(event) && !event.getModifierState("AltGraph");
  return isOne ? letterOf(event) : null;
}

/**
 * Says whether a key belongs to the composition of a word. Safari ends that before the key which
 * confirms it: only the old code 229 tells.
 */
export function composes({ isComposing, keyCode }) {
  return isComposing || keyCode === 229;
}

/** Says whether a key was pressed in the chat, or nowhere on a page that is all chat. */
export function isOurs(event) {
  return options.alone || event.composedPath().includes(place.host);
}

/** Says whether the chat is used by fingers, on a screen that raises a keyboard where text is written. */
export const isTouch = () => matchMedia("(hover: none) and (pointer: coarse)").matches;

/** Says whether a key sends. Most touch keyboards have no Shift+Enter: there Enter alone breaks the line. */
export function sends({ key, shiftKey, ctrlKey, metaKey }) {
  return key === "Enter" && !shiftKey && (!isTouch() || ctrlKey || metaKey);
}

/** Returns all that is to be told of keys, as pairs of the keys and what they do. */
export function allKeys() {
  const { send, editSent, stop, newThread, shortcuts } = strings;
  return [
    [keysOf("N"), newThread],
    ...(options.history.enabled ? [[keysOf("L"), shortcuts.list]] : []),
    [keysOf("M"), shortcuts.box],
    [keysOf("K"), shortcuts.title],
    [isTouch() ? "Control+Enter" : "Enter", send],
    [isTouch() ? "Enter" : "Shift+Enter", shortcuts.newLine],
    ["↑", editSent],
    ["Esc", stop],
  ];
}
