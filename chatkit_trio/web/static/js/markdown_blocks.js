// Markdown to blocks of HTML, which isn't sanitised yet. What would take long to draw, as a model
// or a prompt injection can write it, becomes a block of plain text instead: the bounds are far
// beyond what people read, and are counted, so that a text looks the same on every machine. Pure.

import { Marked } from "../vendor/vendor.js";
import { strings } from "./strings.js";

const MOST_CHARACTERS = 400_000; // of a text
const MOST_LINES = 20_000; // of a text
const MOST_WEIGHT = 25_000; // of a text: its tokens, such as words in bold, cells and links, and more
const MOST_DEPTH = 100; // tokens in each other; a list in a list is two
const WEIGHTS = { block: 12, image: 60 }; // beyond the token itself
// Tags that are left open are repeated in what follows: elements grow with the square of tags.
const TAGS_SQUARED = 40; // to a unit of weight
// Looking for emphases takes as long as a paragraph has characters times marks, up to 15 ns each.
const MOST_EMPHASES = 20_000_000;

// Citations travel through the text between two characters of Unicode's private use area.
const CITE_START = "\uE000";
const CITE_END = "\uE001";
const CITE = /\uE000(\d+)\uE001/;
const CITES = /\uE000\d+\uE001/g;
const ENCODED_CITES = /(\uE000|%EE%80%80)\d+(\uE001|%EE%80%81)/gi;

export function escape(text) {
  return text.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`);
}

const citation = {
  name: "citation",
  level: "inline",
  start: (text) => text.indexOf(CITE_START),
  tokenizer(text) {
    const match = CITE.exec(text);
    return match?.index === 0 ? { type: "citation", raw: match[0], number: match[1] } : undefined;
  },
  renderer: ({ number }) =>
    `<sup class="cite"><button type="button" value="${number}">${number}</button></sup>`,
};

function codeBlock({ text, lang }) {
  const language = escape((lang ?? "").split(/\s/)[0]);
  const code = escape(text.replace(CITES, ""));
  return `<div class="code"><div class="code-head"><span>${language}</span>
    <button type="button" value="copy-code" aria-label="${strings.copyCode}">${strings.copy}</button>
    </div><pre tabindex="0"><code>${code}</code></pre></div>`;
}

const marked = new Marked({ gfm: true, breaks: false });
marked.use({
  extensions: [citation],
  renderer: {
    code: codeBlock,
    codespan: ({ text }) => `<code>${escape(text.replace(CITES, ""))}</code>`,
    table(token) {
      const cell = (each, tag) => {
        const align = each.align ? ` align="${each.align}"` : "";
        return `<${tag}${align}>${this.parser.parseInline(each.tokens)}</${tag}>`;
      };
      const row = (cells, tag) => `<tr>${cells.map((each) => cell(each, tag)).join("")}</tr>`;
      const body = token.rows.map((cells) => row(cells, "td")).join("");
      return `<div class="table-scroll"><table><thead>${row(token.header, "th")}</thead>
        <tbody>${body}</tbody></table></div>`;
    },
  },
});

/** Returns the text without the citation marks in it, also where they were encoded in an address. */
export function withoutCitations(text) {
  return text.replace(ENCODED_CITES, "");
}

// An index that points into a word means the end of that word.
function endOfWord(text, at) {
  if (at === 0 || !/\w/.test(text[at - 1] ?? "")) return at;
  return at + /^\w*/.exec(text.slice(at))[0].length;
}

/**
 * Returns the text with citation marks put in where annotations point into it.
 * Numbers go on from `before`, the count of those in earlier parts of the message.
 */
export function withCitations(text, annotations, before = 0) {
  const placed = annotations
    .map((annotation, order) => ({ at: annotation?.index, number: before + order + 1 }))
    .filter(({ at }) => Number.isInteger(at) && at >= 0)
    .sort((a, b) => b.at - a.at || b.number - a.number);
  return placed.reduce((cited, { at: index, number }) => {
    const at = endOfWord(text, index);
    return `${cited.slice(0, at)}${CITE_START}${number}${CITE_END}${cited.slice(at)}`;
  }, text);
}

function emphases(text) {
  return text.length * (text.match(/[*_~]/g)?.length ?? 0);
}

// As the lexer's own `lex`, but for the paragraphs that would take too long.
function lex(text) {
  const lexer = new marked.Lexer(marked.defaults);
  lexer.blockTokens(text.replace(/\r\n|\r/g, "\n"), lexer.tokens);
  let left = MOST_EMPHASES;
  for (const { src, tokens } of lexer.inlineQueue) {
    const cost = emphases(src);
    if (cost > left) {
      tokens.push({ type: "text", raw: src, text: src });
    } else {
      lexer.inlineTokens(src, tokens);
      left -= cost;
    }
  }
  return lexer.tokens;
}

function inside(token) {
  if (token.type === "list") return token.items;
  if (token.type === "table") return [...token.header, ...token.rows.flat()];
  return token.tokens ?? [];
}

function weightOf({ type }) {
  return 1 + (type === "image" ? WEIGHTS.image : 0);
}

function tagsIn(token) {
  return token.type === "html" ? (token.raw.match(/<[a-z]/gi)?.length ?? 0) : 0;
}

// What it costs to draw a block; Infinity for one that is nested too deep. Without recursion.
function weigh(block) {
  let weight = WEIGHTS.block;
  let tags = 0;
  const left = [[block, 1]];
  while (left.length > 0 && weight <= MOST_WEIGHT) {
    const [token, depth] = left.pop();
    if (depth > MOST_DEPTH) return Infinity;
    weight += weightOf(token);
    tags += tagsIn(token);
    for (const each of inside(token)) left.push([each, depth + 1]);
  }
  return weight + tags ** 2 / TAGS_SQUARED;
}

// All that is left when the weight is used up is one block of plain text.
function drawable(tokens) {
  let left = MOST_WEIGHT;
  const blocks = [];
  for (const [index, token] of tokens.entries()) {
    const weight = weigh(token);
    if (weight === Infinity) {
      blocks.push({ raw: token.raw, token: null });
      continue;
    }
    left -= weight;
    if (left < 0) return [...blocks, { raw: tokens.slice(index).map(({ raw }) => raw).join(""), token: null }];
    if (token.type !== "space" && token.type !== "def") blocks.push({ raw: token.raw, token });
  }
  return blocks;
}

function isLong(text) {
  return text.length > MOST_CHARACTERS || (text.match(/\n/g)?.length ?? 0) > MOST_LINES;
}

/**
 * Returns the blocks of a text, each with its `raw` text and its `token`, which is null for one to
 * be shown as it is; and `links`, the number of addresses that are defined in the text.
 */
export function blocksOf(text) {
  const asItIs = { blocks: [{ raw: text, token: null }], links: 0 };
  if (isLong(text)) return asItIs;
  try {
    const tokens = lex(text);
    return { blocks: drawable(tokens), links: Object.keys(tokens.links).length };
  } catch (error) {
    console.warn(`A text isn't drawn as Markdown: ${error.message}`); // nested too deep for the lexer
    return asItIs;
  }
}

/** Returns the HTML of one block; to be sanitised. */
export function htmlOf(token) {
  return marked.parser([token]);
}
