// What the buttons of a block of code do.

import { copyText } from "./clipboard.js";
import { save } from "./link.js";
import { strings } from "./strings.js";

const ENDINGS = {
  python: "py", javascript: "js", typescript: "ts", bash: "sh", shell: "sh", ruby: "rb", rust: "rs", markdown: "md",
  csharp: "cs", "c++": "cpp", kotlin: "kt", plaintext: "txt", text: "txt", yaml: "yml", console: "txt",
};

const textOf = (button) => button.closest(".code").querySelector("code").textContent;

/** Copies the code, and says so on the button. */
export async function copyCodeOf(button) {
  if (!(await copyText(textOf(button)))) return;
  button.textContent = strings.copied;
  setTimeout(() => {
    button.textContent = strings.copy;
  }, 1600);
}

/** Has the browser save the code as a file of its language. */
export function downloadCodeOf(button) {
  const language = button.closest(".code").querySelector(".code-head span").textContent.trim().toLowerCase();
  const ending = ENDINGS[language] ?? (/^[a-z0-9]{1,8}$/.test(language) ? language : "txt");
  save(new Blob([textOf(button)], { type: "text/plain" }), `code.${ending}`);
}

function say(button, words) {
  button.textContent = words;
  button.setAttribute("aria-label", words);
}

/** Breaks long lines of code, or no longer. */
export function wrapCodeOf(button) {
  const isWrapped = button.closest(".code").classList.toggle("is-wrapped");
  say(button, isWrapped ? strings.codeUnwrap : strings.codeWrap);
}

/** Shows all lines of long code, or some again. */
export function unfoldCodeOf(button) {
  const box = button.closest(".code");
  const isOpen = box.classList.toggle("is-open");
  say(button, isOpen ? strings.codeLess : strings.codeAll(textOf(button).split("\n").length));
  if (!isOpen) box.scrollIntoView({ block: "nearest" });
}
