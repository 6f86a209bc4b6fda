import assert from "node:assert/strict";
import { test } from "node:test";
import { contentOf, editable, mentionedIn, queryAt, withMention } from "../../../chatkit_trio/web/page/js/mentions.js";

const ada = { id: "1", title: "Ada", group: "People" };
const lovelace = { id: "2", title: "Ada Lovelace", data: { a: "b" }, interactive: true };
const odd = { id: "3", title: "C++ (2.0) [x]" };

test("what is looked for stands behind an @ that begins a word", () => {
  assert.deepEqual(queryAt("ask @ada l", 10), { start: 4, query: "ada l" });
  assert.deepEqual(queryAt("@", 1), { start: 0, query: "" });
  assert.deepEqual(queryAt("one\n@two three", 8), { start: 4, query: "two" });
  assert.equal(queryAt("mail@example.com", 16), null);
  assert.equal(queryAt("no", 2), null);
});

test("what is picked takes the place of what was typed", () => {
  assert.deepEqual(withMention("ask @ad now", 4, 7, ada), { text: "ask @Ada now", caret: 9 });
  assert.deepEqual(withMention("@l", 0, 2, lovelace), { text: "@Ada Lovelace ", caret: 14 });
});

test("mentions are sent as tags, and the longest title wins", () => {
  const tag = (entity) => ({
    type: "input_tag", id: entity.id, text: entity.title, group: entity.group ?? null,
    interactive: entity.interactive ?? false, data: entity.data ?? {},
  });
  const text = (words) => ({ type: "input_text", text: words });

  assert.deepEqual(contentOf("@Ada Lovelace, @Ada and @C++ (2.0) [x]!", [ada, lovelace, odd]), [
    tag(lovelace), text(", "), tag(ada), text(" and "), tag(odd), text("!"),
  ]);
  assert.deepEqual(contentOf("@Adam and a@Ada", [ada]), [text("@Adam and a@Ada")]);
  assert.deepEqual(contentOf("plain", []), [text("plain")]);
  assert.deepEqual(contentOf("", [ada]), []);
});

test("a mention that was deleted from the text is none", () => {
  assert.deepEqual(mentionedIn("only @Ada", [ada, lovelace]), [ada]);
});

test("a sent message can be edited and sent again as it was", () => {
  const content = contentOf("Ask @Ada Lovelace now", [lovelace]);
  const { text, tags } = editable(content);

  assert.equal(text, "Ask @Ada Lovelace now");
  assert.deepEqual(contentOf(text, tags), content);
});
