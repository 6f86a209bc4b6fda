// A mention in a message: its name, a click on it, and a preview, as the page around has them.

import { html, useRef, useState } from "../vendor/vendor.js";
import { openEntity } from "./host.js";
import { options } from "./options.js";
import { WidgetContext } from "./widget_context.js";
import { isDrawable } from "./widget_tree.js";
import { Node } from "./widgets_later.js";

const DELAY = 250; // milliseconds over a mention before its preview is asked for

/** Returns the preview of an entity, a widget, or null. */
async function previewOf(entity) {
  try {
    return (await options.entities.onRequestPreview?.(entity))?.preview ?? null;
  } catch (error) {
    console.warn(`There is no preview of ${entity.id}: ${error?.message}`);
    return null;
  }
}

/** What a preview shows; its actions go nowhere, since it belongs to no item. */
export function Preview({ widget }) {
  if (!widget || !isDrawable(widget)) return null;
  const unkept = { keys: new Map(), fields: new Map() };
  const context = { item: { id: "preview" }, ...unkept, busy: false, setBusy() {}, async dispatch() {} };
  return html`<span class="preview" role="tooltip" data-testid="entity-preview">
    <${WidgetContext.Provider} value=${context}><${Node} node=${widget} /><//></span>`;
}

/** Returns the preview of what the pointer or the focus is on, and what tells of both. */
export function usePreview(entity) {
  const [widget, setWidget] = useState(null);
  const timer = useRef(null);
  const hide = () => {
    clearTimeout(timer.current);
    timer.current = null;
    setWidget(null);
  };
  const show = () => {
    if (!options.entities.onRequestPreview || timer.current !== null) return;
    const mine = setTimeout(async () => {
      const found = await previewOf(entity);
      if (timer.current === mine) setWidget(found);
    }, DELAY);
    timer.current = mine;
  };
  return { widget, on: { onPointerEnter: show, onPointerLeave: hide, onFocusIn: show, onFocusOut: hide } };
}

export function EntityTag({ entity }) {
  const { widget, on } = usePreview(entity);
  const name = `@${entity.title}`;
  return html`<span class="tag-place" ...${on}>
    ${entity.interactive
      ? html`<button type="button" class="tag" data-testid="tag" title=${entity.group} onClick=${() => openEntity(entity)}>${name}</button>`
      : html`<span class="tag" data-testid="tag" title=${entity.group} tabindex=${options.entities.onRequestPreview ? 0 : undefined}>${name}</span>`}
    <${Preview} widget=${widget} /></span>`;
}
