// Footnotes and alerts, as GitHub's Markdown has them, for the parser. A footnote is drawn where it
// is defined and under its own label, so a text that grows needs no other numbers than it had. Pure.

import { strings } from "./strings.js";

export function escape(text) {
  return text.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`);
}

const NOTE_REF = /^\[\^([^\]\s]{1,99})\]/;
// The first line, and those that are indented: by four behind a blank one.
const NOTE = /^ {0,3}\[\^([^\]\s]{1,99})\]:[ \t]*([^\n]*(?:\n(?: {2}|\t)[ \t]*\S[^\n]*|\n(?:[ \t]*\n)+(?: {4}|\t)[^\n]*)*)(?:\n|$)/;
const INDENT = /^(?: {1,4}|\t)/gm;

// Known labels are kept with the addresses of links, under a name that no link can have: their names
// are in small letters. So a note that is defined later is treated as such an address is.
export const noteName = (label) => `NOTE ${label.toLowerCase()}`;

const button = (label, words) => {
  const shown = escape(label);
  return `<button type="button" value="${shown}" aria-label="${escape(words(label))}">${shown}</button>`;
};

export const footnoteRef = {
  name: "footnoteRef",
  level: "inline",
  start: (text) => text.indexOf("[^"),
  tokenizer(text) {
    const match = NOTE_REF.exec(text);
    const isKnown = match && this.lexer.tokens.links[noteName(match[1])];
    return isKnown ? { type: "footnoteRef", raw: match[0], label: match[1] } : undefined;
  },
  renderer: ({ label }) => `<sup class="note-ref">${button(label, strings.footnote)}</sup>`,
};

export const footnote = {
  name: "footnote",
  level: "block",
  // It is asked for each paragraph, of all that follows: most texts have no footnotes.
  start: (text) => (text.includes("[^") ? text.match(/^ {0,3}\[\^[^\]\s]+\]:/m)?.index : undefined),
  tokenizer(text) {
    const match = NOTE.exec(text);
    if (!match) return undefined;
    const [raw, label, words] = match;
    this.lexer.tokens.links[noteName(label)] = { href: "", title: null };
    const { top } = this.lexer.state;
    this.lexer.state.top = true; // paragraphs, not the bare text of an item
    const tokens = this.lexer.blockTokens(words.replace(INDENT, ""), []);
    this.lexer.state.top = top;
    return { type: "footnote", raw, label, tokens };
  },
  renderer({ label, tokens }) {
    return `<div class="footnote"><sup class="footnote-mark">${button(label, strings.footnoteBack)}</sup>
      <div>${this.parser.parse(tokens)}</div></div>`;
  },
};

const ALERT = /^\[!(note|tip|important|warning|caution)\][ \t]*(?:\n|$)/i;

/** Renders a quote that is an alert; false for any other. */
export function alertQuote({ tokens }) {
  const [first, ...others] = tokens;
  const [words, ...rest] = (first?.type === "paragraph" && first.tokens) || [];
  const [head, kind] = (words?.type === "text" && ALERT.exec(words.text)) || [];
  if (!kind) return false;
  const name = kind.toLowerCase();
  const left = { ...words, raw: words.raw.slice(head.length), text: words.text.slice(head.length) };
  const inner = [...(left.text ? [left] : []), ...(rest[0]?.type === "br" ? rest.slice(1) : rest)];
  const body = [...(inner.length ? [{ ...first, tokens: inner }] : []), ...others];
  return `<div class="alert is-${name}"><p class="alert-title">${escape(strings.alerts[name])}</p>
    ${this.parser.parse(body)}</div>`;
}
