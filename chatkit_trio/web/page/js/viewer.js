// An image of a message, large.

import { html } from "../vendor/vendor.js";
import { Icon } from "./icons.js";
import { Link } from "./link.js";
import { useModal } from "./modal.js";
import { Picture } from "./picture.js";
import { changed, state } from "./state.js";
import { strings } from "./strings.js";
import { safeUrl } from "./urls.js";

/** Shows { url, name } large, over everything, until the reader closes it. */
export function view(shown) {
  state.viewed = shown;
  changed();
}

export function Viewer({ shown }) {
  return shown ? html`<${OpenViewer} ...${shown} />` : null;
}

function OpenViewer({ url, name }) {
  const close = () => view(null);
  const modal = useModal(close);
  // A click beside the image is one on the dialog itself.
  const onClick = (event) => event.target === event.currentTarget && close();
  return html`<dialog ...${modal} class="viewer" aria-label=${name} data-testid="viewer" onClick=${onClick}>
    <${Picture} url=${url} alt=${name} />
    <div class="viewer-buttons">
      ${safeUrl(url) ? html`<${Link} to=${url} class="icon-button" download=${name} aria-label=${strings.image.download}
        title=${strings.image.download}><${Icon} name="download" /><//>` : null}
      <button type="button" class="icon-button" aria-label=${strings.image.close} title=${strings.image.close} onClick=${close}>
        <${Icon} name="close" /></button>
    </div>
  </dialog>`;
}
