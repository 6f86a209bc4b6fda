import assert from "node:assert/strict";
import { test } from "node:test";
import { threadFrom, withIds, wordsOf } from "../../../chatkit_trio/web/page/js/thread_fields.js";

test("a thread has fields of the right kinds, whatever the server sent", () => {
  const wild = threadFrom({ id: "t", title: 5, name: {}, created_at: null, status: "x", allowed_image_domains: "a", items: [] });

  assert.deepEqual(wild, {
    id: "t", title: null, name: null, created_at: "", last_activity_at: null, status: { type: "active", reason: null },
    allowed_image_domains: [],
  });
});

test("what has no id can't be shown", () => {
  assert.deepEqual(withIds([{ id: "a" }, {}, null, { id: 5 }]), [{ id: "a" }]);
});

test("a thread is known by the first words of a message", () => {
  const content = (...parts) => ({ content: parts });

  assert.equal(wordsOf(content({ text: " What is\n a " }, { text: "nursery?" })), "What is a nursery?");
  assert.equal(wordsOf(content({ text: "x".repeat(100) })).length, 80);
  for (const nothing of [null, {}, content(), content(null, {}, { text: 5 }), { content: "words" }]) {
    assert.equal(wordsOf(nothing), null);
  }
});
