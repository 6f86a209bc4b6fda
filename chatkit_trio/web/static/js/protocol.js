// Talks to the one endpoint: plain requests, streams of events, stop, attach and upload.
// Knows HTTP and the names of the wire; keeps no state of the conversation.

import { config } from "./config.js";
import { createParser } from "../vendor/vendor.js";
import { strings } from "./strings.js";

const STOP_TIMEOUT = 2000; // milliseconds to wait for the answer to a stop
const SILENCE = 60_000; // milliseconds without a byte, from a server that sends heartbeats

/** The server answered, with an error. */
export class ServerError extends Error {
  constructor(status, code, message) {
    super(message || strings.errorStatus(status));
    this.status = status;
    this.code = code;
  }
}

/** No answer, or one that broke off. */
export class ConnectionLost extends Error {
  constructor(cause) {
    super(strings.errorNetwork, { cause });
  }
}

async function reach(url, options) {
  try {
    return await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ConnectionLost(error);
  }
}

async function serverError(response) {
  const body = await response.json().catch(() => null);
  return new ServerError(response.status, body?.error?.code, body?.error?.message);
}

function post(type, params, headers, signal) {
  return reach(config.endpoint, {
    method: "POST",
    headers: { "Content-Type": "application/json", ...headers },
    body: JSON.stringify({ type, params }),
    signal,
  });
}

/** Sends a request that is answered with one JSON document, and returns it. */
export async function call(type, params) {
  const response = await post(type, params, { Accept: "application/json" });
  if (!response.ok) throw await serverError(response);
  return response.json().catch(() => {
    throw new ServerError(response.status, "bad_answer", strings.errorBadAnswer);
  });
}

// fold.js puts a component in its place, so the server needn't send the whole widget again.
const streamHeaders = { Accept: "text/event-stream", "ChatKit-Component-Updates": "1" };

/** Sends a request that is answered with a stream of events. */
export async function openStream(type, params, signal) {
  // The second header asks for ids on the frames; servers without resume ignore it.
  const headers = { ...streamHeaders, "ChatKit-Event-Ids": "1" };
  const response = await post(type, params, headers, signal);
  if (!response.ok) throw await serverError(response);
  return response;
}

function threadUrl(threadId, what) {
  return `${config.endpoint}/threads/${encodeURIComponent(threadId)}/${what}`;
}

/**
 * Attaches to the live turn of a thread. `stream` is null when there is none, or no such route;
 * `ending` then says how the last answer was cut, if it was and the server tells.
 */
export async function attachStream(threadId, lastEventId, signal) {
  const headers = { ...streamHeaders, "ChatKit-Endings": "1" };
  if (lastEventId) headers["Last-Event-ID"] = lastEventId;
  const response = await reach(threadUrl(threadId, "turn"), { headers, signal, cache: "no-store" });
  if (!response.ok) throw await serverError(response);
  if (isEventStream(response)) return { stream: response, ending: null };
  const answer = await response.json().catch(() => null); // 204, or not of this protocol
  return { stream: null, ending: answer?.ending ?? null };
}

function isEventStream(response) {
  return (response.headers.get("Content-Type") ?? "").startsWith("text/event-stream");
}

/** Asks the server to stop the turn of a thread: "stopped", "none" live, or "unasked". */
export async function stopTurn(threadId) {
  try {
    // Not aborted when it takes longer: the server is to carry it out.
    const asked = fetch(threadUrl(threadId, "stop"), { method: "POST", keepalive: true });
    const response = await inTime(asked, STOP_TIMEOUT);
    if (!response.ok) return "unasked";
    return (await response.json()).stopped ? "stopped" : "none";
  } catch {
    return "unasked";
  }
}

/**
 * Yields the frames of an event stream as {event, id, data}.
 * Throws ConnectionLost when the body breaks off, or when the heartbeats in it stop.
 */
export async function* readFrames(response) {
  const ready = [];
  let patience = Infinity; // until a heartbeat has shown that this server sends some
  const parser = createParser({
    onEvent: (frame) => ready.push(frame),
    onComment: () => {
      patience = SILENCE;
    },
  });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { value, done } = await readChunk(reader, patience);
      if (done) return;
      parser.feed(value);
      yield* ready.splice(0);
    }
  } finally {
    reader.cancel().catch(() => {}); // already broken: there is nothing left to give back
  }
}

async function readChunk(reader, patience) {
  try {
    return await inTime(reader.read(), patience);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ConnectionLost(error);
  }
}

function inTime(promise, milliseconds) {
  if (milliseconds === Infinity) return promise;
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error("the server went silent")), milliseconds);
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

/** Sends a file's bytes where its upload descriptor says; `onProgress` gets 0 to 100. */
export function upload(descriptor, file, onProgress, signal) {
  // XMLHttpRequest, since fetch doesn't report how much of a body has been sent.
  const request = new XMLHttpRequest();
  return new Promise((resolve, reject) => {
    request.upload.onprogress = (event) => onProgress(percent(event));
    request.onload = () => (request.status < 300 ? resolve() : reject(uploadError(request)));
    request.onerror = () => reject(new ConnectionLost());
    request.onabort = () => reject(new DOMException("Upload removed", "AbortError"));
    signal?.addEventListener("abort", () => request.abort());
    request.open(descriptor.method, new URL(descriptor.url, document.baseURI));
    setHeaders(request, descriptor.headers ?? {}, file);
    request.send(file);
  });
}

function setHeaders(request, headers, file) {
  for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
  const named = Object.keys(headers).some((name) => name.toLowerCase() === "content-type");
  if (!named && file.type) request.setRequestHeader("Content-Type", file.type);
}

function percent(event) {
  return event.lengthComputable ? Math.round((100 * event.loaded) / event.total) : 0;
}

function uploadError(request) {
  let body = null;
  try {
    body = JSON.parse(request.responseText);
  } catch {
    // Not JSON: the status alone has to do.
  }
  return new ServerError(request.status, body?.error?.code, body?.error?.message);
}
