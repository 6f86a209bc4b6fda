// Markdown to safe HTML, a block at a time: while an answer streams only its last block changes,
// so only that one is rendered and sanitised again.

import {
  Component, h, html, render, useContext, useEffect, useLayoutEffect, useMemo, useRef, useState,
} from "../vendor/vendor.js";
import { showColours } from "./code_colors.js";
import { showFormulas } from "./formulas.js";
import { guarded, Undrawable } from "./guard.js";
import { blocksOf, finished, htmlOf, itemHtml, rowHtml, takeParser, withoutCitations } from "./markdown_blocks.js";
import { ImageDomains, Picture } from "./picture.js";
import { once } from "./once.js";
import { strings } from "./strings.js";
import { deepLink, hostOf, imageVerdict, safeUrl } from "./urls.js";

// What Markdown makes, and the HTML that people write into it. Nothing that loads, sends, styles or
// names anything: that could reach another host, or dress up as the page itself.
const TAGS = `a abbr b blockquote br button caption code dd del details div dl dt em h3 h4 h5 h6
  hr i img input ins kbd li mark ol p pre q s samp small span strong sub summary sup table tbody td
  tfoot th thead tr u ul var`;
const ATTRIBUTES = `align alt aria-label checked class colspan dir disabled href lang open rowspan src
  start tabindex title type value`;
const PURIFY = {
  ALLOWED_TAGS: TAGS.split(/\s+/),
  ALLOWED_ATTR: ATTRIBUTES.split(/\s+/),
  ALLOW_ARIA_ATTR: false,
  ALLOW_DATA_ATTR: false,
  ALLOWED_URI_REGEXP: /^(?:(?:https?|mailto|tel|chatkit-link):|[^a-z]|[a-z+.-]+(?:[^a-z+.\-:]|$))/i,
};
// Those of our renderer.
const CLASSES = new Set([
  "cite", "code", "code is-long", "code-head", "math", "math-block", "table-scroll", "is-wide",
  "note-ref", "footnote", "footnote-mark", "alert-title",
  ...["note", "tip", "important", "warning", "caution"].map((kind) => `alert is-${kind}`),
]);

let sanitizer = null;

/** Loads the parser and the sanitiser; without them texts are shown as they are. */
export const loadMarkdown = once(async () => {
  const { Marked, DOMPurify } = await import("../vendor/markdown.js");
  takeParser(Marked);
  sanitizer = DOMPurify(window);
  sanitizer.addHook("afterSanitizeAttributes", check);
});

function check(node) {
  if (!CLASSES.has(node.getAttribute?.("class"))) node.removeAttribute?.("class");
  checks[node.tagName]?.(node);
}

// Text runs as its own first letters say, whatever the page's language is. What stands in a list
// or a table runs as the whole of it does: browsers overlook inner blocks that have a `dir` too.
const BLOCKS = "P H3 H4 H5 H6 UL OL TABLE DL SUMMARY".split(" ");
const runOfItself = (block) => block.hasAttribute("dir") || block.setAttribute("dir", "auto");

const checks = {
  ...Object.fromEntries(BLOCKS.map((name) => [name, runOfItself])),
  A: checkLink,
  BUTTON: (button) => button.setAttribute("type", "button"),
  IMG: setAside,
  INPUT: checkTask,
};

// Without an address a link is its text.
function checkLink(link) {
  const given = withoutCitations(link.getAttribute("href") ?? "");
  const url = safeUrl(given);
  link.removeAttribute("href");
  if (deepLink(given)) return link.setAttribute("href", given);
  if (!url) return;
  link.setAttribute("href", url);
  link.setAttribute("target", "_blank");
  link.setAttribute("rel", "noopener noreferrer");
}

// The only field that Markdown has: the box of a task list.
function checkTask(input) {
  for (const { name } of [...input.attributes]) if (name !== "checked") input.removeAttribute(name);
  input.setAttribute("type", "checkbox");
  input.setAttribute("disabled", "");
  input.setAttribute("aria-label", input.hasAttribute("checked") ? strings.taskDone : strings.taskOpen);
}

// An image never gets into the page as one: a Picture takes its place.
function setAside(image) {
  image.setAttribute("data-picture", image.getAttribute("src") ?? "");
  image.removeAttribute("src");
}

/** Puts pictures in the places of a block's images, and returns what takes them away again. */
function showPictures(block, domains) {
  const places = [...block.querySelectorAll("img[data-picture]")].map((image) => {
    const { picture: url } = image.dataset;
    const { alt, title } = image;
    const place = document.createElement("span");
    place.className = "picture-place";
    image.replaceWith(place);
    if (imageVerdict(url, domains) !== "load") putBesideLink(place, alt);
    render(h(Picture, { url, alt, domains, ...(title ? { title } : {}) }), place);
    return place;
  });
  return () => places.forEach((place) => render(null, place));
}

// What stands for an image has buttons, which have no place in a link.
function putBesideLink(place, alt) {
  const link = place.closest("a");
  if (!link) return;
  link.after(place);
  place.classList.add("is-beside");
  if (!link.textContent.trim()) link.textContent = alt || hostOf(link.href) || strings.link;
}

// Puts HTML that was made of Markdown into an element, and what is drawn into that: pictures,
// formulas and colours. `make` says how, and runs again only when what it depends on has changed.
function Drawn({ as = "div", class: name, make, of, domains, links }) {
  const place = useRef(null);
  const rule = JSON.stringify(domains);
  const inner = useMemo(make, [of, links]);
  useLayoutEffect(() => showPictures(place.current, domains), [inner, rule]);
  useLayoutEffect(() => showFormulas(place.current), [inner, rule]);
  useEffect(() => showColours(place.current), [inner, rule]);
  // With another rule the images have to be there again, for the pictures to take their places.
  return html`<${as} key=${rule} ref=${place} class=${name} dangerouslySetInnerHTML=${{ __html: inner }} />`;
}

