import assert from "node:assert/strict";
import { test } from "node:test";
import { keepThrough, putItem, removeItem, updateItem, withLocal } from "../../../chatkit_trio/web/page/js/fold.js";

const message = (id, ...texts) => ({
  id,
  type: "assistant_message",
  content: texts.map((text) => ({ type: "output_text", text, annotations: [] })),
});
const delta = (text, index = 0) => ({
  type: "assistant_message.content_part.text_delta",
  content_index: index,
  delta: text,
});

test("an item takes the place of the one with its id, or the end", () => {
  const items = [message("a"), message("b")];

  assert.deepEqual(putItem(items, message("a", "x")).map(({ id }) => id), ["a", "b"]);
  assert.deepEqual(putItem(items, message("c")).map(({ id }) => id), ["a", "b", "c"]);
  assert.deepEqual(removeItem(items, "a").map(({ id }) => id), ["b"]);
  assert.deepEqual(keepThrough(items, "a").map(({ id }) => id), ["a"]);
  assert.equal(items.length, 2);
});

test("text grows, and only its own item is another object", () => {
  const items = [message("a", "Hel"), message("b", "x")];
  const grown = updateItem(items, "a", delta("lo"));

  assert.equal(grown[0].content[0].text, "Hello");
  assert.equal(grown[1], items[1]);
  assert.equal(items[0].content[0].text, "Hel");
});

test("a wild index makes no long list", () => {
  const [item] = updateItem([message("a")], "a", delta("x", 1e9));

  assert.equal(item.content.length, 1);
});

test("an update of an unknown item or kind changes nothing", () => {
  const items = [message("a", "x")];

  assert.equal(updateItem(items, "b", delta("y")), items);
  assert.equal(updateItem(items, "a", { type: "something.new" }), items);
});

test("annotations that came before a part was done stay", () => {
  const annotation = { type: "annotation", source: { type: "url", url: "https://a.example" } };
  const added = { type: "assistant_message.content_part.annotation_added", content_index: 0, annotation_index: 0, annotation };
  const done = { type: "assistant_message.content_part.done", content_index: 0, content: { text: "x" } };
  const [item] = [added, done].reduce((items, update) => updateItem(items, "a", update), [message("a", "x")]);

  assert.deepEqual(item.content[0].annotations, [annotation]);
});

test("a component of a widget is replaced, and its text grows", () => {
  const widget = { type: "Card", children: [{ type: "Text", id: "t", value: "a" }] };
  const item = { id: "w", type: "widget", widget };
  const grow = { type: "widget.streaming_text.value_delta", component_id: "t", delta: "b", done: true };
  const [grown] = updateItem([item], "w", grow);

  assert.deepEqual(grown.widget.children[0], { type: "Text", id: "t", value: "ab", streaming: false });
  assert.equal(widget.children[0].value, "a");
});

test("what the page alone knows stays behind what it followed", () => {
  const [a, b, c] = ["a", "b", "c"].map((id) => ({ id }));
  const [one, two, three] = ["1", "2", "3"].map((id) => ({ id, isLocal: true }));
  const gone = { id: "gone" };

  assert.deepEqual(withLocal([a, b, c], [a, one, two, b]), [a, one, two, b, c]);
  assert.deepEqual(withLocal([a, b], [a, gone, one]), [a, one, b]);
  assert.deepEqual(withLocal([a, one, b], [a, one, b, three]), [a, one, b, three]);
  assert.deepEqual(withLocal([a], [a, gone]), [a]);
});
