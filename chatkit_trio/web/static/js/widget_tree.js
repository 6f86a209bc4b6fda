// Walks a widget's tree of components by component id. Pure.

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

export function childList(node) {
  if (node.children == null) return [];
  return Array.isArray(node.children) ? node.children.flat() : [node.children];
}
