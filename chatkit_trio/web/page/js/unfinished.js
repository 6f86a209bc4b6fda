// The end of a text that grows, as it will most likely be: what is open there is closed, or left out
// until there is more of it. Pure.

// Escaped characters and whole spans of code say nothing of what is open.
const SAYS_NOTHING = /\\[^\n]|`[^`\n]+`/g;
const OPEN_LINK = /(!?)\[([^[\]\n]*)\]\([^()\n]*$/;
const MARKS = /[*_~`]+$/;
const STARTS_ANEW = /^\s*(?:$|(?:[-*+]|\d+[.)])\s|>|#)/;

// Where the last line begins that an emphasis can have begun in.
function startOfTail(raw) {
  let start = raw.trimEnd().lastIndexOf("\n") + 1;
  while (start > 0 && !STARTS_ANEW.test(raw.slice(start))) start = raw.lastIndexOf("\n", start - 2) + 1;
  return start;
}

// The mark that is open, or "".
function openIn(text) {
  const rest = text.replace(SAYS_NOTHING, (each) => "x".repeat(each.length));
  if (/(?:^|[^`])`[^`\s]/.test(rest)) return "`";
  const last = ["**", "~~"].map((mark) => [rest.lastIndexOf(mark), mark]).sort(([a], [b]) => b - a);
  const isOpen = ([at, mark]) =>
    (rest.split(mark).length - 1) % 2 === 1 && /^$|[\s([{"'>:*~—]/.test(rest.slice(Math.max(at - 1, 0), at)) && /^\S/.test(rest.slice(at + 2));
  return last.find(isOpen)?.[1] ?? "";
}

/** Returns the Markdown of a block that grows, with its end closed. */
export function closed(raw) {
  if (/```|~~~/.test(raw)) return raw;
  const start = startOfTail(raw);
  const tail = raw.slice(start).replace(OPEN_LINK, (_, isImage, label) => (isImage ? "" : label));
  const [marks] = MARKS.exec(tail) ?? [""];
  const body = tail.slice(0, tail.length - marks.length);
  const before = openIn(body);
  let end = tail;
  if (marks && before && marks !== before && before.startsWith(marks)) end = body + before;
  else if (marks && !before && /(?:^|\s)$/.test(body)) end = body;
  else if (!marks && before) end = body.trimEnd() + before;
  return raw.slice(0, start) + end;
}
