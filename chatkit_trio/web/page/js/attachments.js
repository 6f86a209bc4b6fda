// Files of a message that isn't sent yet: registering, uploading, removing.

import { whyNot } from "./file_rules.js";
import { options } from "./options.js";
import { call, upload, uploadDirectly } from "./protocol.js";
import { changed, toast } from "./state.js";
import { strings } from "./strings.js";

let count = 0;

/** Adds files to a draft and starts their uploads; says why for one that can't be added. */
export function addFiles(draft, files) {
  for (const file of files) {
    const why = whyNot(file, draft.attachments.length, options.composer.files);
    if (why) {
      toast(why, { level: "danger" });
      continue;
    }
    const entry = newEntry(file);
    draft.attachments = [...draft.attachments, entry];
    send(entry);
  }
  changed();
}

function newEntry(file) {
  return {
    key: ++count,
    file,
    name: file.name || "file",
    mime_type: file.type || "application/octet-stream",
    preview_url: file.type.startsWith("image/") ? URL.createObjectURL(file) : null,
    progress: 0,
    state: "uploading", // then "ready" or "failed"
    attachment: null,
    controller: new AbortController(),
  };
}

/** Returns the entry of a file that was uploaded for a message which wasn't sent. */
export function uploadedEntry(attachment) {
  const { name, mime_type, preview_url = null } = attachment;
  const shown = { key: ++count, file: null, name, mime_type, preview_url, progress: 100 };
  return { ...shown, state: "ready", attachment, controller: new AbortController() };
}

/** Uploads an entry; also for another try after a failure. */
export async function send(entry) {
  entry.state = "uploading";
  changed();
  try {
    if (options.uploadUrl) {
      entry.attachment = await uploadDirectly(entry.file, entry.controller.signal);
    } else {
      if (entry.attachment) forget(entry); // of a try before: its bytes may be there, or its URL no more
      entry.attachment = null;
      await register(entry);
      await sendBytes(entry);
    }
    entry.state = "ready";
  } catch (error) {
    if (error.name === "AbortError") return;
    entry.state = "failed";
    entry.isFinal = [413, 415].includes(error.status); // it is never taken
    toast(`${entry.name}: ${error.message}`, { level: "danger" });
  }
  changed();
}

async function register(entry) {
  const { name, mime_type, file } = entry;
  entry.attachment = await call("attachments.create", { name, size: file.size, mime_type });
  if (entry.controller.signal.aborted) {
    forget(entry);
    throw new DOMException("Removed while it was registered", "AbortError");
  }
}

async function sendBytes(entry) {
  const descriptor = entry.attachment.upload_descriptor;
  if (!descriptor) return;
  await upload(descriptor, entry.file, (percent) => showProgress(entry, percent), entry.controller.signal);
}

function showProgress(entry, percent) {
  entry.progress = percent;
  changed();
}

export function removeEntry(draft, entry) {
  draft.attachments = draft.attachments.filter((each) => each !== entry);
  entry.controller.abort();
  releasePreview(entry);
  if (entry.attachment) forget(entry);
  changed();
}

/** Gives back the memory of a file's preview, which nobody looks at any more. */
export function releasePreview({ preview_url: url }) {
  if (url?.startsWith("blob:")) URL.revokeObjectURL(url);
}

// What stays behind on the server after a failure here is of no concern to the user.
function forget(entry) {
  call("attachments.delete", { attachment_id: entry.attachment.id }).catch((error) =>
    console.warn(`Attachment ${entry.attachment.id} could not be deleted: ${error.message}`),
  );
}

/** The attachment as a sent message shows it until the server's own comes back. */
export function shownAttachment(entry) {
  const { upload_descriptor: done, ...attachment } = entry.attachment;
  return { ...attachment, preview_url: attachment.preview_url ?? entry.preview_url };
}

export function stateText(entry) {
  if (entry.state === "failed") return strings.uploadFailed;
  return entry.state === "uploading" ? strings.uploading(entry.progress) : null;
}
