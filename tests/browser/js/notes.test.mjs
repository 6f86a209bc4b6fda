import assert from "node:assert/strict";
import { test } from "node:test";
import { blocksOf, htmlOf, takeParser } from "../../../chatkit_trio/web/page/js/markdown_blocks.js";
import { Marked } from "../../../chatkit_trio/web/page/vendor/markdown.js";

takeParser(Marked);

const drawn = (text) => blocksOf(text).blocks.map(({ token }) => htmlOf(token)).join("").replace(/\s*\n\s*/g, "\n").trim();
const ref = (label) => `<sup class="note-ref"><button type="button" value="${label}" aria-label="Footnote ${label}">${label}</button></sup>`;
const note = (label, inner) =>
  `<div class="footnote"><sup class="footnote-mark"><button type="button" value="${label}" aria-label="Back to the text, footnote ${label}">${label}</button></sup>\n<div>${inner}</div></div>`;

for (const [name, text, expected] of [
  ["a footnote", "Words.[^1]\n\n[^1]: The *source*.", `<p>Words.${ref(1)}</p>\n${note(1, "<p>The <em>source</em>.</p>\n")}`],
  ["one behind an exclamation mark", "Wow![^1]\n\n[^1]: Yes.", `<p>Wow!${ref(1)}</p>\n${note(1, "<p>Yes.</p>\n")}`],
  ["labels of letters, whatever their case", "A[^Note]\n\n[^note]: N.", `<p>A${ref("Note")}</p>\n${note("note", "<p>N.</p>\n")}`],
  ["several in a row", "A[^1] b[^2]\n\n[^1]: One.\n[^2]: Two.", `<p>A${ref(1)} b${ref(2)}</p>\n${note(1, "<p>One.</p>\n")}${note(2, "<p>Two.</p>\n")}`],
  ["one of several paragraphs", "A[^1]\n\n[^1]: One.\n\n    Two.\n\nText", `<p>A${ref(1)}</p>\n${note(1, "<p>One.</p>\n<p>Two.</p>\n")}<p>Text</p>`],
  ["one that nothing defines", "A[^1] and [^x]", "<p>A[^1] and [^x]</p>"],
  ["one in code", "`[^1]`\n\n[^1]: One.", `<p><code>[^1]</code></p>\n${note(1, "<p>One.</p>\n")}`],
  ["a label that is markup", "A[^<b>]\n\n[^<b>]: One.", `<p>A${ref("&#60;b&#62;")}</p>\n${note("&#60;b&#62;", "<p>One.</p>\n")}`],
  ["a definition of a link", "[a] [^1]\n\n[a]: https://a.example", '<p><a href="https://a.example">a</a> [^1]</p>'],
]) {
  test(`footnotes: ${name}`, () => assert.equal(drawn(text), expected.replace(/\s*\n\s*/g, "\n").trim()));
}

const alert = (kind, title, inner) => `<div class="alert is-${kind}"><p class="alert-title">${title}</p>\n${inner}</div>`;

for (const [name, text, expected] of [
  ["a note", "> [!NOTE]\n> Some **words**.", alert("note", "Note", "<p>Some <strong>words</strong>.</p>\n")],
  ["of several paragraphs", "> [!WARNING]\n>\n> One.\n>\n> - two", alert("warning", "Warning", "<p>One.</p>\n<ul>\n<li>two</li>\n</ul>\n")],
  ["in small letters", "> [!tip]\n> x", alert("tip", "Tip", "<p>x</p>\n")],
  ["without words yet", "> [!IMPORTANT]", alert("important", "Important", "")],
  ["with a hard break", "> [!CAUTION]  \n> x", alert("caution", "Caution", "<p>x</p>\n")],
  ["of an unknown kind", "> [!NEWS]\n> x", "<blockquote>\n<p>[!NEWS]\nx</p>\n</blockquote>"],
  ["with words behind it", "> [!NOTE] x", "<blockquote>\n<p>[!NOTE] x</p>\n</blockquote>"],
]) {
  test(`alerts: ${name}`, () => assert.equal(drawn(text), expected.replace(/\s*\n\s*/g, "\n").trim()));
}
