// The transcript: the items, what stands after them, and the scrolling.

import { Fragment, html, useEffect, useLayoutEffect, useRef, useState } from "../vendor/vendor.js";
import { copyCodeOf, downloadCodeOf, unfoldCodeOf, wrapCodeOf } from "./code_buttons.js";
import { Icon } from "./icons.js";
import { Item } from "./items.js";
import { MessageButtons } from "./messages.js";
import { options } from "./options.js";
import { ImageDomains } from "./picture.js";
import { showIn } from "./place.js";
import { plainText, textOf } from "./plain_text.js";
import { strings } from "./strings.js";
import { loadWidgets } from "./widgets_later.js";

const NEAR = 96; // pixels from the start at which older messages are loaded
const AT_END = 4; // pixels that rounding may leave
const READ_AFTER = 1000; // milliseconds in which screen readers take up what has changed

function Progress({ conversation }) {
  const { progress, reconnecting } = conversation;
  const text = reconnecting ? strings.reconnecting : progress?.text ?? strings.working;
  return html`<div class="progress" data-testid="progress" role="status">
    ${progress?.icon && !reconnecting ? html`<${Icon} name=${progress.icon} size=${17} />`
      : html`<span class="dots" aria-hidden="true"><i></i><i></i><i></i></span>`}
    <span class=${progress || reconnecting ? "shimmer" : "visually-hidden"}>${text}</span>
  </div>`;
}

// While something grows, that is the progress; otherwise something has to move.
function showsProgress(conversation) {
  if (conversation.phase !== "streaming") return false;
  return Boolean(conversation.progress || conversation.reconnecting || !isGrowing(conversation));
}

function isGrowing({ items, isLive }) {
  return items.some((item) => isLive(item.id) && (item.type !== "assistant_message" || textOf(item)));
}

export function Failure({ failure }) {
  return html`<div class="failure" data-testid="error" role="alert">
    <${Icon} name="warning" size=${18} />
    <p>${failure.message}</p>
    ${failure.retry ? html`<button type="button" class="button is-small" data-testid="retry"
      onClick=${failure.retry}>${failure.label ?? strings.retry}</button>` : null}
  </div>`;
}

function EndMark({ ending, conversation }) {
  const { reason, can_continue: canContinue } = ending;
  const isLast = ending === conversation.lastEnding;
  const offers = isLast && conversation.phase === "idle" && !conversation.failure && !conversation.blocked;
  return html`<div class="end-mark" data-testid="end-mark">
    <span>${strings.endedMarks[reason] ?? reason}</span>
    ${offers && canContinue ? html`<button type="button" class="button is-small is-quiet"
      onClick=${() => conversation.goOn()}>${strings.continueAnswer}</button>` : null}
    ${offers && conversation.canRetry ? html`<button type="button" class="button is-small is-quiet"
      onClick=${() => conversation.retry()}>${strings.retry}</button>` : null}
  </div>`;
}

/** A message that is on its way, or couldn't be sent. */
function OutboxEntry({ message, conversation }) {
  const { error } = message;
  return html`<div class=${error ? "unsent" : ""} data-testid=${error ? "unsent" : null}>
    <${Item} item=${message} conversation=${conversation} />
    ${error ? html`<div class="unsent-note" role="alert">
      <p><${Icon} name="warning" size=${16} /><span>${error.text}</span></p>
      ${error.final ? null : html`<button type="button" class="button is-small" disabled=${conversation.phase !== "idle"}
        onClick=${() => conversation.resend(message)}>${strings.retry}</button>`}
      <button type="button" class="button is-small is-quiet"
        onClick=${() => conversation.editUnsent(message)}>${strings.editMessage}</button>
      <button type="button" class="button is-small is-quiet"
        onClick=${() => conversation.deleteUnsent(message)}>${strings.deleteMessage}</button>
    </div>` : null}
  </div>`;
}

function Older({ older, onOlder }) {
  if (!older.hasMore) return null;
  return html`<div class="older">
    ${older.error ? html`<p class="question-missed" role="alert">${older.error}</p>` : null}
    <button type="button" class="button is-quiet is-small" disabled=${older.loading} onClick=${onOlder}>
    ${older.loading ? strings.olderLoading : strings.older}</button></div>`;
}

function lastAnswerId(conversation) {
  const { items, phase, failure } = conversation;
  if (phase !== "idle" || failure || conversation.blocked || !conversation.canRetry) return null;
  const asked = items.findLastIndex((item) => item.type === "user_message");
  if (asked === -1) return null;
  const answer = items.slice(asked + 1);
  const message = answer.findLast((item) => item.type === "assistant_message");
  return (message ?? answer.findLast(hasNoWords))?.id ?? null;
}

// An answer may be nothing else; then it has the buttons of one.
const hasNoWords = ({ type }) => type === "widget" || type === "generated_image";

function textOfWidget({ widget, copy_text: text }) {
  return text ?? plainText(widget ?? "");
}

