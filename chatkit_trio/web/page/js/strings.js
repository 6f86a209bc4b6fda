// The words of the chat in the language that is spoken now. All tables have the same entries, so
// the values are put into this one object, and who reads a word reads it when it is drawn.

import en from "./locales/en.js";

export const strings = {};

// Each is a file of its own, loaded when it is asked for.
const TABLES = {
  ar: () => import("./locales/ar.js"),
  de: () => import("./locales/de.js"),
  es: () => import("./locales/es.js"),
  fr: () => import("./locales/fr.js"),
  ja: () => import("./locales/ja.js"),
};
const RIGHT_TO_LEFT = new Set(["ar"]);

let spoken = "en";
let asked = "en"; // last: its words may come sooner than those of the language before

take(en);

// In place: others hold on to the parts.
function take(table, into = strings) {
  for (const [name, value] of Object.entries(table)) {
    const isPart = typeof value === "object";
    if (isPart) take(value, (into[name] ??= {}));
    else into[name] = value;
  }
}

/** Returns the language that is spoken, as a tag for `lang` and `Intl`. */
export function locale() {
  return spoken;
}

export function direction() {
  return RIGHT_TO_LEFT.has(spoken) ? "rtl" : "ltr";
}

/** Speaks a language, such as "de" or "de-AT"; English where there is no table for it. */
export async function speak(wanted) {
  const code = String(wanted ?? "en").toLowerCase().split(/[-_]/)[0];
  const known = Object.hasOwn(TABLES, code) ? code : "en";
  asked = known;
  try {
    const table = known === "en" ? en : (await TABLES[known]()).default;
    if (asked !== known) return;
    take(table);
    spoken = known;
  } catch (error) {
    console.warn(`The words of ${known} can't be loaded: ${error.message}`);
  }
}
