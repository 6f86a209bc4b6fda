// Files of a message that isn't sent yet: registering, uploading, removing.

import { call, upload } from "./protocol.js";
import { changed, toast } from "./state.js";
import { strings } from "./strings.js";

let count = 0;

/** Adds files to a draft and starts their uploads. */
export function addFiles(draft, files) {
  for (const file of files) {
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

/** Uploads an entry; also for another try after a failure. */
export async function send(entry) {
  entry.state = "uploading";
  changed();
  try {
    await register(entry);
    await sendBytes(entry);
    entry.state = "ready";
  } catch (error) {
    if (error.name === "AbortError") return;
    entry.state = "failed";
    toast(`${entry.name}: ${error.message}`, { level: "danger" });
  }
  changed();
}

async function register(entry) {
  const { name, mime_type, file } = entry;
  entry.attachment ??= await call("attachments.create", { name, size: file.size, mime_type });
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
  if (entry.attachment) forget(entry);
  changed();
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
