// The components of a widget that show and hold things, and the table of all of them.

import { html, useState } from "../vendor/vendor.js";
import { Chart } from "./chart.js";
import { guarded } from "./guard.js";
import { Icon } from "./icons.js";
import { Markdown } from "./markdown.js";
import { Picture } from "./picture.js";
import { strings } from "./strings.js";
import { Button, Checkbox, DatePicker, EditableText, Input, Label, RadioGroup, Select, Textarea } from "./widget_controls.js";
import { useAction, useOwnId } from "./widget_context.js";
import { childList } from "./widget_tree.js";
import * as css from "./widget_style.js";

const words = strings.widget;
const AUTO_LIMIT = 5; // rows of a list with limit "auto"

export function Children({ of: node }) {
  return childList(node).map((child, index) =>
    typeof child === "string"
      ? child
      : html`<${Node} key=${child?.key ?? child?.id ?? index} node=${child} />`);
}

// Roots

function Status({ status }) {
  if (!status) return null;
  const mark = status.favicon
    ? html`<${Picture} url=${status.favicon} look="is-tiny" class=${`w-favicon ${status.frame ? "is-framed" : ""}`} />`
    : status.icon ? html`<${Icon} name=${status.icon} size=${15} />` : null;
  return html`<div class="w-status">${mark}<span>${status.text}</span></div>`;
}

function CardAction({ config, sending: { run, busy }, disabled, primary, submits }) {
  return html`<button type=${submits ? "submit" : "button"} disabled=${disabled}
    class=${`button ${primary ? "is-primary" : ""}`} data-testid=${primary ? "card-confirm" : "card-cancel"}
    onClick=${submits ? null : (event) => run(event.currentTarget)}>
    ${busy ? html`<span class="spinner"></span>` : null}${config.label}</button>`;
}

function CardActions({ node, confirm, cancel }) {
  if (!node.confirm && !node.cancel) return null;
  const disabled = confirm.busy || cancel.busy;
  return html`<div class="card-buttons w-card-actions">
    ${node.cancel ? html`<${CardAction} config=${node.cancel} sending=${cancel} disabled=${disabled} />` : null}
    ${node.confirm ? html`<${CardAction} config=${node.confirm} sending=${confirm} disabled=${disabled} primary submits=${node.asForm} />` : null}
  </div>`;
}

function Card({ node }) {
  const [chosen, setOpen] = useState(null);
  const confirm = useAction(node.confirm?.action);
  const cancel = useAction(node.cancel?.action);
  const open = chosen ?? !node.collapsed;
  const onSubmit = (event) => {
    event.preventDefault();
    confirm.run(event.currentTarget);
  };
  const style = {
    backgroundColor: css.backgroundColor(node.background),
    ...css.spacingStyle("padding", node.padding),
    ...css.borderStyle(node.border),
  };
  return html`<${node.asForm ? "form" : "div"} class=${`w-card is-${node.size ?? "md"} ${open ? "" : "is-collapsed"}`}
    style=${style} data-theme=${node.theme ?? null} onSubmit=${node.asForm ? onSubmit : null}>
    ${node.status || node.collapsed ? html`<div class="w-card-head"><${Status} status=${node.status} />
      ${node.collapsed ? html`<${Turner} open=${open} onToggle=${() => setOpen(!open)} />` : null}</div>` : null}
    ${open ? html`<div class="w-card-body"><${Children} of=${node} /></div>
      <${CardActions} node=${node} confirm=${confirm} cancel=${cancel} />` : null}
  <//>`;
}

function Turner({ open, onToggle }) {
  const label = open ? words.collapse : words.expand;
  return html`<button type="button" class="icon-button is-small" aria-label=${label} title=${label}
    aria-expanded=${String(open)} onClick=${onToggle}>
    <span class=${`turner ${open ? "is-open" : ""}`}><${Icon} name="chevron-right" size=${16} /></span></button>`;
}

function rowLimit(limit) {
  if (limit === "auto") return AUTO_LIMIT;
  return Number.isInteger(limit) && limit > 0 ? limit : Infinity;
}

function ListView({ node }) {
  const [all, setAll] = useState(false);
  const rows = childList(node);
  const shown = all ? rows : rows.slice(0, rowLimit(node.limit));
  const hidden = rows.length - shown.length;
  return html`<div class="w-list" data-theme=${node.theme ?? null}>
    ${node.status ? html`<div class="w-card-head"><${Status} status=${node.status} /></div>` : null}
    <ul><${Children} of=${{ children: shown }} /></ul>
    ${hidden ? html`<button type="button" class="w-list-more" onClick=${() => setAll(true)}>
      ${words.more(hidden)}</button>` : null}
  </div>`;
}

function ListViewItem({ node }) {
  const { run, busy } = useAction(node.onClickAction);
  const id = useOwnId();
  const style = { gap: css.spacing(node.gap ?? 2), alignItems: node.align ?? "center" };
  const inner = html`<${Children} of=${node} />${busy ? html`<span class="spinner"></span>` : null}`;
  if (!node.onClickAction) return html`<li class="w-row" style=${style}>${inner}</li>`;
  // The row can hold buttons of its own, so it can't be a <button>: the whole row takes the
  // mouse, and a button without looks the keyboard.
  const onClick = (event) => {
    const own = event.target.closest("button, a, input, select, textarea, label");
    if (!own || own.matches(".w-row-button")) run(event.currentTarget);
  };
  return html`<li class="w-row is-action" style=${style} aria-busy=${String(busy)} onClick=${onClick}>
    <button type="button" class="w-row-button" aria-labelledby=${id}></button>
    <div class="w-row-content" id=${id} style=${style}>${inner}</div></li>`;
}

