// A walk through the page in Firefox: node firefox.mjs FIREFOX PAGE HOST. Firefox as distributions ship
// it is driven by its own protocol, WebDriver BiDi. HOST is a page of another origin with the element.
// Prints the names of the steps that worked; fails at the first that doesn't.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { join } from "node:path";

const require = createRequire(join(import.meta.dirname, "..", "clients", "package.json"));
const puppeteer = require("puppeteer-core");
const [executablePath, address, host] = process.argv.slice(2);

const browser = await puppeteer.launch({ browser: "firefox", executablePath, headless: true });
const page = await browser.newPage();
await page.setViewport({ width: 1000, height: 700 });
const problems = [];
page.on("pageerror", (error) => problems.push(String(error)));

const WITHIN = 15_000; // milliseconds

// Runs in the page until it gives something; `chat` is the root of what the chat draws.
async function until(what, found, ...given) {
  const body = `const chat = document.querySelector("chatkit-trio")?.shadowRoot; return Boolean(chat && (${found})(chat, ...arguments))`;
  const end = Date.now() + WITHIN;
  for (;;) {
    const value = await page.evaluate(`(function () { ${body} })(...${JSON.stringify(given)})`).catch(() => null);
    if (value) return value;
    if (Date.now() > end) throw new Error(`never: ${what}`);
    await new Promise((wake) => setTimeout(wake, 50));
  }
}

const shown = (name, words = "") =>
  until(`${name} with ${words}`, `(chat, name, words) => [...chat.querySelectorAll('[data-testid="' + name + '"]')].at(-1)?.innerText.includes(words)`, name, words);
const gone = (name) => until(`no ${name}`, `(chat, name) => !chat.querySelector('[data-testid="' + name + '"]')`, name);
const click = (name) =>
  until(`${name} to click`, `(chat, name) => { const all = chat.querySelectorAll('[data-testid="' + name + '"]'); all[all.length - 1]?.click(); return all.length }`, name);
const texts = (selector) => page.evaluate((all) => [...document.querySelector("chatkit-trio").shadowRoot.querySelectorAll(all)].map((each) => each.innerText.trim()), selector);

async function send(text) {
  await until("a composer", `(chat) => { chat.querySelector("#composer-input").focus(); return true }`);
  await page.keyboard.type(text);
  await page.keyboard.press("Enter");
}

const steps = {
  async "an answer is shown"() {
    await page.goto(address);
    await send("Hello");
    await shown("message-assistant", "You said: Hello");
    await gone("stop");
  },
  async "a stop is told with its reason, also after a reload"() {
    await send("count 3000 every 20 ms");
    await shown("message-assistant", "5");
    await page.keyboard.press("Escape");
    await shown("end-mark", "You stopped this answer");
    await page.reload();
    await shown("end-mark", "You stopped this answer");
  },
  async "Markdown, formulas and colours are drawn"() {
    await send('say:**bold** $a^2$ <i onclick="x">i</i>');
    await until("bold", `(chat) => chat.querySelector(".md strong") && chat.querySelector(".formula math")`);
    assert.deepEqual(await page.evaluate(() => document.querySelector("chatkit-trio").shadowRoot.querySelectorAll("[onclick]").length), 0);
    await gone("stop");
  },
  async "a message is edited and the earlier version looked at"() {
    await send("Secnod");
    await shown("message-assistant", "You said: Secnod");
    await gone("stop");
    await page.keyboard.press("ArrowUp");
    await until("the editor", `(chat) => chat.activeElement?.dataset.testid === "editor-field"`);
    await page.keyboard.press("End");
    for (let count = 0; count < 3; count += 1) await page.keyboard.press("Backspace");
    await page.keyboard.type("ond");
    await page.keyboard.press("Enter");
    await shown("message-assistant", "You said: Second");
    await gone("stop");
    await shown("versions", "2/2");
  },
  async "the list is searched"() {
    await until("the search", `(chat) => { chat.querySelector('[data-testid="search"]')?.focus(); return chat.activeElement?.dataset.testid === "search" }`);
    await page.keyboard.type("secon");
    await shown("hit", "Second");
    await page.keyboard.press("Escape");
  },
  async "a draft survives a reload"() {
    await until("a composer", `(chat) => { chat.querySelector("#composer-input").focus(); return true }`);
    await page.keyboard.type("Half a thought");
    await page.reload();
    await until("the draft", `(chat) => chat.querySelector("#composer-input")?.value === "Half a thought"`);
  },
  async "the element is at home in another page"() {
    await page.goto(host);
    await send("Hello from a shop");
    await shown("message-assistant", "Hello from a shop");
    const style = await page.evaluate(() => {
      const bubble = document.querySelector("chatkit-trio").shadowRoot.querySelector(".bubble");
      const { color, letterSpacing } = getComputedStyle(bubble);
      return [color, letterSpacing];
    });
    assert.deepEqual(style, ["rgb(28, 31, 33)", "normal"]);
  },
};

try {
  for (const [name, step] of Object.entries(steps)) {
    await step();
    console.log(name);
  }
  assert.deepEqual(problems, []);
} catch (error) {
  console.error(error, (await texts(".items").catch(() => [])).join("\n"));
  process.exitCode = 1;
} finally {
  await browser.close();
}
