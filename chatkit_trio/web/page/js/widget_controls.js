// The components of a widget that take input. Fields keep their own values, as native fields do;
// the form around them is read when an action is triggered.

import { html, useEffect, useLayoutEffect, useRef } from "../vendor/vendor.js";
import { Icon } from "./icons.js";
import { strings } from "./strings.js";
import { useAction, useFieldId, useOwnId, useOwnValue } from "./widget_context.js";
import * as css from "./widget_style.js";

const words = strings.widget;
// Those that are a line of text; others would pick files, or load an image.
const INPUT_TYPES = new Set(["text", "email", "number", "password", "tel", "url"]);

function look(node) {
  const pill = node.pill ? "is-pill" : "";
  return `is-${node.variant ?? "outline"} ${pill} ${node.block ? "is-block" : ""}`;
}

// `style` is short for a variant and a color; what the node says itself comes first.
function buttonLook(node) {
  const primary = node.style === "primary" || (node.submit && !node.style);
  const color = node.color ?? (primary ? "primary" : "secondary");
  const variant = node.variant ?? (primary || node.color ? "solid" : "outline");
  const shape = [node.pill && "is-pill", node.uniform && "is-uniform", node.block && "is-block"];
  return `is-${variant} is-${color} ${shape.filter(Boolean).join(" ")}`;
}

export function Button({ node }) {
  const { run, busy } = useAction(node.onClickAction);
  const size = css.iconSize(node.iconSize, "sm");
  const icon = (name) => (name ? html`<${Icon} name=${name} size=${size} />` : null);
  return html`<button type=${node.submit ? "submit" : "button"} class=${`w-button ${buttonLook(node)}`}
    style=${css.controlStyle(node)} disabled=${node.disabled || busy}
    aria-label=${node.label ? null : node.iconStart ?? node.iconEnd} aria-busy=${String(busy)}
    onClick=${(event) => run(event.currentTarget)}>
    ${busy ? html`<span class="spinner"></span>` : icon(node.iconStart)}
    ${node.label ? html`<span>${node.label}</span>` : null}${icon(node.iconEnd)}</button>`;
}

function useFocusing(node) {
  const field = useRef(null);
  useEffect(() => {
    if (node.autoFocus) field.current.focus();
    if (node.autoSelect) field.current.select();
  }, []);
  return field;
}

function autofillProps(node) {
  if (node.autoComplete) return { autocomplete: node.autoComplete };
  return node.allowAutofillExtensions ? {} : { autocomplete: "off", "data-1p-ignore": "", "data-lpignore": "true" };
}

export function Input({ node }) {
  const field = useFocusing(node);
  const id = useFieldId(node.name);
  const [value, setValue] = useOwnValue(node, node.defaultValue ?? "");
  return html`<input ref=${field} id=${id} name=${node.name} type=${INPUT_TYPES.has(node.inputType) ? node.inputType : "text"}
    class=${`w-field ${look(node)}`} style=${css.controlStyle(node)} value=${value}
    aria-label=${node.placeholder ?? node.name} aria-labelledby=${`${id}-label`}
    placeholder=${node.placeholder} pattern=${node.pattern} required=${node.required}
    disabled=${node.disabled} ...${autofillProps(node)}
    onInput=${(event) => setValue(event.currentTarget.value)} />`;
}

function useRows(field, node, value) {
  useLayoutEffect(() => {
    if (!node.autoResize) return;
    const { style } = field.current;
    style.height = "auto";
    style.height = `${field.current.scrollHeight + 2}px`;
  }, [value, node.autoResize]);
}

export function Textarea({ node }) {
  const field = useFocusing(node);
  const id = useFieldId(node.name);
  const [value, setValue] = useOwnValue(node, node.defaultValue ?? "");
  useRows(field, node, value);
  const style = { ...css.controlStyle(node), maxHeight: node.maxRows ? `calc(${node.maxRows}lh + var(--rem))` : undefined };
  return html`<textarea ref=${field} id=${id} name=${node.name} rows=${node.rows ?? 3}
    class=${`w-field is-area ${look(node)}`} style=${style} value=${value}
    aria-label=${node.placeholder ?? node.name} aria-labelledby=${`${id}-label`}
    placeholder=${node.placeholder} required=${node.required} disabled=${node.disabled}
    ...${autofillProps(node)} onInput=${(event) => setValue(event.currentTarget.value)}></textarea>`;
}

export function EditableText({ node }) {
  const { editable } = node;
  const field = useFocusing(editable);
  const [value, setValue] = useOwnValue(node, node.value ?? "");
  return html`<input ref=${field} class="w-editable" name=${editable.name} style=${css.textStyle(node)} value=${value}
    aria-label=${editable.placeholder ?? editable.name} placeholder=${editable.placeholder}
    pattern=${editable.pattern} required=${editable.required} ...${autofillProps(editable)}
    onInput=${(event) => setValue(event.currentTarget.value)} />`;
}

