// When something new was learned of a thread. An answer to a question that was asked before that
// may say what was so before; it mustn't take the place of what is known. Pure.

const learned = new Map(); // by thread id
let count = 0;

/** Returns the moment of a question that is asked now. */
export const moment = () => count;

/** Takes note that something new is known of a thread, or that it is gone. */
export function learn(threadId) {
  learned.set(threadId, ++count);
}

/** Says whether an answer to a question of that moment may be older than what is known. */
export function isOutdated(threadId, askedAt) {
  return (learned.get(threadId) ?? 0) > askedAt;
}
