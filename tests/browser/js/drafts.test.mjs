import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import * as drafts from "../../../chatkit_trio/web/page/js/drafts.js";

class Storage {
  static quota = Infinity;
  getItem(key) {
    return Object.hasOwn(this, key) ? this[key] : null;
  }
  setItem(key, value) {
    if (value.length > Storage.quota) throw new DOMException("full", "QuotaExceededError");
    this[key] = value;
  }
  removeItem(key) {
    delete this[key];
  }
}

const message = (key, at, attachments = []) => ({
  key,
  created_at: at,
  attachments,
  input: { content: [{ type: "input_text", text: key }] },
});

beforeEach(() => {
  Storage.quota = Infinity;
  globalThis.localStorage = new Storage();
  console.warn = () => {};
});

test("each thread has a draft of its own, and so has the new chat", () => {
  drafts.saveDraft("thr_1", { text: "one", quote: "said" });
  drafts.saveDraft(null, { text: "new", quote: null });

  assert.deepEqual(drafts.loadDraft("thr_1"), { text: "one", quote: "said", tags: [], editing: null, attachments: [] });
  assert.equal(drafts.loadDraft(null).text, "new");
  assert.equal(drafts.loadDraft("thr_2").text, "");
});

test("an empty draft leaves nothing behind", () => {
  drafts.saveDraft("thr_1", { text: "one", quote: null });
  drafts.saveDraft("thr_1", { text: "", quote: null });

  assert.deepEqual(Object.keys(localStorage), []);
});

test("messages that weren't sent come back in their order, until they are forgotten", () => {
  const [first, second] = [message("a", "2026-01-01"), message("b", "2026-01-02")];
  drafts.saveUnsent("thr_1", second);
  drafts.saveUnsent("thr_1", first);
  drafts.saveUnsent(null, message("c", "2026-01-03"));

  assert.deepEqual(drafts.loadUnsent("thr_1").map(({ key }) => key), ["a", "b"]);
  assert.deepEqual(drafts.loadUnsent(null).map(({ key }) => key), ["c"]);
  drafts.forgetUnsent(first);
  assert.deepEqual(drafts.loadUnsent("thr_1").map(({ key }) => key), ["b"]);
});

test("the picture of a file in this page's memory isn't kept", () => {
  const files = [{ id: "1", preview_url: "blob:x" }, { id: "2", preview_url: "https://a.example/x" }];
  drafts.saveUnsent("thr_1", message("a", "2026-01-01", files));
  const [kept] = drafts.loadUnsent("thr_1");

  assert.deepEqual(kept.attachments.map((file) => file.preview_url), [undefined, "https://a.example/x"]);
});

test("a thread that is deleted leaves nothing", () => {
  drafts.saveDraft("thr_1", { text: "one", quote: null });
  drafts.saveUnsent("thr_1", message("a", "2026-01-01"));
  drafts.forgetThread("thr_1");

  assert.deepEqual(Object.keys(localStorage), []);
});

test("what somebody else has written there harms nothing", () => {
  localStorage["chatkit-draft:thr_1"] = "{not JSON";
  localStorage["chatkit-draft:thr_2"] = JSON.stringify({ text: 5 });
  localStorage["chatkit-unsent:x"] = JSON.stringify({ threadId: "thr_1" });

  assert.equal(drafts.loadDraft("thr_1").text, "");
  assert.equal(drafts.loadDraft("thr_2").text, "");
  assert.deepEqual(drafts.loadUnsent("thr_1"), []);
});

test("a browser whose storage is full or forbidden types on", () => {
  Storage.quota = 10;
  drafts.saveDraft("thr_1", { text: "a long text", quote: null });
  delete globalThis.localStorage;
  drafts.saveDraft("thr_1", { text: "one", quote: null });

  assert.equal(drafts.loadDraft("thr_1").text, "");
  assert.deepEqual(drafts.loadUnsent("thr_1"), []);
});
