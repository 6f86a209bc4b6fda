// What an address may be: whether it may be a link, and whether an image may load from it. Pure.
// Everything that the page draws comes through here, since a model can write any address.

import { options } from "./options.js";

const LINKS = new Set(["http:", "https:", "mailto:", "tel:"]);
const IMAGE_DATA = /^data:image\/(?:png|jpeg|gif|webp|avif|bmp|svg\+xml)[;,]/i;

function parsed(url) {
  try {
    // An empty one would be the page itself.
    return typeof url === "string" && url.trim() ? new URL(url, document.baseURI) : null;
  } catch {
    return null;
  }
}

/**
 * Returns an address that a link may have, or null. It is the one that the browser makes of the
 * given one, without the control characters and odd spellings that could hide a scheme.
 */
export function safeUrl(url) {
  const found = parsed(url);
  return found && LINKS.has(found.protocol) ? found.href : null;
}

/** Returns what a link to the page around says, as { name, data }; null for any other address. */
export function deepLink(url) {
  const found = options.deepLinks && /^\s*chatkit-link:/i.test(url) ? parsed(url) : null;
  const name = found && decoded(found.host + found.pathname).replace(/\/$/, "");
  return name ? { name, data: Object.fromEntries(found.searchParams) } : null;
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

export function hostOf(url) {
  return parsed(url)?.hostname.replace(/\.$/, "") ?? "";
}

// As the browser writes hosts: lower case, punycode. Null for what is no host.
function domainName(domain) {
  const host = hostOf(`https://${domain}`);
  return typeof domain === "string" && !/[/?#@:\\*]/.test(domain) && host ? host : null;
}

function isWithin(host, domain) {
  const name = domainName(domain);
  return name !== null && (host === name || host.endsWith(`.${name}`));
}

/**
 * Says what is to become of an image: "load", "ask" the user first, or "refused".
 *
 * Images of the page and of the server load, and those that are data. `domains` is the thread's rule: a list lets
 * its hosts load, and what is below them, and refuses all others. Without a list the user is asked,
 * because the address alone can tell another host what the model was told. Another host has to
 * be on https, as in the page's Content-Security-Policy.
 */
export function imageVerdict(url, domains) {
  const found = parsed(url);
  if (!found) return "refused";
  const { protocol, origin, hostname, username, password } = found;
  if (protocol === "data:") return IMAGE_DATA.test(found.href) ? "load" : "refused";
  if (origin === location.origin || origin === parsed(options.endpoint)?.origin) return "load";
  if (protocol !== "https:" || username || password) return "refused";
  if (domains == null) return "ask";
  const host = hostname.replace(/\.$/, "");
  return Array.isArray(domains) && domains.some((each) => isWithin(host, each)) ? "load" : "refused";
}
