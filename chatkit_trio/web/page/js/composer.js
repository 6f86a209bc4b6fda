// Where the user writes: text, quote, attachments, dictation; send or stop.

import { html, useEffect, useLayoutEffect, useRef, useState } from "../vendor/vendor.js";
import { addFiles, removeEntry, send as sendAgain, shownAttachment, stateText } from "./attachments.js";
import { FileChip } from "./attachment_view.js";
import { startDictation } from "./dictation.js";
import { saveDraft } from "./drafts.js";
import { pickerAccept } from "./file_rules.js";
import { EntityTag } from "./entity_tag.js";
import { Icon } from "./icons.js";
import { composes, isOurs, isTouch, sends } from "./keys.js";
import { Markdown } from "./markdown.js";
import { contentOf, mentionedIn, withMention } from "./mentions.js";
import { LIST_ID, MentionList, optionId, useMentions } from "./mention_list.js";
import { Menu } from "./menu.js";
import { options } from "./options.js";
import { Picture } from "./picture.js";
import { dispatch, find, focusSoon, place } from "./place.js";
import { changed, state, toast } from "./state.js";
import { strings } from "./strings.js";

export function focusComposer() {
  const field = find("#composer-input");
  field?.focus();
  // It may be another conversation's, or behind the drawer, until the change is drawn.
  if (field && place.root.activeElement !== field) focusSoon("#composer-input");
}

/** Leads back to the box after something else was used; fingers would raise the keyboard over the answer. */
export function returnToComposer() {
  if (!isTouch()) focusComposer();
}

export function setDraft(conversation, patch) {
  Object.assign(conversation.draft, patch);
  saveDraft(conversation.threadId, conversation.draft);
  changed();
}

function isReady(conversation) {
  const { text, attachments } = conversation.draft;
  const uploaded = attachments.every((entry) => entry.state === "ready");
  return conversation.phase === "idle" && !conversation.blocked && uploaded && (text.trim() !== "" || attachments.length > 0);
}

/** Sends the draft, and leaves an empty one behind. */
export function sendDraft(conversation) {
  if (!isReady(conversation)) return;
  const { text, quote, tags, attachments } = conversation.draft;
  const input = {
    content: contentOf(text.trim(), tags),
    attachments: attachments.map((entry) => entry.attachment.id),
    ...(quote ? { quoted_text: quote } : {}),
    inference_options: inferenceOptions(),
  };
  conversation.draft = { ...conversation.draft, text: "", quote: null, tags: [], attachments: [] };
  if (!chosenTool()?.persistent) chooseTool(null);
  conversation.send(input, attachments.map(shownAttachment));
  saveDraft(conversation.threadId, conversation.draft); // the message is kept by itself now
}

// Tools and models

export function chooseTool(id) {
  if (state.toolId === id) return;
  state.toolId = id;
  dispatch("chatkit.tool.change", { toolId: id });
  changed();
}

export function chooseModel(id) {
  state.modelId = id;
  changed();
}

function chosenTool() {
  return options.composer.tools.find(({ id }) => id === state.toolId) ?? null;
}

function chosenModel() {
  const { models } = options.composer;
  const usable = models.filter(({ disabled }) => !disabled);
  return usable.find(({ id }) => id === state.modelId) ?? usable.find((model) => model.default) ?? usable[0] ?? null;
}

/** Returns the tool and the model that are chosen, as a message tells them. */
export function inferenceOptions() {
  const tool = chosenTool();
  const model = chosenModel();
  return { ...(tool ? { tool_choice: { id: tool.id } } : {}), ...(model ? { model: model.id } : {}) };
}

