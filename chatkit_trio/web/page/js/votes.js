// What the reader thought of answers. The protocol can't be asked for it, so the browser remembers.

import { keep, readKept } from "./kept.js";
import { options } from "./options.js";

const MOST = 500; // answers
const keyOf = (scope) => `chatkit-votes:${scope}`;

let known = { scope: null, votes: new Map() }; // read once, not for each answer that is drawn

function read() {
  const { scope } = options;
  const votes = new Map(Object.entries(readKept(keyOf(scope)) ?? {}));
  known = { scope, votes };
  return votes;
}

/** Returns "positive", "negative" or null. */
export function voteOn(itemId) {
  const votes = known.scope === options.scope ? known.votes : read();
  return votes.get(itemId) ?? null;
}

export function rememberVote(itemId, kind) {
  const votes = read(); // another tab may have added some
  votes.delete(itemId);
  votes.set(itemId, kind);
  keep(keyOf(options.scope), Object.fromEntries([...votes].slice(-MOST)), "A vote");
}
