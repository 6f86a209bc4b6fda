import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import * as drafts from "../../../chatkit_trio/web/page/js/drafts.js";
import { options } from "../../../chatkit_trio/web/page/js/options.js";
import { loadVersions, saveVersions } from "../../../chatkit_trio/web/page/js/versions.js";
import { rememberVote } from "../../../chatkit_trio/web/page/js/votes.js";

class Storage {
  static quota = Infinity; // characters of all values
  getItem(key) {
    return Object.hasOwn(this, key) ? this[key] : null;
  }
  setItem(key, value) {
    const others = Object.entries(this).filter(([each]) => each !== key);
    const length = others.reduce((sum, [, each]) => sum + each.length, value.length);
    if (length > Storage.quota) throw new DOMException("full", "QuotaExceededError");
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
  Object.assign(options, { endpoint: "https://a.example/chatkit", scope: "https://a.example/chatkit", user: null });
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

test("a message that was on its way when its page was closed is unsent", () => {
  drafts.saveUnsent("thr_1", { ...message("a", "2026-01-01"), error: null });

  assert.equal(typeof drafts.loadUnsent("thr_1")[0].error.text, "string");
});

test("another tab's storage tells which message it has let go of", () => {
  const key = `chatkit-unsent:${options.scope}:a`;

  assert.equal(drafts.forgottenIn({ key, newValue: null }), "a");
  assert.equal(drafts.forgottenIn({ key, newValue: "{}" }), null);
  assert.equal(drafts.forgottenIn({ key: "chatkit-unsent:https://b.example:a", newValue: null }), null);
  assert.equal(drafts.forgottenIn({ key: null, newValue: null }), null);
});

const versionsOf = (at) => new Map([["m", [[{ id: "m", created_at: at, text: "x".repeat(200) }]]]]);

test("the oldest of the earlier versions make room for what is typed", () => {
  saveVersions("thr_new", versionsOf("2026-03-01"));
  saveVersions("thr_old", versionsOf("2026-01-01"));
  Storage.quota = 600;
  drafts.saveDraft("thr_1", { text: "y".repeat(100), quote: null });

  assert.equal(drafts.loadDraft("thr_1").text, "y".repeat(100));
  assert.equal(loadVersions("thr_old").size, 0);
  assert.equal(loadVersions("thr_new").size, 1);
});

test("what there is no room for at all takes nothing of its own thread away", () => {
  saveVersions("thr_1", versionsOf("2026-01-01"));
  Storage.quota = 300;
  saveVersions("thr_1", new Map([...versionsOf("2026-01-01"), ["n", [[{ id: "n", text: "z".repeat(300) }]]]]));

  assert.deepEqual([...loadVersions("thr_1").keys()], ["m"]);
});

const become = (user) => Object.assign(options, { user, scope: `${options.endpoint}#${user}` });

test("each user has drafts of their own, and what others have left is deleted", () => {
  drafts.saveDraft(null, { text: "nobody's", quote: null });
  rememberVote("msg_1", "positive");
  become("ann");
  drafts.saveDraft(null, { text: "Ann's", quote: null });
  drafts.saveUnsent("thr_1", message("a", "2026-01-01"));
  saveVersions("thr_1", versionsOf("2026-01-01"));
  localStorage["chatkit-draft:https://b.example:"] = "another server's";
  drafts.forgetOthers();
  assert.equal(drafts.loadDraft(null).text, "Ann's");
  assert.equal(Object.keys(localStorage).length, 4);

  become("ben");
  assert.equal(drafts.loadDraft(null).text, "");
  drafts.saveDraft(null, { text: "Ben's", quote: null });
  drafts.forgetOthers();

  assert.deepEqual(Object.keys(localStorage), ["chatkit-draft:https://b.example:", "chatkit-draft:https://a.example/chatkit#ben:"]);
});