function Tools() {
  const { tools } = options.composer;
  const chosen = chosenTool();
  const toggle = ({ id }) => {
    chooseTool(id === chosen?.id ? null : id);
    returnToComposer();
  };
  const pinned = tools.filter((tool) => tool.pinned);
  const others = tools.filter((tool) => !tool.pinned).map((tool) => ({ ...tool, chosen: tool === chosen }));
  return html`
    ${others.length ? html`<${Menu} label=${strings.chooseTool} choices=${others} testid="tools" onChoose=${toggle}>
      <${Icon} name="settings-slider" /><//>` : null}
    ${pinned.map((tool) => html`<button key=${tool.id} type="button" class="icon-button" aria-label=${tool.label}
      title=${tool.label} aria-pressed=${String(tool === chosen)} data-testid="pinned-tool" onClick=${() => toggle(tool)}>
      <${Icon} name=${tool.icon} /></button>`)}
    ${chosen && !chosen.pinned ? html`<button type="button" class="chosen-tool" data-testid="chosen-tool"
      aria-label=${strings.toolChosen(chosen.label)} onClick=${() => toggle(chosen)}>
      <${Icon} name=${chosen.icon} size=${16} /><span>${chosen.shortLabel ?? chosen.label}</span>
      <${Icon} name="close" size=${14} /></button>` : null}`;
}

function Models() {
  const { models } = options.composer;
  if (models.length === 0) return null;
  const chosen = chosenModel();
  const choices = models.map((model) => ({ ...model, chosen: model.id === chosen?.id }));
  const choose = ({ id }) => {
    chooseModel(id);
    returnToComposer();
  };
  return html`<div class="models"><${Menu} label=${`${strings.chooseModel}: ${chosen?.label ?? ""}`} choices=${choices} testid="models" onChoose=${choose}>
    <span class="model-name">${chosen?.label}</span><${Icon} name="chevron-down" size=${15} /><//></div>`;
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

function Mentioned({ draft }) {
  const shown = mentionedIn(draft.text, draft.tags);
  if (shown.length === 0) return null;
  return html`<p class="mentioned" aria-label=${strings.mentioned}>
    ${shown.map((entity) => html`<${EntityTag} key=${entity.id} entity=${entity} />`)}</p>`;
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
    ${failed && !entry.isFinal ? html`<button type="button" class="icon-button is-small" aria-label=${strings.retryUpload(entry.name)}
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
    <input ref=${picker} type="file" multiple hidden data-testid="attach-input"
      accept=${pickerAccept(options.composer.files)} onChange=${onChange} />`;
}

function Elapsed() {
  const [seconds, setSeconds] = useState(0);
  useEffect(() => {
    const begun = Date.now();
    const timer = setInterval(() => setSeconds(Math.floor((Date.now() - begun) / 1000)), 250);
    return () => clearInterval(timer);
  }, []);
  const words = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
  return html`<span class="elapsed" role="timer" aria-label=${strings.dictate}>${words}</span>`;
}

function DictateButton({ conversation }) {
  const [recording, setRecording] = useState(null);
  const [writing, setWriting] = useState(false);
  const [kept, setKept] = useState(null); // a recording that couldn't be written down
  const fail = (error) => toast(strings.dictationFailed(error.message), { level: "danger" });
  const button = useRef(null);
  // Leave to use the microphone may come when nobody is here any more.
  const start = () => startDictation().then((begun) => (button.current ? setRecording(begun) : begun.cancel()), fail);
  const cancel = () => {
    setRecording(null);
    setKept(null);
    returnToComposer();
  };
  useEffect(() => {
    if (!recording) return undefined;
    const onKey = (event) => {
      if (event.key !== "Escape" || !isOurs(event)) return;
      event.preventDefault();
      event.stopPropagation(); // the answer isn't meant
      cancel();
    };
    window.addEventListener("keydown", onKey, true);
    return () => {
      window.removeEventListener("keydown", onKey, true);
      recording.cancel();
    };
  }, [recording]);
  const writeDown = async (recorded) => {
    setRecording(null);
    setWriting(true);
    const keep = (error) => {
      setKept({ ...recorded, isTooLong: error.status === 413 });
      fail(error);
    };
    setKept(null);
    await recorded.finish().then((text) => appendText(conversation, text), keep);
    setWriting(false);
    returnToComposer();
  };
  if (kept) {
    return html`<${KeptRecording} recording=${kept} onAgain=${() => writeDown(kept)} onCancel=${cancel} />`;
  }
  const label = writing ? strings.transcribing : recording ? strings.dictateStop : strings.dictate;
  return html`${recording ? html`<${Elapsed} /><button type="button" class="icon-button" data-testid="dictate-cancel"
      aria-label=${strings.dictateCancel} title=${strings.dictateCancel} onClick=${cancel}><${Icon} name="close" /></button>` : null}
    <button ref=${button} type="button" class=${`icon-button ${recording ? "is-recording" : ""}`}
      data-testid="dictate" aria-label=${label} title=${label} aria-pressed=${String(Boolean(recording))}
      disabled=${writing} onClick=${recording ? () => writeDown(recording) : start}>
      ${writing ? html`<span class="spinner"></span>` : html`<${Icon} name=${recording ? "check" : "microphone"} />`}
    </button>`;
}

// What was said isn't lost with the connection. What is too long for the server can be saved.
function KeptRecording({ recording, onAgain, onCancel }) {
  const { isTooLong } = recording;
  const label = isTooLong ? strings.dictateSave : strings.dictateAgain;
  return html`<button type="button" class="icon-button" data-testid="dictate-cancel" aria-label=${strings.dictateCancel}
      title=${strings.dictateCancel} onClick=${onCancel}><${Icon} name="close" /></button>
    <button type="button" class="icon-button" data-testid="dictate-again" aria-label=${label} title=${label}
      onClick=${isTooLong ? recording.save : onAgain}><${Icon} name=${isTooLong ? "download" : "reload"} /></button>`;
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
    returnToComposer(); // this button goes away
  };
  return html`<button type="button" class="send is-stop" data-testid="stop" aria-label=${label} title=${label}
    disabled=${conversation.stopping} onClick=${stop}>
    ${conversation.stopping ? html`<span class="spinner"></span>` : html`<${Icon} name="stop" />`}</button>`;
}

/** By the status of a thread that takes no messages. */
export const blockedIcons = { locked: "lock", closed: "check-circle" };

function Blocked({ status, onNew }) {
  const text = status.type === "locked" ? strings.locked : strings.closed;
  return html`<div class="blocked" data-testid="blocked" role="status">
    <${Icon} name=${blockedIcons[status.type]} size=${18} />
    <p>${text}${status.reason ? ` ${status.reason}` : ""}</p>
    <button type="button" class="button is-small" onClick=${onNew}>${strings.startAnother}</button>
  </div>`;
}

function useDropping({ draft, blocked }) {
  const [over, setOver] = useState(false);
  const carriesFiles = (event) => options.composer.attachments && event.dataTransfer?.types.includes("Files");
  useEffect(() => {
    const onOver = (event) => {
      if (!carriesFiles(event)) return;
      event.preventDefault(); // else the browser leaves the page for the file
      setOver(!blocked);
    };
    // Where it goes to outside of the chat may be told as well.
    const onLeave = (event) => event.currentTarget.contains(event.relatedTarget) || setOver(false);
    const onDrop = (event) => {
      setOver(false);
      if (!carriesFiles(event)) return;
      event.preventDefault();
      if (!blocked) addFiles(draft, [...event.dataTransfer.files]);
    };
    const listeners = { dragover: onOver, dragleave: onLeave, drop: onDrop };
    const app = find(".app");
    for (const [name, listener] of Object.entries(listeners)) app.addEventListener(name, listener);
    return () => {
      for (const [name, listener] of Object.entries(listeners)) app.removeEventListener(name, listener);
    };
  }, [draft, blocked]);
  return over;
}

function onPaste(event, draft) {
  const files = [...(event.clipboardData?.files ?? [])];
  if (!options.composer.attachments || files.length === 0 || isFormattedText(event.clipboardData)) return;
  event.preventDefault();
  addFiles(draft, files);
}

// Excel and Word add a picture of the text. A file's name, which some systems add, has no format.
function isFormattedText(data) {
  return data.getData("text/plain").trim() !== "" && ["text/html", "text/rtf"].some((kind) => data.types.includes(kind));
}

function onKeyDown(event, conversation, mentions, onPick) {
  if (composes(event) || event.shiftKey) return;
  if (mentions.isOpen && event.key in mentionKeys) mentionKeys[event.key](mentions, onPick);
  else if (sends(event)) sendDraft(conversation);
  else if (event.key === "ArrowUp" && event.currentTarget.value === "") return editLast(event, conversation);
  else return;
  event.preventDefault();
}

// In an empty box, as in a shell.
function editLast(event, conversation) {
  const last = conversation.items.findLast(({ type }) => type === "user_message");
  if (!last || !conversation.isOurServer || conversation.phase !== "idle" || conversation.blocked) return;
  event.preventDefault();
  conversation.beginEditing(last);
}

// Not of what was found for fewer letters: it is looked for.
const pickActive = ({ found, active, place: at, of }, onPick) => at === of && onPick(found[active]);
const mentionKeys = {
  ArrowDown: ({ move }) => move(1),
  ArrowUp: ({ move }) => move(-1),
  Enter: pickActive,
  Tab: pickActive,
  Escape: ({ close }) => close(),
};

function hintOf({ phase, allowCancel, stopping, draft, blocked }) {
  if (blocked) return "";
  if (draft.attachments.some((entry) => entry.state === "failed")) return strings.composerHintFailed;
  if (phase === "streaming" && draft.text.trim() !== "") return strings.composerHintWait;
  if (phase === "streaming" && stopping) return strings.stopping;
  if (isTouch()) return ""; // the others are of keys
  return phase === "streaming" && allowCancel ? strings.composerHintStop : strings.composerHint;
}

function Disclaimer() {
  const { disclaimer } = options;
  if (!disclaimer) return null;
  return html`<div class=${`disclaimer ${disclaimer.highContrast ? "is-strong" : ""}`} data-testid="disclaimer">
    <${Markdown} text=${disclaimer.text} /></div>`;
}

// At once, not when it is drawn: what is typed next must find the caret where it belongs.
function write(field, text, caret = text.length) {
  field.value = text;
  field.focus();
  field.setSelectionRange(caret, caret);
}

// What is written, and what can be mentioned in it.
function Field({ conversation, area }) {
  const { draft, blocked } = conversation;
  const mentions = useMentions(area, conversation);
  const pick = (entity) => {
    const field = area.current;
    const { text, caret } = withMention(field.value, mentions.place.start, field.selectionStart, entity);
    const tags = [...draft.tags.filter(({ id, title }) => id !== entity.id && title !== entity.title), entity];
    mentions.close();
    write(field, text, caret);
    setDraft(conversation, { text, tags });
  };
  const onInput = (event) => {
    setDraft(conversation, { text: event.currentTarget.value });
    mentions.look();
  };
  return html`<${MentionList} mentions=${mentions} onPick=${pick} />
    <textarea ref=${area} id="composer-input" data-testid="composer" rows="1" dir="auto"
      aria-label=${strings.composerLabel}
      placeholder=${chosenTool()?.placeholderOverride ?? options.composer.placeholder ?? strings.composerPlaceholder}
      value=${draft.text} disabled=${Boolean(blocked)} enterkeyhint=${isTouch() ? "enter" : "send"}
      aria-autocomplete=${options.entities.onTagSearch ? "list" : null}
      aria-controls=${mentions.isOpen ? LIST_ID : null}
      aria-activedescendant=${mentions.isOpen ? optionId(mentions.active) : null}
      onInput=${onInput} onBlur=${mentions.close}
      onKeyDown=${(event) => onKeyDown(event, conversation, mentions, pick)}
      onPaste=${(event) => onPaste(event, draft)}></textarea>`;
}

function MentionButton({ conversation, area }) {
  if (!options.entities.onTagSearch || !options.entities.showComposerMenu) return null;
  const begin = () => {
    const { text } = conversation.draft;
    write(area.current, /(^|\s)$/.test(text) ? `${text}@` : `${text} @`);
    area.current.dispatchEvent(new InputEvent("input", { bubbles: true }));
  };
  return html`<button type="button" class="icon-button" data-testid="mention" aria-label=${strings.mention}
    title=${strings.mention} onClick=${begin}><span aria-hidden="true" class="at-sign">@</span></button>`;
}

export function Composer({ conversation, onNew }) {
  const { draft, blocked } = conversation;
  const area = useAutoHeight(draft.text);
  const over = useDropping(conversation);
  const submit = (event) => {
    event.preventDefault();
    sendDraft(conversation);
  };
  return html`<form class=${`composer ${over ? "is-over" : ""}`} onSubmit=${submit}>
    ${blocked && !conversation.gone ? html`<${Blocked} status=${blocked} onNew=${onNew} />` : null}
    <div class="composer-box">
      <${Quote} conversation=${conversation} />
      <${Entries} draft=${draft} />
      <${Mentioned} draft=${draft} />
      <div class="composer-row">
        ${blocked ? null : html`
          ${options.composer.attachments ? html`<${AttachButton} draft=${draft} />` : null}
          <${MentionButton} conversation=${conversation} area=${area} />
          <${Tools} />`}
        <${Field} conversation=${conversation} area=${area} />
        ${blocked ? null : html`<${Models} />
          ${options.composer.dictation ? html`<${DictateButton} conversation=${conversation} />` : null}`}
        <${SendOrStop} conversation=${conversation} />
      </div>
      ${over ? html`<div class="drop-note">${strings.dropHere}</div>` : null}
    </div>
    <p class="composer-hint">${hintOf(conversation)}</p>
    <${Disclaimer} />
  </form>`;
}
