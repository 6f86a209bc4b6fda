// Copying, with a fallback for pages that aren't on https or localhost.

import { announce } from "./state.js";
import { strings } from "./strings.js";

/** Puts the text on the clipboard; false when the browser won't. */
export async function copyText(text) {
  const copied = await write(text).catch(() => false);
  if (copied) announce(strings.copied);
  return copied;
}

async function write(text) {
  if (!navigator.clipboard) return copyBySelection(text);
  await navigator.clipboard.writeText(text);
  return true;
}

function copyBySelection(text) {
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "visually-hidden";
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  return copied;
}
