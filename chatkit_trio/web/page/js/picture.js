// The one component that loads images. An image of another host loads by itself only where the
// thread's rule says so; without a rule it stands for itself until the user asks for it.

import { createContext, html, useContext, useEffect, useRef, useState } from "../vendor/vendor.js";
import { Icon } from "./icons.js";
import { strings } from "./strings.js";
import { hostOf, imageVerdict } from "./urls.js";

const words = strings.picture;

/** The thread's allowed_image_domains, for everything drawn of the thread. */
export const ImageDomains = createContext(null);

// What the user asked for; kept until the page is left.
const askedUrls = new Set();
const askedHosts = new Set();
const listeners = new Set();

function allow(set, value) {
  set.add(value);
  for (const listener of [...listeners]) listener();
}

function isAsked(url) {
  return askedUrls.has(url) || askedHosts.has(hostOf(url));
}

/** The verdict on an image now; the component is drawn again when the user changes it. */
function useVerdict(url, domains) {
  const [, redraw] = useState(0);
  const verdict = imageVerdict(url, domains);
  useEffect(() => {
    if (verdict !== "ask") return undefined;
    const listener = () => isAsked(url) && redraw((count) => count + 1);
    listeners.add(listener);
    return () => listeners.delete(listener);
  }, [url, verdict]);
  return verdict === "ask" && isAsked(url) ? "load" : verdict;
}

function Asking({ url, alt, host, onAsk }) {
  const load = (set, value) => (event) => {
    event.preventDefault(); // it may be in a form, or in a row that is a button itself
    event.stopPropagation();
    onAsk();
    allow(set, value);
  };
  return html`<span class="picture-words">${alt ? html`<span class="picture-alt">${alt}</span>` : null}
      <span class="picture-host">${host}</span></span>
    <span class="picture-buttons">
      <button type="button" class="button is-small" aria-label=${words.loadFrom(host)}
        title=${words.loadFrom(host)} onClick=${load(askedUrls, url)}>
        <${Icon} name="square-image" size=${18} /><span>${words.load}</span></button>
      <button type="button" class="button is-small is-quiet" onClick=${load(askedHosts, host)}>
        ${words.always(host)}</button>
    </span>`;
}

function Refused({ alt, host }) {
  return html`<span class="picture-words">${alt ? html`<span class="picture-alt">${alt}</span>` : null}
    <span class="picture-host">${host ? words.refusedFrom(host) : words.refused}</span></span>`;
}

function Placeholder({ verdict, url, alt, look, style, onAsk }) {
  const host = hostOf(url);
  const title = verdict === "ask" ? words.notLoaded(host) : host ? words.refusedFrom(host) : words.refused;
  return html`<span class=${`picture is-${verdict} ${look}`} style=${style} title=${title}
    data-testid=${`picture-${verdict}`}><span class="picture-frame">
      <${Icon} name="square-image" size=${20} />
      ${verdict === "ask"
        ? html`<${Asking} url=${url} alt=${alt} host=${host} onAsk=${onAsk} />`
        : html`<${Refused} alt=${alt} host=${host} />`}
    </span></span>`;
}

/**
 * An image, or what stands for it. `class` and `style` are the image's; the placeholder gets the
 * style, and `look` as its class. `wrap` puts an image that is shown into something else.
 */
export function Picture({ url, alt = "", look = "", style, domains, wrap = (shown) => shown, ...props }) {
  const rule = useContext(ImageDomains);
  const verdict = useVerdict(url, domains === undefined ? rule : domains);
  const image = useRef(null);
  const asked = useRef(false); // by this very picture, which then takes the focus of its button
  useEffect(() => {
    if (asked.current) image.current?.focus();
  }, [verdict]);
  if (verdict !== "load") {
    const onAsk = () => {
      asked.current = true;
    };
    return html`<${Placeholder} verdict=${verdict} url=${url} alt=${alt} look=${look} style=${style} onAsk=${onAsk} />`;
  }
  return wrap(html`<img loading="lazy" decoding="async" ...${props} ref=${image} src=${url} alt=${alt} style=${style}
    tabindex=${asked.current ? -1 : undefined} />`);
}
