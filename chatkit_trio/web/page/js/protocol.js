// Talks to the one endpoint: plain requests, streams of events, stop, attach and upload.
// Knows HTTP and the names of the wire; keeps no state of the conversation.

import { createParser } from "../vendor/vendor.js";
import { options } from "./options.js";
import { changed, state } from "./state.js";
import { strings } from "./strings.js";

const STOP_TIMEOUT = 2000; // milliseconds to wait for the answer to a stop
const SILENCE = 60_000; // milliseconds without a byte, from a server that sends heartbeats
const DOUBTFUL = 20_000; // the same, when the reader comes back to the page

/** The server answered, with an error. */
export class ServerError extends Error {
  constructor(status, code, message) {
    // Messages of these codes are the server's for developers; others an application's for users.
    super(strings.errorCodes[code] ?? message ?? (status === 401 ? strings.signedOut : strings.errorStatus(status)));
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

async function reach(url, init) {
  try {
    const response = await options.fetch(url, init);
    noteAccess(response.status);
    return response;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ConnectionLost(error);
  }
}

// Who has been signed out by the server is told so, whatever was asked for.
function noteAccess(status) {
  const signedOut = status === 401;
  if (signedOut === state.signedOut) return;
  state.signedOut = signedOut;
  changed();
}

async function serverError(response) {
  const body = await response.json().catch(() => null);
  return new ServerError(response.status, body?.error?.code, body?.error?.message);
}

function badAnswer({ status }) {
  return new ServerError(status, "bad_answer", strings.errorBadAnswer);
}

function post(type, params, headers, signal) {
  return reach(options.endpoint, {
    method: "POST",
    headers: { "Content-Type": "application/json", ...headers },
    // No server can read half of a character, as a cut may leave.
    body: JSON.stringify({ type, params }, (_, value) => (typeof value === "string" ? value.toWellFormed() : value)),
    signal,
  });
}

/**
 * Sends a request that is answered with one JSON document, and returns it. `asksFor` adds to a
 * page: "Endings" which of its answers were cut, "Names" the first words of threads without a title.
 * One that is sent again with the same `key` is carried out once.
 */
export async function call(type, params, { asksFor = null, key = null, signal } = {}) {
  const headers = { Accept: "application/json", ...(asksFor ? { [`ChatKit-${asksFor}`]: "1" } : {}), ...keyed(key) };
  const response = await post(type, params, headers, signal);
  if (!response.ok) throw await serverError(response);
  return response.json().catch(() => {
    throw badAnswer(response);
  });
}

const keyed = (key) => (key ? { "Idempotency-Key": key } : {});

// What is read by GET; null from a server without this route.
async function get(path) {
  const response = await reach(`${options.endpoint}/${path}`, { cache: "no-store" });
  if ([404, 405, 501].includes(response.status)) {
    const body = await response.json().catch(() => null);
    if (typeof body?.error?.code !== "string" || response.status !== 404) return null;
    throw new ServerError(response.status, body.error.code, body.error.message);
  }
  if (!response.ok) throw await serverError(response);
  return response.json().catch(() => null);
}

/** Returns a page of what is listed, such as "threads"; null from a server without this route. */
export async function getPage(what, params) {
  const page = await get(`${what}?${new URLSearchParams(params)}`);
  return Array.isArray(page?.data) ? page : null;
}

/** Returns the address of a file's bytes, or null if the server has none for it. */
export async function addressOf(attachmentId) {
  const answer = await get(`attachments/${encodeURIComponent(attachmentId)}/url`);
  return typeof answer?.url === "string" ? new URL(answer.url, options.endpoint).href : null;
}

// fold.js puts a component in its place, so the server needn't send the whole widget again.
const streamHeaders = { Accept: "text/event-stream", "ChatKit-Component-Updates": "1" };

/**
 * Sends a request that is answered with a stream of events. One that is sent again with the same
 * `key` is carried out once.
 */
export async function openStream(type, params, signal, key = null) {
  // The second header asks for ids on the frames; servers without resume ignore it.
  const headers = { ...streamHeaders, "ChatKit-Event-Ids": "1", ...keyed(key) };
  const response = await post(type, params, headers, signal);
  if (!response.ok) throw await serverError(response);
  if (!isEventStream(response)) throw badAnswer(response);
  return response;
}

function threadUrl(threadId, what) {
  return `${options.endpoint}/threads/${encodeURIComponent(threadId)}/${what}`;
}

/**
 * Attaches to the live turn of a thread. `stream` is null when there is none to go on with;
 * `ending` then says how the last answer was cut, and `live` whether another turn is live, if the
 * server tells.
 */
export async function attachStream(threadId, lastEventId, signal) {
  const headers = { ...streamHeaders, "ChatKit-Endings": "1" };
  if (lastEventId) headers["Last-Event-ID"] = lastEventId;
  const response = await reach(threadUrl(threadId, "turn"), { headers, signal, cache: "no-store" });
  if (!response.ok) throw await serverError(response);
  if (isEventStream(response)) return { stream: response, ending: null };
  const answer = await response.json().catch(() => null); // 204, or not of this protocol
  return { stream: null, ending: answer?.ending ?? null, live: answer?.live };
}

function isEventStream(response) {
  return (response.headers.get("Content-Type") ?? "").startsWith("text/event-stream");
}

/**
 * Asks the server to stop the turn of a thread: "stopped", "none" live, or "failed". "unknown" is
 * the answer of a server that has no such route: there, hanging up stops the answer.
 */
export async function stopTurn(threadId) {
  try {
    // Not aborted when it takes longer: the server is to carry it out.
    const asked = reach(threadUrl(threadId, "stop"), { method: "POST", keepalive: true });
    const response = await inTime(asked, STOP_TIMEOUT);
    const answer = await response.json().catch(() => null);
    if (response.ok) return answer?.stopped ? "stopped" : "none";
    const isNoRoute = [404, 405, 501].includes(response.status) && !answer?.error;
    return isNoRoute ? "unknown" : "failed";
  } catch {
    return "failed";
  }
}

/**
 * Yields the frames of an event stream as {event, id, data}.
 * Throws ConnectionLost when the body breaks off, or when nothing comes any more.
 */
export async function* readFrames(response) {
  const ready = [];
  let patience = Infinity; // until a heartbeat or an id has shown that what is missed can be had
  const parser = createParser({
    onEvent: (frame) => {
      if (frame.id) patience = SILENCE;
      ready.push(frame);
    },
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
    return await (patience === Infinity ? reader.read() : heard(reader.read(), patience));
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ConnectionLost(error);
  }
}

const silent = () => new Error("the server went silent");

function inTime(promise, milliseconds) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(silent()), milliseconds);
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

// A browser that was offline or asleep isn't told which of its connections have died meanwhile.
async function heard(promise, milliseconds) {
  const since = Date.now();
  const over = new AbortController();
  const dead = new Promise((_, reject) => {
    const giveUp = () => reject(silent());
    const doubt = () => document.visibilityState === "visible" && Date.now() - since > DOUBTFUL && giveUp();
    window.addEventListener("online", giveUp, { signal: over.signal });
    document.addEventListener("visibilitychange", doubt, { signal: over.signal });
    const timer = setTimeout(giveUp, milliseconds);
    over.signal.addEventListener("abort", () => clearTimeout(timer));
  });
  try {
    return await Promise.race([promise, dead]);
  } finally {
    over.abort();
  }
}

/** Sends a file to the one address of the option uploadStrategy, and returns its attachment. */
export async function uploadDirectly(file, signal) {
  const body = new FormData();
  body.append("file", file);
  const response = await reach(options.uploadUrl, { method: "POST", body, signal });
  if (!response.ok) throw await serverError(response);
  const attachment = await response.json().catch(() => null);
  if (typeof attachment?.id !== "string") throw badAnswer(response);
  return attachment;
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
    request.open(descriptor.method, new URL(descriptor.url, options.endpoint));
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
