// One conversation as the page sees it: its items, its live turn, and what can be done with it.
// It goes on reading its turn while another conversation is shown.

import { call, attachStream, openStream, ServerError, stopTurn } from "./protocol.js";
import { keepThrough, putItem, removeItem, updateItem } from "./fold.js";
import { dispatch, runClientTool, runEffect } from "./host.js";
import { Turn, TurnLost } from "./turn.js";
import { announce, changed } from "./state.js";
import { threadFrom, withIds } from "./thread_fields.js";
import { strings } from "./strings.js";

const PAGE = 30; // items a page
const PATIENCE = 6000; // milliseconds for a stopped turn to end its stream

const NOT_ATTACHED = { stream: null, ending: null }; // by a server without resume

let localCount = 0;
let conversationCount = 0;
const localId = (kind) => `local-${kind}-${++localCount}`;
const isLocal = (item) => item.id.startsWith("local-");

export class Conversation {
  key = ++conversationCount; // its identity on the page, before it has a thread id too
  threadId;
  thread = null;
  items = [];
  draft = { text: "", quote: null, attachments: [] };
  older = { after: null, hasMore: false, loading: false };
  progress = null;
  failure = null; // { message, retry, label }
  loadError = null;
  endMark = null; // why the last answer is incomplete
  allowCancel = true;
  stopping = false;
  reconnecting = false;
  loaded = false;
  #loading = false;
  #turn = null;
  #toolRunning = false;
  #live = new Set();
  #events;

  /** `events` hears what the rest of the page has to know: onCreated and onThread. */
  constructor(threadId, events) {
    this.threadId = threadId;
    this.loaded = threadId === null;
    this.#events = events;
  }

  get phase() {
    if (this.#turn || this.#toolRunning) return "streaming";
    return this.#loading ? "loading" : "idle";
  }

  get blocked() {
    const status = this.thread?.status;
    return status && status.type !== "active" ? status : null;
  }

  isLive = (itemId) => this.#live.has(itemId);

  // Loading

  /** Loads the thread, and attaches to its turn when one is live. */
  async open() {
    if (this.phase !== "idle" || !this.threadId) return;
    this.#loading = true;
    this.loadError = null;
    changed();
    const response = await this.#loadAndAttach();
    this.#loading = false;
    changed();
    if (response) await this.#run(() => response);
  }

  async #loadAndAttach() {
    try {
      await this.refresh();
      const { stream, ending } = await attachStream(this.threadId).catch(() => NOT_ATTACHED);
      this.endMark = ending?.reason ?? null;
      return stream;
    } catch (error) {
      this.loadError = error.message;
      return null;
    }
  }

  /** Takes the thread and its newest items from the server. */
  async refresh() {
    const thread = await call("threads.get_by_id", { thread_id: this.threadId });
    // The thread comes with its oldest items; a long one is read from its end instead.
    const page = thread.items.has_more ? await this.#newestItems() : thread.items;
    this.#setThread(thread);
    this.items = withIds(page.data);
    this.older = { after: page.after ?? null, hasMore: page.has_more, loading: false };
    this.#live.clear();
    this.loaded = true;
    changed();
  }