// Words

const clamped = (node) => (node.truncate || node.maxLines ? "is-clamped" : "");

function Text({ node }) {
  if (node.editable) return html`<${EditableText} node=${node} />`;
  return html`<p class=${`w-text ${clamped(node)} ${node.streaming ? "is-streaming" : ""}`}
    style=${css.textStyle(node)}>${node.value}</p>`;
}

function Title({ node }) {
  return html`<h3 class=${`w-title ${clamped(node)}`} style=${css.textStyle(node)}>${node.value}</h3>`;
}

function Caption({ node }) {
  return html`<p class=${`w-caption ${clamped(node)}`} style=${css.textStyle(node)}>${node.value}</p>`;
}

function WidgetMarkdown({ node }) {
  return html`<${Markdown} text=${node.value ?? ""} streaming=${node.streaming === true} />`;
}

function Badge({ node }) {
  const look = `is-${node.color ?? "secondary"} is-${node.variant ?? "soft"} is-${node.size ?? "sm"}`;
  return html`<span class=${`w-badge ${look} ${node.pill ? "is-pill" : ""}`}>${node.label}</span>`;
}

// Containers

function box(direction) {
  return ({ node }) => html`<div class=${`w-box is-${direction}`} style=${css.boxStyle(node, direction)}>
    <${Children} of=${node} /></div>`;
}

const Row = box("row");
const Col = box("col");

function Box({ node }) {
  return html`<${node.direction === "row" ? Row : Col} node=${node} />`;
}

function Form({ node }) {
  const { run, busy } = useAction(node.onSubmitAction);
  const onSubmit = (event) => {
    event.preventDefault();
    run(event.currentTarget);
  };
  const direction = node.direction ?? "col";
  return html`<form class=${`w-box is-${direction}`} style=${css.boxStyle(node, direction)}
    aria-busy=${String(busy)} inert=${busy} onSubmit=${onSubmit}><${Children} of=${node} /></form>`;
}

function Divider({ node }) {
  const style = {
    borderTopColor: css.borderColor(node.color),
    borderTopWidth: css.length(node.size),
    marginBlock: css.spacing(node.spacing),
  };
  return html`<hr class=${`w-divider ${node.flush ? "is-flush" : ""}`} style=${style} />`;
}

function Spacer({ node }) {
  return html`<span class="w-spacer" style=${{ minWidth: css.length(node.minSize), minHeight: css.length(node.minSize) }}></span>`;
}

function Transition({ node }) {
  const [child] = childList(node);
  if (!child) return null;
  const key = child.key ?? child.id ?? child.type;
  return html`<div class="w-transition" key=${key}><${Node} node=${child} /></div>`;
}

// Pictures

function WidgetIcon({ node }) {
  return html`<span class="w-icon" style=${{ color: css.textColor(node.color) }}>
    <${Icon} name=${node.name} size=${css.iconSize(node.size)} /></span>`;
}

function Image({ node }) {
  const style = {
    objectFit: node.fit ?? "cover",
    objectPosition: node.position,
    borderRadius: css.radius(node.radius),
    backgroundColor: css.backgroundColor(node.background),
    ...css.sizeStyle(node),
    ...css.spacingStyle("margin", node.margin),
  };
  const look = `${node.frame ? "is-framed" : ""} ${node.flush ? "is-flush" : ""}`;
  return html`<${Picture} url=${node.src} alt=${node.alt ?? ""} class=${`w-image ${look}`} look=${`w-image ${look}`}
    style=${style} />`;
}

// Tables

function Table({ node }) {
  return html`<div class="w-table"><table><tbody><${Children} of=${node} /></tbody></table></div>`;
}

function TableRow({ node }) {
  const cells = childList(node).map((cell, index) => html`
    <${TableCell} key=${cell?.key ?? cell?.id ?? index} node=${cell} header=${node.header === true} />`);
  return html`<tr class=${node.header ? "is-header" : ""}>${cells}</tr>`;
}

function TableCell({ node, header = false }) {
  const style = {
    textAlign: node.align,
    verticalAlign: node.vAlign,
    width: css.length(node.width),
    ...css.spacingStyle("padding", node.padding),
  };
  const span = { colspan: node.colSpan ?? node.colspan, rowspan: node.rowSpan ?? node.rowspan };
  return html`<${header ? "th" : "td"} scope=${header ? "col" : undefined} style=${style} ...${span}>
    ${node.value ?? null}<${Children} of=${node} /><//>`;
}

const components = {
  Card, ListView, ListViewItem, Text, Title, Caption, Chart, Badge, Box, Row, Col, Form, Divider,
  Image, Button, Checkbox, Spacer, Select, DatePicker, Input, Label, RadioGroup, Textarea,
  Transition, Table,
  Basic: Col,
  Icon: WidgetIcon,
  Markdown: WidgetMarkdown,
  "Table.Row": TableRow,
  "Table.Cell": TableCell,
};

/** Draws a component; one of an unknown type still shows its children. */
export const Node = guarded(({ node }) => {
  if (!node || typeof node !== "object") throw new TypeError("not a component");
  const known = Object.hasOwn(components, node.type);
  return html`<${known ? components[node.type] : Col} node=${node} />`;
}, "node");
