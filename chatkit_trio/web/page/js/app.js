// The page as a whole: side panel, header, transcript or welcome, composer.

import { html, useEffect, useLayoutEffect, useMemo, useRef, useState } from "../vendor/vendor.js";
import { Composer, focusComposer, inferenceOptions, returnToComposer, setDraft } from "./composer.js";
import { Dialog } from "./dialog.js";
import { Icon, Mark } from "./icons.js";
import { composes, keysOf, withKeys } from "./keys.js";
import { Keys } from "./keys_dialog.js";
import { followDeepLink } from "./link.js";
import { Failure, Log } from "./log.js";
import { options } from "./options.js";
import { dismissToast, state } from "./state.js";
import { direction, locale, strings } from "./strings.js";
import { colorScheme, themeStyle } from "./theme.js";
import { closeMenu, nameOf, openMenu, Sidebar, startNewChat, TitleField } from "./thread_list.js";
import { Viewer } from "./viewer.js";

const ROOM_FOR_PANEL = 768; // pixels
const QUOTE_LENGTH = 600; // characters of an answer that are quoted at most

function quote(conversation, text) {
  const short = text.length > QUOTE_LENGTH ? `${text.slice(0, QUOTE_LENGTH).replace(/[\uD800-\uDBFF]$/, "")}…` : text;
  setDraft(conversation, { quote: short });
  focusComposer();
}

function HeaderButton({ given, testid }) {
  if (!given) return null;
  const label = given.label ?? given.icon;
  return html`<button type="button" class="icon-button" data-testid=${testid} aria-label=${label} title=${label}
    onClick=${() => given.onClick?.()}><${Icon} name=${given.icon} /></button>`;
}

function Title({ thread }) {
  const [renaming, setRenaming] = useState(null);
  const { enabled, text } = options.header.title;
  const canRename = thread && !text && options.history.showRename;
  if (canRename && renaming === thread.id) {
    return html`<${TitleField} thread=${thread} onDone=${() => setRenaming(null)} />`;
  }
  const title = text ?? (thread ? nameOf(thread) : strings.newThread);
  return html`<${options.alone ? "h1" : "h2"} data-testid="thread-title" dir="auto" title=${title}
    class=${`header-title ${enabled ? "" : "visually-hidden"}`} onDblClick=${() => canRename && setRenaming(thread.id)}>${title}<//>`;
}

function Header({ conversation, menuOpen }) {
  const { header, history } = options;
  if (!header.enabled) return null;
  return html`<${options.alone ? "header" : "div"} class="header">
    ${history.enabled ? html`<button type="button" class="icon-button only-drawer" data-testid="menu"
      aria-label=${strings.openMenu} title=${withKeys(strings.openMenu, "L")} aria-keyshortcuts=${keysOf("L")} aria-expanded=${String(menuOpen)} aria-controls="sidebar" onClick=${openMenu}>
      <${Icon} name="menu" /></button>` : null}
    <${HeaderButton} given=${header.leftAction} testid="header-left" />
    <${Title} thread=${conversation.thread} />
    <span class="header-end"></span>
    <${HeaderButton} given=${header.rightAction} testid="header-right" />
    <button type="button" class=${`icon-button ${history.enabled ? "only-drawer" : ""}`} aria-label=${strings.newThread}
      title=${withKeys(strings.newThread, "N")} aria-keyshortcuts=${keysOf("N")} data-testid="header-new" onClick=${startNewChat}><${Icon} name="write-alt2" /></button>
  <//>`;
}

function Welcome({ conversation }) {
  // What is in the box stays there.
  const start = ({ label, prompt }) => {
    const content = Array.isArray(prompt) ? prompt : [{ type: "input_text", text: prompt ?? label }];
    conversation.say(content, { inference_options: inferenceOptions() });
    returnToComposer(); // the prompts go away
  };
  return html`<div class="welcome" data-testid="welcome">
    <span class="welcome-mark"><${Mark} size=${44} /></span>
    <h2>${options.startScreen.greeting || strings.greeting}</h2>
    <ul class="prompts">${options.startScreen.prompts.map((each) => html`
      <li key=${each.label}><button type="button" data-testid="prompt" onClick=${() => start(each)}>
        <${Icon} name=${each.icon ?? "sparkle"} /><span>${each.label}</span></button></li>`)}</ul>
  </div>`;
}

function Loading() {
  return html`<div class="log-frame"><div class="page-loading" role="status">
    <span class="spinner is-large"></span><span class="visually-hidden">${strings.loading}</span></div></div>`;
}

function LoadError({ conversation }) {
  const failure = conversation.gone
    ? { message: conversation.loadError, retry: startNewChat, label: strings.startAnother }
    : { message: conversation.loadError, retry: () => conversation.open() };
  return html`<div class="log-frame"><div class="log-content">
    <${Failure} failure=${failure} /></div></div>`;
}

