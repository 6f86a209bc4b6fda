import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { test } from "node:test";
import en from "../../../chatkit_trio/web/page/js/locales/en.js";
import { direction, locale, speak, strings } from "../../../chatkit_trio/web/page/js/strings.js";
import { longTime } from "../../../chatkit_trio/web/page/js/times.js";

const folder = new URL("../../../chatkit_trio/web/page/js/locales/", import.meta.url);
const codes = readdirSync(folder).map((name) => name.replace(".js", "")).filter((code) => code !== "en");

// What a table has, and how many values go into each sentence.
function shape(table) {
  if (typeof table === "function") return table.length;
  if (typeof table === "string") return "words";
  return Object.fromEntries(Object.entries(table).map(([name, value]) => [name, shape(value)]));
}

function sentences(table, into = []) {
  for (const value of Object.values(table)) {
    if (typeof value === "object") sentences(value, into);
    else into.push(typeof value === "function" ? value(7, 8) : value);
  }
  return into;
}

for (const code of codes) {
  test(`${code} has all that English has, and no more`, async () => {
    const { default: table } = await import(new URL(`${code}.js`, folder));

    assert.deepEqual(shape(table), shape(en));
    assert.ok(sentences(table).every((sentence) => sentence.trim() !== ""));
  });

  test(`${code} says the values that go into its sentences`, async () => {
    const { default: table } = await import(new URL(`${code}.js`, folder));
    const says = (sentence) => ["7", "8"].filter((value) => sentence.includes(value));
    const [own, english] = [sentences(table), sentences(en)];

    assert.deepEqual(own.map(says), english.map(says));
  });
}

test("there are the languages that are promised", () => {
  assert.deepEqual(codes.sort(), ["ar", "de", "es", "fr", "ja"]);
});

test("who holds on to a part of the words hears the language that is spoken now", async () => {
  const { structured } = strings;
  await speak("de-AT");
  assert.deepEqual([locale(), structured.skip], ["de-AT", "Überspringen"]);
  await speak("ar");
  assert.equal(direction(), "rtl");
  await speak("tlh");
  assert.deepEqual([locale(), structured.skip, direction()], ["en", "Skip", "ltr"]);
});

test("the first language that there are words for is spoken, as its region writes it", async () => {
  await speak("tlh", "fr_CH", "de");
  assert.deepEqual([locale(), strings.structured.skip], ["fr-CH", "Passer"]);
  await speak("en-GB");
  assert.equal(longTime("2026-03-02T12:00:00Z").includes("2 March 2026"), true);
  await speak("en-no_tag_at_all");
  assert.equal(locale(), "en");
  await speak();
  assert.equal(locale(), "en");
});
