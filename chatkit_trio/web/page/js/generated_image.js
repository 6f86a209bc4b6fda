// An image that the assistant makes, and how far it has come.

import { html, useState } from "../vendor/vendor.js";
import { Link } from "./link.js";
import { Picture } from "./picture.js";
import { strings } from "./strings.js";

function imageCaption(item) {
  const percent = Math.round((item.progress ?? 0) * 100);
  return percent > 0 ? strings.image.progress(percent) : strings.image.creating;
}

export function GeneratedImage({ item, live }) {
  const [loaded, setLoaded] = useState(false);
  const url = item.image?.url;
  if (!url && !live) return html`<p class="image-missing">${strings.image.missing}</p>`;
  // Browsers open no data URLs, so there is nothing to link to.
  const linked = (picture) => (live || /^data:/i.test(url) ? picture : html`<${Link} to=${url}
    aria-label=${strings.image.open}>${picture}<//>`);
  const settle = () => setLoaded(true);
  return html`<figure class=${`generated ${live ? "is-live" : ""}`} data-testid="generated-image">
    ${url ? html`<${Picture} url=${url} alt=${strings.image.alt} wrap=${linked} class=${loaded ? "" : "is-loading"}
      onLoad=${settle} onError=${settle} />` : null}
    ${live ? html`<figcaption><span class="shimmer">${imageCaption(item)}</span>
      <progress max="1" value=${item.progress ?? null} aria-label=${strings.image.creating}></progress>
    </figcaption>` : null}
  </figure>`;
}
