import assert from "node:assert/strict";
import { test } from "node:test";

const kept = new Map();
let reads = 0;
globalThis.localStorage = {
  getItem(key) {
    reads += 1;
    return kept.get(key) ?? null;
  },
  setItem: (key, value) => kept.set(key, value),
};
globalThis.document = { baseURI: "https://chat.example/" };

const { takeOptions } = await import("../../../chatkit_trio/web/page/js/options.js");
const { rememberVote, voteOn } = await import("../../../chatkit_trio/web/page/js/votes.js");

const KEY = "chatkit-votes:https://chat.example/chatkit";
const use = (url) => takeOptions({ api: { url } });

test("votes are read once, however many answers are drawn", () => {
  use("/chatkit");
  kept.set(KEY, JSON.stringify({ m1: "positive" }));
  const shown = Array.from({ length: 500 }, (_, number) => voteOn(`m${number}`));

  assert.deepEqual(shown.filter(Boolean), ["positive"]);
  assert.equal(reads, 1);
});

test("a vote is remembered beside those of other tabs, the newest 500", () => {
  kept.set(KEY, JSON.stringify(Object.fromEntries(Array.from({ length: 500 }, (_, number) => [`n${number}`, "negative"]))));
  rememberVote("m2", "positive");

  assert.equal(voteOn("m2"), "positive");
  assert.equal(voteOn("n1"), "negative");
  const stored = JSON.parse(kept.get(KEY));
  assert.equal(Object.keys(stored).length, 500);
  assert.deepEqual([stored.n0, stored.n1, stored.m2], [undefined, "negative", "positive"]);
});

test("another server has votes of its own", () => {
  use("/other");
  assert.equal(voteOn("m2"), null);
  rememberVote("m2", "negative");
  use("/chatkit");
  assert.equal(voteOn("m2"), "positive");
});
