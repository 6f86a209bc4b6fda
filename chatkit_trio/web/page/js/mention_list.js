// What the page around offers while something is being mentioned, below which the composer stands.

import { html, useEffect, useRef, useState } from "../vendor/vendor.js";
import { Preview, usePreview } from "./entity_tag.js";
import { Icon } from "./icons.js";
import { queryAt } from "./mentions.js";
import { options } from "./options.js";
import { showIn } from "./place.js";
import { strings } from "./strings.js";

const MOST = 50; // that are offered

export const LIST_ID = "mention-list";
export const optionId = (index) => `mention-${index}`;

const NONE = { found: [], active: 0, place: null, of: null }; // found for the place `of`

/**
 * Returns what is offered where the caret of a field is: `found`, the `active` one, and what
 * `look`s again, `move`s and `close`s.
 */
export function useMentions(area, conversation) {
  const [offered, setOffered] = useState(NONE);
  const close = () => setOffered(NONE);
  useEffect(close, [conversation]); // the text is another one
  const look = async () => {
    const { onTagSearch } = options.entities;
    const field = area.current;
    const place = onTagSearch && field.selectionStart === field.selectionEnd
      ? queryAt(field.value, field.selectionStart) : null;
    if (!place) return close();
    setOffered((before) => ({ ...before, place }));
    const found = await searched(onTagSearch, place.query);
    // What was typed meanwhile looks for itself.
    setOffered((now) => (now.place === place ? { found, active: 0, place, of: place } : now));
  };
  const move = (step) =>
    setOffered((now) => ({ ...now, active: (now.active + step + now.found.length) % now.found.length }));
  return { ...offered, isOpen: offered.place !== null && offered.found.length > 0, look, move, close };
}

async function searched(onTagSearch, query) {
  try {
    return ((await onTagSearch(query)) ?? []).slice(0, MOST);
  } catch (error) {
    console.warn(`Nothing can be mentioned: ${error?.message}`);
    return [];
  }
}

function Offer({ entity, index, active, onPick }) {
  const { widget, on } = usePreview(entity);
  const option = useRef(null);
  useEffect(() => {
    if (active) on.onFocusIn();
    else on.onFocusOut();
    if (active) showIn(option.current.parentElement, option.current);
  }, [active]);
  return html`<li ref=${option} role="option" id=${optionId(index)} aria-selected=${String(active)} data-testid="mention-option"
    class=${`mention ${active ? "is-active" : ""}`} ...${on}
    onPointerDown=${(event) => event.preventDefault()} onClick=${() => onPick(entity)}>
    <${Icon} name=${entity.icon ?? "cube"} size=${17} /><span>${entity.title}</span>
    ${entity.group ? html`<small>${entity.group}</small>` : null}
    <${Preview} widget=${widget} /></li>`;
}

export function MentionList({ mentions, onPick }) {
  if (!mentions.isOpen) return null;
  return html`<ul class="mention-list" id=${LIST_ID} role="listbox" aria-label=${strings.mentions}>
    ${mentions.found.map((entity, index) => html`<${Offer} key=${entity.id} entity=${entity} index=${index}
      active=${index === mentions.active} onPick=${onPick} />`)}
  </ul>`;
}
