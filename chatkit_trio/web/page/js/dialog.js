// The one confirmation dialog.

import { html } from "../vendor/vendor.js";
import { useModal } from "./modal.js";
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
  const modal = useModal(() => answer(false));
  return html`<dialog ...${modal} class="dialog" aria-labelledby="dialog-title">
    <h2 id="dialog-title">${title}</h2>
    <p>${text}</p>
    <div class="dialog-buttons">
      <button type="button" class="button" data-testid="dialog-cancel" autofocus onClick=${() => answer(false)}>
        ${strings.cancel}</button>
      <button type="button" class="button is-danger" data-testid="dialog-confirm"
        onClick=${() => answer(true)}>${confirmLabel}</button>
    </div>
  </dialog>`;
}
