// What happens when a widget's action is triggered: its payload, and where it goes.

import { runClientAction } from "./host.js";
import { toast } from "./state.js";
import { strings } from "./strings.js";

// By the form itself: a field named "elements" would be found in its place.
const fieldsOf = Object.getOwnPropertyDescriptor(HTMLFormElement.prototype, "elements").get;

/** The values of the fields in the form around an element, and `extra` ones, nested by the dots in their names. */
export function formValues(element, extra) {
  const form = element && Element.prototype.closest.call(element, "form");
  const values = {};
  for (const field of form ? fieldsOf.call(form) : []) {
    const value = fieldValue(field);
    const name = field.dataset.name ?? field.name; // radio buttons have another one: that of their group
    if (name && value !== undefined) setPath(values, name.split("."), value);
  }
  for (const [name, value] of Object.entries(extra)) setPath(values, name.split("."), value);
  return values;
}

function fieldValue(field) {
  if (field.disabled) return undefined;
  if (field.type === "checkbox") return field.checked;
  if (field.type === "radio") return field.checked ? field.value : undefined;
  return field.value;
}

const UNSAFE = new Set(["__proto__", "constructor", "prototype"]);

function setPath(target, path, value) {
  if (path.some((key) => UNSAFE.has(key))) return;
  const parent = path.slice(0, -1).reduce((node, key) => {
    if (typeof node[key] !== "object" || node[key] === null) node[key] = {};
    return node[key];
  }, target);
  parent[path.at(-1)] = value;
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

// Form values go beside what the action carries; a payload that isn't an object stays as it is
// where there is nothing to add.
function withValues(payload, values) {
  if (Object.keys(values).length === 0) return payload;
  return { ...(isObject(payload) ? payload : {}), ...values };
}

/** Sends an action where its config says, and returns when it is done. */
export async function runAction(conversation, item, config, values) {
  const action = { type: config.type, payload: withValues(config.payload, values) };
  try {
    await deliver(conversation, item, config, action);
  } catch (error) {
    toast(strings.errorAction(error.message), { level: "danger" });
  }
}

function deliver(conversation, item, config, action) {
  if (config.handler === "client") {
    return runClientAction({ action, item, threadId: conversation.threadId });
  }
  if (config.streaming === false) return conversation.actInSync(item.id, action);
  if (conversation.phase !== "idle") return toast(strings.busyAction);
  return conversation.act(item.id, action);
}