function Conversation({ conversation }) {
  // Always the same function: a new one would have every message drawn again.
  const onQuote = useMemo(() => (text) => quote(conversation, text), [conversation]);
  if (conversation.loadError) return html`<${LoadError} conversation=${conversation} />`;
  if (!conversation.loaded) return html`<${Loading} />`;
  const { items, outbox, phase, failure } = conversation;
  const empty = items.length === 0 && outbox.length === 0 && phase === "idle" && !failure;
  return html`<${Log} conversation=${conversation} onQuote=${onQuote}>
    ${empty && !conversation.threadId ? html`<${Welcome} conversation=${conversation} />` : null}
  <//>`;
}

// Between the messages and the box, where they cover nothing; over the drawer while that is open.
function Toasts({ toasts }) {
  return html`<div class="toasts" role="status">${toasts.map(({ id, text, level, icon }) => html`
    <div key=${id} class=${`toast is-${level}`} data-testid="toast">
      ${icon ? html`<${Icon} name=${icon} size=${17} />` : null}<span>${text}</span>
      <button type="button" class="icon-button is-small" aria-label=${strings.dismiss}
        onClick=${() => dismissToast(id)}><${Icon} name="close" size=${15} /></button>
    </div>`)}</div>`;
}

/**
 * Has Escape close the menu, or else stop the answer. Only when it does something it is no more the
 * page's around, where it may close what the chat is in.
 */
export function onEscape(event) {
  if (event.key !== "Escape" || event.defaultPrevented || composes(event)) return;
  if (state.dialog || state.viewed || state.keysShown) return; // it is the dialog's
  const { menuOpen, conversation } = state;
  if (menuOpen || (conversation.phase === "streaming" && conversation.allowCancel)) event.preventDefault();
  if (menuOpen) closeMenu();
  else conversation.stop();
}

function SignedOut() {
  if (!state.signedOut) return null;
  return html`<div class="signed-out" role="alert" data-testid="signed-out">
    <${Icon} name="lock" size=${18} /><p>${strings.signedOut}</p>
    ${options.signInUrl ? html`<a class="button is-small" href=${options.signInUrl}>${strings.signIn}</a>` : null}
  </div>`;
}

// The list of conversations stands beside the chat where there is room for it.
function usePanel(app) {
  const [hasRoom, setHasRoom] = useState(true);
  useLayoutEffect(() => {
    const measure = () => setHasRoom(app.current.clientWidth > ROOM_FOR_PANEL);
    measure();
    const observer = new ResizeObserver(measure);
    observer.observe(app.current);
    return () => observer.disconnect();
  }, []);
  const hasPanel = options.history.sidebar && hasRoom;
  const { enabled } = options.history;
  useEffect(() => {
    if (hasPanel || !enabled) closeMenu(); // and with it what stood behind the drawer
  }, [hasPanel, enabled]);
  if (!enabled) return "";
  return hasPanel ? "has-panel" : "has-drawer";
}

function landmark() {
  if (options.alone) return {};
  return { role: "region", "aria-label": options.frameTitle ?? options.name ?? strings.frame };
}

export function App() {
  const { conversation, threads, menuOpen, toasts, dialog, status } = state;
  const app = useRef(null);
  const panel = usePanel(app);
  return html`<div class=${`app ${panel}`} ref=${app} data-theme=${colorScheme()} dir=${direction()} lang=${locale()}
    style=${themeStyle()} ...${landmark()}
    onKeyDown=${onEscape} onClick=${followDeepLink}>
    <nav class="skip-place" aria-label=${strings.skipToComposer}>
      <button type="button" class="skip button" onClick=${focusComposer}>${strings.skipToComposer}</button></nav>
    ${panel ? html`<${Sidebar} threads=${threads} currentId=${conversation.threadId} open=${menuOpen} />` : null}
    <${options.alone ? "main" : "div"} class="main" inert=${menuOpen}>
      <${SignedOut} />
      <${Header} conversation=${conversation} menuOpen=${menuOpen} />
      <${Conversation} key=${conversation.key} conversation=${conversation} />
      ${menuOpen ? null : html`<${Toasts} toasts=${toasts} />`}
      <${Composer} conversation=${conversation} onNew=${startNewChat} />
    <//>
    ${menuOpen ? html`<${Toasts} toasts=${toasts} />` : null}
    <div class="visually-hidden" role="status" data-testid="status">${status}</div>
    <${Dialog} dialog=${dialog} />
    <${Viewer} shown=${state.viewed} />
    <${Keys} shown=${state.keysShown} />
  </div>`;
}
