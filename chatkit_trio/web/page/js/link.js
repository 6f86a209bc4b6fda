// The one component that makes links. What may not be a link is shown as text.

import { html } from "../vendor/vendor.js";
import { dispatch } from "./place.js";
import { deepLink, safeUrl } from "./urls.js";

export function Link({ to, children, ...props }) {
  if (deepLink(to)) return html`<a ...${props} href=${to}>${children}</a>`;
  const url = safeUrl(to);
  if (url === null) return html`<span ...${props}>${children}</span>`;
  return html`<a ...${props} href=${url} target="_blank" rel="noopener noreferrer">${children}</a>`;
}

/** Has the browser download what is at an address; says whether it may. */
export function download(address, name) {
  const url = safeUrl(address);
  if (url === null) return false;
  const link = document.createElement("a");
  link.href = url;
  Object.assign(link, { download: name, target: "_blank", rel: "noopener noreferrer" });
  link.click();
  return true;
}

/** Has the browser save a file that the page itself has made. */
export function save(blob, name) {
  const link = document.createElement("a");
  const url = URL.createObjectURL(blob);
  link.setAttribute("download", name);
  Object.assign(link, { href: url });
  link.click();
  URL.revokeObjectURL(url);
}

/** Tells the page around of a click on a link to it, which leads nowhere else. */
export function followDeepLink(event) {
  const link = event.target.closest?.("a[href]");
  const told = link && deepLink(link.getAttribute("href"));
  if (!told) return;
  event.preventDefault();
  dispatch("chatkit.deeplink", told);
}
