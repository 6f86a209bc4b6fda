// One chat in one shadow root: starting it, taking it away again, and what the element's methods do.

import { h, render } from "../vendor/vendor.js";
import { App, onEscape } from "./app.js";
import { addFiles, uploadedEntry } from "./attachments.js";
import { chooseModel, chooseTool, focusComposer, setDraft } from "./composer.js";
import { forgetOthers } from "./drafts.js";
import { keepFocus, letFocusGo } from "./focus_keeper.js";
import { LastResort } from "./guard.js";
import { loadMarkdown } from "./markdown.js";
import { editable } from "./mentions.js";
import { options, takeOptions } from "./options.js";
import { dispatch, place } from "./place.js";
import { onShortcut } from "./shortcuts.js";
import { changed, state, subscribe } from "./state.js";
import { direction, locale, speak } from "./strings.js";
import { joinTabs, leaveTabs } from "./tabs.js";
import { loadFonts } from "./theme.js";
import { closeMenu, openMenu } from "./thread_list.js";
import {
  fetchUpdates, forgetAll, hangUp, hearOfUnsent, loadThreads, lookAgain, sendUnsent, showNew, showThread,
} from "./threads.js";

const PATIENCE = 2000; // milliseconds for the words of a language to come

let stopDrawing = null;

function draw() {
  // Another language is another page: what is drawn doesn't ask again for its words.
  render(h(LastResort, { key: `${locale()} ${direction()}` }, h(App)), place.root);
}

const listeners = [
  [window, "online", sendUnsent],
  [window, "online", fetchUpdates],
  [window, "focus", lookAgain],
  [document, "visibilitychange", lookAgain],
  [window, "keydown", onShortcut],
  [window, "storage", hearOfUnsent],
  [window, "keydown", (event) => options.alone && event.target === document.body && onEscape(event)],
];

/** Draws the chat of an element in its shadow root, with all that `setOptions` was given. */
export async function start(host, root, given) {
  place.host = host;
  place.root = root;
  const { scope } = options;
  await use(given);
  if (options.scope !== scope) forgetAll();
  stopDrawing = subscribe(draw);
  for (const [target, name, listener] of listeners) target.addEventListener(name, listener);
  keepFocus();
  joinTabs();
  if (state.conversation) state.conversation.open(); // the element was taken away, and is back
  else begin();
  dispatch("chatkit.ready");
  loadMarkdown().catch((error) => console.warn(error.message));
}

// What is loaded isn't waited for: the element may be taken away, or get other options, before.
function begin() {
  showThread(options.initialThread);
  if (options.history.enabled) loadThreads();
}

function checkThreadId(threadId) {
  if (threadId !== null && (typeof threadId !== "string" || !threadId)) {
    throw new TypeError("setThreadId wants the id of a thread, or null for a new chat");
  }
}

/** Takes the chat off the page. The server goes on with what it answers as its policy says. */
export function end() {
  for (const [target, name, listener] of listeners) target.removeEventListener(name, listener);
  letFocusGo();
  leaveTabs();
  hangUp();
  stopDrawing?.();
  render(null, place.root);
}

async function use(given) {
  takeOptions(given);
  if (options.user !== null) forgetOthers();
  loadFonts();
  const spoken = speak(...(options.locale ? [options.locale] : navigator.languages));
  await Promise.race([spoken, new Promise((wake) => setTimeout(wake, PATIENCE))]);
  spoken.then(changed);
}

/** Takes other options. Another server is another chat, and so is another user's. */
export async function setOptions(given) {
  const { scope, history } = options;
  const spoken = use(given);
  if (options.scope !== scope) {
    // Before the words are there: what is typed meanwhile mustn't get into the other one.
    forgetAll();
    joinTabs();
    begin();
  } else if (options.history.enabled && !history.enabled && !state.threads.isListed) {
    loadThreads();
  }
  await spoken;
  changed();
}

function contentFrom({ text, content }) {
  return content ?? (text ? [{ type: "input_text", text }] : []);
}

// What the element's methods do, by their names.
export const methods = {
  async focusComposer() {
    draw(); // what is to have the focus has to be there
    focusComposer();
  },

  async setThreadId(threadId = null) {
    checkThreadId(threadId);
    await showThread(threadId);
  },

  async sendUserMessage({ newThread = false, reply, attachments = [], toolChoice, model, ...said }) {
    if (newThread) showNew();
    const { conversation } = state;
    await conversation.opening;
    if (conversation.phase !== "idle") throw new Error("a message can be sent when no answer is being written");
    const content = contentFrom(said);
    if (content.length === 0 && attachments.length === 0) throw new TypeError("a message needs text, content or attachments");
    const input = {
      content,
      attachments: attachments.map(({ id }) => id),
      ...(reply ? { quoted_text: reply } : {}),
      inference_options: { ...(toolChoice ? { tool_choice: toolChoice } : {}), ...(model ? { model } : {}) },
    };
    await conversation.send(input, attachments);
  },

  async setComposerValue({ reply, attachments, files = [], selectedToolId, selectedModelId, ...said }) {
    const { conversation } = state;
    const patch = {};
    if ("text" in said || "content" in said) Object.assign(patch, editable(contentFrom(said)));
    if (reply !== undefined) patch.quote = reply || null;
    if (attachments) patch.attachments = attachments.map(uploadedEntry);
    setDraft(conversation, patch);
    if (files.length) addFiles(conversation.draft, files);
    if (selectedToolId !== undefined) chooseTool(selectedToolId);
    if (selectedModelId !== undefined) chooseModel(selectedModelId);
  },

  async sendCustomAction(action, itemId) {
    const { conversation } = state;
    if (!conversation.threadId) throw new Error("an action belongs to a thread: there is none yet");
    if (conversation.phase !== "idle") throw new Error("an action can be sent when no answer is being written");
    await conversation.act(itemId, action);
  },

  async showHistory() {
    if (!options.history.enabled) throw new Error("there is no history to show: the option history.enabled is false");
    draw(); // where it is shown is known then
    openMenu();
  },

  async hideHistory() {
    closeMenu();
  },

  async fetchUpdates() {
    await fetchUpdates();
  },

  /** Not of ChatKit.js: stops the answer that is being written, as the stop button does. */
  async stop() {
    await state.conversation?.stop();
  },
};
