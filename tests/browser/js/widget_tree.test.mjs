import assert from "node:assert/strict";
import { test } from "node:test";
import { fieldKeys } from "../../../chatkit_trio/web/page/js/widget_tree.js";

test("fields have a key each, by their names and the order of those with the same", () => {
  const first = { type: "Input", name: "who" };
  const second = { type: "Input", name: "who" };
  const title = { type: "Text", editable: { name: "title" } };
  const keys = fieldKeys({ type: "Card", children: [first, { type: "Col", children: [second, [title], null, "words"] }] });

  assert.deepEqual([first, second, title].map((node) => keys.get(node)), ["who 1", "who 2", "title 1"]);
});
