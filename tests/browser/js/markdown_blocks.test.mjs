import assert from "node:assert/strict";
import { test } from "node:test";
import { blocksOf, htmlOf, takeParser } from "../../../chatkit_trio/web/page/js/markdown_blocks.js";
import { Marked } from "../../../chatkit_trio/web/page/vendor/markdown.js";

takeParser(Marked);

const html = (text) => blocksOf(text).blocks.map(({ token }) => htmlOf(token)).join("").trim();

for (const [name, text, expected] of [
  ["in parentheses", "so \\(a^2_1\\) is", '<p>so <code class="math">a^2_1</code> is</p>'],
  ["in dollars", "so $a_1 + b_2$.", '<p>so <code class="math">a_1 + b_2</code>.</p>'],
  ["in dollars twice", "so $$a$$ is", '<p>so <code class="math-block">a</code> is</p>'],
  ["in brackets", "\\[\na < b\n\\]", '<p><code class="math-block">a &#60; b</code></p>'],
  ["as a block", "$$\na\n$$\n\nand", '<p><code class="math-block">a</code></p><p>and</p>'],
  ["with stars", "$a*b*c$", '<p><code class="math">a*b*c</code></p>'],
]) {
  test(`a formula ${name}`, () => assert.equal(html(text).replaceAll("\n", ""), expected));
}

for (const text of ["it costs $5 and $10", "$5-$10", "a $ b $ c", "an \\$escaped$ one", "$HOME and ${x}"]) {
  test(`no formula: ${text}`, () => assert.doesNotMatch(html(text), /math/));
}

test("code is no formula", () => {
  assert.equal(html("`$a$`"), "<p><code>$a$</code></p>");
  assert.doesNotMatch(html("```\n$$a$$\n```"), /math/);
});

test("a text with thousands of formulas is drawn as text behind some", () => {
  const { blocks } = blocksOf("so $a$ is\n\n".repeat(5000));

  assert.equal(blocks.at(-1).token, null);
  assert.ok(blocks.length < 2000);
});

for (const [name, unit] of [
  ["brackets", "["],
  ["images", "!["],
  ["formulas in lines", "\\( "],
  ["an address", "a."],
  ["addresses", "a@"],
]) {
  const text = (count) => `${unit.repeat(count)}@ **b**`;

  test(`a paragraph that would take long for ${name} is drawn as text`, () => {
    assert.doesNotMatch(html(text(20_000)), /<strong>/);
    assert.match(html(text(200)), /<strong>/);
  });
}

test("a text that would take long for formulas without an end is shown as it is", () => {
  const lines = (count) => `${"\\[ a\n".repeat(count)}\n**b**`;

  assert.deepEqual(blocksOf(lines(2500)).blocks.map(({ token }) => token), [null]);
  assert.match(html(lines(100)), /<strong>/);
});

test("many formulas that end are drawn, without blank lines too", () => {
  assert.equal(html("\\[\na\n\\]\n".repeat(200)).match(/math-block/g).length, 200);
});
