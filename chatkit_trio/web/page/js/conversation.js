// One conversation as the page sees it: its items, its live turn, and what can be done with it.
// It goes on reading its turn while another conversation is shown.

import { loadAnswers, saveAnswers } from "./answers.js";
import { releasePreview, uploadedEntry } from "./attachments.js";
import { loadDraft, loadUnsent, saveDraft, saveUnsent, forgetUnsent } from "./drafts.js";
import { marksOf, withEndings } from "./endings.js";
import { attachStream, call, ConnectionLost, openStream, ServerError, stopTurn } from "./protocol.js";
import { keepThrough, putItem, removeItem, updateItem, withLocal } from "./fold.js";
import { reportError, runClientTool, runEffect } from "./host.js";
import { editable } from "./mentions.js";
import { moment } from "./news.js";
import { options } from "./options.js";
import { dispatch, focusSoon } from "./place.js";
import { Turn, TurnLost } from "./turn.js";
import { announce, changed, state, toast } from "./state.js";
import { threadFrom, withIds, wordsOf } from "./thread_fields.js";
import { loadVersions, saveVersions, shownOf, withVersion } from "./versions.js";
import { strings } from "./strings.js";

const PAGE = 30; // items a page
const MOST_PAGES = 20; // that are loaded to get to an item
const PATIENCE = 6000; // milliseconds for a stopped turn to end its stream

const NOT_ATTACHED = { stream: null, ending: null }; // by a server without resume
const saysNoRoute = ({ status, code }) => [404, 405, 501].includes(status) && code !== "not_found";

const UNHEARD = { onCreated() {}, onThread() {}, onTurn() {}, onGone() {}, onUnsent() {} };
const EMPTY = { text: "", quote: null, tags: [], editing: null, attachments: [] };

/** Somebody else has written to the thread since it was looked at. */
class Overtaken extends Error {}

let localCount = 0;
let conversationCount = 0;
const onTheirWay = new Set(); // the keys of messages that this page is sending
const localId = (kind) => `local-${kind}-${++localCount}`;

// crypto.randomUUID is there in secure contexts only.
function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// What is said of a message that the server hasn't taken, and whether to try again makes sense.
function whyUnsent(error) {
  if (error.name === "AbortError") return { text: strings.unsent };
  if (error.status === 413) return { text: strings.unsentTooLong, final: true };
  if (error instanceof ConnectionLost && !navigator.onLine) return { text: strings.unsentOffline, offline: true };
  if (error instanceof ServerError || error instanceof ConnectionLost) return { text: `${strings.unsent} ${error.message}` };
  console.error(error);
  return { text: strings.unsent };
}

// Tabs that read the same answer wait for the one that asked: it runs what the answer wants to be
// run. Browsers have locks on https and localhost only, and not in every frame.
const lockOf = (threadId) => `chatkit ${threadId}`;

function holdLock(threadId, until) {
  navigator.locks?.request(lockOf(threadId), { ifAvailable: true }, () => until).catch(() => {});
}

async function withLock(threadId, run) {
  const canLock = await navigator.locks?.query().then(() => true, () => false);
  await (canLock ? navigator.locks.request(lockOf(threadId), run) : run());
}

export class Conversation {
  key = ++conversationCount; // its identity on the page, before it has a thread id too
  threadId;
  thread = null;
  items = [];
  outbox = []; // messages on their way, and those that couldn't be sent
  draft;
  answers; // to questions, not sent yet, by the ids of their items
  older = { after: null, hasMore: false, loading: false };
  revealed = null; // the item that the log is to show
  progress = null;
  failure = null; // { message, retry, label }
  loadError = null;
  gone = false; // the server has no such thread
  endings = new Map(); // how answers were cut, by turn
  lastEnding = null; // how the last answer was, if it was
  versions; // what followed messages before, by their ids
  viewed = new Map(); // which of the versions is looked at, by the id of its message
  isOurServer = false; // it takes edited messages, and tells where files are
  allowCancel = true;
  stopping = false;
  reconnecting = false;
  loaded = false;
  opening = Promise.resolve(); // settled when what is being loaded is there
  #loading = false;
  #looks = 0; // counts what may find out what there is: only the newest is believed
  #turn = null;
  #told = null; // the turn that others have been told of
  #tool = null; // the item of the client tool that runs
  #awaited = null; // the id of one that another tab may run
  #sending = null; // the message of the outbox that is on its way
  #unanswered = new Map(); // the keys of requests whose answer was lost, by what they ask for
  #endingBefore = null; // how the answer before that one was cut, if it was
  #live = new Set();
  #ran = ""; // the id of the last effect
  #fields = new Map(); // what stands in the fields of widgets, by the ids of their items
  #events;
  #user = options.user;
  #scope = options.scope; // another one may hold by the time that something fails

