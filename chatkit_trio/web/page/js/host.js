// What the page around does for the chat: effects, actions of widgets, and client tools.

import { options } from "./options.js";
import { dispatch } from "./place.js";
import { strings } from "./strings.js";

/** Tells of a client effect. */
export function runEffect(name, data) {
  dispatch("chatkit.effect", { name, data });
}

/** Runs a widget's client-side action; returns when its handler has. */
export async function runClientAction({ action, item, threadId }) {
  dispatch("chatkit.action", { action, item, threadId });
  await options.onWidgetAction?.(action, { id: item.id, widget: item.widget });
}

/** Runs a client tool; its failure is a result too, which the model gets to read. */
export async function runClientTool(name, params) {
  if (!options.onClientTool) return { error: strings.tool.unknown(name) };
  try {
    return (await options.onClientTool({ name, params })) ?? null;
  } catch (error) {
    return { error: String(error?.message ?? error) };
  }
}

/** Tells that one of the page's own things was clicked, which has an id, a title and more. */
export function openEntity(entity) {
  dispatch("chatkit.entity", { entity });
  options.entities.onClick?.(entity);
}

/** Tells of a failure that the reader is told of too. */
export function reportError(error) {
  dispatch("chatkit.error", { error });
}
