// Records from the microphone and has the server write down what was said.

import { call } from "./protocol.js";
import { strings } from "./strings.js";

const TYPES = ["audio/webm;codecs=opus", "audio/ogg;codecs=opus", "audio/mp4"];

/** Starts recording; returns { finish, cancel }: `finish` ends it and gives the text; ending it twice is fine. */
export async function startDictation() {
  const stream = await microphone();
  const mimeType = TYPES.find((type) => MediaRecorder.isTypeSupported(type));
  const recorder = new MediaRecorder(stream, mimeType ? { mimeType } : {});
  const parts = [];
  recorder.ondataavailable = (event) => parts.push(event.data);
  recorder.start();
  let stopped = null;
  const stop = () => (stopped ??= stopRecorder(recorder, stream));
  return {
    async finish() {
      await stop();
      return transcribe(new Blob(parts, { type: recorder.mimeType }));
    },
    cancel: stop,
  };
}

function microphone() {
  if (!navigator.mediaDevices || !window.MediaRecorder) throw new Error(strings.noMicrophone);
  return navigator.mediaDevices.getUserMedia({ audio: true }).catch(() => {
    throw new Error(strings.noMicrophone);
  });
}

function stopRecorder(recorder, stream) {
  return new Promise((resolve) => {
    recorder.onstop = () => {
      for (const track of stream.getTracks()) track.stop();
      resolve();
    };
    recorder.stop();
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
