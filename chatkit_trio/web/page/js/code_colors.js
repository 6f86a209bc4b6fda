// Colours in code. highlight.js is loaded when the first code with a language appears, and works
// when a block has come to rest: while it streams it would be coloured again with each piece.

import { once } from "./once.js";

const MOST_CHARACTERS = 20_000; // of a block of code
const AT_REST = 120; // milliseconds without a change

const load = once(async () => (await import("../vendor/highlight.js")).default);

// Only words and the names of colours get through, whatever the text was.
function copyOf(node) {
  if (node.nodeType === Node.TEXT_NODE) return document.createTextNode(node.data);
  const span = document.createElement("span");
  const kind = [...(node.classList ?? [])].find((each) => each.startsWith("hljs-"));
  if (kind) span.className = kind;
  span.append(...[...node.childNodes].map(copyOf));
  return span;
}

function colour(highlighter, { code, language }) {
  if (!code.isConnected || !highlighter.getLanguage(language)) return;
  const coloured = document.createElement("template");
  code.setAttribute("aria-live", "off"); // these words have been read
  coloured.innerHTML = highlighter.highlight(code.textContent, { language, ignoreIllegals: true }).value;
  code.replaceChildren(...[...coloured.content.childNodes].map(copyOf));
}

function codesOf(block) {
  return [...block.querySelectorAll(".code")]
    .map((box) => ({
      code: box.querySelector("pre code"),
      language: box.querySelector(".code-head span")?.textContent.trim().toLowerCase(),
    }))
    .filter(({ code, language }) => code && language && code.textContent.length <= MOST_CHARACTERS);
}

/** Colours the code of a block once it rests; returns what calls that off. */
export function showColours(block) {
  const codes = codesOf(block);
  if (codes.length === 0) return undefined;
  const timer = setTimeout(() => {
    load().then(
      (highlighter) => codes.forEach((each) => colour(highlighter, each)),
      (error) => console.warn(`Code isn't coloured: ${error.message}`),
    );
  }, AT_REST);
  return () => clearTimeout(timer);
}