  async #newestItems(after) {
    const params = { thread_id: this.threadId, limit: PAGE, order: "desc" };
    const page = await call("items.list", after ? { ...params, after } : params);
    return { ...page, data: withIds(page.data).toReversed() };
  }

  async loadOlder() {
    if (this.older.loading || !this.older.hasMore) return;
    this.older = { ...this.older, loading: true };
    changed();
    try {
      const page = await this.#newestItems(this.older.after);
      const known = new Set(this.items.map((item) => item.id));
      this.items = [...page.data.filter((item) => !known.has(item.id)), ...this.items];
      this.older = { after: page.after ?? null, hasMore: page.has_more, loading: false };
    } catch (error) {
      this.older = { ...this.older, loading: false, error: error.message };
    }
    changed();
  }

  // Turns

  /** Sends a message; `input` is what the wire wants, `attachments` the objects to show. */
  send(input, attachments = []) {
    const shown = { ...input, type: "user_message", attachments, created_at: new Date().toJSON() };
    this.items = putItem(this.items, { ...shown, id: localId("message") });
    return this.#start(() =>
      this.threadId
        ? ["threads.add_user_message", { thread_id: this.threadId, input }]
        : ["threads.create", { input }],
    );
  }

  /** Asks for another answer to the last message of the user. */
  retry() {
    const last = this.items.findLast((item) => item.type === "user_message" && !isLocal(item));
    if (!last || this.phase !== "idle") return undefined;
    this.items = keepThrough(this.items, last.id);
    return this.#start(() => [
      "threads.retry_after_item",
      { thread_id: this.threadId, item_id: last.id },
    ]);
  }

  get canRetry() {
    return this.items.some((item) => item.type === "user_message" && !isLocal(item));
  }

  answer(itemId, input) {
    const params = { thread_id: this.threadId, item_id: itemId, input };
    return this.#start(() => ["threads.add_structured_input", params]);
  }

  act(itemId, action) {
    const params = { thread_id: this.threadId, action };
    return this.#start(() => [
      "threads.custom_action",
      itemId ? { ...params, item_id: itemId } : params,
    ]);
  }

  async actInSync(itemId, action) {
    const params = { thread_id: this.threadId, item_id: itemId, action };
    const { updated_item: item } = await call("threads.sync_custom_action", params);
    if (item) this.items = putItem(this.items, item);
    changed();
  }

  /** Runs the client tool that waits, and sends what it returned. */
  async runTool(item) {
    this.#toolRunning = true;
    changed();
    const result = await runClientTool(item.name, item.arguments);
    this.items = putItem(this.items, { ...item, status: "completed", output: result });
    this.#toolRunning = false;
    return this.#start(() => [
      "threads.add_client_tool_output",
      { thread_id: this.threadId, result },
    ]);
  }

  async #start(request) {
    if (this.phase !== "idle") return; // a second click before the first was drawn
    await this.#run((signal) => openStream(...request(), signal), () => this.#start(request));
  }

  async #run(open, again = null) {
    const turn = new Turn(this);
    this.#begin(turn);
    try {
      await turn.follow(open);
    } catch (error) {
      await this.#explain(error, turn, again);
    }
    this.#end(turn);
    await this.#continueWithTool(turn);
  }

  #begin(turn) {
    this.#turn = turn;
    this.failure = null;
    this.endMark = null;
    this.allowCancel = true;
    dispatch("chatkit.response.start", { threadId: this.threadId });
    announce(strings.answerStarted);
  }

  #end(turn) {
    const stopped = this.stopping || turn.reason === "stopped";
    const cut = turn.reason && turn.reason !== "finished";
    this.endMark = stopped ? "stopped" : cut ? turn.reason : null;
    this.#turn = null;
    this.#live.clear();
    this.progress = null;
    this.stopping = false;
    this.reconnecting = false;
    dispatch("chatkit.response.end", { threadId: this.threadId });
    announce(stopped ? strings.answerStopped : strings.answerFinished);
  }

  async #explain(error, turn, again) {
    if (error.name === "AbortError") return this.#afterAbort(turn);
    if (error instanceof TurnLost) return this.#explainLoss();
    const known = error instanceof ServerError || !turn.accepted;
    if (!known) console.error(error);
    this.failure = {
      message: known ? error.message : strings.errorBadAnswer,
      retry: turn.accepted ? () => this.retry() : again,
    };
  }

  // The server has ended the turn without our hearing of it: what it kept is in the store.
  async #afterAbort(turn) {
    if (turn.refreshesAfterAbort) await this.refresh().catch((error) => console.warn(error.message));
  }

  // Without resume the server has cut the answer off, and kept what there was of it.
  async #explainLoss() {
    const retry = this.canRetry ? () => this.retry() : null;
    this.failure = { message: strings.errorLost, retry };
    if (!this.threadId) return;
    await this.refresh().catch(() => {
      this.failure = { message: strings.errorLost, retry: () => this.reopen(), label: strings.reload };
    });
  }

  reopen() {
    this.failure = null;
    return this.open();
  }

  async #continueWithTool(turn) {
    const last = this.items.at(-1);
    const waits = last?.type === "client_tool_call" && last.status === "pending";
    if (waits && !this.failure && !this.endMark && turn.accepted) await this.runTool(last);
  }

  /**
   * Stops the answer by asking the server, or by hanging up when it can't be asked. A server with
   * resume doesn't take that for a stop: it waits a while for the page to come back.
   */
  async stop() {
    const turn = this.#turn;
    if (!turn || this.stopping || !this.allowCancel) return;
    this.stopping = true;
    announce(strings.stopping);
    if (this.threadId) await this.#askToStop(turn);
    else if (!turn.accepted) turn.abort();
    else setTimeout(() => turn.abort(), PATIENCE); // asked when the thread is known
  }

  async #askToStop(turn) {
    const outcome = await stopTurn(this.threadId);
    if (outcome === "unasked") turn.abort();
    else if (outcome === "none") turn.abort({ thenRefresh: true });
    else setTimeout(() => turn.abort({ thenRefresh: true }), PATIENCE);
  }

  /** Lets go of the turn: the thread is gone. */
  leave() {
    this.#turn?.abort();
  }

  setReconnecting(now) {
    this.reconnecting = now;
    changed();
  }

  // Events

  /** Folds one event of the wire into the conversation; one that doesn't fit changes nothing. */
  apply(event) {
    try {
      this.#handlers[event.type]?.(event);
    } catch (error) {
      console.warn(`An event ${event?.type} doesn't fit: ${error.message}`);
    }
    changed();
  }

  #handlers = {
    "thread.created": ({ thread }) => this.#created(thread),
    "thread.updated": ({ thread }) => this.#setThread(thread),
    "thread.item.added": ({ item }) => {
      this.#put(item);
      this.#live.add(item.id);
    },
    "thread.item.updated": ({ item_id: id, update }) => {
      this.items = updateItem(this.items, id, update);
    },
    "thread.item.done": ({ item }) => this.#done(item),
    "thread.item.replaced": ({ item }) => this.#done(item),
    "thread.item.removed": ({ item_id: id }) => {
      this.#live.delete(id);
      this.items = removeItem(this.items, id);
    },
    stream_options: (event) => {
      this.allowCancel = event.stream_options?.allow_cancel !== false;
    },
    progress_update: ({ icon, text }) => {
      this.progress = { icon, text };
    },
    client_effect: ({ name, data }) => runEffect(name, data ?? {}),
    notice: ({ level, message, title }) => {
      const notice = { type: "notice", level, message, title };
      this.items = putItem(this.items, { ...notice, id: localId("notice") });
    },
    error: ({ message, allow_retry: allowed }) => {
      const retry = allowed && this.canRetry ? () => this.retry() : null;
      this.failure = { message: message || strings.errorGeneric, retry };
    },
  };

  #put(item) {
    if (typeof item?.id !== "string") throw new TypeError("an item without an id");
    if (item.type === "user_message") this.items = this.#withoutUnsent();
    this.items = putItem(this.items, item);
  }

  // The server's message takes the place of the one drawn before it was accepted.
  #withoutUnsent() {
    return this.items.filter((item) => item.type !== "user_message" || !isLocal(item));
  }

  #done(item) {
    this.#live.delete(item.id);
    if (item.type !== "user_message") this.progress = null;
    this.#put(item);
  }

  #created(thread) {
    this.threadId = thread.id;
    this.#setThread(thread);
    this.#events.onCreated(this);
    if (this.stopping) this.#askToStop(this.#turn);
  }

  #setThread(thread) {
    this.thread = threadFrom(thread); // events carry an empty page: never the items
    this.#events.onThread(this.thread);
  }
}
