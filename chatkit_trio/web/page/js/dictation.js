// Records from the microphone and has the server write down what was said.

import { save } from "./link.js";
import { call } from "./protocol.js";
import { strings } from "./strings.js";

const TYPES = ["audio/webm;codecs=opus", "audio/ogg;codecs=opus", "audio/mp4"];
const BITS = 32_000; // a second: speech needs no more, and half an hour fits into a request

/**
 * Starts recording; returns { finish, cancel, save }. `finish` ends it and gives the text, and can be
 * called again if that fails; `save` has the browser save the recording. Ending it twice is fine.
 */
export async function startDictation() {
  const stream = await microphone();
  const mimeType = TYPES.find((type) => MediaRecorder.isTypeSupported(type));
  const recorder = new MediaRecorder(stream, { audioBitsPerSecond: BITS, ...(mimeType ? { mimeType } : {}) });
  const parts = [];
  recorder.ondataavailable = (event) => parts.push(event.data);
  const ended = endOf(recorder, stream);
  recorder.start();
  const stop = () => {
    if (recorder.state !== "inactive") recorder.stop();
    return ended;
  };
  const recorded = () => new Blob(parts, { type: recorder.mimeType });
  return {
    async finish() {
      await stop();
      return transcribe(recorded());
    },
    cancel: stop,
    save: () => save(recorded(), `dictation.${recorder.mimeType.match(/^audio\/(\w+)/)?.[1] ?? "webm"}`),
  };
}

function microphone() {
  if (!navigator.mediaDevices || !window.MediaRecorder) throw new Error(strings.noMicrophone);
  return navigator.mediaDevices.getUserMedia({ audio: true }).catch(() => {
    throw new Error(strings.noMicrophone);
  });
}

// Listened for from the start: it also ends when the microphone is unplugged, or not ours any more.
function endOf(recorder, stream) {
  return new Promise((resolve) => {
    recorder.onstop = () => {
      for (const track of stream.getTracks()) track.stop();
      resolve();
    };
  });
}

async function transcribe(blob) {
  const params = { audio_base64: await base64(blob), mime_type: blob.type };
  const { text } = await call("input.transcribe", params);
  return text;
}

function base64(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}
