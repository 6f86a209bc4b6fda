import assert from "node:assert/strict";
import { test } from "node:test";
import { pickerAccept, whyNot } from "../../../chatkit_trio/web/page/js/file_rules.js";
import { speak } from "../../../chatkit_trio/web/page/js/strings.js";

const rules = { maxCount: 2, maxBytes: 5 * 1024 * 1024, accept: ["image/*", "text/plain"] };
const file = (name, type, size = 10) => ({ name, type, size });

test("a file that fits may be added", () => {
  assert.equal(whyNot(file("a.png", "image/png"), 0, rules), null);
  assert.equal(whyNot(file("a.txt", "text/plain"), 1, rules), null);
  assert.equal(whyNot(file("a.odd", ""), 0, rules), null);
  assert.equal(whyNot(file("a.zip", "application/zip", 1e9), 99, {}), null);
  assert.equal(whyNot(file("a.zip", "application/zip"), 0, { accept: ["*/*"] }), null);
  assert.equal(whyNot(file("A.PDF", "application/pdf"), 0, { accept: ["image/png", ".pdf"] }), null);
});

test("each kind of file may have a limit of its own", () => {
  const maxBytes = { "image/*": 100, "image/gif": 10, "*": 1000 };
  const tooLarge = (type, size) => whyNot(file("a", type, size), 0, { maxBytes }) !== null;

  assert.deepEqual([tooLarge("image/png", 100), tooLarge("image/png", 101)], [false, true]);
  assert.deepEqual([tooLarge("image/gif", 11), tooLarge("text/plain", 1001)], [true, true]);
  assert.equal(whyNot(file("a", "text/plain", 1e9), 0, { maxBytes: { "image/*": 1 } }), null);
});

test("one that doesn't fit is refused in words", () => {
  assert.match(whyNot(file("a.png", "image/png"), 2, rules), /2 files at most/);
  assert.match(whyNot(file("a.png", "image/png", 6e6), 0, rules), /a\.png is too large.*5 MB/);
  assert.match(whyNot(file("a.zip", "application/zip"), 0, rules), /a\.zip.*accepted/);
});

test("the picker offers what is taken", () => {
  assert.equal(pickerAccept(rules), "image/*,text/plain");
  assert.equal(pickerAccept({ accept: ["*/*"] }), null);
  assert.equal(pickerAccept({}), null);
});

test("a limit is told as a number of the language, and never as more than it is", async () => {
  const words = (maxBytes) => whyNot(file("a", "text/plain", 1e12), 0, { maxBytes });

  assert.match(words(1_500_000), /have 1\.4 MB$/);
  assert.match(words(999), /have 999 bytes$/);
  await speak("de");
  assert.match(words(1_500_000), /1,4 MB/);
  await speak("en");
});
