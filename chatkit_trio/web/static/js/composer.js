// Where the user writes: text, quote, attachments, dictation; send or stop.

import { html, useEffect, useLayoutEffect, useRef, useState } from "../vendor/vendor.js";
import { addFiles, removeEntry, send as sendAgain, shownAttachment, stateText } from "./attachments.js";
import { FileChip } from "./attachment_view.js";
import { config } from "./config.js";
import { startDictation } from "./dictation.js";
import { Icon } from "./icons.js";
import { Picture } from "./picture.js";
import { changed, toast } from "./state.js";
import { strings } from "./strings.js";

export function focusComposer() {
  document.getElementById("composer-input")?.focus();
}

export function setDraft(conversation, patch) {
  Object.assign(conversation.draft, patch);
  changed();
}

function isReady(conversation) {
  const { text, attachments } = conversation.draft;
  const uploaded = attachments.every((entry) => entry.state === "ready");
  return conversation.phase === "idle" && uploaded && (text.trim() !== "" || attachments.length > 0);
}

/** Sends the draft, and leaves an empty one behind. */
export function sendDraft(conversation) {
  if (!isReady(conversation)) return;
  const { text, quote, attachments } = conversation.draft;
  const trimmed = text.trim();
  const input = {
    content: trimmed ? [{ type: "input_text", text: trimmed }] : [],
    attachments: attachments.map((entry) => entry.attachment.id),
    ...(quote ? { quoted_text: quote } : {}),
    inference_options: {},
  };
  conversation.draft = { text: "", quote: null, attachments: [] };
  conversation.send(input, attachments.map(shownAttachment));
}

// Browsers without field-sizing need the height set by hand.
function useAutoHeight(text) {
  const area = useRef(null);
  useLayoutEffect(() => {
    if (CSS.supports("field-sizing", "content")) return;
    area.current.style.height = "auto";
    area.current.style.height = `${area.current.scrollHeight}px`;
  }, [text]);
  return area;
}

function Quote({ conversation }) {
  const { quote } = conversation.draft;
  if (!quote) return null;
  return html`<div class="composer-quote"><${Icon} name="quote" size=${16} />
    <p>${quote}</p>
    <button type="button" class="icon-button is-small" aria-label=${strings.removeQuote}
      onClick=${() => setDraft(conversation, { quote: null })}><${Icon} name="close" size=${15} /></button>
  </div>`;
}

