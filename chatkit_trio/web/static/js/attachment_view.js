// A file or an image of a message, as it looks once sent or while it waits in the composer.

import { html, useState } from "../vendor/vendor.js";
import { Icon } from "./icons.js";
import { Picture } from "./picture.js";

function typeName(attachment) {
  const subtype = (attachment.mime_type ?? "").split("/").at(-1);
  const extension = attachment.name?.includes(".") ? attachment.name.split(".").at(-1) : "";
  return (extension || subtype || "").slice(0, 12).toUpperCase();
}

function ImagePreview({ attachment, onError }) {
  return html`<${Picture} url=${attachment.preview_url} alt=${attachment.name} class="attachment-image"
    look="is-attachment" onError=${onError} />`;
}

export function FileChip({ attachment, children }) {
  return html`<span class="attachment-file">
    <span class="attachment-icon"><${Icon} name="document" /></span>
    <span class="attachment-words">
      <span class="attachment-name">${attachment.name}</span>
      <span class="attachment-type">${children ?? typeName(attachment)}</span>
    </span>
  </span>`;
}

export function AttachmentView({ attachment }) {
  const [broken, setBroken] = useState(false);
  const shown = attachment.preview_url && !broken;
  return html`<div class="attachment" data-testid="attachment">
    ${shown
      ? html`<${ImagePreview} attachment=${attachment} onError=${() => setBroken(true)} />`
      : html`<${FileChip} attachment=${attachment} />`}
  </div>`;
}
