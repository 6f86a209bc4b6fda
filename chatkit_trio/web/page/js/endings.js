// Which answers were cut, why, and behind which item that is said. Pure.

/** Returns a map of endings by turn with those of a page added. */
export function withEndings(endings, page) {
  const all = new Map(endings);
  for (const ending of page.endings ?? []) all.set(ending.turn_id, ending);
  return all;
}

const NONE = new Map();

function placeOf(ending, places) {
  const shown = (ending.item_ids ?? []).filter((id) => places.has(id));
  return shown.length === 0 ? null : shown.reduce((a, b) => (places.get(a) < places.get(b) ? b : a));
}

/**
 * Returns the endings by the id of the item that each stands behind. Under null stands the last
 * answer's when nothing of that answer is shown.
 */
export function marksOf(items, endings, last) {
  if (endings.size === 0 && !last) return NONE;
  const places = new Map(items.map((item, index) => [item.id, index]));
  const marks = new Map();
  for (const ending of [...endings.values(), ...(last ? [last] : [])]) {
    const place = placeOf(ending, places);
    if (place !== null || ending === last) marks.set(place, ending);
  }
  return marks;
}
