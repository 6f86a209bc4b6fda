// A small set of line icons, drawn on a 24 by 24 grid for this page: here those that the chat itself
// uses, so that it is light until others are asked for. An unknown name, of whatever set, becomes a
// neutral dot.

import { html, useEffect, useState } from "../vendor/vendor.js";
import { once } from "./once.js";

const CIRCLE = "M12 3a9 9 0 1 0 0 18a9 9 0 1 0 0-18";
const PAGE = "M6 3h8l5 5v13H6zM14 3v5h5";
const PEN = "M4 20l1-4.500L16.5 4a2.1 2.1 0 0 1 3 0l.5.5a2.1 2.1 0 0 1 0 3L8.5 19z";
const SQUARE = "M6 3.500h12A2.5 2.5 0 0 1 20.5 6v12a2.5 2.5 0 0 1-2.5 2.500H6A2.5 2.5 0 0 1 3.5 18V6A2.5 2.5 0 0 1 6 3.5";
const SPARKLE = "M12 3c.7 5.3 3.7 8.3 9 9c-5.3.7-8.3 3.7-9 9c-.7-5.3-3.7-8.3-9-9c5.3-.7 8.3-3.7 9-9z";
const CLOCK_HANDS = "M12 7v5l3.5 2";
const GEAR_SLIDERS = "M4 8h9M19 8h1M4 16h1M11 16h9M16 5.500a2.5 2.5 0 1 0 0 5a2.5 2.5 0 1 0 0-5M8 13.500a2.5 2.5 0 1 0 0 5a2.5 2.5 0 1 0 0-5";

// Stroked outlines; those in `filled` are filled instead.
const paths = {
  attach: "M19.5 11.500l-7.6 7.600a5 5 0 0 1-7-7l8-8a3.3 3.3 0 0 1 4.7 4.700l-7.9 7.800a1.6 1.6 0 0 1-2.3-2.300l7-7",
  chart: "M4 4v16h16M8 15l3.5-4.5 3 2.500L19 7",
  "check-circle": `${CIRCLE}M8 12.300l2.8 2.800L16 9.5`,
  check: "M5 12.500l4.5 4.500L19 7",
  "chevron-down": "M5.5 9.500L12 16l6.5-6.5",
  "chevron-left": "M14.5 5.500L8 12l6.5 6.5",
  "chevron-right": "M9.5 5.500L16 12l-6.5 6.5",
  "circle-question": `${CIRCLE}M9.5 9.500a2.5 2.5 0 1 1 3.5 2.300c-.7.3-1 .8-1 1.700M12 16.500v.2`,
  clock: `${CIRCLE}${CLOCK_HANDS}`,
  close: "M6 6l12 12M18 6L6 18",
  contrast: `${CIRCLE}M12 3v18M12 7.500h5.500M12 12h8.500M12 16.500h5.5`,
  copy: "M9.5 8h9A1.5 1.5 0 0 1 20 9.500v9a1.5 1.5 0 0 1-1.5 1.500h-9A1.5 1.5 0 0 1 8 18.500v-9A1.5 1.5 0 0 1 9.5 8M5 16a1.5 1.5 0 0 1-1-1.400V5.500A1.5 1.5 0 0 1 5.5 4h9A1.5 1.5 0 0 1 16 5",
  cube: "M12 3l8 4.500v9L12 21l-8-4.500v-9zM4 7.500l8 4.5 8-4.500M12 12v9",
  document: `${PAGE}M9 13h7M9 17h5`,
  dot: "M12 9a3 3 0 1 0 0 6a3 3 0 1 0 0-6",
  download: "M12 4v11M7 10.500l5 5 5-5M4.5 20h15",
  globe: `${CIRCLE}M3 12h18M12 3c5 5.5 5 12.5 0 18c-5-5.5-5-12.5 0-18`,
  info: `${CIRCLE}M12 11v5.500M12 7.700v.2`,
  keys: "M8 11a4.5 4.5 0 1 0 0 9a4.5 4.5 0 1 0 0-9M11 12.500L19.5 4M15.5 8l3 3M13 10.500l2 2",
  lightbulb: "M9 17.500h6M10 20.500h4M9 17.500c0-2-3-3.5-3-7a6 6 0 0 1 12 0c0 3.5-3 5-3 7",
  lock: "M6.5 10.500h11A1.5 1.5 0 0 1 19 12v7a1.5 1.5 0 0 1-1.5 1.500h-11A1.5 1.5 0 0 1 5 19v-7a1.5 1.5 0 0 1 1.5-1.500M8 10.500V8a4 4 0 0 1 8 0v2.5",
  menu: "M4 7h16M4 12h16M4 17h16",
  microphone: "M12 3.500a3 3 0 0 1 3 3v5a3 3 0 0 1-6 0v-5a3 3 0 0 1 3-3M5.5 11.500a6.5 6.5 0 0 0 13 0M12 18v3",
  moon: "M20 14.500A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5",
  name: "M4.5 6h15A1.5 1.5 0 0 1 21 7.500v9a1.5 1.5 0 0 1-1.5 1.500h-15A1.5 1.5 0 0 1 3 16.500v-9A1.5 1.5 0 0 1 4.5 6M7 10h10M7 14h6",
  plus: "M12 5v14M5 12h14",
  quote: "M10 7.500c-3 .5-4.5 2.5-4.5 6V17H10v-4.500H7.500M18.5 7.500c-3 .5-4.5 2.5-4.5 6V17h4.500v-4.500H16",
  reload: "M20 12a8 8 0 1 1-2.3-5.600L20 8.500M20 4v4.500h-4.5",
  search: "M10.5 4a6.5 6.5 0 1 0 0 13a6.5 6.5 0 1 0 0-13M15.5 15.500L20.5 20.5",
  send: "M12 20V5M5.5 11L12 4.5 18.5 11",
  "settings-slider": GEAR_SLIDERS,
  sparkle: SPARKLE,
  "square-image": `${SQUARE}M4 16.500l5-5 5.5 5.5 2.5-2.5 3.5 3.500M15.5 8.500h.01`,
  stop: "M8 6.500h8A1.5 1.5 0 0 1 17.5 8v8a1.5 1.5 0 0 1-1.5 1.500H8A1.5 1.5 0 0 1 6.5 16V8A1.5 1.5 0 0 1 8 6.5",
  sun: "M12 8a4 4 0 1 0 0 8a4 4 0 1 0 0-8M12 2.500v2M12 19.500v2M2.5 12h2M19.5 12h2M5.3 5.300l1.4 1.400M17.3 17.300l1.4 1.400M18.7 5.300l-1.4 1.400M6.7 17.300l-1.4 1.4",
  "thumb-down": "M17 13.500V4h3v9.500zM17 13.500l-4 7a2.3 2.3 0 0 1-2.3-2.800l.6-3.200H5.700A1.8 1.8 0 0 1 4 12.300l1.5-6.700A2 2 0 0 1 7.5 4H17",
  "thumb-up": "M7 10.500v9.500H4v-9.500zM7 10.500L11 3.500a2.3 2.3 0 0 1 2.3 2.800L12.7 9.500h5.600a1.8 1.8 0 0 1 1.7 2.200l-1.5 6.700a2 2 0 0 1-2 1.600H7",
  tool: "M14.5 6.500a4.5 4.5 0 0 1 5.7-2.200l-2.9 2.9 1.5 1.5 2.9-2.900a4.5 4.5 0 0 1-6 5.700L8 19.200a2.3 2.3 0 0 1-3.2-3.200l7.7-7.700a4.5 4.5 0 0 1 2-1.8",
  trash: "M4.5 6.500h15M9.5 6.500V4.500a1 1 0 0 1 1-1h3a1 1 0 0 1 1 1v2M6.5 6.500l.8 12.600a1.5 1.5 0 0 0 1.5 1.400h6.400a1.5 1.5 0 0 0 1.5-1.400l.8-12.600M10 10.500v6M14 10.500v6",
  warning: "M12 4L2.8 19.500h18.400zM12 10v4.500M12 17v.2",
  "write-alt2": "M12 4.500H6A1.5 1.5 0 0 0 4.5 6v12A1.5 1.5 0 0 0 6 19.500h12a1.5 1.5 0 0 0 1.5-1.500v-6M9.5 14.500l.6-3L17.5 4l2.5 2.5-7.5 7.500z",
  write: PEN,
};

