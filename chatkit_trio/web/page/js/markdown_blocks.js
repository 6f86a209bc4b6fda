// Markdown to blocks of HTML, which isn't sanitised yet. What would take long to draw, as a model
// or a prompt injection can write it, becomes a block of plain text instead: the bounds are far
// beyond what people read, and are counted, so that a text looks the same on every machine. Pure.

import { alertQuote, escape, footnote, footnoteRef, noteName } from "./markdown_notes.js";
import { strings } from "./strings.js";
import { closed } from "./unfinished.js";

const MOST_CHARACTERS = 400_000; // of a text
const MOST_LINES = 20_000; // of a text
const MOST_WEIGHT = 25_000; // of a text: its tokens, such as words in bold, cells and links, and more
const MOST_DEPTH = 100; // tokens in each other; a list in a list is two
const BLOCK_WEIGHT = 12; // beyond its tokens
const WEIGHTS = { image: 60, math: 25, mathBlock: 25 }; // beyond the token itself
// Tags that are left open are repeated in what follows: elements grow with the square of tags.
const TAGS_SQUARED = 40; // to a unit of weight
// Looking for what marks begin takes as long as a paragraph has characters times marks, up to 15 ns each.
const MOST_LOOKS = 20_000_000;

// Citations travel through the text between two characters of Unicode's private use area.
const CITE_START = "\uE000";
const CITE_END = "\uE001";
const CITE = /\uE000(\d+)\uE001/;
const CITES = /\uE000\d+\uE001/g;
const ENCODED_CITES = /(\uE000|%EE%80%80)\d+(\uE001|%EE%80%81)/gi;

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

// A formula in a line: \( ... \), or between dollars that touch it. "$5 and $10" is none.
const INLINE_MATH = /^(?:\\\(([\s\S]+?)\\\)|\$\$([^$]+?)\$\$|\$(?![\s$])((?:\\[^\n]|[^$\\\n])*?[^\s\\$])\$(?!\d))/;
// Up to a blank line: what stands behind one is another block already.
const BLOCK_MATH = /^ {0,3}(?:\\\[((?:(?!\n[ \t]*\n)[\s\S])+?)\\\]|\$\$((?:(?!\n[ \t]*\n)[\s\S])+?)\$\$)[ \t]*(?:\n|$)/;

function mathHtml(text, isBlock) {
  const source = escape(text.replace(CITES, "").trim());
  return `<code class="${isBlock ? "math-block" : "math"}">${source}</code>`;
}

