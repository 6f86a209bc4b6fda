import assert from "node:assert/strict";
import { test } from "node:test";
import { marksOf, withEndings } from "../../../chatkit_trio/web/page/js/endings.js";

const items = ["q1", "a1", "a2", "q2"].map((id) => ({ id }));
const ending = (turn, ...ids) => ({ turn_id: turn, reason: "stopped", item_ids: ids });
const endingsOf = (...endings) => withEndings(new Map(), { endings });
const said = (marks) => Object.fromEntries([...marks].map(([id, { turn_id: turn }]) => [id, turn]));

test("a mark stands behind the last item of its answer that is shown", () => {
  const endings = endingsOf(ending("t1", "a2", "a1", "gone"));

  assert.deepEqual(said(marksOf(items, endings, null)), { a2: "t1" });
});

test("an ending of which nothing is shown is told only if it is the last", () => {
  const nowhere = ending("t1", "gone");

  assert.deepEqual(said(marksOf(items, endingsOf(nowhere), null)), {});
  assert.deepEqual(said(marksOf(items, endingsOf(nowhere), ending("t2"))), { null: "t2" });
});

test("the last ending is the one that is drawn, though its page has told of it too", () => {
  const last = ending("t1", "a2");

  assert.equal(marksOf(items, endingsOf(ending("t1", "a2")), last).get("a2"), last);
});

test("endings of several pages are put together, and one that comes twice is one", () => {
  const both = withEndings(endingsOf(ending("t1", "a1")), { endings: [ending("t1", "a1"), ending("t2", "a2")] });

  assert.deepEqual([...both.keys()], ["t1", "t2"]);
  assert.deepEqual([...withEndings(both, {}).keys()], ["t1", "t2"]);
});
