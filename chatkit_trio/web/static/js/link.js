// The one component that makes links. What may not be a link is shown as text.

import { html } from "../vendor/vendor.js";
import { safeUrl } from "./urls.js";

export function Link({ to, children, ...props }) {
  const url = safeUrl(to);
  if (url === null) return html`<span ...${props}>${children}</span>`;
  return html`<a ...${props} href=${url} target="_blank" rel="noopener noreferrer">${children}</a>`;
}
