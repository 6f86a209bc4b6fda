// A widget in the transcript: its root, its state of loading, and its way to the server.

import { html, useMemo, useState } from "../vendor/vendor.js";
import { runAction } from "./widget_actions.js";
import { Undrawable } from "./guard.js";
import { WidgetContext } from "./widget_context.js";
import { fieldKeys, isDrawable } from "./widget_tree.js";
import { Node } from "./widgets_later.js";

export function WidgetItem({ item, conversation }) {
  const [busy, setBusy] = useState(false);
  const drawable = useMemo(() => isDrawable(item.widget), [item.widget]);
  const keys = useMemo(() => (drawable ? fieldKeys(item.widget) : null), [item.widget]);
  const context = useMemo(
    () => ({
      item,
      busy,
      setBusy,
      keys,
      fields: conversation.fieldsOf(item.id),
      dispatch: (config, values) => runAction(conversation, item, config, values),
    }),
    [item, busy, conversation],
  );
  return html`<div class=${`widget ${busy ? "is-busy" : ""}`} data-testid="widget"
    data-item-id=${item.id} aria-busy=${String(busy)} inert=${busy}>
    ${drawable ? html`<${WidgetContext.Provider} value=${context}><${Node} node=${item.widget} /><//>`
      : html`<${Undrawable} value=${item.widget} />`}
  </div>`;
}
