// The side panel: new chat, and the conversations, grouped by age.

import { html, useLayoutEffect, useRef, useState } from "../vendor/vendor.js";
import { blockedIcons, returnToComposer } from "./composer.js";
import { confirm } from "./dialog.js";
import { Icon, Mark } from "./icons.js";
import { composes, isTouch, keysOf, withKeys } from "./keys.js";
import { KeysButton } from "./keys_dialog.js";
import { options } from "./options.js";
import { find, focusSoon, showIn } from "./place.js";
import { changed, state } from "./state.js";
import { strings } from "./strings.js";
import { colorScheme, nextScheme } from "./theme.js";
import { piecesOf, search, searchOn } from "./search.js";
import { activityOf, titleOf } from "./thread_fields.js";
import { groupOf, longTime, shortTime } from "./times.js";
import {
  deleteThread,
  isAnswering,
  loadThreads,
  renameThread,
  showFound,
  showNew,
  showThread,
} from "./threads.js";

/** Returns by what a thread is known to its reader. */
export function nameOf(thread) {
  return titleOf(thread) ?? strings.untitled;
}

function groupsOf(threads) {
  const groups = [];
  for (const thread of threads) {
    const name = groupOf(activityOf(thread));
    if (groups.at(-1)?.name !== name) groups.push({ name, threads: [] });
    groups.at(-1).threads.push(thread);
  }
  return groups;
}

export function startNewChat() {
  closeMenu();
  showNew();
  returnToComposer();
}

async function askToDelete(thread) {
  const sure = await confirm({
    title: strings.deleteTitle,
    text: strings.deleteText(nameOf(thread)),
    confirmLabel: strings.deleteConfirm,
  });
  if (!sure) return;
  const { data } = state.threads;
  const place = data.findIndex(({ id }) => id === thread.id);
  const next = data[place + 1] ?? data[place - 1];
  await deleteThread(thread);
  // The row is gone; where there is a drawer, the box is behind it.
  if (state.menuOpen) focusSoon(next ? rowOf(next) : "[data-testid=new-thread]");
  else if (!isTouch()) focusSoon("#composer-input");
}

const rowOf = ({ id }) => `[data-thread-id="${CSS.escape(id)}"]`;

/** A field in the place of a title: Enter and leaving it save, Escape doesn't. */
export function TitleField({ thread, onDone }) {
  const [text, setText] = useState(thread.title ?? "");
  const input = useRef(null);
  const given = useRef(false);
  useLayoutEffect(() => input.current.select(), []);
  const finish = (save) => {
    if (given.current) return; // the blur that follows Enter or Escape
    given.current = true;
    const title = input.current.value.trim();
    if (save && title && title !== thread.title) renameThread(thread, title);
    onDone();
  };
  const onKeyDown = (event) => {
    if (composes(event)) return;
    if (event.key === "Enter") finish(true);
    if (event.key === "Escape") {
      event.preventDefault(); // what the chat is in, such as a dialog, isn't meant
      finish(false);
    }
    event.stopPropagation();
  };
  return html`<input ref=${input} class="title-field" value=${text} maxlength="200"
    aria-label=${strings.renameField} data-testid="rename-field"
    onInput=${(event) => setText(event.currentTarget.value)} onKeyDown=${onKeyDown} onBlur=${() => finish(true)} />`;
}

// The list goes away where it is a drawer, and what has the focus with it.
function fromList(show) {
  closeMenu();
  show();
}

function ThreadMarks({ thread }) {
  if (isAnswering(thread.id)) {
    return html`<span class="live-dot" role="img" aria-label=${strings.answering}></span>`;
  }
  if (state.unread.has(thread.id)) {
    return html`<span class="live-dot is-still" role="img" aria-label=${strings.unreadMark}></span>`;
  }
  const { type } = thread.status;
  if (type === "active") return null;
  return html`<span class="locked-mark" role="img" aria-label=${type === "locked" ? strings.lockedMark : strings.closedMark}>
    <${Icon} name=${blockedIcons[type]} size=${14} /></span>`;
}