const inlineMath = {
  name: "math",
  level: "inline",
  start: (text) => text.match(/\\\(|\$/)?.index,
  tokenizer(text) {
    const match = INLINE_MATH.exec(text);
    if (!match) return undefined;
    const [raw, paren, display, dollar] = match;
    return { type: "math", raw, text: paren ?? display ?? dollar, isBlock: display !== undefined };
  },
  renderer: ({ text, isBlock }) => mathHtml(text, isBlock),
};

const blockMath = {
  name: "mathBlock",
  level: "block",
  // It is asked for each paragraph, of all that follows: most texts have no formulas.
  start: (text) => (text.includes("$$") || text.includes("\\[") ? text.match(/^ {0,3}(?:\\\[|\$\$)/m)?.index : undefined),
  tokenizer(text) {
    const match = BLOCK_MATH.exec(text);
    return match ? { type: "mathBlock", raw: match[0], text: match[1] ?? match[2] } : undefined;
  },
  renderer: ({ text }) => `<p>${mathHtml(text, true)}</p>`,
};

const LONG_CODE = 30; // lines, beyond which code folds once it is whole

const LONG_LINE = 50; // characters, beyond which a line may be wider than a small window

const codeButton = (value, label, words = label) =>
  `<button type="button" value="${value}" aria-label="${label}">${words}</button>`;

function codeBlock({ text, lang }) {
  const language = escape((lang ?? "").split(/\s/)[0]);
  const code = escape(text.replace(CITES, ""));
  const lines = text.split("\n");
  const isLong = lines.length > LONG_CODE;
  const isWide = lines.some(({ length }) => length > LONG_LINE);
  return `<div class="${isLong ? "code is-long" : "code"}"><div class="code-head"><span>${language}</span>
    ${isWide ? codeButton("wrap-code", strings.codeWrap) : ""}
    ${codeButton("download-code", strings.codeDownload)}${codeButton("copy-code", strings.copyCode, strings.copy)}
    </div><pre tabindex="0"><code>${code}</code></pre>
    ${isLong ? codeButton("unfold-code", strings.codeAll(lines.length)) : ""}</div>`;
}

// Of the page's own headings that of the message is the second level; those in it stand below.
const levelBelow = (level) => Math.min(Number(level) + 2, 6);

const WIDE_CELL = 20; // characters, beyond which a cell isn't squeezed to the width of its words

const EXTENSIONS = {
  extensions: [citation, inlineMath, blockMath, footnoteRef, footnote],
  renderer: {
    code: codeBlock,
    heading({ tokens, depth }) {
      const level = levelBelow(depth);
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>`;
    },
    blockquote: alertQuote,
    html: ({ text }) => text.replace(/(<\/?h)([1-6])\b/gi, (_, tag, level) => tag + levelBelow(level)),
    codespan: ({ text }) => `<code>${escape(text.replace(CITES, ""))}</code>`,
    table(token) {
      const cell = (each, tag) => {
        const align = each.align ? ` align="${each.align}"` : "";
        const isWide = each.text.length > WIDE_CELL ? ' class="is-wide"' : "";
        return `<${tag}${align}${isWide}>${this.parser.parseInline(each.tokens)}</${tag}>`;
      };
      const row = (cells, tag) => `<tr>${cells.map((each) => cell(each, tag)).join("")}</tr>`;
      const body = token.rows.map((cells) => row(cells, "td")).join("");
      return `<div class="table-scroll"><table><thead>${row(token.header, "th")}</thead>
        <tbody>${body}</tbody></table></div>`;
    },
  },
};

let marked = null;

/** Takes the parser, which is loaded when the first text is to be drawn. */
export function takeParser(Marked) {
  marked = new Marked({ gfm: true, breaks: false });
  marked.use(EXTENSIONS);
}

/** Returns the text without the citation marks in it, also where they were encoded in an address. */
export function withoutCitations(text) {
  return text.replace(ENCODED_CITES, "");
}

// Of writing that puts spaces between words: in other writing a word can't be told by its letters.
const LETTER = "(?![\\p{scx=Han}\\p{scx=Hira}\\p{scx=Kana}\\p{scx=Thai}\\p{scx=Lao}\\p{scx=Khmr}\\p{scx=Mymr}])[\\p{L}\\p{M}\\p{N}_]";
const ENDS_IN_LETTER = new RegExp(`${LETTER}$`, "u");
const LETTERS = new RegExp(`^(?:${LETTER})*`, "u");

// An index that points into a word means the end of that word; one into a character, behind that.
function endOfWord(text, index) {
  const at = /[\uD800-\uDBFF]/.test(text[index - 1] ?? "") ? index + 1 : index;
  if (!ENDS_IN_LETTER.test(text.slice(Math.max(at - 2, 0), at))) return at;
  return at + LETTERS.exec(text.slice(at))[0].length;
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

const looksFor = (marks) => (text) => text.length * (text.match(marks)?.length ?? 0);
const looksForMarks = looksFor(/[*_~[\\@]/g);
const looksForFormulas = looksFor(/^ {0,3}(?:\\\[|\$\$)/gm);
const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);

// What may be an address of mail is looked through from each of its characters.
const looksForAddresses = (text) => sum((text.match(/[\w.!#$%&'*+/=?`{|}~-]{999,}/g) ?? []).map(({ length }) => length ** 2));

// As the lexer's own `lex`, but for the paragraphs that would take too long. `links` are addresses
// that were defined before.
function lex(text, links = {}) {
  const lexer = new marked.Lexer(marked.defaults);
  Object.assign(lexer.tokens.links, links);
  lexer.blockTokens(text, lexer.tokens);
  let left = MOST_LOOKS;
  for (const { src, tokens } of lexer.inlineQueue) {
    const cost = looksForMarks(src) + looksForAddresses(src);
    if (cost > left) {
      tokens.push({ type: "text", raw: src, text: src });
    } else {
      lexer.inlineTokens(src, tokens);
      left -= cost;
    }
  }
  return lexer.tokens;
}

// A text that grows: what is read again is its last block, or the last items and rows of that.

const TAIL = 4; // items or rows
const BLANK_LINE = /^[ \t]*\n[ \t]*\n/; // as a token between blocks

const lengthOf = (tokens) => tokens.reduce((sum, { raw }) => sum + raw.length, 0);

// Where the last lines of a text begin.
function startOfLastLines(text, count) {
  let at = text.endsWith("\n") ? text.length - 1 : text.length;
  for (let line = 0; line < count; line += 1) at = text.lastIndexOf("\n", at - 1);
  return at + 1;
}

const bulletOf = ({ raw, ordered }) => (ordered ? raw.match(/\d+(.)/)?.[1] : raw.trimStart()[0]);

// A block in two: `kept` is the part of its text that isn't read again, `head` what has to be read
// before the rest, `open` are the parts of it that are read again, and `joined` makes one token of it
// and of what the rest became; null if it can't.
const whole = (block) => ({ kept: "", head: "", open: [block], joined: (next) => next });

const isLoose = ({ raw }) => /\n[ \t]*\n[ \t]*$/.test(raw);

// As the lexer does it with all items of a list that has blank lines.
function loosen(item) {
  item.loose = true;
  for (const token of item.tokens) if (token.type === "text") token.type = "paragraph";
}

function cutList(list) {
  const items = list.items.slice(0, -TAIL);
  const kept = list.raw.slice(0, lengthOf(items));
  const joined = (next) => {
    const isSame = next.type === "list" && next.ordered === list.ordered && bulletOf(next) === bulletOf(list);
    if (!isSame || (next.loose && !list.loose)) return null; // a loose list draws all its items otherwise
    if (list.loose && !next.loose) {
      // The blank line may have been in what is read again; and boxes stand elsewhere in loose items.
      if (!items.some(isLoose) || next.items.some(({ task }) => task)) return null;
      next.items.forEach(loosen);
    }
    return { ...list, raw: kept + next.raw, items: [...items, ...next.items] };
  };
  return { kept, head: "", open: list.items.slice(-TAIL), joined };
}

const hasRowPerLine = ({ raw, rows }) => raw.replace(/\n$/, "").split("\n").length === rows.length + 2;

function cutTable(table) {
  const head = table.raw.slice(0, table.raw.indexOf("\n", table.raw.indexOf("\n") + 1) + 1);
  const rows = table.rows.slice(0, -TAIL);
  const kept = table.raw.slice(0, startOfLastLines(table.raw, TAIL));
  const joined = (next) =>
    next.type === "table"
      ? { ...table, raw: kept + next.raw.slice(head.length), rows: [...rows, ...next.rows] }
      : null;
  return { kept, head, open: [], joined };
}

function cutterOf(token) {
  if (token.type === "list" && token.items.length > 2 * TAIL) return cutList;
  if (token.type === "table" && token.rows.length > 2 * TAIL && hasRowPerLine(token)) return cutTable;
  return whole;
}

// Which token is read again. What comes can make something else of what no blank line ends: a head
// of a table becomes a line of a paragraph. Of long lists and tables only the last part can change.
function firstOpen(tokens) {
  let first = tokens.findLastIndex(({ type }) => type !== "space");
  if (first < 0 || cutterOf(tokens[first]) !== whole) return first;
  while (first > 0 && !BLANK_LINE.test(tokens[first - 1].raw)) first -= 1;
  return first;
}

function notesIn(tokens) {
  const left = [...tokens];
  const labels = [];
  while (left.length > 0) {
    const token = left.pop();
    if (token.type === "footnote") labels.push(token.label);
    left.push(...inside(token));
  }
  return labels;
}

// The tokens of a text whose beginning is known; null if all of it has to be read again.
function lexOn(text, known) {
  const first = firstOpen(known);
  // An address may be all but complete, and is used in what stands before it.
  if (first < 0 || known.slice(first).some(({ type }) => type === "def")) return null;
  const { kept, head, open, joined } = cutterOf(known[first])(known[first]);
  const before = known.slice(0, first);
  const rest = text.slice(lengthOf(before) + kept.length);
  // What was a footnote may be something else now, and its label nothing that can be referred to.
  const links = { ...known.links };
  for (const label of notesIn([...open, ...known.slice(first + 1)])) delete links[noteName(label)];
  const tail = lex(head + rest, links);
  const isOther = Object.keys({ ...tail.links, ...known.links }).some((name) => !(name in tail.links && name in known.links));
  const next = isOther || !isAllOf(head + rest, tail) ? null : joined(tail[0]);
  return next && Object.assign([...before, next, ...tail.slice(1)], { links: known.links });
}

// The lexer leaves something out of a text here and there. Where that is more than the spaces at its
// end, the tokens can't be counted on.
function isAllOf(text, tokens) {
  const read = tokens.map(({ raw }) => raw).join("");
  return read !== "" && read.trimEnd() === text.trimEnd();
}

function inside(token) {
  if (token.type === "list") return token.items;
  if (token.type === "table") return [...token.header, ...token.rows.flat()];
  return token.tokens ?? [];
}

function weightOf({ type }) {
  return 1 + (WEIGHTS[type] ?? 0);
}

function tagsIn(token) {
  return token.type === "html" ? (token.raw.match(/<[a-z]/gi)?.length ?? 0) : 0;
}

const counted = new WeakMap(); // what was counted of a block, or of an item or row of one

// What it costs to draw a block; Infinity for one that is nested too deep.
function weigh(block) {
  const { weight, tags } = partsOf(block).reduce(
    (sum, [part, tokens]) => {
      if (!counted.has(part)) counted.set(part, count(tokens()));
      const own = counted.get(part);
      return { weight: sum.weight + own.weight, tags: sum.tags + own.tags };
    },
    { weight: BLOCK_WEIGHT, tags: 0 },
  );
  return weight + tags ** 2 / TAGS_SQUARED;
}

// The parts of a block that are counted once, each with its tokens and how deep they are.
function partsOf(block) {
  const cells = (row) => [row, () => row.map((cell) => [cell, 2])];
  if (block.type === "list") return block.items.map((item) => [item, () => [[item, 2]]]);
  if (block.type === "table") return [block.header, ...block.rows].map(cells);
  return [[block, () => [[block, 1]]]];
}

// Of tokens and all that is in them. Without recursion.
function count(left) {
  let weight = 0;
  let tags = 0;
  while (left.length > 0 && weight <= MOST_WEIGHT) {
    const [token, depth] = left.pop();
    if (depth > MOST_DEPTH) return { weight: Infinity, tags };
    weight += weightOf(token);
    tags += tagsIn(token);
    for (const each of inside(token)) left.push([each, depth + 1]);
  }
  return { weight, tags };
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

// A formula ends before a blank line.
function isLong(text) {
  if (sum(text.split(/\n[ \t]*\n/).map(looksForFormulas)) > MOST_LOOKS) return true;
  return text.length > MOST_CHARACTERS || (text.match(/\n/g)?.length ?? 0) > MOST_LINES;
}

/**
 * Returns the blocks of a text, each with its `raw` text and its `token`, which is null for one to
 * be shown as it is; and `links`, the number of addresses that are defined in the text. `before` is
 * what this returned for an earlier part of the text: what hasn't changed since has the same tokens.
 */
export function blocksOf(given, before = null) {
  const text = given.includes("\r") ? given.replace(/\r\n|\r/g, "\n") : given;
  const asItIs = { blocks: [{ raw: text, token: null }], links: 0 };
  if (isLong(text)) return asItIs;
  try {
    const grows = before?.tokens && text.startsWith(before.text);
    const more = grows ? lexOn(text, before.tokens) : null;
    const tokens = more ?? lex(text);
    const known = more || isAllOf(text, tokens) ? tokens : null;
    return { blocks: drawable(tokens), links: Object.keys(tokens.links).length, text, tokens: known };
  } catch (error) {
    console.warn(`A text isn't drawn as Markdown: ${error.message}`); // nested too deep for the lexer
    return asItIs;
  }
}

const MENDED = new Set(["paragraph", "heading", "list", "blockquote"]);
const MOST_MENDED = 4000; // characters: it is read once more

/** Returns the blocks of a text that grows, with what is unfinished at its end closed or left out. */
export function finished({ blocks, tokens }) {
  const last = blocks.at(-1);
  if (!MENDED.has(last?.token?.type) || last.raw.length > MOST_MENDED) return blocks;
  const text = closed(last.raw);
  if (text === last.raw) return blocks;
  const [token, ...more] = lex(text, tokens?.links).filter(({ type }) => type !== "space");
  if (more.length > 0) return blocks;
  return [...blocks.slice(0, -1), ...(token ? [{ raw: last.raw, token }] : [])];
}

/** Returns the HTML of one block; to be sanitised. */
export function htmlOf(token) {
  return marked.parser([token]);
}

/** Returns the HTML of one item of a list, in that list alone; to be sanitised. */
export function itemHtml(list, item) {
  return htmlOf({ ...list, items: [item], start: "" });
}

/** Returns the HTML of one row of a table, in that table alone; to be sanitised. */
export function rowHtml(table, row) {
  return htmlOf({ ...table, header: [], rows: [row] });
}
