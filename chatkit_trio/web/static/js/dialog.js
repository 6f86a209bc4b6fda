// The one confirmation dialog. The browser's own <dialog> traps the focus and knows Escape.

import { html, useEffect, useRef } from "../vendor/vendor.js";
import { changed, state } from "./state.js";
import { strings } from "./strings.js";

/** Asks, and returns whether the answer was yes. */
export function confirm({ title, text, confirmLabel }) {
  return new Promise((resolve) => {
    const answer = (yes) => {
      state.dialog = null;
      changed();
      resolve(yes);
    };
    state.dialog = { title, text, confirmLabel, answer };
    changed();
  });
}

export function Dialog({ dialog }) {
  return dialog ? html`<${OpenDialog} ...${dialog} />` : null;
}

function OpenDialog({ title, text, confirmLabel, answer }) {
  const element = useRef(null);
  useEffect(() => element.current.showModal(), []);
  const onCancel = (event) => {
    event.preventDefault();
    answer(false);
  };
  return html`<dialog ref=${element} class="dialog" aria-labelledby="dialog-title" onCancel=${onCancel}>
    <h2 id="dialog-title">${title}</h2>
    <p>${text}</p>
    <div class="dialog-buttons">
      <button type="button" class="button" data-testid="dialog-cancel" onClick=${() => answer(false)}>
        ${strings.cancel}</button>
      <button type="button" class="button is-danger" data-testid="dialog-confirm" autofocus
        onClick=${() => answer(true)}>${confirmLabel}</button>
    </div>
  </dialog>`;
}