  /** `events` hears what others have to know: onCreated, onThread, onTurn, onGone and onUnsent. */
  constructor(threadId, events) {
    this.threadId = threadId;
    this.loaded = threadId === null;
    this.draft = loadDraft(threadId);
    this.outbox = loadUnsent(threadId).filter(({ key }) => !onTheirWay.has(key));
    this.answers = threadId ? loadAnswers(threadId) : {};
    this.versions = threadId ? loadVersions(threadId) : new Map();
    this.#events = events;
  }

  get phase() {
    if (this.#turn || this.#tool) return "streaming";
    return this.#loading ? "loading" : "idle";
  }

  get blocked() {
    const status = this.gone ? { type: "gone" } : this.thread?.status;
    return status && status.type !== "active" ? status : null;
  }

  isLive = (itemId) => this.#live.has(itemId);

  /** Returns the items as they are looked at: { items, versionOf }. */
  shown = () => shownOf(this.items, this.versions, this.viewed);

  /** Returns how answers were cut, by the id of the item that it is said behind. */
  marks = () => marksOf(this.items, this.endings, this.lastEnding);

  // Loading

  /** Loads the thread, and attaches to its turn when one is live. Returns when it is loaded. */
  open() {
    if (this.phase === "idle" && this.threadId) this.opening = this.#open();
    return this.opening;
  }

  async #open() {
    const { threadId } = this;
    this.#loading = true;
    this.loadError = null;
    changed();
    dispatch("chatkit.thread.load.start", { threadId });
    const isOver = () => {
      this.#loading = false;
      dispatch("chatkit.thread.load.end", { threadId });
      changed();
    };
    await this.#look((error) => this.#explainLoading(error), isOver);
  }

  // Takes what the server has, unless something else has begun meanwhile.
  async #look(explain, isOver = () => {}) {
    const look = ++this.#looks;
    const isNewest = () => look === this.#looks;
    try {
      const { stored, stream, ending } = await this.#found();
      if (!isNewest()) return stream?.body.cancel();
      if (this.failure?.isMendedByLoading || !this.#knowsNewest(stored.page)) this.failure = null;
      this.#take(stored);
      this.lastEnding = ending;
      isOver();
      if (!stream) return;
      this.beginAnew();
      this.#run(() => stream, { isAttached: true });
    } catch (error) {
      if (!isNewest()) return;
      explain(error);
      isOver();
    }
  }

  async #found() {
    // In this order: of a turn that ends in between, the answer is in what is loaded then.
    const { stream, ending, live } = await this.#attached();
    try {
      const stored = await this.#stored();
      // A turn that has begun in between was no turn yet.
      const isUnanswered = live || (!stream && !ending && stored.page.data.at(-1)?.type === "user_message");
      return { stored, ...(isUnanswered ? await this.#attached() : { stream, ending }) };
    } catch (error) {
      stream?.body.cancel();
      throw error;
    }
  }

  // An answer that grows mustn't look finished: what can't be found out is an error.
  #attached(canRepeat = true) {
    return attachStream(this.threadId).catch((error) => {
      if (!this.isOurServer && saysNoRoute(error)) return NOT_ATTACHED;
      if (canRepeat) return this.#attached(false);
      throw error;
    });
  }

