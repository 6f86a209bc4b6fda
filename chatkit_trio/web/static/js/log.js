// The transcript: the items, what stands after them, and the scrolling.

import { html, useEffect, useLayoutEffect, useRef, useState } from "../vendor/vendor.js";
import { copyCodeOf } from "./clipboard.js";
import { Icon } from "./icons.js";
import { Item } from "./items.js";
import { ImageDomains } from "./picture.js";
import { textOf } from "./plain_text.js";
import { strings } from "./strings.js";

const NEAR = 96; // pixels from the end that still count as being there

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

function EndMark({ reason }) {
  return html`<p class="end-mark" data-testid="end-mark"><span>${strings.endedMarks[reason] ?? reason}</span></p>`;
}

function Older({ older, onOlder }) {
  if (!older.hasMore) return null;
  return html`<div class="older"><button type="button" class="button is-quiet is-small"
    disabled=${older.loading} onClick=${onOlder}>
    ${older.loading ? strings.olderLoading : strings.older}</button></div>`;
}

function lastAnswerId(conversation) {
  const { items, phase, failure } = conversation;
  if (phase !== "idle" || failure || conversation.blocked || !conversation.canRetry) return null;
  const last = items.findLast((item) => item.type === "assistant_message");
  const asked = items.findLast((item) => item.type === "user_message");
  return last && asked && items.indexOf(last) > items.indexOf(asked) ? last.id : null;
}

function Items({ conversation, onQuote }) {
  const { items, phase } = conversation;
  const retriable = lastAnswerId(conversation);
  return items.map((item, index) => html`<${Item} key=${item.id} item=${item}
    conversation=${conversation} live=${conversation.isLive(item.id)} phase=${phase}
    isLast=${index === items.length - 1} canRetry=${item.id === retriable}
    onQuote=${onQuote} />`);
}

/** Keeps the end in view while the user is there, and the place while older items come in. */
function useScrolling(conversation) {
  const box = useRef(null);
  const follows = useRef(true);
  const [away, setAway] = useState(false);
  const toEnd = (behavior = "instant") => {
    follows.current = true;
    box.current?.scrollTo({ top: box.current.scrollHeight, behavior });
  };
  const onScroll = () => {
    const { scrollHeight, scrollTop, clientHeight } = box.current;
    const atEnd = scrollHeight - scrollTop - clientHeight < NEAR;
    follows.current = atEnd;
    setAway(!atEnd);
    if (scrollTop < NEAR && !atEnd) conversation.loadOlder();
  };
  useFollowing(box, follows, toEnd);
  usePlaceKeeping(box, follows, conversation);
  useEffect(() => toEnd(), [conversation]);
  useSentMessage(conversation, toEnd);
  return { box, away, onScroll, toEnd };
}

// Whatever grows - text, images that load, widgets that open - grows the content box.
function useFollowing(box, follows, toEnd) {
  useEffect(() => {
    const observer = new ResizeObserver(() => follows.current && toEnd());
    observer.observe(box.current.firstElementChild);
    observer.observe(box.current);
    return () => observer.disconnect();
  }, []);
}

function usePlaceKeeping(box, follows, conversation) {
  const before = useRef({ first: null, height: 0 });
  useLayoutEffect(() => {
    const { scrollHeight } = box.current;
    const first = conversation.items[0]?.id;
    const { first: oldFirst, height } = before.current;
    const prepended = oldFirst && first !== oldFirst && conversation.items.some((item) => item.id === oldFirst);
    if (prepended && !follows.current) box.current.scrollTop += scrollHeight - height;
    before.current = { first, height: scrollHeight };
  });
}

// Sending is asking for the answer: wherever the user was reading, the end comes into view.
function useSentMessage(conversation, toEnd) {
  const last = conversation.items.at(-1);
  const sent = last?.type === "user_message" ? last.id : null;
  useLayoutEffect(() => {
    if (sent) toEnd();
  }, [sent]);
}

function onLogClick(event) {
  const button = event.target.closest('button[value="copy-code"]');
  if (button) copyCodeOf(button);
}

export function Log({ conversation, onQuote, children }) {
  const { box, away, onScroll, toEnd } = useScrolling(conversation);
  const { failure, endMark, older, phase } = conversation;
  return html`<div class="log-frame">
    <div class="log" ref=${box} onScroll=${onScroll} onClick=${onLogClick}
      tabindex="0" role="region" aria-label=${strings.transcript}>
      <div class="log-content">
        <${Older} older=${older} onOlder=${() => conversation.loadOlder()} />
        <div class="items" role="log" aria-live="polite" aria-label=${strings.log}
          aria-busy=${String(phase === "streaming")}>
          <${ImageDomains.Provider} value=${conversation.thread?.allowed_image_domains ?? null}>
            <${Items} conversation=${conversation} onQuote=${onQuote} /><//>
        </div>
        ${showsProgress(conversation) ? html`<${Progress} conversation=${conversation} />` : null}
        ${endMark && !failure ? html`<${EndMark} reason=${endMark} />` : null}
        ${failure ? html`<${Failure} failure=${failure} />` : null}
        ${children}
      </div>
    </div>
    ${away ? html`<button type="button" class="to-end" aria-label=${strings.jumpToLatest}
      onClick=${() => toEnd("smooth")}><${Icon} name="chevron-down" /></button>` : null}
  </div>`;
}
