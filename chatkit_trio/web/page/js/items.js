// One component for each kind of item, and the table that picks it.

import { html, useState } from "../vendor/vendor.js";
import { Icon } from "./icons.js";
import { guarded } from "./guard.js";
import { Link } from "./link.js";
import { Markdown } from "./markdown.js";
import { AssistantMessage, UserMessage } from "./messages.js";
import { Picture } from "./picture.js";
import { strings } from "./strings.js";
import { WidgetItem } from "./widget_item.js";
import { StructuredInput } from "./widgets_later.js";
import { TaskItem, WorkflowItem } from "./workflow.js";

function jsonText(value) {
  return typeof value === "string" ? value : JSON.stringify(value, null, 2);
}

function ToolData({ label, value }) {
  if (value == null || (typeof value === "object" && Object.keys(value).length === 0)) return null;
  return html`<dt>${label}</dt><dd><pre tabindex="0">${jsonText(value)}</pre></dd>`;
}

function toolStatus(item, running) {
  if (running) return "running";
  if (item.status === "pending") return "waiting";
  return item.output?.error ? "failed" : "completed";
}

const toolIcons = { failed: "warning", completed: "check", waiting: "clock" };

// What people read instead of the name that the code has.
function spoken(name) {
  const words = name.replace(/(\p{Ll})(\p{Lu})/gu, (_, end, begin) => `${end} ${begin.toLowerCase()}`).replace(/[_.-]+/g, " ").trim();
  return words.charAt(0).toUpperCase() + words.slice(1);
}

function ClientToolCall({ item, conversation, isLast, phase }) {
  const running = item.status === "pending" && isLast && phase === "streaming";
  const status = toolStatus(item, running);
  const resumable = status === "waiting" && isLast && phase === "idle";
  return html`<details class=${`tool is-${status}`} data-testid="tool">
    <summary>
      ${running ? html`<span class="spinner"></span>` : html`<${Icon} name=${toolIcons[status]} size=${16} />`}
      <span title=${item.name}>${spoken(String(item.name))}</span><span class="tool-status">${strings.tool[status]}</span>
      ${resumable ? html`<button type="button" class="button is-small"
        onClick=${() => conversation.runTool(item)}>${strings.tool.resume}</button>` : null}
    </summary>
    <dl><${ToolData} label=${strings.tool.arguments} value=${item.arguments} />
      <${ToolData} label=${strings.tool.output} value=${item.output} /></dl>
  </details>`;
}

function imageCaption(item) {
  const percent = Math.round((item.progress ?? 0) * 100);
  return percent > 0 ? strings.image.progress(percent) : strings.image.creating;
}

function GeneratedImage({ item, live }) {
  const [loaded, setLoaded] = useState(false);
  const url = item.image?.url;
  if (!url && !live) return html`<p class="image-missing">${strings.image.missing}</p>`;
  // Browsers open no data URLs, so there is nothing to link to.
  const linked = (picture) => (live || /^data:/i.test(url) ? picture : html`<${Link} to=${url}
    aria-label=${strings.image.open}>${picture}<//>`);
  const settle = () => setLoaded(true);
  return html`<figure class=${`generated ${live ? "is-live" : ""}`} data-testid="generated-image">
    ${url ? html`<${Picture} url=${url} alt=${strings.image.alt} wrap=${linked} class=${loaded ? "" : "is-loading"}
      onLoad=${settle} onError=${settle} />` : null}
    ${live ? html`<figcaption><span class="shimmer">${imageCaption(item)}</span>
      <progress max="1" value=${item.progress ?? null} aria-label=${strings.image.creating}></progress>
    </figcaption>` : null}
  </figure>`;
}

const noticeIcons = { info: "info", warning: "warning", danger: "warning" };

function Notice({ item }) {
  const level = noticeIcons[item.level] ? item.level : "info";
  return html`<div class=${`notice is-${level}`} data-testid="notice"
    role=${level === "danger" ? "alert" : "note"}>
    <${Icon} name=${noticeIcons[level]} size=${18} />
    <div><strong>${item.title || strings.noticeTitles[level]}</strong>
      <${Markdown} text=${item.message ?? ""} /></div>
  </div>`;
}

const kinds = {
  user_message: UserMessage,
  assistant_message: AssistantMessage,
  client_tool_call: ClientToolCall,
  widget: WidgetItem,
  workflow: WorkflowItem,
  task: TaskItem,
  generated_image: GeneratedImage,
  structured_input: StructuredInput,
  notice: Notice,
};

/** Draws an item; kinds without a look, as the end of a turn, draw nothing. */
export const Item = guarded((props) => {
  const { type } = props.item;
  return Object.hasOwn(kinds, type) ? html`<${kinds[type]} ...${props} />` : null;
}, "item");
