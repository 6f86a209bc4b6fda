// A button that opens a list of choices, with the keys that menus have.

import { html, useEffect, useLayoutEffect, useRef, useState } from "../vendor/vendor.js";
import { Icon } from "./icons.js";

const STEPS = { ArrowDown: 1, ArrowUp: -1 };

function useClosing(open, box, close) {
  useEffect(() => {
    if (!open) return undefined;
    const root = box.current.getRootNode();
    const onPointer = (event) => box.current?.contains(event.target) || close();
    root.addEventListener("pointerdown", onPointer);
    window.addEventListener("blur", close);
    return () => {
      root.removeEventListener("pointerdown", onPointer);
      window.removeEventListener("blur", close);
    };
  }, [open]);
}

function Choice({ choice, onChoose }) {
  return html`<button type="button" role="menuitemradio" aria-checked=${String(choice.chosen)} class="menu-choice"
    disabled=${choice.disabled} data-choice=${choice.id} tabindex="-1" onClick=${() => onChoose(choice)}>
    ${choice.icon ? html`<${Icon} name=${choice.icon} size=${18} />` : null}
    <span class="menu-words"><span>${choice.label}</span>
      ${choice.description ? html`<small>${choice.description}</small>` : null}</span>
    ${choice.chosen ? html`<${Icon} name="check" size=${16} />` : null}
  </button>`;
}

/** `choices` are { id, label, icon?, description?, disabled?, chosen }; children are the button's. */
export function Menu({ label, choices, onChoose, testid, children }) {
  const [open, setOpen] = useState(false);
  const box = useRef(null);
  const close = () => setOpen(false);
  useClosing(open, box, close);
  const items = () => [...box.current.querySelectorAll(".menu-choice:not(:disabled)")];
  useLayoutEffect(() => {
    if (open) (box.current.querySelector('[aria-checked="true"]:not(:disabled)') ?? items()[0])?.focus();
  }, [open]);
  const leave = () => {
    close();
    box.current.querySelector(".menu-button").focus();
  };
  const onKeyDown = (event) => {
    if (!open) return;
    const all = items();
    const at = all.indexOf(box.current.getRootNode().activeElement);
    if (event.key === "Escape") leave();
    else if (event.key === "Tab") return close();
    else if (event.key in STEPS) all.at((at + STEPS[event.key]) % all.length)?.focus();
    else if (event.key === "Home") all[0]?.focus();
    else if (event.key === "End") all.at(-1)?.focus();
    else return;
    event.preventDefault();
  };
  const choose = (choice) => {
    leave();
    onChoose(choice);
  };
  return html`<div class="menu" ref=${box} onKeyDown=${onKeyDown}>
    <button type="button" class="menu-button icon-button" aria-haspopup="menu" aria-expanded=${String(open)}
      aria-label=${label} title=${label} data-testid=${testid} onClick=${() => setOpen(!open)}>${children}</button>
    ${open ? html`<div class="menu-list" role="menu" aria-label=${label}>
      ${choices.map((choice) => html`<${Choice} key=${choice.id} choice=${choice} onChoose=${choose} />`)}
    </div>` : null}
  </div>`;
}
