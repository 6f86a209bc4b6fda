// A tool of the page around that an answer calls: what it was given, and what it returned.

import { html } from "../vendor/vendor.js";
import { Icon } from "./icons.js";
import { strings } from "./strings.js";

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

export function ClientToolCall({ item, conversation, isLast, phase }) {
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
