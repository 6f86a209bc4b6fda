// What a page around this one can register or listen to:
//   window.chatkitClientTools[name] = async (params) => result
//   window.chatkitActions[type]     = async ({ action, item, threadId }) => {}
//   window.chatkitEffects[name]     = (data) => {}
// and the events chatkit.action, chatkit.effect, chatkit.entity, chatkit.response.start and
// chatkit.response.end on window.

import { strings } from "./strings.js";
import { toast } from "./state.js";

export function installRegistries() {
  window.chatkitClientTools ??= {};
  window.chatkitActions ??= {};
  window.chatkitEffects ??= {};
}

export function dispatch(name, detail) {
  window.dispatchEvent(new CustomEvent(name, { detail }));
}

function registered(registry, name) {
  return Object.hasOwn(registry, name) ? registry[name] : null;
}

/** Runs a client effect; one that nothing on the page knows is shown as a toast. */
export function runEffect(name, data) {
  dispatch("chatkit.effect", { name, data });
  const effect = registered(window.chatkitEffects, name);
  if (!effect) return toast(strings.effect(name), { icon: "sparkle" });
  try {
    effect(data);
  } catch (error) {
    console.error(`Effect ${name} failed`, error);
  }
}

/** Runs a widget's client-side action; returns when its handler has. */
export async function runClientAction(detail) {
  dispatch("chatkit.action", detail);
  await registered(window.chatkitActions, detail.action.type)?.(detail);
}

/** Runs a client tool; its failure is a result too, which the model gets to read. */
export async function runClientTool(name, params) {
  const tool = registered(window.chatkitClientTools, name);
  if (!tool) return { error: strings.tool.unknown(name) };
  try {
    return (await tool(params)) ?? null;
  } catch (error) {
    return { error: String(error?.message ?? error) };
  }
}
