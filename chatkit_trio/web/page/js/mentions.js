// Mentions of things that the page around knows: an "@" and the title in the text, a tag on the
// wire. Pure.

const QUERY = /(?:^|\s)@([^\n@]{0,40})$/;

/** Returns what is being looked for at the caret, as { start, query }; null if nothing is. */
export function queryAt(text, caret) {
  const match = QUERY.exec(text.slice(0, caret));
  return match ? { start: caret - match[1].length - 1, query: match[1] } : null;
}

/** Returns the text with a mention in the place of what was looked for, and where the caret goes. */
export function withMention(text, start, caret, entity) {
  const before = `${text.slice(0, start)}@${entity.title}`;
  const after = text.slice(caret);
  const space = /^\s/.test(after) ? "" : " ";
  return { text: before + space + after, caret: before.length + 1 };
}

function escaped(title) {
  return title.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
}

// The longest first: a title may begin with another one.
function patternOf(tags) {
  const titles = tags.map(({ title }) => title).sort((a, b) => b.length - a.length).map(escaped);
  return new RegExp(`(?<![\\p{L}\\p{N}_])@(${titles.join("|")})(?![\\p{L}\\p{N}_])`, "gu");
}

function tagPart(entity) {
  const { id, title, group = null, interactive = false, data = {} } = entity;
  return { type: "input_tag", id, text: title, group, interactive, data };
}

/** Returns a text as the content of a message, with the mentions of `tags` in it as tags. */
export function contentOf(text, tags) {
  if (!text) return [];
  if (tags.length === 0) return [{ type: "input_text", text }];
  const parts = [];
  let from = 0;
  const plain = (to) => to > from && parts.push({ type: "input_text", text: text.slice(from, to) });
  for (const match of text.matchAll(patternOf(tags))) {
    plain(match.index);
    parts.push(tagPart(tags.find(({ title }) => title === match[1])));
    from = match.index + match[0].length;
  }
  plain(text.length);
  return parts;
}

/** Returns those of the tags that the text still mentions. */
export function mentionedIn(text, tags) {
  const ids = new Set(contentOf(text, tags).map(({ id }) => id));
  return tags.filter(({ id }) => ids.has(id));
}

/** Returns the content of a message as { text, tags }, to be edited. */
export function editable(content) {
  const isTag = ({ type }) => type === "input_tag";
  return {
    text: content.map((part) => (isTag(part) ? `@${part.text}` : part.text)).join(""),
    tags: content.filter(isTag).map(({ text, ...tag }) => ({ ...tag, title: text })),
  };
}
