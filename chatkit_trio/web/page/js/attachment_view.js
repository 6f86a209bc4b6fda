// A file or an image of a message, as it looks once sent or while it waits in the composer.

import { html, useState } from "../vendor/vendor.js";
import { Icon } from "./icons.js";
import { download } from "./link.js";
import { Picture } from "./picture.js";
import { addressOf } from "./protocol.js";
import { toast } from "./state.js";
import { strings } from "./strings.js";
import { view } from "./viewer.js";

function typeName(attachment) {
  const subtype = (attachment.mime_type ?? "").split("/").at(-1);
  const extension = attachment.name?.includes(".") ? attachment.name.split(".").at(-1) : "";
  return (extension || subtype || "").slice(0, 12).toUpperCase();
}

// Only an image that may be loaded can be enlarged: the button is around what is shown.
function ImagePreview({ attachment, onError }) {
  const { preview_url: url, name } = attachment;
  const enlarging = (picture) => html`<button type="button" class="enlarge" aria-label=${strings.image.enlarge(name)}
    data-testid="enlarge" onClick=${() => view({ url, name })}>${picture}</button>`;
  return html`<${Picture} url=${url} alt=${name} class="attachment-image" look="is-attachment" wrap=${enlarging}
    onError=${onError} />`;
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

// Its address is asked for when it is clicked: who may have the file is looked at then.
function FileButton({ attachment }) {
  const { id, name } = attachment;
  const fetchIt = async () => {
    try {
      const url = await addressOf(id);
      if (!url || !download(url, name)) toast(strings.noDownload(name), { level: "danger" });
    } catch (error) {
      toast(`${name}: ${error.message}`, { level: "danger" });
    }
  };
  return html`<button type="button" class="attachment-open" title=${strings.downloadFile(name)} data-testid="download"
    data-attachment-id=${id} onClick=${fetchIt}><${FileChip} attachment=${attachment} /></button>`;
}

/** `canDownload` says whether the server tells where files are. */
export function AttachmentView({ attachment, canDownload }) {
  const [broken, setBroken] = useState(false);
  const shown = attachment.preview_url && !broken;
  return html`<div class="attachment" data-testid="attachment">
    ${shown
      ? html`<${ImagePreview} attachment=${attachment} onError=${() => setBroken(true)} />`
      : html`<${canDownload ? FileButton : FileChip} attachment=${attachment} />`}
  </div>`;
}