// What could be answered or clicked belongs to the server, which has forgotten this version.
const asksSomething = ({ type }) => ["structured_input", "widget", "client_tool_call"].includes(type);

function Asleep({ children }) {
  return html`<div inert>${children}</div>`;
}

function VersionNote({ conversation, messageId }) {
  return html`<div class="version-note" role="note" data-testid="version-note"><${Icon} name="clock" size=${16} />
    <p>${strings.versionNote}</p>
    <button type="button" class="button is-small" onClick=${() => conversation.view(messageId, Infinity)}>
      ${strings.versionLatest}</button></div>`;
}

function Items({ conversation, onQuote }) {
  const { phase } = conversation;
  const { items, versionOf } = conversation.shown();
  const oldFrom = versionOf === null ? Infinity : items.findIndex(({ id }) => id === versionOf);
  const lastAsked = items.findLastIndex(({ type }) => type === "user_message");
  const retriable = versionOf === null ? lastAnswerId(conversation) : null;
  const marks = conversation.marks();
  const last = versionOf === null ? marks.get(null) : null;
  const { draft: { editing }, isEditing } = conversation;
  return [
    ...items.map((item, index) => html`<${index >= oldFrom && asksSomething(item) ? Asleep : Fragment} key=${item.id}>
      <${Item} item=${item} conversation=${conversation} live=${conversation.isLive(item.id)} phase=${phase}
      revision=${options.revision} isLast=${index === items.length - 1} isOld=${index >= oldFrom}
      isPast=${index < lastAsked} canRetry=${item.id === retriable}
      versions=${conversation.versions.get(item.id)} viewed=${conversation.viewed.get(item.id)}
      editing=${editing?.id === item.id && index < oldFrom ? editing : null} isEditing=${isEditing} onQuote=${onQuote} />
      ${item.id === retriable && hasNoWords(item) ? html`<${MessageButtons} item=${item}
        text=${textOfWidget(item)} conversation=${conversation} canRetry=${true} isOld=${false} />` : null}
      ${marks.has(item.id) ? html`<${EndMark} ending=${marks.get(item.id)} conversation=${conversation} />` : null}<//>`),
    last ? html`<${EndMark} key="end" ending=${last} conversation=${conversation} />` : null,
    versionOf === null ? null : html`<${VersionNote} key="version" conversation=${conversation} messageId=${versionOf} />`,
    ...conversation.outbox.map((message) => html`<${OutboxEntry} key=${message.id} message=${message}
      conversation=${conversation} />`),
  ];
}

/** Keeps the end in view while the user is there, and the place while older items come in. */
function useScrolling(conversation) {
  const box = useRef(null);
  const follows = useRef(options.autoScroll);
  const lastTop = useRef(0);
  const place = useRef({}); // where the reader is, while the end isn't followed
  const [away, setAway] = useState(false);
  const toEnd = (behavior = "instant") => {
    follows.current = options.autoScroll;
    const isEmpty = conversation.items.length === 0 && conversation.outbox.length === 0;
    if (!box.current || isEmpty) return; // the greeting is read from its top
    box.current.scrollTo({ top: box.current.scrollHeight, behavior });
    // In a slow frame the reader's step comes together with ours, and is seen against it.
    lastTop.current = box.current.scrollTop;
  };
  const offsetOf = (element) => element.getBoundingClientRect().top - box.current.getBoundingClientRect().top;
  const notePlace = () => {
    const { scrollTop, clientHeight } = box.current;
    let { first } = place.current;
    const at = first?.isConnected ? offsetOf(first) : -1;
    // What comes in above it shows its end, and may grow there: an older answer that is drawn late.
    if (at < 0 || at > clientHeight / 2) {
      const items = [...box.current.querySelectorAll("[data-item-id]")];
      first = items.find((item) => offsetOf(item) + item.offsetHeight > 0);
    }
    place.current = { first, offset: first && offsetOf(first), scrollTop };
  };
  const keepPlace = () => {
    const { first, offset, scrollTop } = place.current;
    // By what it was moved beyond what was scrolled meanwhile.
    if (first?.isConnected) box.current.scrollTop += offsetOf(first) - offset + box.current.scrollTop - scrollTop;
    notePlace();
  };
  const onScroll = () => {
    const { scrollHeight, scrollTop, clientHeight } = box.current;
    // Any movement upwards is the reader's; what grows moves the end away, and not the place.
    const atEnd = scrollHeight - scrollTop - clientHeight <= AT_END;
    if (atEnd) follows.current = options.autoScroll;
    else if (scrollTop < lastTop.current) follows.current = false;
    lastTop.current = scrollTop;
    setAway(!follows.current);
    if (follows.current) {
      place.current = {};
      return;
    }
    keepPlace();
    if (box.current.scrollTop < NEAR) conversation.loadOlder();
  };
  // The content may be gone already.
  useFollowing(box, () => box.current && (follows.current ? toEnd() : keepPlace()));
  useEffect(() => toEnd(), [conversation]);
  useTallForm(conversation, box, follows);
  useSentMessage(conversation, toEnd);
  useRevealing(conversation, box, follows, place);
  const onWheel = ({ deltaY }) => {
    if (deltaY >= 0 || box.current.scrollTop === 0) return;
    follows.current = false;
    setAway(true);
  };
  return { box, away, onScroll, onWheel, toEnd };
}

