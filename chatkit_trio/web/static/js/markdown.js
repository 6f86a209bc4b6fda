// Markdown to safe HTML, a block at a time: while an answer streams only its last block changes,
// so only that one is rendered and sanitised again.

import {
  DOMPurify, h, html, render, useContext, useEffect, useLayoutEffect, useMemo, useRef, useState,
} from "../vendor/vendor.js";
import { guarded, Undrawable } from "./guard.js";
import { blocksOf, htmlOf, withoutCitations } from "./markdown_blocks.js";
import { ImageDomains, Picture } from "./picture.js";
import { strings } from "./strings.js";
import { hostOf, imageVerdict, safeUrl } from "./urls.js";

// What Markdown makes, and the HTML that people write into it. Nothing that loads, sends, styles or
// names anything: that could reach another host, or dress up as the page itself.
const TAGS = `a abbr b blockquote br button caption code dd del details div dl dt em h1 h2 h3 h4 h5 h6
  hr i img input ins kbd li mark ol p pre q s samp small span strong sub summary sup table tbody td
  tfoot th thead tr u ul var`;
const ATTRIBUTES = `align alt aria-label checked class colspan dir disabled href lang open rowspan src
  start tabindex title type value`;
const PURIFY = {
  ALLOWED_TAGS: TAGS.split(/\s+/),
  ALLOWED_ATTR: ATTRIBUTES.split(/\s+/),
  ALLOW_ARIA_ATTR: false,
  ALLOW_DATA_ATTR: false,
};
const CLASSES = new Set(["cite", "code", "code-head", "table-scroll"]); // those of our renderer

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (!CLASSES.has(node.getAttribute?.("class"))) node.removeAttribute?.("class");
  checks[node.tagName]?.(node);
});

const checks = {
  A: checkLink,
  BUTTON: (button) => button.setAttribute("type", "button"),
  IMG: setAside,
  INPUT: checkTask,
};

// Without an address a link is its text.
function checkLink(link) {
  const url = safeUrl(withoutCitations(link.getAttribute("href") ?? ""));
  link.removeAttribute("href");
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

function Html({ token, domains, links }) {
  const block = useRef(null);
  const rule = JSON.stringify(domains);
  const inner = useMemo(() => DOMPurify.sanitize(htmlOf(token), PURIFY), [token.raw, links]);
  useLayoutEffect(() => showPictures(block.current, domains), [inner, rule]);
  // With another rule the images have to be there again, for the pictures to take their places.
  return html`<div key=${rule} ref=${block} class="md-block" dangerouslySetInnerHTML=${{ __html: inner }} />`;
}

// A link's definition may follow the block that uses it: `links` counts those known so far.
const Block = guarded(({ raw, token, domains, links }) => {
  if (!token) return html`<div class="md-block"><${Undrawable} value=${raw} /></div>`;
  return html`<${Html} token=${token} domains=${domains} links=${links} />`;
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

export function Markdown(props) {
  const drawn = useTurnToDraw(props.text);
  return drawn ? html`<${Blocks} ...${props} />` : html`<p class="shimmer">${strings.loading}</p>`;
}

function Blocks({ text, streaming = false }) {
  const domains = useContext(ImageDomains);
  const { blocks, links } = useMemo(() => blocksOf(text), [text]);
  return html`<div class=${`md ${streaming ? "is-streaming" : ""}`}>
    ${blocks.map(({ raw, token }, index) => html`
      <${Block} key=${index} raw=${raw} token=${token} domains=${domains} links=${links} />`)}
  </div>`;
}
