// Markdown to safe HTML, a block at a time: while an answer streams only its last block changes,
// so only that one is rendered and sanitised again.

import { DOMPurify, html, Marked, useMemo } from "../vendor/vendor.js";
import { strings } from "./strings.js";

// Citations travel through the text between two characters of Unicode's private use area.
const CITE_START = "\uE000";
const CITE_END = "\uE001";
const CITE = /\uE000(\d+)\uE001/;
const CITES = /\uE000\d+\uE001/g;
const ENCODED_CITES = /(\uE000|%EE%80%80)\d+(\uE001|%EE%80%81)/gi;

function escape(text) {
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

// Styles and forms of a model's making could dress up as the page itself.
const PURIFY = {
  FORBID_TAGS: ["style", "form", "select", "option", "textarea", "video", "audio", "svg", "math"],
  FORBID_ATTR: ["style", "srcset", "id", "name"],
  ALLOW_DATA_ATTR: false,
};

let imageDomains = null; // of the block being sanitised; null when any site may be used

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName === "A" && node.hasAttribute("href")) {
    node.setAttribute("href", node.getAttribute("href").replace(ENCODED_CITES, ""));
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer");
  }
  if (node.tagName === "IMG") checkImage(node);
  if (node.tagName === "INPUT") checkTask(node);
});

// The only field that Markdown has: the box of a task list.
function checkTask(input) {
  input.setAttribute("type", "checkbox");
  input.setAttribute("disabled", "");
  input.setAttribute("aria-label", input.hasAttribute("checked") ? strings.taskDone : strings.taskOpen);
}

// A thread may name the sites its images can come from; loading any other could leak what
// the model was told into an address. Done before the image is in a document that loads it.
function checkImage(image) {
  image.setAttribute("loading", "lazy");
  image.setAttribute("alt", image.getAttribute("alt") ?? "");
  if (!imageDomains || isAllowed(image.getAttribute("src") ?? "")) return;
  image.removeAttribute("src");
  image.setAttribute("title", strings.imageBlocked);
}

function isAllowed(url) {
  const { protocol, hostname, origin } = new URL(url, document.baseURI);
  if (origin === location.origin || protocol === "data:" || protocol === "blob:") return true;
  return imageDomains.some((domain) => hostname === domain || hostname.endsWith(`.${domain}`));
}

function blockHtml(token, domains) {
  imageDomains = domains;
  return DOMPurify.sanitize(marked.parser([token]), PURIFY);
}

// A link's definition may follow the block that uses it: `links` counts those known so far.
function Block({ token, domains, links }) {
  const inner = useMemo(() => blockHtml(token, domains), [token.raw, domains?.join(), links]);
  return html`<div class="md-block" dangerouslySetInnerHTML=${{ __html: inner }} />`;
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
    .map((annotation, order) => ({ at: annotation.index, number: before + order + 1 }))
    .filter(({ at }) => Number.isInteger(at) && at >= 0)
    .sort((a, b) => b.at - a.at || b.number - a.number);
  return placed.reduce((cited, { at: index, number }) => {
    const at = endOfWord(text, index);
    return `${cited.slice(0, at)}${CITE_START}${number}${CITE_END}${cited.slice(at)}`;
  }, text);
}

export function Markdown({ text, domains = null, streaming = false }) {
  const tokens = useMemo(() => marked.lexer(text), [text]);
  const blocks = tokens.filter((token) => token.type !== "space" && token.type !== "def");
  const links = Object.keys(tokens.links).length;
  return html`<div class=${`md ${streaming ? "is-streaming" : ""}`}>
    ${blocks.map((token, index) => html`
      <${Block} key=${index} token=${token} domains=${domains} links=${links} />`)}
  </div>`;
}
