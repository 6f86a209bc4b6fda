import { html } from "../vendor/vendor.js";
export function WidgetItem({ item }) {
  return html`<div data-testid="widget"><pre>${JSON.stringify(item.widget, null, 1)}</pre></div>`;
}
