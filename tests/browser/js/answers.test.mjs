import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { forgetAnswers, loadAnswers, saveAnswers } from "../../../chatkit_trio/web/page/js/answers.js";

const YES = { values: ["Yes"], other: false, custom: "" };

beforeEach(() => {
  const kept = new Map();
  globalThis.localStorage = {
    getItem: (key) => kept.get(key) ?? null,
    setItem: (key, value) => kept.set(key, value),
    removeItem: (key) => kept.delete(key),
    kept,
  };
});

test("each thread has answers of its own, until they are forgotten", () => {
  saveAnswers("thr_1", { item_1: { q1: YES } });

  assert.deepEqual(loadAnswers("thr_1"), { item_1: { q1: YES } });
  assert.deepEqual(loadAnswers("thr_2"), {});
  forgetAnswers("thr_1");
  assert.equal(localStorage.kept.size, 0);
});

test("what somebody else has written there is no answer", () => {
  saveAnswers("thr_1", { good: { q1: YES }, bad: { q1: { values: [1], custom: "" } }, worse: { q1: null }, worst: "x" });

  assert.deepEqual(Object.keys(loadAnswers("thr_1")), ["good"]);
  saveAnswers("thr_1", ["x"]);
  assert.deepEqual(loadAnswers("thr_1"), {});
});
