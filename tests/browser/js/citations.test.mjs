import assert from "node:assert/strict";
import { test } from "node:test";
import { withCitations } from "../../../chatkit_trio/web/page/js/markdown_blocks.js";

const cited = (text, index) => withCitations(text, [{ index }]).replace("\uE000", "[").replace("\uE001", "]");

test("a citation stands behind the word that it points into, in any alphabet", () => {
  assert.equal(cited("The model said so", 6), "The model[1] said so");
  assert.equal(cited("Die Größe zählt", 6), "Die Größe[1] zählt");
  assert.equal(cited("Столица России", 3), "Столица[1] России");
  assert.equal(cited("हिन्दी भाषा", 3), "हिन्दी[1] भाषा");
});

test("where no spaces stand between words it stays where it is", () => {
  assert.equal(cited("日本の首都は東京です", 5), "日本の首都[1]は東京です");
});

test("a citation splits no character", () => {
  assert.equal(cited("Yes 👍🏽 no", 5), "Yes 👍[1]🏽 no");
  assert.equal(cited("at the end", 10), "at the end[1]");
  assert.equal(cited("beyond", 99), "beyond[1]");
  assert.equal(cited("at the start", 0), "[1]at the start");
});
