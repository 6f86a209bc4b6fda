// Follows one turn to its end: reads its frames, and attaches again when the connection breaks.
// What the events mean is the conversation's business.

import { attachStream, ConnectionLost, readFrames, ServerError } from "./protocol.js";

// Milliseconds before each attempt to attach again.
const BACKOFF = [250, 500, 1000, 2000, 4000, 8000];
const MOST_RELOADS = 3;

/** The connection broke and the server can't attach us again. */
export class TurnLost extends Error {}

export class Turn {
  #conversation;
  #controller = new AbortController();
  #lastEventId = null;
  #reloads = 0;
  #isHeard = false; // whether anything has come of it
  reason = null; // how the server says it ended, if it does
  refreshesAfterAbort = false;
  isOvertaken = false; // others have written to the thread: it was not begun, or another one is live
  accepted = false; // whether the server took the request
  isAttached; // another page may have asked
  over = Promise.withResolvers(); // settled when all that came of it is done

  constructor(conversation, isAttached) {
    this.#conversation = conversation;
    this.isAttached = isAttached;
  }

  get isAborted() {
    return this.#controller.signal.aborted;
  }

  /** Hangs up; without effect on a turn that has ended. */
  abort({ thenRefresh = false } = {}) {
    this.refreshesAfterAbort = thenRefresh;
    this.#controller.abort();
  }

  /**
   * Reads the stream that `open` gives until the turn has ended. `onAccepted` is called once. `open`
   * is called again for what broke off before its first word.
   */
  async follow(open, onAccepted = () => {}) {
    let response = await open(this.#controller.signal);
    this.accepted = true;
    onAccepted();
    while (response) {
      const outcome = await this.#read(response);
      if (outcome === "ended") return;
      response = await this.#reattach(outcome, open);
    }
    // It ended while the page was away: what it left is in the store.
    await this.#refresh();
  }

  // What there is may not be had now; it is there later.
  async #refresh() {
    try {
      await this.#conversation.refresh();
    } catch (cause) {
      throw new TurnLost("", { cause });
    }
  }

  async #read(response) {
    try {
      for await (const frame of readFrames(response)) {
        const outcome = this.#take(frame);
        if (outcome) return outcome;
      }
    } catch (error) {
      if (!(error instanceof ConnectionLost)) throw error;
      return "lost";
    }
    // A proxy may end a broken body politely; a server that numbers its events also says the end.
    return this.#lastEventId === null ? "ended" : "lost";
  }

  #take(frame) {
    this.#isHeard = true;
    if (frame.id) {
      this.#lastEventId = frame.id;
      this.#conversation.isOurServer = true; // no other has ids here
    }
    if (frame.event === "reload") return "reload";
    if (frame.event === "turn.end") {
      this.reason = JSON.parse(frame.data).reason;
      return "ended";
    }
    this.#conversation.apply(JSON.parse(frame.data), frame.id);
    return null;
  }

  async #reattach(outcome, open) {
    if (outcome === "reload") await this.#startOver();
    if (!this.#conversation.threadId) throw new TurnLost();
    let isAway = outcome === "lost";
    for (const delay of BACKOFF) {
      this.#conversation.setReconnecting(isAway);
      if (isAway) await pause(delay, this.#controller.signal);
      const response = await this.#tryToAttach(open);
      if (response !== undefined) return response;
      isAway = true;
    }
    throw new TurnLost();
  }

  // Its events tell what has become of a request, which the thread doesn't. Only our server knows
  // the same request again by its key.
  get #canAskAgain() {
    return !this.#isHeard && !this.isAttached && this.#conversation.isOurServer;
  }

  // The server has no replay for us: take the thread as it is and go on from there.
  async #startOver() {
    if (++this.#reloads > MOST_RELOADS) throw new TurnLost();
    this.#lastEventId = null;
    this.#conversation.beginAnew();
    await this.#refresh();
  }

  // A response, null when the turn is over, undefined when it may work later.
  async #tryToAttach(open) {
    const { threadId } = this.#conversation;
    try {
      const { signal } = this.#controller;
      const { stream, ending, live } = this.#canAskAgain
        ? { stream: await open(signal) }
        : await attachStream(threadId, this.#lastEventId, signal);
      this.#conversation.setReconnecting(false);
      if (!stream) this.reason = ending?.reason ?? null;
      if (live) this.isOvertaken = true;
      return stream;
    } catch (error) {
      if (error instanceof ConnectionLost) return undefined;
      // A proxy says 404 for a server that is just starting.
      const isProxys = error.status === 404 && !error.code && this.#conversation.isOurServer;
      const mayWorkLater = error.status >= 500 || error.status === 429 || isProxys;
      if (error instanceof ServerError && mayWorkLater) return undefined;
      if (error instanceof ServerError) throw new TurnLost();
      throw error;
    }
  }
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const wake = () => finish(resolve);
    const abort = () => finish(() => reject(signal.reason));
    const timer = setTimeout(wake, milliseconds);
    function finish(settle) {
      clearTimeout(timer);
      window.removeEventListener("online", wake);
      signal.removeEventListener("abort", abort);
      settle();
    }
    window.addEventListener("online", wake);
    signal.addEventListener("abort", abort);
  });
}