export function Label({ node }) {
  const id = useFieldId(node.fieldName);
  return html`<label id=${`${id}-label`} for=${id} class="w-label" style=${css.textStyle(node)}>${node.value}</label>`;
}

function ClearButton({ node, value, onClear }) {
  if (!node.clearable || !value || node.disabled) return null;
  return html`<button type="button" class="icon-button is-small" aria-label=${words.clear} onClick=${onClear}>
    <${Icon} name="close" size=${14} /></button>`;
}

/** A field with a value that can be cleared, and an action that goes off when it changes. */
function useChanging(node, initial) {
  const { run, busy } = useAction(node.onChangeAction);
  const [value, setValue] = useOwnValue(node, initial);
  const change = (element, next, isWhole = true) => {
    setValue(next);
    if (isWhole) run(element, { [node.name]: next });
  };
  return { value, change, busy };
}

function optionText(option) {
  return option.description ? `${option.label} — ${option.description}` : option.label;
}

export function Select({ node }) {
  const id = useFieldId(node.name);
  const field = useRef(null);
  const { value, change, busy } = useChanging(node, node.defaultValue ?? "");
  return html`<span class=${`w-clearable ${node.block ? "is-block" : ""}`}>
    <select ref=${field} id=${id} name=${node.name} class=${`w-field is-select ${look(node)} ${value ? "" : "is-empty"}`}
      style=${css.controlStyle(node)} aria-label=${node.placeholder ?? node.name} aria-labelledby=${`${id}-label`}
      disabled=${node.disabled || busy} onChange=${(event) => change(event.currentTarget, event.currentTarget.value)}>
      <option value="" disabled=${!node.clearable} hidden=${!node.clearable} selected=${value === ""}>
        ${node.placeholder ?? words.select}</option>
      ${(node.options ?? []).map((option) => html`<option key=${option.value} value=${option.value}
        disabled=${option.disabled} selected=${option.value === value}>${optionText(option)}</option>`)}
    </select>
    <${ClearButton} node=${node} value=${value} onClear=${() => change(field.current, "")} />
  </span>`;
}

// While a year is typed, its first digits are one already.
const isWholeDay = (date) => !date || date >= "1000";
const day = (date) => (date ? String(date).slice(0, 10) : "");

export function DatePicker({ node }) {
  const id = useFieldId(node.name);
  const field = useRef(null);
  const { value, change, busy } = useChanging(node, day(node.defaultValue));
  return html`<span class=${`w-clearable ${node.block ? "is-block" : ""}`}>
    <input ref=${field} type="date" id=${id} name=${node.name} class=${`w-field ${look(node)}`}
      style=${css.controlStyle(node)} value=${value} min=${day(node.min) || undefined} max=${day(node.max) || undefined}
      aria-label=${node.placeholder ?? node.name} aria-labelledby=${`${id}-label`} title=${node.placeholder}
      disabled=${node.disabled || busy}
      onChange=${({ currentTarget: input }) => change(input, input.value, isWholeDay(input.value))} />
    <${ClearButton} node=${node} value=${value} onClear=${() => change(field.current, "")} />
  </span>`;
}

export function Checkbox({ node }) {
  const id = useFieldId(node.name);
  const { value, change, busy } = useChanging(node, node.defaultChecked === true);
  return html`<label class="w-check">
    <input type="checkbox" id=${id} name=${node.name} checked=${value} required=${node.required}
      disabled=${node.disabled || busy} aria-label=${node.label ? null : node.name}
      aria-labelledby=${node.label ? null : `${id}-label`}
      onChange=${(event) => change(event.currentTarget, event.currentTarget.checked)} />
    ${node.label ? html`<span>${node.label}</span>` : null}</label>`;
}

export function RadioGroup({ node }) {
  const id = useFieldId(node.name);
  const group = useOwnId(); // outside of a form, another widget's with the same name would be one with it
  const { value, change, busy } = useChanging(node, node.defaultValue ?? null);
  return html`<div id=${id} role="radiogroup" aria-label=${node.ariaLabel ?? node.name} aria-labelledby=${`${id}-label`}
    class=${`w-radios is-${node.direction ?? "row"}`}>
    ${(node.options ?? []).map((option) => html`<label key=${option.value} class="w-check">
      <input type="radio" name=${group} data-name=${node.name} value=${option.value} checked=${option.value === value}
        required=${node.required} disabled=${node.disabled || option.disabled || busy}
        onChange=${(event) => change(event.currentTarget, option.value)} /><span>${option.label}</span>
    </label>`)}</div>`;
}
