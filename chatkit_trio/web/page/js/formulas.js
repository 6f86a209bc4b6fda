// Formulas, drawn by KaTeX as MathML: browsers lay that out themselves, without fonts or styles of
// ours. KaTeX is loaded when the first formula appears; until then, and if it can't be drawn, there
// is its source.

import { once } from "./once.js";

const MOST_CHARACTERS = 5000; // of a formula
// Nothing of a formula may lead anywhere, and what it defines may not grow without end.
const OPTIONS = { output: "mathml", throwOnError: false, trust: false, strict: "ignore", maxExpand: 200, maxSize: 20 };

let katex = null;

const load = once(async () => {
  katex = (await import("../vendor/katex.js")).default;
});

function draw(source) {
  const isBlock = source.classList.contains("math-block");
  const formula = document.createElement("span");
  formula.className = isBlock ? "formula is-block" : "formula";
  formula.dir = "ltr";
  try {
    katex.render(source.textContent, formula, { ...OPTIONS, displayMode: isBlock });
  } catch (error) {
    return console.warn(`A formula can't be drawn: ${error.message}`);
  }
  source.replaceWith(formula);
}

/** Draws the formulas of a block in the places of their sources. */
export function showFormulas(block) {
  const sources = [...block.querySelectorAll("code.math, code.math-block")].filter(
    ({ textContent }) => textContent.length <= MOST_CHARACTERS,
  );
  if (sources.length === 0) return;
  if (katex) sources.forEach(draw);
  else load().then(() => sources.filter((source) => source.isConnected).forEach(draw), (error) => console.warn(error.message));
}
