// The side panel: new chat, and the conversations, grouped by age.

import { html, useEffect, useRef, useState } from "../vendor/vendor.js";
import { confirm } from "./dialog.js";
import { Icon, Mark } from "./icons.js";
import { changed, state } from "./state.js";
import { strings } from "./strings.js";
import { config } from "./config.js";
import { currentTheme, nextTheme } from "./theme.js";
import {
  deleteThread,
  isAnswering,
  loadThreads,
  renameThread,
  showNew,
  showThread,
} from "./threads.js";

const DAY = 24 * 60 * 60 * 1000;
const MOST_CHARACTERS = 500; // of a title

export function titleOf(thread) {
  return thread?.title?.slice(0, MOST_CHARACTERS) || strings.untitled;
}

function startOfToday() {
  return new Date().setHours(0, 0, 0, 0);
}

function ageOf(thread) {
  const days = Math.ceil((startOfToday() - new Date(thread.created_at)) / DAY);
  if (days <= 0) return "today";
  if (days <= 1) return "yesterday";
  return days <= 7 ? "week" : "older";
}

function groupByAge(threads) {
  const groups = [];
  for (const thread of threads) {
    const age = ageOf(thread);
    if (groups.at(-1)?.age !== age) groups.push({ age, threads: [] });
    groups.at(-1).threads.push(thread);
  }
  return groups;
}

export function startNewChat() {
  showNew();
  document.getElementById("composer-input")?.focus();
}

export async function askToDelete(thread) {
  const sure = await confirm({
    title: strings.deleteTitle,
    text: strings.deleteText(titleOf(thread)),
    confirmLabel: strings.deleteConfirm,
  });
  if (sure) await deleteThread(thread);
}

/** A field in the place of a title: Enter and leaving it save, Escape doesn't. */
export function TitleField({ thread, onDone }) {
  const input = useRef(null);
  const given = useRef(false);
  useEffect(() => input.current.select(), []);
  const finish = (save) => {
    if (given.current) return; // the blur that follows Enter or Escape
    given.current = true;
    const title = input.current.value.trim();
    if (save && title && title !== thread.title) renameThread(thread, title);
    onDone();
  };
  const onKeyDown = (event) => {
    if (event.isComposing) return;
    if (event.key === "Enter") finish(true);
    if (event.key === "Escape") finish(false);
    event.stopPropagation();
  };
  return html`<input ref=${input} class="title-field" value=${thread.title ?? ""} maxlength="200"
    aria-label=${strings.renameField} data-testid="rename-field"
    onKeyDown=${onKeyDown} onBlur=${() => finish(true)} />`;
}

function ThreadMarks({ thread }) {
  if (isAnswering(thread.id)) {
    return html`<span class="live-dot" role="img" aria-label=${strings.answering}></span>`;
  }
  if (thread.status.type === "active") return null;
  return html`<span class="locked-mark" role="img" aria-label=${strings.lockedMark}>
    <${Icon} name="lock" size=${14} /></span>`;
}

function ThreadRow({ thread, current }) {
  const [renaming, setRenaming] = useState(false);
  const title = titleOf(thread);
  return html`<li class=${`thread ${current ? "is-current" : ""}`}>
    ${renaming
      ? html`<${TitleField} thread=${thread} onDone=${() => setRenaming(false)} />`
      : html`<button type="button" class="thread-open" data-testid="thread-item"
            data-thread-id=${thread.id} aria-current=${current ? "page" : null}
            title=${title} onClick=${() => showThread(thread.id)}>
          <span class="thread-name">${title}</span><${ThreadMarks} thread=${thread} />
        </button>
        <span class="thread-buttons">
          <button type="button" class="icon-button is-small" data-testid="rename"
            aria-label=${strings.rename(title)} onClick=${() => setRenaming(true)}>
            <${Icon} name="write" size=${16} /></button>
          <button type="button" class="icon-button is-small" data-testid="delete"
            aria-label=${strings.delete(title)} onClick=${() => askToDelete(thread)}>
            <${Icon} name="trash" size=${16} /></button>
        </span>`}
  </li>`;
}

function Skeleton() {
  return html`<div class="skeleton" aria-label=${strings.loading} role="status">
    ${[72, 54, 83, 61].map((width) => html`<span style=${{ width: `${width}%` }}></span>`)}
  </div>`;
}

function Threads({ threads, currentId }) {
  const { data, loading, error, hasMore } = threads;
  if (loading && data.length === 0) return html`<${Skeleton} />`;
  return html`
    ${groupByAge(data).map(({ age, threads: some }) => html`
      <section key=${age} aria-label=${strings.groups[age]}>
        <h3>${strings.groups[age]}</h3>
        <ul>${some.map((thread) => html`
          <${ThreadRow} key=${thread.id} thread=${thread} current=${thread.id === currentId} />`)}</ul>
      </section>`)}
    ${data.length === 0 && !error ? html`<p class="sidebar-note">${strings.noThreads}</p>` : null}
    ${error ? html`<div class="sidebar-note" role="alert">
      <p>${strings.threadsFailed}</p>
      <button type="button" class="button is-small" onClick=${loadThreads}>${strings.retry}</button>
    </div>` : null}
    ${hasMore && !error ? html`<button type="button" class="button is-quiet is-small more-threads"
      disabled=${loading} onClick=${loadThreads}>${strings.moreThreads}</button>` : null}`;
}

const themeIcons = { auto: "contrast", light: "sun", dark: "moon" };

function ThemeToggle() {
  const [theme, setTheme] = useState(currentTheme());
  const label = strings.themeToggle(strings.themeNames[theme]);
  return html`<button type="button" class="icon-button" data-testid="theme-toggle"
    aria-label=${label} title=${label} onClick=${() => setTheme(nextTheme())}>
    <${Icon} name=${themeIcons[theme]} /></button>`;
}

export function closeMenu() {
  if (!state.menuOpen) return;
  state.menuOpen = false;
  changed();
  focusSoon("[data-testid=menu]");
}

/** Shows the panel as a drawer, with the focus in it; for narrow screens. */
export function openMenu() {
  state.menuOpen = true;
  changed();
  focusSoon("[data-testid=new-thread]");
}

// What is to have the focus can't take it before the change has been drawn.
function focusSoon(selector) {
  requestAnimationFrame(() => document.querySelector(selector)?.focus());
}

// A window made wider has no drawer, and nothing behind one.
matchMedia("(min-width: 48.01rem)").addEventListener("change", closeMenu);

export function Sidebar({ threads, currentId, open }) {
  return html`<aside id="sidebar" class=${`sidebar ${open ? "is-open" : ""}`} aria-label=${strings.threadsTitle}>
      <div class="sidebar-head">
        <span class="brand"><${Mark} /><span>${config.appName}</span></span>
        <button type="button" class="icon-button only-narrow" aria-label=${strings.closeMenu}
          onClick=${closeMenu}><${Icon} name="close" /></button>
      </div>
      <button type="button" class="new-thread" data-testid="new-thread" onClick=${startNewChat}>
        <${Icon} name="plus" size=${18} /><span>${strings.newThread}</span></button>
      <nav class="threads" aria-label=${strings.threadsTitle}>
        <${Threads} threads=${threads} currentId=${currentId} />
      </nav>
      <div class="sidebar-foot"><${ThemeToggle} /></div>
    </aside>
    <div class=${`backdrop ${open ? "is-open" : ""}`} onClick=${closeMenu}></div>`;
}
