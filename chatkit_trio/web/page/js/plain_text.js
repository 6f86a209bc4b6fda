// The words in anything that the page draws, without knowing what it is. Pure.

const MOST_PARTS = 20_000; // objects and lists that are looked into

// The properties that hold words; all others are looked into for more of them.
const WORDS = new Set([
  "text", "value", "label", "title", "message", "content", "question", "description", "summary",
  "quoted_text", "name", "placeholder", "alt", "filename", "copy_text",
]);

/** Returns the words of an item, a widget or a part of one, a line each. */
export function plainText(value) {
  if (typeof value === "string") return value;
  const words = [];
  const left = [value]; // a stack of its own: what can't be drawn may be nested very deep
  for (let parts = 0; left.length > 0 && parts < MOST_PARTS; parts += 1) {
    const part = left.pop();
    if (typeof part === "string") words.push(part);
    else if (part && typeof part === "object") left.push(...partsOf(part));
  }
  return words.join("\n");
}

// Last first, since the last one pushed is looked into next.
function partsOf(part) {
  const entries = Array.isArray(part)
    ? part.slice(0, MOST_PARTS)
    : Object.entries(part).filter(([key, each]) => typeof each === "object" || WORDS.has(key)).map(([, each]) => each);
  return entries.slice(0, MOST_PARTS).reverse();
}

/** Returns the text of a message, whatever the server made of it. */
export function textOf(item) {
  const parts = Array.isArray(item?.content) ? item.content : [];
  return parts.map((part) => (typeof part?.text === "string" ? part.text : "")).join("\n\n");
}