function ThreadRow({ thread, current }) {
  const [renaming, setRenaming] = useState(false);
  const title = nameOf(thread);
  const row = useRef(null);
  const { isListed } = state.threads;
  useLayoutEffect(() => {
    if (current && row.current) showIn(find(".threads"), row.current); // also when the others have come
  }, [current, isListed]);
  const { showRename, showDelete } = options.history;
  const endRenaming = () => {
    setRenaming(false);
    focusSoon(rowOf(thread));
  };
  return html`<li ref=${row} class=${`thread ${current ? "is-current" : ""}`}>
    ${renaming
      ? html`<${TitleField} thread=${thread} onDone=${endRenaming} />`
      : html`<button type="button" class="thread-open" data-testid="thread-item"
            data-thread-id=${thread.id} aria-current=${current ? "page" : null}
            title=${`${title} · ${longTime(activityOf(thread))}`} onClick=${() => fromList(() => showThread(thread.id))}>
          <span class="thread-name" dir="auto">${title}</span><${ThreadMarks} thread=${thread} />
        </button>
        <span class="thread-buttons">
          ${showRename ? html`<button type="button" class="icon-button is-small" data-testid="rename"
            aria-label=${strings.rename(title)} onClick=${() => setRenaming(true)}>
            <${Icon} name="write" size=${16} /></button>` : null}
          ${showDelete ? html`<button type="button" class="icon-button is-small" data-testid="delete"
            aria-label=${strings.delete(title)} onClick=${() => askToDelete(thread)}>
            <${Icon} name="trash" size=${16} /></button>` : null}
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
    ${groupsOf(data).map(({ name, threads: some }) => html`
      <section key=${name} aria-label=${name}>
        <h3>${name}</h3>
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

function SearchField() {
  const { query } = state.search;
  const field = useRef(null);
  const clear = () => {
    search("");
    field.current.focus();
  };
  const onKeyDown = (event) => {
    if (event.key !== "Escape" || query === "" || composes(event)) return;
    event.preventDefault();
    clear();
  };
  return html`<div class="search" role="search">
    <${Icon} name="search" size=${16} />
    <input ref=${field} type="search" data-testid="search" value=${query} aria-label=${strings.searchLabel}
      placeholder=${strings.searchLabel} autocomplete="off" maxlength="256"
      onInput=${(event) => search(event.currentTarget.value)} onKeyDown=${onKeyDown} />
    ${query ? html`<button type="button" class="icon-button is-small" aria-label=${strings.searchClear} onClick=${clear}>
      <${Icon} name="close" size=${14} /></button>` : null}
  </div>`;
}

function Hit({ hit }) {
  const { thread } = hit;
  return html`<li class="thread"><button type="button" class="thread-open is-hit" data-testid="hit"
    onClick=${() => fromList(() => (hit.item_id ? showFound(thread.id, hit.item_id) : showThread(thread.id)))}>
    <span class="thread-name" dir="auto">${nameOf(thread)}</span>
    <span class="hit-excerpt" dir="auto">${piecesOf(hit).map(({ text, found }) => (found ? html`<mark>${text}</mark>` : text))}</span>
    <time class="message-time">${shortTime(activityOf(thread))}</time>
  </button></li>`;
}

function Found() {
  const { query, hits, hasMore, loading, error } = state.search;
  const failed = error ? html`<p class="sidebar-note" role="alert">${error}</p>` : null;
  if (!hits) return failed ?? html`<${Skeleton} />`;
  return html`<p class="visually-hidden" role="status">${loading ? strings.loading : strings.searchFound(hits.length)}</p>
    ${hits.length === 0 && !loading ? html`<p class="sidebar-note" data-testid="nothing-found">${strings.searchNone(query)}</p>` : null}
    <ul>${hits.map((hit) => html`<${Hit} key=${hit.thread.id} hit=${hit} />`)}</ul>
    ${failed}
    ${hasMore ? html`<button type="button" class="button is-quiet is-small more-threads" disabled=${loading}
      onClick=${searchOn}>${strings.moreThreads}</button>` : null}`;
}

const themeIcons = { auto: "contrast", light: "sun", dark: "moon" };

function ThemeToggle() {
  const theme = colorScheme();
  const label = strings.themeToggle(strings.themeNames[theme]);
  return html`<button type="button" class="icon-button" data-testid="theme-toggle"
    aria-label=${label} title=${label} onClick=${nextScheme}>
    <${Icon} name=${themeIcons[theme]} /></button>`;
}

export function closeMenu() {
  if (!state.menuOpen) return;
  state.menuOpen = false;
  changed();
  focusSoon("[data-testid=menu]");
}

/** Shows the panel as a drawer, with the focus in it, where it isn't in view anyway. */
export function openMenu() {
  if (!find(".has-drawer")) return;
  state.menuOpen = true;
  changed();
  focusSoon("[data-testid=new-thread]");
}

export function Sidebar({ threads, currentId, open }) {
  const role = open ? { role: "dialog", "aria-modal": "true" } : { role: "complementary" };
  return html`<div id="sidebar" class=${`sidebar ${open ? "is-open" : ""}`} aria-label=${strings.threadsTitle} ...${role}>
      <div class="sidebar-head">
        <span class="brand">${options.name ? html`<${Mark} /><span>${options.name}</span>` : strings.threadsTitle}</span>
        <button type="button" class="icon-button only-drawer" aria-label=${strings.closeMenu}
          onClick=${closeMenu}><${Icon} name="close" /></button>
      </div>
      <button type="button" class="new-thread" data-testid="new-thread" title=${withKeys(strings.newThread, "N")}
        aria-keyshortcuts=${keysOf("N")} onClick=${startNewChat}>
        <${Icon} name="plus" size=${18} /><span>${strings.newThread}</span></button>
      ${state.canSearch ? html`<${SearchField} />` : null}
      <nav class="threads" aria-label=${strings.threadsTitle}>
        ${state.search.query ? html`<${Found} />` : html`<${Threads} threads=${threads} currentId=${currentId} />`}
      </nav>
      <div class="sidebar-foot">${options.theme.toggle ? html`<${ThemeToggle} />` : null}<${KeysButton} /></div>
    </div>
    <div class=${`backdrop ${open ? "is-open" : ""}`} onClick=${closeMenu}></div>`;
}
