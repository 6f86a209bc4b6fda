// What the user said and what the assistant answered.

import { html, useLayoutEffect, useRef, useState } from "../vendor/vendor.js";
import { AttachmentView } from "./attachment_view.js";
import { call } from "./protocol.js";
import { copyText } from "./clipboard.js";
import { returnToComposer } from "./composer.js";
import { EntityTag } from "./entity_tag.js";
import { openEntity } from "./host.js";
import { Icon } from "./icons.js";
import { composes, sends } from "./keys.js";
import { Link } from "./link.js";
import { Markdown } from "./markdown.js";
import { withCitations } from "./markdown_blocks.js";
import { contentOf, editable } from "./mentions.js";
import { options } from "./options.js";
import { find, place } from "./place.js";
import { textOf } from "./plain_text.js";
import { toast } from "./state.js";
import { strings } from "./strings.js";
import { longTime, shortTime } from "./times.js";
import { hostOf } from "./urls.js";
import { rememberVote, voteOn } from "./votes.js";

function UserPart({ part }) {
  if (part.type !== "input_tag") return part.text;
  const { type, text: title, ...rest } = part;
  return html`<${EntityTag} entity=${{ ...rest, title }} />`;
}

// In the place of a message that is being edited.
function Editor({ item, conversation }) {
  const { editing } = conversation.draft;
  const write = (event) =>
    conversation.editDraft({ editing: { ...conversation.draft.editing, text: event.currentTarget.value } });
  const leave = () => {
    conversation.stopEditing();
    returnToComposer(); // the field goes away
  };
  const send = (event) => {
    event.preventDefault();
    const { text, tags } = conversation.draft.editing; // also what was typed since it was drawn
    const content = contentOf(text.trim(), tags);
    const attachments = (item.attachments ?? []).map(({ id }) => id);
    if (content.length === 0 && attachments.length === 0) return;
    const { quoted_text = null, inference_options = {} } = item;
    conversation.sendEdited({ content, attachments, quoted_text, inference_options });
    returnToComposer();
  };
  const onKeyDown = (event) => {
    if (composes(event)) return;
    if (sends(event)) send(event);
    if (event.key !== "Escape") return;
    event.preventDefault();
    leave();
  };
  return html`<form class="editor" data-testid="editor" onSubmit=${send}>
    <textarea class="field" rows="2" dir="auto" aria-label=${strings.editSent} value=${editing.text}
      data-testid="editor-field" onInput=${write} onKeyDown=${onKeyDown}></textarea>
    <div class="card-buttons">
      <button type="button" class="button is-small is-quiet" onClick=${leave}>${strings.cancel}</button>
      <button type="submit" class="button is-small is-primary" disabled=${conversation.phase !== "idle"}>${strings.editSend}</button>
    </div></form>`;
}

function Pager({ item, conversation }) {
  const count = (conversation.versions.get(item.id)?.length ?? 0) + 1;
  if (count === 1) return null;
  const number = conversation.viewed.get(item.id) ?? count - 1;
  // Not disabled at its ends, where it would lose the focus.
  const go = (step) => () => conversation.view(item.id, number + step);
  return html`<span class="pager" data-testid="versions">
    <button type="button" class="icon-button is-small" aria-label=${strings.versionBefore} aria-disabled=${String(number === 0)}
      onClick=${go(-1)}><${Icon} name="chevron-left" size=${15} /></button>
    <span aria-hidden="true">${number + 1}/${count}</span>
    <span class="visually-hidden">${strings.version(number + 1, count)}</span>
    <button type="button" class="icon-button is-small" aria-label=${strings.versionAfter} aria-disabled=${String(number === count - 1)}
      onClick=${go(1)}><${Icon} name="chevron-right" size=${15} /></button></span>`;
}

function UserButtons({ item, conversation, phase, isOld, isEditing }) {
  const canEdit = conversation.isOurServer && phase === "idle" && !conversation.blocked && !isOld && !isEditing;
  return html`<div class="message-buttons">
    <${Time} of=${item} />
    ${phase === "idle" ? html`<${Pager} item=${item} conversation=${conversation} />` : null}
    <${CopyButton} text=${userText(item)} label=${strings.copyQuestion} />
    ${canEdit ? html`<${IconButton} name="write" label=${strings.editSent} testid="edit"
      onClick=${() => conversation.beginEditing(item)} />` : null}
  </div>`;
}

