import assert from "node:assert/strict";
import { test } from "node:test";
import { blocksOf, htmlOf, takeParser } from "../../../chatkit_trio/web/page/js/markdown_blocks.js";
import { Marked } from "../../../chatkit_trio/web/page/vendor/markdown.js";

takeParser(Marked);

const PIECES = [
  "Some words ", "**bold** ", "`code` ", "\n", "\n\n", "\n\n", "- item ", "\n- item ", "\n  - inner ", "\n* other ", "\n1. one ",
  "\n2) two ", "\n- [x] done ", "\n> quote ", "\n# Head ", "\n===\n", "\n---\n", "\n| a | b |\n|---|--:|\n", "\n| c | d |", "\n| e",
  "\n```js\n", "\n```\n", "let x = 1;\n", "$$\na + b\n$$\n", "\n$$ open ", "\\[ x \\]", "\n    indented ", "<b>html", "</b> ", "\n<div>\n",
  "[link](https://example.com) ", "[ref] ", "[ref][]", "\n\n[ref]: https://example.com/x\n", "\n[^1]: note\n", "[^1] ", "[^Two]", "\n[^two]: a **b** ", "\n\n    more ", "\n> [!NOTE]\n> ", "![i](x.png) ", "\r\n", "\t", "~~gone~~ ",
  "\\", "*", "_", "|", "&amp; ", "👍 ", "字 ",
];

// The same numbers in each run.
function numbersFrom(seed) {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

const shown = ({ blocks }) => blocks.map(({ raw, token }) => (token ? htmlOf(token) : raw));

for (let seed = 1; seed <= 200; seed += 1) {
  test(`a text that grows is what it is when it is read at once (${seed})`, () => {
    const number = numbersFrom(seed);
    const some = Array.from({ length: 4 + number(6) }, () => PIECES[number(PIECES.length)]);
    let text = "";
    let known = null;
    for (let step = 0; step < 60; step += 1) {
      const piece = some[number(some.length)];
      text += number(4) ? piece : piece.slice(0, 1 + number(piece.length));
      known = blocksOf(text, known);
      assert.deepEqual(shown(known), shown(blocksOf(text)), JSON.stringify(text));
    }
  });
}

const items = (count, made) => Array.from({ length: count }, (_, number) => made(number)).join("");

for (const [name, text] of [
  ["a list", items(200, (n) => `- Item ${n} with **bold**\n`)],
  ["a numbered list", items(120, (n) => `${n + 1}. Item ${n}\n`)],
  ["a loose list", items(100, (n) => `- Item ${n}\n\n`)],
  ["a list that becomes loose", items(50, (n) => `- Item ${n}\n`) + items(20, (n) => `\n- Item ${n}\n`)],
  ["a table", "| a | b |\n|---|---|\n" + items(200, (n) => `| ${n} | *x* |\n`)],
  ["a table with text behind", "| a | b |\n|---|---|\n" + items(60, (n) => `| ${n} | x |\n`) + "\nAnd text\n\n- a\n- b"],
]) {
  test(`${name} keeps what it has while it grows, and is what it is at once`, () => {
    let known = null;
    let kept = 0;
    for (let end = 7; end < text.length + 7; end += 7) {
      const before = known?.blocks[0]?.token;
      known = blocksOf(text.slice(0, end), known);
      const [now] = known.blocks;
      const parts = (token) => token?.items ?? token?.rows ?? [];
      if (parts(before)[0] && parts(before)[0] === parts(now.token)[0]) kept += 1;
    }

    assert.deepEqual(shown(known), shown(blocksOf(text)));
    assert.ok(kept > text.length / 7 / 2, `${kept} of ${text.length / 7} steps kept the first part`);
  });
}

for (const text of [
  "A[^two]\n[^two]: a **b**\n===\n\nText[^two]",
  "- a[^1]\n\n[^1]: b\n[^1]: c\n\n    d\n\ne\n\n> [!NOTE]\n> x[^1]\n> ===\n",
  items(12, (n) => `- Item ${n}[^1]\n`) + "[^1]: note\n  more\n- x\n\n[^2]: y\n---\n",
]) {
  test(`footnotes come and go as the text says: ${JSON.stringify(text.slice(0, 20))}`, () => {
    let known = null;
    for (let end = 1; end <= text.length; end += 1) {
      known = blocksOf(text.slice(0, end), known);
      assert.deepEqual(shown(known), shown(blocksOf(text.slice(0, end))), JSON.stringify(text.slice(0, end)));
    }
  });
}
