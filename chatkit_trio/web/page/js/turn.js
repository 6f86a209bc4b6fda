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
  reason = null; // how the server says it ended, if it does
  refreshesAfterAbort = false;
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

  /** Reads the stream that `open` gives until the turn has ended. */
  async follow(open) {
    let response = await open(this.#controller.signal);
    this.accepted = true;
    while (response) {
      const outcome = await this.#read(response);
      if (outcome === "ended") return;
      response = await this.#reattach(outcome);
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
    if (frame.id) {
      this.#lastEventId = frame.id;
      this.#conversation.isOurServer = true; // no other has ids here
    }
    if (frame.event === "reload") return "reload";
    if (frame.event === "turn.end") {
      this.reason = JSON.parse(frame.data).reason;
      return "ended";
    }
    this.#conversation.apply(JSON.parse(frame.data));
    return null;
  }

  async #reattach(outcome) {
    if (outcome === "reload") await this.#startOver();
    if (!this.#conversation.threadId) throw new TurnLost();
    for (const delay of BACKOFF) {
      this.#conversation.setReconnecting(outcome === "lost");
      if (outcome === "lost") await pause(delay, this.#controller.signal);
      const response = await this.#tryToAttach();
      if (response !== undefined) return response;
    }
    throw new TurnLost();
  }

  // The server has no replay for us: take the thread as it is and go on from there.
  async #startOver() {
    if (++this.#reloads > MOST_RELOADS) throw new TurnLost();
    this.#lastEventId = null;
    await this.#refresh();
  }

  // A response, null when the turn is over, undefined when it may work later.
  async #tryToAttach() {
    const { threadId } = this.#conversation;
    try {
      const { signal } = this.#controller;
      const { stream, ending } = await attachStream(threadId, this.#lastEventId, signal);
      this.#conversation.setReconnecting(false);
      if (!stream) this.reason = ending?.reason ?? null;
      return stream;
    } catch (error) {
      if (error instanceof ConnectionLost) return undefined;
      const mayWorkLater = error.status >= 500 || error.status === 429;
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