  // What is shown already stays: it is more than an error.
  #explainLoading(error) {
    reportError(error);
    if (this.#noteGone(error)) return;
    const message = `${strings.errorThread} ${error.message}`;
    if (this.loaded) this.failure = this.#reloading(message);
    else this.loadError = message;
  }

  #noteGone(error) {
    // A proxy has pages of its own for what it can't find.
    if (error.status !== 404 || error.code !== "not_found") return false;
    this.gone = true;
    this.#events.onGone(this);
    this.loadError = strings.errorGone;
    changed();
    return true;
  }

  #reloading(message) {
    return { message, retry: () => this.reopen(), label: strings.reload, isMendedByLoading: true };
  }

  /**
   * Looks whether something has happened elsewhere; what can't be found out changes nothing. A
   * message can be sent meanwhile.
   */
  async lookAgain() {
    if (this.loadError && !this.gone) return this.open();
    const canLook = this.threadId && this.loaded && this.phase === "idle";
    if (canLook) await this.#look((error) => this.#noteGone(error));
  }

  /** Takes the thread and its newest items from the server. */
  async refresh() {
    this.#take(await this.#stored());
  }

  /** Lets go of what the live turn will say again, because it is read from its beginning. */
  beginAnew() {
    const asked = this.items.findLastIndex(({ type }) => type === "user_message");
    this.items = this.items.filter((item, place) => !item.isLocal || place < asked);
  }

  async #stored() {
    const askedAt = moment();
    const thread = await call("threads.get_by_id", { thread_id: this.threadId }, { asksFor: "Endings" });
    // The thread comes with its oldest items; a long one is read from its end instead.
    return { thread, askedAt, page: thread.items.has_more ? await this.#newestItems() : thread.items };
  }

  #take({ thread, askedAt, page }) {
    this.#takeNewest(page);
    this.isOurServer ||= "endings" in page; // which no other tells
    this.#setThread(thread, askedAt);
    this.#live.clear();
    this.loaded = true;
    this.gone = false;
    this.loadError = null;
    changed();
  }

  #knowsNewest({ data }) {
    const newest = withIds(data).at(-1);
    return !newest || this.items.some(({ id }) => id === newest.id);
  }

  // Older items that were loaded before stay in front of the newest ones.
  #takeNewest(page) {
    const newest = withIds(page.data);
    const place = this.items.findIndex((item) => item.id === newest[0]?.id);
    const older = place > 0 ? this.items.slice(0, place) : [];
    if (older.length === 0) this.older = { after: page.after ?? null, hasMore: page.has_more, loading: false };
    this.items = withLocal([...older, ...newest], this.items);
    this.endings = withEndings(older.length ? this.endings : new Map(), page);
  }

  async #newestItems(after = null, signal) {
    const params = { thread_id: this.threadId, limit: PAGE, order: "desc" };
    const page = await call("items.list", after ? { ...params, after } : params, { asksFor: "Endings", signal });
    return { ...page, data: withIds(page.data).toReversed() };
  }

  /** Loads older items until this one is there, and has the log show it. */
  async reveal(itemId) {
    const isHere = () => this.items.some(({ id }) => id === itemId);
    for (let page = 0; page < MOST_PAGES && !isHere() && this.older.hasMore; page += 1) {
      await this.loadOlder();
      if (this.older.error) return;
    }
    if (!isHere()) return;
    this.revealed = itemId;
    changed();
  }

  async loadOlder() {
    if (this.older.loading || !this.older.hasMore) return;
    this.older = { ...this.older, loading: true, error: null };
    changed();
    try {
      const page = await this.#newestItems(this.older.after);
      const known = new Set(this.items.map((item) => item.id));
      this.items = [...page.data.filter((item) => !known.has(item.id)), ...this.items];
      this.endings = withEndings(this.endings, page);
      this.older = { after: page.after ?? null, hasMore: page.has_more, loading: false };
    } catch (error) {
      this.older = { ...this.older, loading: false, error: error.message };
    }
    changed();
  }

  // Turns

  /** Sends a message; `input` is what the wire wants, `attachments` the objects to show. */
  send(input, attachments = []) {
    if (this.phase !== "idle") return; // a second click before the first was drawn
    const message = this.#messageOf(input, attachments);
    this.outbox = [...this.outbox, message];
    return this.resend(message);
  }

  #messageOf(input, attachments) {
    const shown = { ...input, type: "user_message", attachments, created_at: new Date().toJSON() };
    // The key is the message's as long as it isn't sent: the server takes it once.
    return { ...shown, id: localId("message"), key: newKey(), input, error: null };
  }

  /** Sends content that was written elsewhere than in the box. */
  say(content, rest = {}) {
    return this.send({ content, attachments: [], inference_options: {}, ...rest });
  }

  /** Sends a message of the outbox. */
  async resend(message) {
    if (this.phase !== "idle") return;
    this.viewed.clear();
    const { input, key } = message;
    const [type, params] = this.threadId
      ? ["threads.add_user_message", { thread_id: this.threadId, input }]
      : ["threads.create", { input }];
    const sent = { ...message, error: null };
    this.outbox = this.outbox.map((each) => (each === message ? sent : each));
    this.#sending = sent;
    onTheirWay.add(key);
    saveUnsent(this.threadId, sent, this.#scope); // the page may be closed before it is there
    await this.#run((signal) => openStream(type, params, signal, key));
  }

  /** Sends what couldn't be sent for want of a connection: one, and the next when that is answered. */
  async sendUnsent() {
    await this.opening;
    const message = this.outbox.find(({ error }) => error?.offline);
    if (message && navigator.onLine) await this.resend(message);
  }

  /** Takes a message that couldn't be sent from a chat that nobody can get to any more. */
  takeUnsent(message) {
    this.outbox = [...this.outbox, message];
    changed();
  }

  /** Takes what was written for a thread that is gone, and isn't sent. */
  takeOver(other) {
    const draft = other.giveDraft();
    if (draft.text || draft.quote || draft.attachments.length) this.#addToDraft(draft);
    for (const { input, attachments, error } of other.#giveOutbox()) {
      const message = { ...this.#messageOf(input, attachments), error: error ?? { text: strings.unsent } };
      saveUnsent(this.threadId, message);
      this.takeUnsent(message);
    }
  }

  #giveOutbox() {
    const { outbox } = this;
    this.outbox = [];
    this.#sending = null;
    return outbox;
  }

  /** Returns the draft, and has an empty one from now on. */
  giveDraft() {
    const { draft } = this;
    this.draft = { ...EMPTY };
    return draft;
  }

  /** Puts a message that wasn't sent back into the box. */
  editUnsent(message) {
    const { content, quoted_text: quote } = message.input;
    this.#addToDraft({ ...editable(content), quote, attachments: message.attachments.map(uploadedEntry) });
    this.deleteUnsent(message);
  }

  #addToDraft({ text: words, tags, quote, attachments }) {
    const { draft } = this;
    const text = [words, draft.text].filter(Boolean).join("\n\n");
    this.editDraft({
      text,
      quote: quote ?? draft.quote,
      tags: [...draft.tags, ...tags],
      attachments: [...attachments, ...draft.attachments],
    });
  }

  /** Lets go of a message that another tab has sent or deleted. */
  dropUnsent(key) {
    this.outbox = this.outbox.filter((each) => each.key !== key || !each.error);
    changed();
  }

  deleteUnsent(message) {
    this.outbox = this.outbox.filter((each) => each !== message);
    forgetUnsent(message);
    changed();
  }

  /** Asks for the rest of an answer that was cut. */
  goOn() {
    const { inference_options = {} } = this.#lastAsked() ?? {};
    return this.say([{ type: "input_text", text: strings.continueWords }], { inference_options });
  }

  #lastAsked() {
    return this.items.findLast((item) => item.type === "user_message");
  }

  /** Asks for another answer to the last message of the user. */
  retry() {
    const last = this.#lastAsked();
    return last && this.#answerAgain(last, {});
  }

  /** Sends a message again as it is now written in the draft; see `beginEditing`. */
  sendEdited(input) {
    const message = this.items.find(({ id }) => id === this.draft.editing?.id);
    return message && this.#answerAgain(message, { input });
  }

  // What there was is left alone until the server has taken the request, and kept as a version.
  // A message that is edited has a button of its own to be sent again, as it is by then.
  #answerAgain(message, input) {
    const params = { thread_id: this.threadId, item_id: message.id, ...input };
    const accepted = () => {
      const place = this.items.findIndex(({ id }) => id === message.id);
      const kept = loadVersions(this.threadId); // with those of other tabs
      this.versions = withVersion(kept.size ? kept : this.versions, this.items.slice(place));
      saveVersions(this.threadId, this.versions);
      this.viewed.clear();
      this.items = keepThrough(this.items, message.id);
      if (this.draft.editing?.id === message.id) this.stopEditing();
    };
    const before = (signal) => this.#checkNewest(signal);
    return this.#start("threads.retry_after_item", params, { canRepeat: !input.input, before, accepted });
  }

  // The server deletes all that follows: what others have written meanwhile has to be seen before.
  async #checkNewest(signal) {
    if (!this.#knowsNewest(await this.#newestItems(null, signal))) throw new Overtaken();
  }

  /** Puts a message of the user into the draft, to be edited in its own place: one at a time. */
  beginEditing(message) {
    const { text, tags } = editable(message.content ?? []);
    if (!this.isEditing) this.editDraft({ editing: { id: message.id, text, tags } });
    focusSoon("[data-testid=editor-field]");
  }

  get isEditing() {
    const { editing } = this.draft;
    return editing !== null && this.items.some(({ id }) => id === editing.id);
  }

  stopEditing() {
    this.editDraft({ editing: null });
  }

  editDraft(patch) {
    this.draft = { ...this.draft, ...patch };
    saveDraft(this.threadId, this.draft);
    changed();
  }

  /** Looks at a version of what follows a message, by its number; the last one is what there is. */
  view(messageId, number) {
    const count = this.versions.get(messageId)?.length ?? 0;
    if (number >= count) this.viewed.delete(messageId);
    else this.viewed.set(messageId, Math.max(number, 0));
    changed();
  }

  get canRetry() {
    return this.items.some((item) => item.type === "user_message");
  }

  answer(itemId, input) {
    const params = { thread_id: this.threadId, item_id: itemId, input };
    const accepted = () => this.keepAnswers(itemId, null);
    return this.#start("threads.add_structured_input", params, { accepted });
  }

  /** Keeps what an item's questions are answered so far; null forgets it. */
  keepAnswers(itemId, answers) {
    const { [itemId]: before, ...others } = this.answers;
    this.answers = answers ? { ...others, [itemId]: answers } : others;
    saveAnswers(this.threadId, this.answers, this.#scope);
  }

  /** Returns what stands in a widget's fields, for them to read and write: they aren't always drawn. */
  fieldsOf(itemId) {
    if (!this.#fields.has(itemId)) this.#fields.set(itemId, new Map());
    return this.#fields.get(itemId);
  }

  act(itemId, action) {
    const params = { thread_id: this.threadId, action };
    return this.#start("threads.custom_action", itemId ? { ...params, item_id: itemId } : params);
  }

  async actInSync(itemId, action) {
    const params = { thread_id: this.threadId, item_id: itemId, action };
    const { updated_item: item } = await this.#callOnce("threads.sync_custom_action", params);
    if (item) this.items = putItem(this.items, item);
    changed();
  }

  // Whoever does the same again because no answer came means the same request.
  async #callOnce(type, params) {
    const words = JSON.stringify([type, params]);
    const key = this.#unanswered.get(words) ?? newKey();
    this.#unanswered.delete(words);
    try {
      return await call(type, params, { key });
    } catch (error) {
      if (error instanceof ConnectionLost) this.#unanswered.set(words, key);
      throw error;
    }
  }

  /** Runs the client tool that waits, and sends what it returned unless it is stopped before. */
  async runTool(item) {
    if (this.phase !== "idle") return; // a second click before the first was drawn
    const run = { ...item, status: "completed" };
    this.#tool = run;
    changed();
    const result = await runClientTool(item.name, item.arguments);
    if (this.#tool !== run) return;
    this.items = putItem(this.items, { ...run, output: result });
    this.#tool = null;
    return this.#start("threads.add_client_tool_output", { thread_id: this.threadId, result });
  }

  // `before` may refuse by raising an error. The key is that of all tries: the server carries out one.
  async #start(type, params, { canRepeat = true, before, accepted, key = newKey() } = {}) {
    if (this.phase !== "idle") return; // a second click before the first was drawn
    const open = async (signal) => {
      await before?.(signal);
      return openStream(type, params, signal, key);
    };
    const again = () => this.#start(type, params, { canRepeat, before, accepted, key });
    await this.#run(open, { again: canRepeat ? again : null, accepted });
  }

  async #run(open, { again = null, accepted, isAttached = false } = {}) {
    const turn = new Turn(this, isAttached);
    this.#begin(turn);
    try {
      await turn.follow(open, accepted);
    } catch (error) {
      await this.#explain(error, turn, again);
    }
    this.#end(turn);
    await this.#continueWithTool(turn);
    turn.over.resolve();
    if (!turn.isAborted) this.sendUnsent();
    // There is a newer message, or there may be.
    if (turn.reason === "superseded" || turn.isOvertaken || turn.refreshesAfterAbort) await this.lookAgain();
  }

  #begin(turn) {
    this.#turn = turn;
    this.#looks += 1;
    this.failure = null;
    this.#endingBefore = this.lastEnding;
    this.lastEnding = null;
    this.allowCancel = true;
    dispatch("chatkit.response.start", { threadId: this.threadId });
    this.#announce(strings.answerStarted);
  }

  #end(turn) {
    const cut = turn.reason && turn.reason !== "finished";
    if (cut && !this.lastEnding) this.#noteEnding(turn.reason);
    if (this.#sending) this.#keepUnsent({ text: strings.unsent }); // the server never showed it
    this.#turn = null;
    this.#live.clear();
    this.progress = null;
    this.stopping = false;
    this.reconnecting = false;
    dispatch("chatkit.response.end", { threadId: this.threadId });
    if (turn.accepted && this.threadId) this.#events.onTurn(this);
    this.#announce(this.#wordsOfEnd(turn));
  }

  // Who reads another conversation doesn't hear of this one: a dot in the list tells of it.
  #announce(text) {
    if (state.conversation === this) announce(text);
  }

  // For screen readers; what has failed is an alert of its own.
  #wordsOfEnd({ reason, isAborted, accepted }) {
    if (reason === "stopped") return strings.answerStopped;
    if (reason && reason !== "finished") return strings.endedMarks[reason] ?? "";
    return this.failure || isAborted || !accepted ? "" : strings.answerFinished;
  }

  // At once as far as the page knows it; then as the server tells it.
  #noteEnding(reason) {
    const item_ids = this.items.slice(-1).filter(({ type }) => type !== "user_message").map(({ id }) => id);
    const noted = { turn_id: localId("turn"), reason, item_ids, can_continue: false };
    this.lastEnding = noted;
    this.endings = withEndings(this.endings, { endings: [noted] });
    if (!this.threadId) return;
    const tell = (ending) => {
      if (!ending) return; // there is a newer turn already: what is known has to do
      if (this.lastEnding === noted) this.lastEnding = ending;
      this.endings = withEndings(this.endings, { endings: [ending] });
      this.endings.delete(noted.turn_id);
      changed();
    };
    this.#askForEnding().then(tell, (error) => console.warn(error.message));
  }

  // A turn that is live by now is read by who opens the thread.
  async #askForEnding() {
    const { stream, ending } = await attachStream(this.threadId);
    stream?.body.cancel();
    return ending;
  }

  async #explain(error, turn, again) {
    if (!turn.accepted && this.#sending) {
      if (error.name !== "AbortError") reportError(error);
      return this.#keepUnsent(whyUnsent(error));
    }
    if (error.name === "AbortError") return this.#afterAbort(turn);
    if (error instanceof TurnLost) return this.#explainLoss();
    if (error instanceof Overtaken) {
      turn.isOvertaken = true;
      return;
    }
    const known = error instanceof ServerError || !turn.accepted;
    if (!known) console.error(error);
    reportError(error);
    const failure = {
      message: known ? error.message : strings.errorBadAnswer,
      retry: turn.accepted ? () => this.retry() : again,
    };
    // The thread isn't what it is taken for: the same again would be refused again.
    const isOutdated = [404, 409].includes(error.status) && error.code;
    this.failure = isOutdated ? this.#reloading(error.message) : failure;
  }

  #keepUnsent(error) {
    const unsent = { ...this.#sending, error };
    onTheirWay.delete(unsent.key);
    this.outbox = this.outbox.map((each) => (each === this.#sending ? unsent : each));
    this.#sending = null;
    this.lastEnding ??= this.#endingBefore;
    if (this.#user === options.user) saveUnsent(this.threadId, unsent, this.#scope); // else it is nobody's any more
    this.#events.onUnsent(this, unsent);
  }

  // The server has ended the turn without our hearing of it: what it kept is in the store.
  async #afterAbort(turn) {
    if (!turn.refreshesAfterAbort) return;
    try {
      const ending = await this.#askForEnding();
      await this.refresh();
      this.lastEnding = ending;
      turn.reason = ending?.reason ?? turn.reason;
    } catch (error) {
      console.warn(error.message);
    }
  }

  // Without resume the server has cut the answer off, and kept what there was of it.
  async #explainLoss() {
    const retry = this.canRetry ? () => this.retry() : null;
    this.failure = { message: strings.errorLost, retry };
    if (!this.threadId) return;
    await this.refresh().catch(() => {
      this.failure = this.#reloading(strings.errorLost);
    });
  }

  reopen() {
    this.failure = null;
    return this.open();
  }

  async #continueWithTool(turn) {
    const isWanted = !this.failure && !this.lastEnding && turn.accepted && !turn.isAborted;
    const tool = isWanted && this.#waitingTool();
    if (!tool) return;
    if (!turn.isAttached) return this.runTool(tool);
    this.#awaited = tool.id;
    await withLock(this.threadId, async () => {
      // The tab that asked may have run it. A look of ours may be overtaken by another one, and tell nothing.
      const { page } = await this.#stored().catch(() => ({ page: null }));
      const waiting = page && this.#waitingTool(page.data);
      if (waiting?.id === this.#awaited) await this.runTool(waiting);
    });
  }

  #waitingTool(items = this.items) {
    const last = items.at(-1);
    return last?.type === "client_tool_call" && last.status === "pending" ? last : null;
  }

  /**
   * Stops the answer by asking the server. Hanging up is a stop only for a server that can't be
   * asked, and before it has taken the request.
   */
  async stop() {
    const turn = this.#turn;
    if (this.#tool) return this.#leaveTool();
    if (!turn || this.stopping || !this.allowCancel) return;
    this.stopping = true;
    this.#announce(strings.stopping);
    // What waits for its turn isn't what would be stopped now: asked when the message is taken.
    if (this.threadId && !(this.#sending && turn.accepted)) await this.#askToStop(turn);
    else if (!turn.accepted) turn.abort();
    else setTimeout(() => this.threadId || turn.abort(), PATIENCE);
  }

  // What it does can't be called back; its result isn't waited for.
  #leaveTool() {
    this.#tool = null;
    this.#announce(strings.answerStopped);
  }

  async #askToStop(turn) {
    const outcome = await stopTurn(this.threadId);
    if (this.#turn !== turn) return;
    // Our server has the route: a proxy has said that there is none.
    const hasFailed = outcome === "failed" || (outcome === "unknown" && this.isOurServer);
    // A message that may not have got there is kept, with the key by which it counts once.
    if (hasFailed && !turn.accepted) return turn.abort();
    if (hasFailed) return this.#goOnAfterStop();
    if (outcome === "unknown") {
      turn.reason = "stopped";
      turn.abort();
    } else {
      setTimeout(() => turn.abort({ thenRefresh: true }), outcome === "none" ? 0 : PATIENCE);
    }
  }

  #goOnAfterStop() {
    this.stopping = false;
    toast(strings.stopFailed, { level: "danger" });
    this.#announce(strings.stopFailed);
  }

  /** Stops reading the turn, and all that is on its way. */
  hangUp() {
    this.#turn?.abort();
    this.#tool = null;
    this.#awaited = null;
    this.#looks += 1;
    this.#loading = false;
  }

  /** Lets go for good: what comes of it after this is nobody's concern. */
  leave() {
    this.#events = UNHEARD;
    this.hangUp();
  }

  setReconnecting(now) {
    this.reconnecting = now;
    changed();
  }

  // Events

  /** Folds one event of the wire into the conversation; one that doesn't fit changes nothing. */
  apply(event, id = "") {
    dispatch("chatkit.log", { name: event?.type });
    try {
      this.#handlers[event.type]?.(event, id);
      this.#tellOnce();
    } catch (error) {
      console.warn(`An event ${event?.type} doesn't fit: ${error.message}`);
    }
    changed();
  }

  // Others can load a turn, and attach to it, as soon as the server has told anything of it.
  #tellOnce() {
    if (this.#told === this.#turn || !this.threadId) return;
    this.#told = this.#turn;
    if (!this.#turn.isAttached) holdLock(this.threadId, this.#turn.over.promise);
    this.#events.onTurn(this);
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
    client_effect: ({ name, data }, id) => {
      // A turn that is read anew has had its first effects.
      const [[turn, at], [before, ranAt]] = [id, this.#ran].map((each) => each.split("."));
      if (id && turn === before && Number(at) <= Number(ranAt)) return;
      this.#ran = id;
      runEffect(name, data ?? {});
    },
    notice: ({ level, message, title }) => {
      const notice = { type: "notice", level, message, title };
      this.items = putItem(this.items, { ...notice, id: localId("notice"), isLocal: true });
    },
    error: ({ code, message, allow_retry: allowed }) => {
      reportError(Object.assign(new Error(message || strings.errorGeneric), { code }));
      const retry = allowed && this.canRetry ? () => this.retry() : null;
      this.failure = { message: message || strings.errorGeneric, retry };
    },
  };

  #put(item) {
    if (typeof item?.id !== "string") throw new TypeError("an item without an id");
    if (item.type === "user_message") this.#takeSent();
    this.items = putItem(this.items, item);
  }

  // The server's message takes the place of the one drawn before it was accepted.
  #takeSent() {
    if (!this.#sending) return;
    this.outbox = this.outbox.filter((each) => each !== this.#sending);
    onTheirWay.delete(this.#sending.key);
    forgetUnsent(this.#sending);
    this.#sending.attachments.forEach(releasePreview);
    this.#sending = null;
    saveDraft(this.threadId, this.draft);
    if (this.stopping) this.#askToStop(this.#turn);
  }

  #done(item) {
    this.#live.delete(item.id);
    if (item.type !== "user_message") this.progress = null;
    this.#put(item);
  }

  #created(thread) {
    this.threadId = thread.id;
    for (const message of this.outbox) if (message.error) saveUnsent(this.threadId, message);
    this.#setThread(thread);
    this.#events.onCreated(this);
  }

  // A thread that was asked for may be older than what is known; one of an event isn't.
  #setThread(thread, askedAt = null) {
    const first = this.older.hasMore ? null : this.items.find(({ type }) => type === "user_message");
    // Events carry an empty page: never the items.
    this.thread = { ...threadFrom(thread), name: wordsOf(first ?? this.#sending) ?? this.thread?.name ?? null };
    this.thread = this.#events.onThread(this.thread, askedAt) ?? this.thread;
  }
}
