// Where the shortcuts lead.

import { focusComposer } from "./composer.js";
import { isOurs, shortcutOf } from "./keys.js";
import { showKeys } from "./keys_dialog.js";
import { options } from "./options.js";
import { find, focusSoon } from "./place.js";
import { state } from "./state.js";
import { closeMenu, openMenu, startNewChat } from "./thread_list.js";

function goToBox() {
  if (!state.menuOpen) return focusComposer();
  closeMenu();
  focusSoon("#composer-input");
}

function goToList() {
  if (!options.history.enabled) return;
  if (state.menuOpen) return closeMenu();
  if (!find(".has-panel")) return openMenu();
  const places = ["[data-testid=thread-item][aria-current]", "[data-testid=thread-item]", "[data-testid=new-thread]"];
  find(places.find(find)).focus();
}

function writeNew() {
  startNewChat();
  focusComposer(); // who has these keys has a keyboard
}

const SHORTCUTS = { N: writeNew, L: goToList, M: goToBox, K: () => showKeys() };

/** Does what a shortcut says; other keys, and those of the page around, are left alone. */
export function onShortcut(event) {
  const run = SHORTCUTS[shortcutOf(event)];
  const isBusy = state.dialog || state.viewed || state.keysShown;
  if (!run || isBusy || !isOurs(event)) return;
  event.preventDefault();
  run();
}
