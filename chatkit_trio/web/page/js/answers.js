// Answers to the questions of a thread that aren't sent yet, kept in the browser as a draft is: by
// the id of the item that asks, and in it by the id of the question. Fields of widgets aren't kept
// here: there may be a password in one.

import { keep, readKept } from "./kept.js";
import { options } from "./options.js";

const keyOf = (threadId, scope = options.scope) => `chatkit-answers:${scope}:${threadId}`;

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isText = (value) => typeof value === "string";
const isAnswer = (value) => isText(value?.custom) && Array.isArray(value.values) && value.values.every(isText);
const isForm = (value) => isObject(value) && Object.values(value).every(isAnswer);

export function loadAnswers(threadId) {
  const kept = readKept(keyOf(threadId));
  return isObject(kept) ? Object.fromEntries(Object.entries(kept).filter(([, form]) => isForm(form))) : {};
}

export function saveAnswers(threadId, answers, scope = options.scope) {
  keep(keyOf(threadId, scope), Object.keys(answers).length > 0 ? answers : null, "What was filled in");
}

/** Forgets all answers to a thread, because it is deleted. */
export function forgetAnswers(threadId) {
  saveAnswers(threadId, {});
}
