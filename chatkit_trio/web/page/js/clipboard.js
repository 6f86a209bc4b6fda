// Copying, with a fallback for pages that aren't on https or localhost, and for frames without leave.

import { place } from "./place.js";
import { announce, toast } from "./state.js";
import { strings } from "./strings.js";

/** Puts the text on the clipboard; false when the browser won't, which the reader is told. */
export async function copyText(text) {
  const copied = await write(text);
  if (copied) announce(strings.copied);
  else toast(strings.notCopied, { level: "danger" });
  return copied;
}

async function write(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text);
  }
}

// What is selected has to be in the dialog that is open, if one is.
function copyBySelection(text) {
  const before = place.root.activeElement;
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "visually-hidden";
  (place.root.querySelector("dialog") ?? place.root.querySelector(".app")).append(area);
  area.focus({ preventScroll: true });
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  before?.focus({ preventScroll: true });
  return copied;
}