function Entry({ entry, draft }) {
  const failed = entry.state === "failed";
  return html`<li class=${`entry is-${entry.state}`} data-testid="attachment-entry">
    ${entry.preview_url
      ? html`<${Picture} url=${entry.preview_url} alt=${entry.name} title=${stateText(entry) ?? entry.name} />`
      : html`<${FileChip} attachment=${entry}>${stateText(entry)}<//>`}
    ${entry.state === "uploading" ? html`<progress max="100" value=${entry.progress}
      aria-label=${stateText(entry)}></progress>` : null}
    ${failed ? html`<button type="button" class="icon-button is-small" aria-label=${strings.retryUpload(entry.name)}
      onClick=${() => sendAgain(entry)}><${Icon} name="reload" size=${15} /></button>` : null}
    <button type="button" class="entry-remove" aria-label=${strings.removeAttachment(entry.name)}
      data-testid="attachment-remove" onClick=${() => removeEntry(draft, entry)}>
      <${Icon} name="close" size=${13} /></button>
  </li>`;
}

function Entries({ draft }) {
  if (draft.attachments.length === 0) return null;
  return html`<ul class="entries">${draft.attachments.map((entry) => html`
    <${Entry} key=${entry.key} entry=${entry} draft=${draft} />`)}</ul>`;
}

function AttachButton({ draft }) {
  const picker = useRef(null);
  const onChange = (event) => {
    addFiles(draft, [...event.currentTarget.files]);
    event.currentTarget.value = ""; // the same file can be chosen again
  };
  return html`<button type="button" class="icon-button" data-testid="attach" aria-label=${strings.attach}
      title=${strings.attach} onClick=${() => picker.current.click()}><${Icon} name="attach" /></button>
    <input ref=${picker} type="file" multiple hidden data-testid="attach-input" onChange=${onChange} />`;
}

function DictateButton({ conversation }) {
  const [finish, setFinish] = useState(null);
  const [writing, setWriting] = useState(false);
  const fail = (error) => toast(strings.dictationFailed(error.message), { level: "danger" });
  const start = () => startDictation().then((end) => setFinish(() => end), fail);
  const end = async () => {
    setFinish(null);
    setWriting(true);
    await finish().then((text) => appendText(conversation, text), fail);
    setWriting(false);
    focusComposer();
  };
  const label = writing ? strings.transcribing : finish ? strings.dictateStop : strings.dictate;
  return html`<button type="button" class=${`icon-button ${finish ? "is-recording" : ""}`}
    data-testid="dictate" aria-label=${label} title=${label} aria-pressed=${String(Boolean(finish))}
    disabled=${writing} onClick=${finish ? end : start}>
    ${writing ? html`<span class="spinner"></span>` : html`<${Icon} name=${finish ? "check" : "microphone"} />`}
  </button>`;
}

function appendText(conversation, text) {
  const { text: before } = conversation.draft;
  setDraft(conversation, { text: before ? `${before.trimEnd()} ${text}` : text });
}

function SendOrStop({ conversation }) {
  if (conversation.phase !== "streaming") {
    return html`<button type="submit" class="send" data-testid="send" aria-label=${strings.send}
      title=${strings.send} disabled=${!isReady(conversation)}><${Icon} name="send" /></button>`;
  }
  if (!conversation.allowCancel) return html`<span class="send is-waiting"><span class="spinner"></span></span>`;
  const label = conversation.stopping ? strings.stopping : strings.stop;
  const stop = () => {
    conversation.stop();
    focusComposer(); // this button goes away
  };
  return html`<button type="button" class="send is-stop" data-testid="stop" aria-label=${label} title=${label}
    disabled=${conversation.stopping} onClick=${stop}>
    ${conversation.stopping ? html`<span class="spinner"></span>` : html`<${Icon} name="stop" />`}</button>`;
}

function Blocked({ status, onNew }) {
  const text = status.type === "locked" ? strings.locked : strings.closed;
  return html`<div class="blocked" data-testid="blocked" role="status">
    <${Icon} name="lock" size=${18} />
    <p>${text}${status.reason ? ` ${status.reason}` : ""}</p>
    ${status.type === "closed" ? html`<button type="button" class="button is-small" onClick=${onNew}>
      ${strings.startAnother}</button>` : null}
  </div>`;
}

function useDropping(draft) {
  const [over, setOver] = useState(false);
  const carriesFiles = (event) => config.attachments && event.dataTransfer?.types.includes("Files");
  useEffect(() => {
    const onOver = (event) => {
      if (!carriesFiles(event)) return;
      event.preventDefault();
      setOver(true);
    };
    const onLeave = (event) => event.relatedTarget || setOver(false);
    const onDrop = (event) => {
      setOver(false);
      if (!carriesFiles(event)) return;
      event.preventDefault();
      addFiles(draft, [...event.dataTransfer.files]);
    };
    const listeners = { dragover: onOver, dragleave: onLeave, drop: onDrop };
    for (const [name, listener] of Object.entries(listeners)) window.addEventListener(name, listener);
    return () => {
      for (const [name, listener] of Object.entries(listeners)) window.removeEventListener(name, listener);
    };
  }, [draft]);
  return over;
}

function onPaste(event, draft) {
  const files = [...(event.clipboardData?.files ?? [])];
  if (!config.attachments || files.length === 0) return;
  event.preventDefault();
  addFiles(draft, files);
}

function onKeyDown(event, conversation) {
  const enters = event.key === "Enter" && !event.shiftKey && !event.isComposing;
  if (!enters) return;
  event.preventDefault();
  sendDraft(conversation);
}

function hintOf({ phase, allowCancel, stopping }) {
  if (phase !== "streaming" || !allowCancel) return strings.composerHint;
  return stopping ? strings.stopping : strings.composerHintStop;
}

export function Composer({ conversation, onNew }) {
  const { draft, blocked } = conversation;
  const area = useAutoHeight(draft.text);
  const over = useDropping(draft);
  const submit = (event) => {
    event.preventDefault();
    sendDraft(conversation);
  };
  return html`<form class=${`composer ${over ? "is-over" : ""}`} onSubmit=${submit}>
    ${blocked ? html`<${Blocked} status=${blocked} onNew=${onNew} />` : null}
    <div class="composer-box">
      <${Quote} conversation=${conversation} />
      <${Entries} draft=${draft} />
      <div class="composer-row">
        ${config.attachments && !blocked ? html`<${AttachButton} draft=${draft} />` : null}
        <textarea ref=${area} id="composer-input" data-testid="composer" rows="1" autofocus
          aria-label=${strings.composerLabel} placeholder=${strings.composerPlaceholder}
          value=${draft.text} disabled=${Boolean(blocked)} enterkeyhint="send"
          onInput=${(event) => setDraft(conversation, { text: event.currentTarget.value })}
          onKeyDown=${(event) => onKeyDown(event, conversation)}
          onPaste=${(event) => onPaste(event, draft)}></textarea>
        ${config.dictation && !blocked ? html`<${DictateButton} conversation=${conversation} />` : null}
        <${SendOrStop} conversation=${conversation} />
      </div>
      ${over ? html`<div class="drop-note">${strings.dropHere}</div>` : null}
    </div>
    <p class="composer-hint">${hintOf(conversation)}</p>
  </form>`;
}
