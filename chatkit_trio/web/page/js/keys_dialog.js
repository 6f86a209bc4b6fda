// The dialog that tells the keys, and the button for it.

import { html } from "../vendor/vendor.js";
import { Icon } from "./icons.js";
import { allKeys, keysOf, withKeys } from "./keys.js";
import { useModal } from "./modal.js";
import { changed, state } from "./state.js";
import { strings } from "./strings.js";

export function showKeys(shown = true) {
  state.keysShown = shown;
  changed();
}

export function KeysButton() {
  const { title } = strings.shortcuts;
  return html`<button type="button" class="icon-button" aria-label=${title} title=${withKeys(title, "K")}
    aria-keyshortcuts=${keysOf("K")} data-testid="keys" onClick=${() => showKeys()}><${Icon} name="circle-question" /></button>`;
}

export function Keys({ shown }) {
  return shown ? html`<${OpenKeys} />` : null;
}

function OpenKeys() {
  const close = () => showKeys(false);
  const modal = useModal(close);
  return html`<dialog ...${modal} class="dialog" aria-labelledby="keys-title">
    <h2 id="keys-title">${strings.shortcuts.title}</h2>
    <dl class="keys">${allKeys().map(([keys, words]) => html`<div key=${keys}><dt>${words}</dt><dd><kbd>${keys}</kbd></dd></div>`)}</dl>
    <div class="dialog-buttons"><button type="button" class="button" autofocus onClick=${close}>${strings.image.close}</button></div>
  </dialog>`;
}
