// Folds events of the wire into a list of items. Pure: old lists and items are never changed,
// so that a component can tell by identity whether its item has to be drawn again.

import { replaceComponent, appendToComponent } from "./widget_tree.js";

/** Returns the list with the item put in the place of the one with its id, or at the end. */
export function putItem(items, item) {
  const index = items.findIndex((each) => each.id === item.id);
  return index < 0 ? [...items, item] : items.with(index, item);
}

/**
 * Returns the list with those items of the one before it that this page alone knows, each behind
 * what it followed as far as that is still there.
 */
export function withLocal(items, before) {
  const all = [...items];
  for (const [index, item] of before.entries()) {
    if (!item.isLocal || all.includes(item)) continue;
    const followed = before.slice(0, index).findLast(({ id }) => all.some((each) => each.id === id));
    all.splice(all.findIndex(({ id }) => id === followed?.id) + 1, 0, item);
  }
  return all;
}

export function removeItem(items, itemId) {
  return items.filter((each) => each.id !== itemId);
}

/** Returns the items up to and including the one named. */
export function keepThrough(items, itemId) {
  const index = items.findIndex((each) => each.id === itemId);
  return index < 0 ? items : items.slice(0, index + 1);
}

/** Returns the list with an update applied to one item; an unknown item changes nothing. */
export function updateItem(items, itemId, update) {
  const index = items.findIndex((each) => each.id === itemId);
  const fold = updates[update.type];
  if (index < 0 || !fold) return items;
  return items.with(index, fold(items[index], update));
}

const updates = {
  "assistant_message.content_part.added": (item, u) => setPart(item, u.content_index, u.content),
  "assistant_message.content_part.done": setDonePart,
  "assistant_message.content_part.text_delta": (item, u) => {
    const part = partAt(item, u.content_index);
    return setPart(item, u.content_index, { ...part, text: part.text + u.delta });
  },
  "assistant_message.content_part.annotation_added": (item, u) => {
    const part = partAt(item, u.content_index);
    const annotations = setAt(part.annotations, u.annotation_index, u.annotation);
    return setPart(item, u.content_index, { ...part, annotations });
  },
  "widget.root.updated": (item, u) => ({ ...item, widget: u.widget }),
  "widget.component.updated": (item, u) => ({
    ...item,
    widget: replaceComponent(item.widget, u.component_id, u.component),
  }),
  "widget.streaming_text.value_delta": (item, u) => ({
    ...item,
    widget: appendToComponent(item.widget, u.component_id, u.delta, u.done),
  }),
  "workflow.task.added": (item, u) => setTask(item, u.task_index, u.task),
  "workflow.task.updated": (item, u) => setTask(item, u.task_index, u.task),
  "generated_image.updated": (item, u) => ({ ...item, image: u.image, progress: u.progress }),
};

const emptyPart = { type: "output_text", text: "", annotations: [] };

function partAt(item, index) {
  return { ...emptyPart, ...item.content?.[index] };
}

function setPart(item, index, part) {
  return { ...item, content: setAt(item.content, index, { ...emptyPart, ...part }) };
}

// Some servers send a part as done without the annotations that came before it;
// they are kept until the item itself is done.
function setDonePart(item, update) {
  const { annotations } = partAt(item, update.content_index);
  const part = { ...emptyPart, ...update.content };
  const kept = part.annotations.length ? part.annotations : annotations;
  return setPart(item, update.content_index, { ...part, annotations: kept });
}

function setTask(item, index, task) {
  return { ...item, workflow: { ...item.workflow, tasks: setAt(item.workflow.tasks, index, task) } };
}

// An index beyond the end appends: a wild index must not make a huge list.
function setAt(list, index, value) {
  const copy = [...(list ?? [])];
  copy[Math.min(index, copy.length)] = value;
  return copy;
}
