// One component for each kind of item, and the table that picks it.

import { html } from "../vendor/vendor.js";
import { Icon } from "./icons.js";
import { guarded } from "./guard.js";
import { Markdown } from "./markdown.js";
import { AssistantMessage, UserMessage } from "./messages.js";
import { strings } from "./strings.js";
import { WidgetItem } from "./widget_item.js";
import { ClientToolCall, GeneratedImage, StructuredInput, TaskItem, WorkflowItem } from "./widgets_later.js";

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