const sanitised = (given) => sanitizer.sanitize(given, PURIFY);

function Html({ token, domains, links }) {
  return html`<${Drawn} class="md-block" of=${token.raw} make=${() => sanitised(htmlOf(token))}
    domains=${domains} links=${links} />`;
}

// Long lists and tables are drawn in parts, so that what is added costs no more than what it is.

const LONG_LIST = 30; // items or rows
const PART = 40; // of those

// The inside of the one element that a selector finds.
function insideOf(given, selector) {
  const template = document.createElement("template");
  template.innerHTML = sanitised(given);
  return template.content.querySelector(selector)?.innerHTML ?? "";
}

class Part extends Component {
  shouldComponentUpdate({ pieces, domains, links }) {
    const before = this.props;
    const isSame = pieces.length === before.pieces.length && pieces.every((piece, at) => piece === before.pieces[at]);
    return !isSame || domains !== before.domains || links !== before.links;
  }

  render({ pieces, as, make, domains, links }) {
    return pieces.map((piece, at) => html`<${Drawn} key=${at} as=${as} of=${piece} make=${() => make(piece)}
      domains=${domains} links=${links} />`);
  }
}

function Parts({ pieces, ...rest }) {
  const count = Math.ceil(pieces.length / PART);
  return Array.from({ length: count }, (_, at) => html`<${Part} key=${at}
    pieces=${pieces.slice(at * PART, (at + 1) * PART)} ...${rest} />`);
}

function LongList({ token, ...rest }) {
  const make = (item) => insideOf(itemHtml(token, item), "li");
  return html`<div class="md-block"><${token.ordered ? "ol" : "ul"} dir="auto" start=${token.ordered ? token.start : undefined}>
    <${Parts} pieces=${token.items} as="li" make=${make} ...${rest} /><//></div>`;
}

function LongTable({ token, ...rest }) {
  const make = (row) => insideOf(rowHtml(token, row), "tbody tr");
  const head = useMemo(() => insideOf(htmlOf({ ...token, rows: [] }), "thead"), [token.header, rest.links]);
  return html`<div class="md-block"><div class="table-scroll"><table dir="auto">
    <${Drawn} as="thead" of=${token.header} make=${() => head} ...${rest} />
    <tbody><${Parts} pieces=${token.rows} as="tr" make=${make} ...${rest} /></tbody></table></div></div>`;
}

function drawingOf(token) {
  if (token.type === "list" && token.items.length > LONG_LIST) return LongList;
  return token.type === "table" && token.rows.length > LONG_LIST ? LongTable : Html;
}

// A link's definition may follow the block that uses it: `links` counts those known so far.
const Block = guarded(({ raw, token, domains, links }) => {
  if (!token) return html`<div class="md-block"><${Undrawable} value=${raw} /></div>`;
  return html`<${drawingOf(token)} token=${token} domains=${domains} links=${links} />`;
}, "raw");

const LONG = 20_000; // characters

// Long texts of a thread that is opened are drawn one after another, the newest first, so that the
// page can be used meanwhile.
const waiting = [];

function drawNext() {
  waiting.pop()?.();
  if (waiting.length > 0) setTimeout(drawNext);
}

function useTurnToDraw(text) {
  const [drawn, setDrawn] = useState(text.length < LONG);
  useEffect(() => {
    if (drawn) return undefined;
    const draw = () => setDrawn(true);
    if (waiting.push(draw) === 1) setTimeout(drawNext);
    return () => {
      if (waiting.includes(draw)) waiting.splice(waiting.indexOf(draw), 1);
    };
  }, []);
  return drawn;
}

const PATIENCE = 3000; // milliseconds until it is tried again

function useLoaded() {
  const [tries, setTries] = useState(0);
  const isLoaded = sanitizer !== null;
  useEffect(() => {
    if (isLoaded) return undefined;
    let timer = null;
    const again = () => setTries(tries + 1);
    // It may be here by now, but it wasn't when this was drawn.
    loadMarkdown().then(again, (error) => {
      console.warn(error.message);
      timer = setTimeout(again, PATIENCE);
    });
    return () => clearTimeout(timer);
  }, [tries]);
  return isLoaded;
}

export function Markdown(props) {
  const loaded = useLoaded();
  const drawn = useTurnToDraw(props.text);
  if (!loaded) return html`<div class="md is-plain">${props.text}</div>`;
  return drawn ? html`<${Blocks} ...${props} />` : html`<p class="shimmer">${strings.loading}</p>`;
}

// From a footnote's number to the note, and back.
function followNote({ target, currentTarget: text }) {
  const button = target.closest(".note-ref button, .footnote-mark button");
  if (!button) return;
  const label = button.value.toLowerCase();
  const isRef = button.closest(".note-ref");
  const others = [...text.querySelectorAll(isRef ? ".footnote-mark button" : ".note-ref button")];
  const other = others.find(({ value }) => value.toLowerCase() === label);
  other?.focus();
  other?.scrollIntoView({ block: "nearest" });
}

function Blocks({ text, streaming = false }) {
  const domains = useContext(ImageDomains);
  const known = useRef(null);
  const read = useMemo(() => (known.current = blocksOf(text, known.current)), [text]);
  const { links } = read;
  return html`<div class=${`md ${streaming ? "is-streaming" : ""}`} onClick=${followNote}>
    ${(streaming ? finished(read) : read.blocks).map(({ raw, token }, index) => html`
      <${Block} key=${index} raw=${raw} token=${token} domains=${domains} links=${links} />`)}
  </div>`;
}
