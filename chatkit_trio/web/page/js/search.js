// Looking for words in all conversations, where the server can.

import { strings } from "./strings.js";
import { options } from "./options.js";
import { getPage } from "./protocol.js";
import { changed, noSearch, state } from "./state.js";
import { threadFrom } from "./thread_fields.js";

const PAGE = 20; // hits a page
const AT_REST = 180; // milliseconds without another letter
const MOST_CHARACTERS = 256; // that a server takes

let timer = null;

/** Looks for what is typed, as soon as it rests. */
export function search(query) {
  clearTimeout(timer);
  if (query.trim() === "") {
    state.search = noSearch();
    return changed();
  }
  state.search = { ...state.search, query, loading: true, error: null };
  timer = setTimeout(() => find(query), AT_REST);
  changed();
}

/** Loads the next page of what was found. */
export function searchOn() {
  state.search = { ...state.search, loading: true, error: null };
  changed();
  return find(state.search.query, state.search.after);
}

async function find(query, after = null) {
  const params = { q: query.slice(0, MOST_CHARACTERS), limit: PAGE };
  const { scope } = options;
  const settle = (found) => {
    if (state.search.query !== query || options.scope !== scope) return; // there is another one meanwhile
    state.search = { ...state.search, loading: false, ...found };
    changed();
  };
  try {
    const page = await getPage("search", after ? { ...params, after } : params);
    const hits = page.data.map((hit) => ({ ...hit, thread: threadFrom(hit.thread) }));
    const before = after ? state.search.hits : [];
    settle({ hits: [...before, ...hits], hasMore: page.has_more, after: page.after ?? null });
  } catch (error) {
    settle({ error: `${strings.searchFailed} ${error.message}`, hits: after && state.search.hits });
  }
}

/** Returns an excerpt in pieces, { text, found }, by the ranges that matched. */
export function piecesOf({ excerpt, matches = [] }) {
  const pieces = [];
  let at = 0;
  for (const [from, to] of matches) {
    if (from > at) pieces.push({ text: excerpt.slice(at, from), found: false });
    pieces.push({ text: excerpt.slice(from, to), found: true });
    at = to;
  }
  return at < excerpt.length ? [...pieces, { text: excerpt.slice(at), found: false }] : pieces;
}
