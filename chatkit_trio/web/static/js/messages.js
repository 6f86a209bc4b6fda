// What the user said and what the assistant answered.

import { html, useState } from "../vendor/vendor.js";
import { AttachmentView } from "./attachment_view.js";
import { call } from "./protocol.js";
import { copyText } from "./clipboard.js";
import { dispatch } from "./host.js";
import { Icon } from "./icons.js";
import { Link } from "./link.js";
import { Markdown } from "./markdown.js";
import { withCitations } from "./markdown_blocks.js";
import { textOf } from "./plain_text.js";
import { toast } from "./state.js";
import { strings } from "./strings.js";
import { hostOf } from "./urls.js";

function UserPart({ part }) {
  if (part.type !== "input_tag") return part.text;
  return html`<span class="tag" title=${part.group}>@${part.text}</span>`;
}

export function UserMessage({ item }) {
  return html`<article class="message is-user" data-testid="message-user" data-item-id=${item.id}>
    <h2 class="visually-hidden">${strings.you}</h2>
    ${item.quoted_text ? html`<blockquote class="quoted">${item.quoted_text}</blockquote>` : null}
    ${item.attachments?.length ? html`<div class="message-attachments">
      ${item.attachments.map((each) => html`<${AttachmentView} key=${each.id} attachment=${each} />`)}
    </div>` : null}
    ${item.content?.length ? html`<div class="bubble">
      ${item.content.map((part, index) => html`<${UserPart} key=${index} part=${part} />`)}
    </div>` : null}
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
      onClick=${() => dispatch("chatkit.entity", { entity: source })}>${inner}</button>`;
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

function CopyButton({ item }) {
  const [copied, setCopied] = useState(false);
  const copy = async () => {
    if (!(await copyText(textOf(item)))) return;
    setCopied(true);
    setTimeout(() => setCopied(false), 1600);
  };
  const label = copied ? strings.copied : strings.copyMessage;
  return html`<${IconButton} name=${copied ? "check" : "copy"} label=${label} onClick=${copy} testid="copy" />`;
}

function Feedback({ item, conversation }) {
  const [kind, setKind] = useState(null);
  const give = async (chosen) => {
    const before = kind;
    setKind(chosen);
    const params = { thread_id: conversation.threadId, item_ids: [item.id], kind: chosen };
    await call("items.feedback", params).catch((error) => {
      setKind(before);
      toast(error.message, { level: "danger" });
    });
  };
  return html`
    <${IconButton} name="thumb-up" label=${strings.helpful} pressed=${kind === "positive"}
      testid="feedback-positive" onClick=${() => give("positive")} />
    <${IconButton} name="thumb-down" label=${strings.unhelpful} pressed=${kind === "negative"}
      testid="feedback-negative" onClick=${() => give("negative")} />`;
}

function selectionIn(element) {
  const selection = document.getSelection();
  const inside = selection && element.contains(selection.anchorNode);
  return inside ? selection.toString().trim() : "";
}

function shownText(article) {
  return [...article.querySelectorAll(".md")].map((each) => each.innerText.trim()).join("\n");
}

function MessageButtons({ item, conversation, canRetry, onQuote }) {
  const quote = (event) => {
    const article = event.currentTarget.closest("article");
    onQuote(selectionIn(article) || shownText(article));
  };
  return html`<div class="message-buttons">
    <${CopyButton} item=${item} />
    <${Feedback} item=${item} conversation=${conversation} />
    <${IconButton} name="quote" label=${strings.quote} testid="quote" onClick=${quote} />
    ${canRetry ? html`<${IconButton} name="reload" label=${strings.regenerate} testid="retry"
      onClick=${() => conversation.retry()} />` : null}
  </div>`;
}

// A citation in the text leads to its source below the answer.
function followCitation(event, item) {
  const button = event.target.closest(".cite button");
  if (!button) return;
  const source = document.getElementById(`source-${item.id}-${button.value}`);
  source?.focus();
  source?.scrollIntoView({ block: "nearest" });
}

export function AssistantMessage({ item, live, conversation, canRetry, onQuote }) {
  const parts = item.content ?? [];
  const annotations = parts.flatMap((part) => part.annotations ?? []);
  return html`<article class="message is-assistant" data-testid="message-assistant"
    data-item-id=${item.id} onClick=${(event) => followCitation(event, item)}>
    <h2 class="visually-hidden">${strings.assistant}</h2>
    ${partTexts(parts).map((text, index) => html`
      <${Markdown} key=${index} text=${text} streaming=${live} />`)}
    <${Sources} item=${item} annotations=${annotations} />
    ${live || !textOf(item) ? null : html`<${MessageButtons} item=${item}
      conversation=${conversation} canRetry=${canRetry} onQuote=${onQuote} />`}
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
