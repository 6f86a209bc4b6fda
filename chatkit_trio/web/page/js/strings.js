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

let spoken = "en"; // a code of one of the tables
let tag = "en"; // the same with its region, which says how times and numbers are written
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

/** Returns the language that is spoken, with its region, as a tag for `lang` and `Intl`. */
export function locale() {
  return tag;
}

export function direction() {
  return RIGHT_TO_LEFT.has(spoken) ? "rtl" : "ltr";
}

const codeOf = (wanted) => wanted.split("-")[0].toLowerCase();
const isKnown = (wanted) => codeOf(wanted) === "en" || Object.hasOwn(TABLES, codeOf(wanted));

// What is no tag would have Intl throw.
function canonical(wanted) {
  try {
    return Intl.getCanonicalLocales(wanted)[0];
  } catch {
    return codeOf(wanted);
  }
}

/** Speaks the first language of a list that there is a table for, such as "de" or "de-AT"; else English. */
export async function speak(...wanted) {
  const chosen = canonical(wanted.map((each) => String(each).replaceAll("_", "-")).find(isKnown) ?? "en");
  const code = codeOf(chosen);
  asked = chosen;
  try {
    const table = code === "en" ? en : (await TABLES[code]()).default;
    if (asked !== chosen) return;
    take(table);
    spoken = code;
    tag = chosen;
  } catch (error) {
    console.warn(`The words of ${code} can't be loaded: ${error.message}`);
  }
}