const LONG_MESSAGE = 3000; // characters
const MANY_LINES = 30;

function isLong(text) {
  return text.length > LONG_MESSAGE || text.split("\n").length > MANY_LINES;
}

function Bubble({ item }) {
  const [isOpen, setIsOpen] = useState(false);
  const bubble = useRef(null);
  const folds = isLong(userText(item));
  const wasOpen = useRef(false);
  useLayoutEffect(() => {
    if (wasOpen.current && !isOpen) bubble.current.scrollIntoView({ block: "nearest" });
    wasOpen.current = isOpen;
  }, [isOpen]);
  const toggle = () => setIsOpen(!isOpen);
  return html`<div ref=${bubble} class=${`bubble ${folds && !isOpen ? "is-folded" : ""}`} dir="auto">
      ${item.content.map((part, index) => html`<${UserPart} key=${index} part=${part} />`)}</div>
    ${folds ? html`<button type="button" class="button is-small is-quiet" aria-expanded=${String(isOpen)} onClick=${toggle}>
      ${isOpen ? strings.messageLess : strings.messageAll}</button>` : null}`;
}

const userText = ({ content }) => editable(content ?? []).text;

/** `editing` is what is being made of the message; a message that isn't sent yet has no `phase`. */
export function UserMessage({ item, conversation, phase, isOld, isEditing, editing }) {
  return html`<article class="message is-user" data-testid="message-user" data-item-id=${item.id}>
    <h2 class="visually-hidden">${strings.you}</h2>
    ${item.quoted_text ? html`<blockquote class="quoted" dir="auto">${item.quoted_text}</blockquote>` : null}
    ${item.attachments?.length ? html`<div class="message-attachments">
      ${item.attachments.map((each) => html`<${AttachmentView} key=${each.id} attachment=${each}
        canDownload=${conversation.isOurServer} />`)}
    </div>` : null}
    ${editing ? html`<${Editor} item=${item} conversation=${conversation} />` : html`
      ${item.content?.length ? html`<${Bubble} item=${item} />` : null}
      ${phase ? html`<${UserButtons} item=${item} conversation=${conversation} phase=${phase} isOld=${isOld}
        isEditing=${isEditing} />` : null}`}
  </article>`;
}

function sourceTitle(source) {
  return source.title || source.filename || source.url || source.id;
}

const sourceIcons = { url: "globe", file: "document", entity: "cube" };

function SourceText({ source, number }) {
  const note = source.attribution || (source.type === "url" ? hostOf(source.url).replace(/^www\./, "") : source.label);
  return html`<span class="source-number">${number}</span>
    <${Icon} name=${source.icon ?? sourceIcons[source.type]} size=${15} />
    <span class="source-title">${source.inline_label || sourceTitle(source)}</span>
    ${note ? html`<span class="source-note">${note}</span>` : null}`;
}

/** One source: a link, a button for an entity one can open, or just its name. */
export function Source({ source, number, messageId }) {
  const title = [sourceTitle(source), source.description].filter(Boolean).join(" — ");
  const inner = html`<${SourceText} source=${source} number=${number} />`;
  const id = messageId ? `source-${messageId}-${number}` : undefined;
  if (source.type === "url") {
    return html`<${Link} to=${source.url} id=${id} class="source" title=${title}>${inner}<//>`;
  }
  if (source.type === "entity" && source.interactive) {
    return html`<button type="button" id=${id} class="source" title=${title}
      onClick=${() => openEntity(source)}>${inner}</button>`;
  }
  return html`<span id=${id} class="source" tabindex="-1" title=${title}>${inner}</span>`;
}

function Sources({ item, annotations }) {
  if (annotations.length === 0) return null;
  return html`<ul class="sources" aria-label=${strings.sources}>
    ${annotations.map((annotation, index) => html`<li key=${index}>
      <${Source} source=${annotation.source} number=${index + 1} messageId=${item.id} /></li>`)}
  </ul>`;
}

function IconButton({ name, label, pressed, onClick, testid }) {
  return html`<button type="button" class="icon-button is-small" aria-label=${label} title=${label}
    aria-pressed=${pressed ?? null} data-testid=${testid ?? null} onClick=${onClick}>
    <${Icon} name=${name} size=${17} /></button>`;
}

