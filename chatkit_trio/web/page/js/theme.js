// How the chat looks: the options of the theme as values of the style sheet's properties, and the
// reader's own choice of light or dark where the page offers it.

import { options } from "./options.js";
import { dispatch, place } from "./place.js";
import { changed } from "./state.js";

const KEY = "chatkit-theme";
const ORDER = ["auto", "light", "dark"];
const BASE = 0.9375; // rem of the text

const ROUND = { pill: 1.8, round: 1.3, soft: 0.6, sharp: 0 };
const DENSE = { compact: 0.72, normal: 1, spacious: 1.35 };

// Lightness of the greys, in light and in dark.
const GREYS = {
  "--surface": [1, 0.205],
  "--surface-secondary": [0.972, 0.238],
  "--surface-tertiary": [0.94, 0.285],
  "--surface-elevated": [1, 0.255],
  "--surface-elevated-secondary": [0.98, 0.28],
  "--sidebar": [0.972, 0.185],
  "--text": [0.235, 0.94],
  "--text-secondary": [0.48, 0.75],
  "--text-tertiary": [0.52, 0.68],
  "--line": [0.91, 0.315],
  "--line-subtle": [0.945, 0.27],
  "--line-strong": [0.83, 0.41],
  "--ink": [0.235, 0.94],
  "--on-ink": [1, 0.205],
};

// Of the background in percent; the rest is the foreground.
const MIXED = {
  "--surface": 100, "--surface-elevated": 100, "--on-ink": 100, "--surface-elevated-secondary": 97,
  "--surface-secondary": 97, "--sidebar": 96, "--line-subtle": 93, "--surface-tertiary": 92, "--line": 88,
  "--line-strong": 78, "--text-tertiary": 36, "--text-secondary": 30, "--text": 0, "--ink": 0,
};

/** Returns "auto", "light" or "dark"; with "auto" the page around decides. */
export function colorScheme() {
  return (options.theme.toggle && chosen()) || options.theme.colorScheme || "auto";
}

function chosen() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return place.host?.dataset.theme ?? null;
  }
}

/** Goes on to the next of the three. */
export function nextScheme() {
  const next = ORDER[(ORDER.indexOf(colorScheme()) + 1) % ORDER.length];
  place.host.dataset.theme = next; // for a browser that keeps nothing
  try {
    localStorage.setItem(KEY, next);
  } catch {
    // It gets the theme for this visit.
  }
  dispatch("chatkit.theme.change", { colorScheme: next });
  changed();
}

/** Returns the style of the chat's outermost element. */
export function themeStyle() {
  const { typography = {}, radius, density, color = {} } = options.theme;
  return {
    ...(typography.baseSize ? { "--rem": `${typography.baseSize / BASE}px` } : {}),
    ...(typography.fontFamily ? { "--sans": typography.fontFamily } : {}),
    ...(typography.fontFamilyMono ? { "--mono": typography.fontFamilyMono } : {}),
    ...(radius in ROUND ? { "--round": String(ROUND[radius]) } : {}),
    ...(density in DENSE ? { "--dense": String(DENSE[density]) } : {}),
    ...(color.grayscale ? greys(color.grayscale) : {}),
    ...(color.surface ? surfaces(color.surface) : {}),
    ...(color.accent ? accents(color.accent) : {}),
  };
}

function greys({ hue, tint = 0, shade = 0 }) {
  const grey = (lightness, by) => {
    const light = Math.min(Math.max(lightness - by * 0.012, 0), 1);
    return `oklch(${light.toFixed(3)} ${(tint * 0.0045).toFixed(4)} ${hue})`;
  };
  // Text only moves away from what it stands on, so that it can be read with any shade.
  const pair = ([name, [light, dark]]) => {
    const [inLight, inDark] = name.startsWith("--text") ? [Math.max(shade, 0), Math.min(shade, 0)] : [shade, shade];
    return [name, `light-dark(${grey(light, inLight)}, ${grey(dark, inDark)})`];
  };
  return Object.fromEntries(Object.entries(GREYS).map(pair));
}

function surfaces({ background, foreground }) {
  const mix = (percent) => {
    if (percent === 100) return background;
    return percent === 0 ? foreground : `color-mix(in oklab, ${background} ${percent}%, ${foreground})`;
  };
  return Object.fromEntries(Object.entries(MIXED).map(([name, percent]) => [name, mix(percent)]));
}

// From level 2 on the strongest buttons have the accent too.
function accents({ primary, level = 1 }) {
  const on = "oklch(from var(--accent) clamp(0, (0.65 - l) * 1000, 1) 0 0)"; // black or white
  const soft = [8, 12, 18, 26][level] ?? 12;
  return {
    "--accent": primary,
    "--on-accent": on,
    "--accent-soft": `color-mix(in oklab, ${primary} ${soft}%, var(--surface))`,
    ...(level >= 2 ? { "--ink": primary, "--on-ink": on } : {}),
  };
}

const loaded = new Set();

/** Has the browser load the theme's fonts; those belong to the whole document. */
export function loadFonts() {
  for (const { family, src, weight, style, display, unicodeRange } of options.theme.typography?.fontSources ?? []) {
    const key = JSON.stringify([family, src, weight, style, unicodeRange]);
    if (loaded.has(key)) continue;
    loaded.add(key);
    const descriptors = { weight: String(weight ?? "normal"), style, display, unicodeRange };
    const given = Object.entries(descriptors).filter(([, value]) => value != null);
    document.fonts.add(new FontFace(family, `url(${JSON.stringify(src)})`, Object.fromEntries(given)));
  }
}