// Whatever grows - text, older items, images that load, widgets that open - grows the content box.
function useFollowing(box, onResize) {
  useEffect(() => {
    const observer = new ResizeObserver(onResize);
    observer.observe(box.current.firstElementChild);
    observer.observe(box.current);
    return () => observer.disconnect();
  }, []);
}

// What was looked for comes into view, and is marked for a moment.
function useRevealing(conversation, box, follows, place) {
  const { revealed } = conversation;
  useLayoutEffect(() => {
    const item = revealed && box.current.querySelector(`[data-item-id="${CSS.escape(revealed)}"]`);
    if (!item) return;
    conversation.revealed = null;
    follows.current = false;
    item.scrollIntoView({ block: "center" });
    place.current = {};
    item.classList.add("is-revealed");
    setTimeout(() => item.classList.remove("is-revealed"), 2500);
  }, [revealed]);
}

// A form that doesn't fit is read from its first question on.
function useTallForm({ items }, box, follows) {
  const last = items.at(-1);
  const form = last?.type === "structured_input" && last.status === "pending" ? last.id : null;
  useEffect(() => {
    if (!form) return undefined;
    let isWanted = true;
    const look = () => {
      if (!isWanted) return;
      const element = box.current.querySelector(`[data-item-id="${CSS.escape(form)}"]`);
      if (!element || element.offsetHeight <= box.current.clientHeight) return;
      follows.current = false;
      showIn(box.current, element, { atTop: true });
    };
    // Once it is drawn; who waits for its look tells why it doesn't come.
    loadWidgets().then(() => requestAnimationFrame(look), () => {});
    return () => {
      isWanted = false;
    };
  }, [form]);
}

// Sending is asking for the answer: wherever the user was reading, the end comes into view.
function useSentMessage(conversation, toEnd) {
  const last = conversation.outbox.at(-1) ?? conversation.items.at(-1);
  const sent = last?.type === "user_message" ? last.id : null;
  useLayoutEffect(() => {
    if (sent) toEnd();
  }, [sent]);
}

const codeButtons = {
  "copy-code": copyCodeOf,
  "download-code": downloadCodeOf,
  "unfold-code": unfoldCodeOf,
  "wrap-code": wrapCodeOf,
};

function onLogClick(event) {
  const button = event.target.closest(".code button");
  if (button && Object.hasOwn(codeButtons, button.value)) codeButtons[button.value](button);
}

/** Returns what something was a while ago, unless it is that still. */
function useLate(value) {
  const [late, setLate] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setLate(value), READ_AFTER);
    return () => clearTimeout(timer);
  }, [value]);
  return late;
}

// Only what an answer brings is news to read out: not what is loaded, nor what is drawn in another way.
function useLive({ phase, older }) {
  const phaseBefore = useLate(phase);
  const isAnswer = phase === "streaming" || phaseBefore === "streaming";
  const isLoadingOlder = useLate(older) !== older; // they stand in front of it
  return isAnswer && !isLoadingOlder ? "polite" : "off";
}

const isMoving = () => !matchMedia("(prefers-reduced-motion: reduce)").matches;

export function Log({ conversation, onQuote, children }) {
  const { box, away, onScroll, onWheel, toEnd } = useScrolling(conversation);
  const live = useLive(conversation);
  const { failure, older, phase } = conversation;
  return html`<div class="log-frame">
    <div class="log" ref=${box} onScroll=${onScroll} onWheel=${onWheel} onClick=${onLogClick}
      tabindex="0" role="region" aria-label=${strings.transcript}>
      <div class="log-content">
        <${Older} older=${older} onOlder=${() => conversation.loadOlder()} />
        <div class="items" role="log" aria-live=${live} aria-label=${strings.log}
          aria-busy=${String(phase === "streaming")}>
          <${ImageDomains.Provider} value=${conversation.thread?.allowed_image_domains ?? null}>
            <${Items} conversation=${conversation} onQuote=${onQuote} /><//>
        </div>
        ${showsProgress(conversation) ? html`<${Progress} conversation=${conversation} />` : null}
        ${failure ? html`<${Failure} failure=${failure} />` : null}
        ${children}
      </div>
    </div>
    ${away ? html`<button type="button" class="to-end" aria-label=${strings.jumpToLatest}
      onClick=${() => toEnd(isMoving() ? "smooth" : "instant")}><${Icon} name="chevron-down" /></button>` : null}
  </div>`;
}
