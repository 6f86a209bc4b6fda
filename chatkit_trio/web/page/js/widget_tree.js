// Walks a widget's tree of components, mostly by component id. Pure.

const MOST_DEPTH = 200; // lists and objects in each other; a component in a component is two
const MOST_PARTS = 20_000; // lists, objects and values: components, rows of a table, data of a chart

/** Returns the tree with the component named put in the place of the old one. */
export function replaceComponent(node, id, component) {
  return mapComponent(node, id, () => component);
}

/** Returns the tree with text appended to the value of the component named. */
export function appendToComponent(node, id, delta, done) {
  return mapComponent(node, id, (component) => ({
    ...component,
    value: (component.value ?? "") + delta,
    streaming: !done,
  }));
}

function mapComponent(node, id, change) {
  if (!node || typeof node !== "object") return node;
  if (node.id === id) return change(node);
  if (!node.children) return node;
  const children = mapChildren(node.children, id, change);
  return children === node.children ? node : { ...node, children };
}

function mapChildren(children, id, change) {
  if (!Array.isArray(children)) return mapComponent(children, id, change);
  const mapped = children.map((child) => mapComponent(child, id, change));
  return mapped.some((child, index) => child !== children[index]) ? mapped : children;
}

/** Says whether a widget is small and flat enough to be drawn without holding up the page. */
export function isDrawable(widget) {
  const left = [[widget, 1]]; // a stack of its own, since the tree may be deeper than calls can go
  for (let parts = 1; left.length > 0; ) {
    const [part, depth] = left.pop();
    if (depth > MOST_DEPTH) return false;
    const inside = part && typeof part === "object" ? Object.values(part) : [];
    parts += inside.length;
    if (parts > MOST_PARTS) return false;
    for (const each of inside) left.push([each, depth + 1]);
  }
  return true;
}

/**
 * Returns a key for each component with a name, which stays the same when the widget is loaded
 * again: the name, and the how manieth of that name it is.
 */
export function fieldKeys(widget) {
  const keys = new Map();
  const counts = new Map();
  const visit = (node) => {
    if (!node || typeof node !== "object") return;
    const name = node.editable?.name ?? node.name;
    if (typeof name === "string") {
      counts.set(name, (counts.get(name) ?? 0) + 1);
      keys.set(node, `${name} ${counts.get(name)}`);
    }
    childList(node).forEach(visit);
  };
  visit(widget);
  return keys;
}

export function childList(node) {
  const children = Array.isArray(node.children) ? node.children.flat() : [node.children];
  return children.filter((child) => child != null);
}
