import assert from "node:assert/strict";
import { test } from "node:test";
import { closed } from "../../../chatkit_trio/web/page/js/unfinished.js";

for (const [raw, expected] of [
  ["Plain words", "Plain words"],
  ["See [the page](https://exam", "See the page"],
  ["See [the page](https://example.com/a_b \"ti", "See the page"],
  ["See [the page](https://example.com) and", "See [the page](https://example.com) and"],
  ["Look ![a picture](https://exam", "Look "],
  ["[a](b) [c](d", "[a](b) c"],
  ["Some **bold wo", "Some **bold wo**"],
  ["Some **bold wo ", "Some **bold wo**"],
  ["Some **bold*", "Some **bold**"],
  ["Some **bold**", "Some **bold**"],
  ["Some **", "Some "],
  ["***", ""],
  ["A ~~gone", "A ~~gone~~"],
  ["A `code", "A `code`"],
  ["A `**", "A "],
  ["A `code` and", "A `code` and"],
  ["**See [it](ht", "**See it**"],
  ["- **one** two\n- **th", "- **one** two\n- **th**"],
  ["- a ** b\n- c", "- a ** b\n- c"],
  ["2**3 is", "2**3 is"],
  ["snake_case and _x", "snake_case and _x"],
  ["a \\** b", "a \\** b"],
  ["- a\n  ```js\n  let x = `a", "- a\n  ```js\n  let x = `a"],
  ["f(x)[0](y", "f(x)0"],
]) {
  test(`what is unfinished in ${JSON.stringify(raw)} is closed or left out`, () => assert.equal(closed(raw), expected));
}

test("what is closed once is not changed again", () => {
  const text = "A **bold `code` and** [link](https://example.com) ~~x~~ ".repeat(3);
  for (let end = 1; end <= text.length; end += 1) {
    const once = closed(text.slice(0, end));
    assert.equal(closed(once).trimEnd(), once.trimEnd(), JSON.stringify(text.slice(0, end)));
  }
});