function CopyButton({ text, label: words }) {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    if (!(await copyText(text))) return;
    setCopied(true);
    setTimeout(() => setCopied(false), 1600);
  };
  const label = copied ? strings.copied : words;
  return html`<${IconButton} name=${copied ? "check" : "copy"} label=${label} onClick=${copy} testid="copy" />`;
}

function Time({ of: { created_at: time } }) {
  return html`<time class="message-time" datetime=${time} title=${longTime(time)}>${shortTime(time)}</time>`;
}

function Feedback({ item, conversation }) {
  const [kind, setKind] = useState(() => voteOn(item.id));
  const give = async (chosen) => {
    if (chosen === kind) return; // it has been given, and can't be taken back
    const before = kind;
    setKind(chosen);
    try {
      await call("items.feedback", { thread_id: conversation.threadId, item_ids: [item.id], kind: chosen });
      rememberVote(item.id, chosen);
    } catch (error) {
      setKind(before);
      toast(error.message, { level: "danger" });
    }
  };
  return html`
    <${IconButton} name="thumb-up" label=${strings.helpful} pressed=${kind === "positive"}
      testid="feedback-positive" onClick=${() => give("positive")} />
    <${IconButton} name="thumb-down" label=${strings.unhelpful} pressed=${kind === "negative"}
      testid="feedback-negative" onClick=${() => give("negative")} />`;
}

function selectionIn(element) {
  const selection = (place.root.getSelection ? place.root : document).getSelection();
  const inside = selection && element.contains(selection.anchorNode);
  return inside ? selection.toString().trim() : "";
}

function shownText(article) {
  return [...article.querySelectorAll(".md")].map((each) => each.innerText.trim()).join("\n");
}

/** What can be done with an answer; `text` is what is copied, if there is any. */
export function MessageButtons({ item, text, conversation, canRetry, isOld, onQuote }) {
  const quote = (event) => {
    const article = event.currentTarget.closest("article");
    onQuote(selectionIn(article) || shownText(article));
  };
  const regenerate = () => {
    conversation.retry();
    returnToComposer(); // this button goes away
  };
  return html`<div class="message-buttons">
    ${text ? html`<${CopyButton} text=${text} label=${strings.copyMessage} />` : null}
    ${options.threadItemActions.feedback && !isOld ? html`<${Feedback} item=${item} conversation=${conversation} />` : null}
    ${onQuote ? html`<${IconButton} name="quote" label=${strings.quote} testid="quote" onClick=${quote} />` : null}
    ${canRetry && options.threadItemActions.retry ? html`<${IconButton} name="reload" label=${strings.regenerate} testid="retry"
      onClick=${regenerate} />` : null}
    <${Time} of=${item} />
  </div>`;
}

// A citation in the text leads to its source below the answer.
function followCitation(event, item) {
  const button = event.target.closest(".cite button");
  if (!button) return;
  const source = find(`#${CSS.escape(`source-${item.id}-${button.value}`)}`);
  source?.focus();
  source?.scrollIntoView({ block: "nearest" });
}

export function AssistantMessage({ item, live, conversation, canRetry, isOld, onQuote }) {
  const parts = item.content ?? [];
  const annotations = parts.flatMap((part) => part.annotations ?? []);
  return html`<article class="message is-assistant" data-testid="message-assistant"
    data-item-id=${item.id} onClick=${(event) => followCitation(event, item)}>
    <h2 class="visually-hidden">${strings.assistant}</h2>
    ${partTexts(parts).map((text, index) => html`
      <${Markdown} key=${index} text=${text} streaming=${live} />`)}
    <${Sources} item=${item} annotations=${annotations} />
    ${live || !textOf(item) ? null : html`<${MessageButtons} item=${item} text=${textOf(item)}
      conversation=${conversation} canRetry=${canRetry} isOld=${isOld} onQuote=${onQuote} />`}
  </article>`;
}

// Sources are numbered through the whole message, so each part starts where the last one ended.
function partTexts(parts) {
  let before = 0;
  return parts.map((part) => {
    const own = part.annotations ?? [];
    const text = withCitations(part.text, own, before);
    before += own.length;
    return text;
  });
}
