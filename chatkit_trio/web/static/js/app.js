// The page as a whole: side panel, header, transcript or welcome, composer.

import { html, useState } from "../vendor/vendor.js";
import { Composer, focusComposer, sendDraft, setDraft } from "./composer.js";
import { config } from "./config.js";
import { Dialog } from "./dialog.js";
import { Icon, Mark } from "./icons.js";
import { Failure, Log } from "./log.js";
import { dismissToast, state } from "./state.js";
import { strings } from "./strings.js";
import { closeMenu, openMenu, Sidebar, startNewChat, TitleField, titleOf } from "./thread_list.js";

const QUOTE_LENGTH = 600; // characters of an answer that are quoted at most

function quote(conversation, text) {
  const short = text.length > QUOTE_LENGTH ? `${text.slice(0, QUOTE_LENGTH)}…` : text;
  setDraft(conversation, { quote: short });
  focusComposer();
}

function Header({ conversation, menuOpen }) {
  const [renaming, setRenaming] = useState(null);
  const { thread } = conversation;
  const title = thread ? titleOf(thread) : strings.newThread;
  return html`<header class="header">
    <button type="button" class="icon-button only-narrow" data-testid="menu" aria-label=${strings.openMenu}
      aria-expanded=${String(menuOpen)} aria-controls="sidebar" onClick=${openMenu}>
      <${Icon} name="menu" /></button>
    ${thread && renaming === thread.id
      ? html`<${TitleField} thread=${thread} onDone=${() => setRenaming(null)} />`
      : html`<h1 data-testid="thread-title" title=${title}
          onDblClick=${() => thread && setRenaming(thread.id)}>${title}</h1>`}
    <button type="button" class="icon-button only-narrow" aria-label=${strings.newThread}
      onClick=${startNewChat}><${Icon} name="write-alt2" /></button>
  </header>`;
}

function Welcome({ conversation }) {
  const start = (prompt) => {
    setDraft(conversation, { text: prompt });
    sendDraft(conversation);
  };
  return html`<div class="welcome" data-testid="welcome">
    <span class="welcome-mark"><${Mark} size=${44} /></span>
    <h2>${config.greeting || strings.greeting}</h2>
    <p>${strings.greetingNote}</p>
    <ul class="prompts">${(config.prompts ?? strings.prompts).map(({ icon, label, prompt }) => html`
      <li key=${label}><button type="button" data-testid="prompt" onClick=${() => start(prompt ?? label)}>
        <${Icon} name=${icon ?? "sparkle"} /><span>${label}</span></button></li>`)}</ul>
  </div>`;
}

function Loading() {
  return html`<div class="log-frame"><div class="page-loading" role="status">
    <span class="spinner is-large"></span><span class="visually-hidden">${strings.loading}</span></div></div>`;
}

function LoadError({ conversation }) {
  const failure = {
    message: `${strings.errorThread} ${conversation.loadError}`,
    retry: () => conversation.open(),
  };
  return html`<div class="log-frame"><div class="log-content">
    <${Failure} failure=${failure} /></div></div>`;
}

function Conversation({ conversation }) {
  if (conversation.loadError) return html`<${LoadError} conversation=${conversation} />`;
  if (!conversation.loaded) return html`<${Loading} />`;
  const empty = conversation.items.length === 0 && conversation.phase === "idle" && !conversation.failure;
  return html`<${Log} conversation=${conversation} onQuote=${(text) => quote(conversation, text)}>
    ${empty && !conversation.threadId ? html`<${Welcome} conversation=${conversation} />` : null}
  <//>`;
}

function Toasts({ toasts }) {
  return html`<div class="toasts" role="status">${toasts.map(({ id, text, level, icon }) => html`
    <div key=${id} class=${`toast is-${level}`} data-testid="toast">
      ${icon ? html`<${Icon} name=${icon} size=${17} />` : null}<span>${text}</span>
      <button type="button" class="icon-button is-small" aria-label=${strings.dismiss}
        onClick=${() => dismissToast(id)}><${Icon} name="close" size=${15} /></button>
    </div>`)}</div>`;
}

function skip(event) {
  event.preventDefault(); // the hash belongs to the thread
  focusComposer();
}

/** Escape closes the menu, or else stops the answer. */
export function onEscape(event) {
  if (event.key !== "Escape" || event.defaultPrevented || state.dialog) return;
  if (state.menuOpen) closeMenu();
  else state.conversation.stop();
}

export function App() {
  const { conversation, threads, menuOpen, toasts, dialog, status } = state;
  return html`<div class="app">
    <a class="skip" href="#composer-input" onClick=${skip}>${strings.skipToComposer}</a>
    <${Sidebar} threads=${threads} currentId=${conversation.threadId} open=${menuOpen} />
    <main class="main" inert=${menuOpen}>
      <${Header} conversation=${conversation} menuOpen=${menuOpen} />
      <${Conversation} key=${conversation.key} conversation=${conversation} />
      <${Composer} conversation=${conversation} onNew=${startNewChat} />
    </main>
    <${Toasts} toasts=${toasts} />
    <div class="visually-hidden" role="status" data-testid="status">${status}</div>
    <${Dialog} dialog=${dialog} />
  </div>`;
}