const filled = new Set(["star-filled", "play", "stop"]);

let aliases = null; // those of other sets, once they are loaded

const loadMore = once(async () => {
  const more = await import("./more_icons.js");
  Object.assign(paths, more.paths);
  aliases = more.aliases;
});

function Drawing({ name, size }) {
  return html`<svg class="icon" width=${size} height=${size} viewBox="0 0 24 24"
    fill=${filled.has(name) ? "currentColor" : "none"} stroke="currentColor" stroke-width="1.7" stroke-linecap="round"
    stroke-linejoin="round" aria-hidden="true" focusable="false"><path d=${paths[name]} /></svg>`;
}

// A dot until it is there, or for good if there is none of this name.
function LaterIcon({ name, size }) {
  const [, redraw] = useState(false);
  useEffect(() => {
    if (aliases) return undefined;
    let isWanted = true;
    loadMore().then(() => isWanted && redraw(true), (error) => console.warn(error.message));
    return () => {
      isWanted = false;
    };
  }, []);
  const known = aliases && Object.hasOwn(aliases, name) ? aliases[name] : name;
  return html`<${Drawing} name=${Object.hasOwn(paths, known) ? known : "dot"} size=${size} />`;
}

/** Draws an icon; decoration only, so it is hidden from screen readers. */
export function Icon({ name, size = 20 }) {
  const bare = String(name ?? "dot").replace(/^(lucide|vendor):/, "");
  const Known = Object.hasOwn(paths, bare) ? Drawing : LaterIcon;
  return html`<${Known} name=${bare} size=${size} />`;
}

/** Draws the product's mark: three strands leaving one point, and joining again. */
export function Mark({ size = 28 }) {
  return html`<svg class="mark" width=${size} height=${size} viewBox="0 0 32 32" fill="none"
    stroke="currentColor" stroke-width="2.4" stroke-linecap="round" aria-hidden="true">
    <circle cx="4" cy="16" r="2" fill="currentColor" /><circle cx="28" cy="16" r="2" fill="currentColor" />
    <path d="M4 16C9 5.5 23 5.5 28 16M4 16h24M4 16C9 26.5 23 26.5 28 16" /></svg>`;
}
