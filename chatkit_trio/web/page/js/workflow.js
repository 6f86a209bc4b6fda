// Workflows and single tasks: what the assistant did on its way to the answer.

import { html, useState } from "../vendor/vendor.js";
import { guarded } from "./guard.js";
import { Icon } from "./icons.js";
import { Markdown } from "./markdown.js";
import { Source } from "./messages.js";
import { strings } from "./strings.js";

const words = strings.workflow;

function durationText(seconds) {
  const whole = Math.max(1, Math.round(seconds));
  return whole < 60 ? words.seconds(whole) : words.minutes(Math.floor(whole / 60), whole % 60);
}

function summaryOf(workflow, live) {
  const { type, summary } = workflow;
  if (summary?.title) return { icon: summary.icon, title: summary.title };
  const reasoning = type === "reasoning";
  const icon = reasoning ? "lightbulb" : "settings-slider";
  if (summary?.duration != null) {
    const text = durationText(summary.duration);
    return { icon, title: reasoning ? words.thoughtFor(text) : words.workedFor(text) };
  }
  if (live) return { icon, title: reasoning ? words.thinking : words.working };
  return { icon, title: reasoning ? words.thought : words.done };
}

const taskTitles = {
  web_search: (task) => task.title_query || task.title || words.search,
  thought: (task) => task.title || (task.content ? null : words.thinking),
  file: (task) => task.title || words.file,
  image: (task) => task.title || words.image,
};

const taskIcons = { web_search: "search", thought: "lightbulb", file: "document", image: "square-image" };

// Nothing is loading any more in a workflow that has ended.
function StatusIndicator({ task, live }) {
  const status = !live && task.status_indicator === "loading" ? "none" : task.status_indicator ?? "none";
  if (status === "loading") return html`<span class="spinner" role="img" aria-label=${words.working}></span>`;
  if (status === "complete") return html`<${Icon} name="check" size=${16} />`;
  return html`<${Icon} name=${task.icon ?? taskIcons[task.type] ?? "dot"} size=${16} />`;
}

function TaskBody({ task }) {
  if (task.type === "web_search" || task.type === "file") {
    return html`
      ${task.queries?.length ? html`<ul class="task-queries">
        ${task.queries.map((query) => html`<li key=${query}><${Icon} name="search" size=${13} />${query}</li>`)}
      </ul>` : null}
      ${task.sources?.length ? html`<ul class="sources">
        ${task.sources.map((source, index) => html`<li key=${index}>
          <${Source} source=${source} number=${index + 1} /></li>`)}</ul>` : null}`;
  }
  return task.content ? html`<${Markdown} text=${task.content} />` : null;
}

export const Task = guarded(({ task, live }) => {
  const title = (taskTitles[task.type] ?? ((each) => each.title))(task);
  return html`<div class=${`task is-${task.status_indicator ?? "none"}`} data-testid="task">
    <span class="task-mark"><${StatusIndicator} task=${task} live=${live} /></span>
    <div class="task-words">
      ${title ? html`<span class="task-title">${title}</span>` : null}
      <${TaskBody} task=${task} />
    </div>
  </div>`;
}, "task");

export function TaskItem({ item, live }) {
  return html`<div class="workflow is-single" data-testid="workflow"><${Task} task=${item.task} live=${live} /></div>`;
}

/** Open while it runs and where the server says so, until the user says otherwise. */
export function WorkflowItem({ item, live }) {
  const [chosen, setChosen] = useState(null);
  const { workflow } = item;
  const tasks = workflow.tasks ?? [];
  const open = chosen ?? (live || workflow.expanded === true);
  const { icon, title } = summaryOf(workflow, live);
  return html`<section class=${`workflow ${live ? "is-live" : ""}`} data-testid="workflow">
    <button type="button" class="workflow-head" aria-expanded=${String(open)}
      disabled=${tasks.length === 0} onClick=${() => setChosen(!open)}>
      <${Icon} name=${icon ?? "settings-slider"} size=${17} />
      <span class=${live ? "shimmer" : ""}>${title}</span>
      ${tasks.length ? html`<span class=${`turner ${open ? "is-open" : ""}`}>
        <${Icon} name="chevron-right" size=${15} /></span>` : null}
    </button>
    ${open && tasks.length ? html`<div class="workflow-tasks">
      ${tasks.map((task, index) => html`<${Task} key=${index} task=${task} live=${live} />`)}
    </div>` : null}
  </section>`;
}
