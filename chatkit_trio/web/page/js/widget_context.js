// What a component of a widget needs to know of the widget it is in.

import { createContext, useContext, useEffect, useRef, useState } from "../vendor/vendor.js";
import { formValues } from "./widget_actions.js";

export const WidgetContext = createContext(null);

let count = 0;

/** An id that nothing else in the chat has: Preact's useId gives two widgets the same ones. */
export function useOwnId() {
  return useState(() => `widget-part-${++count}`)[0];
}

/**
 * Gives a component the means to run its action: `run(element, extra)` and whether it is busy.
 * The values of the form around the element go with it; `extra` is the component's own value.
 */
export function useAction(config) {
  const widget = useContext(WidgetContext);
  const [busy, setBusy] = useState(false);
  const run = async (element, extra = {}) => {
    if (!config || busy || widget.busy) return;
    const show = indicator(config.loadingBehavior, setBusy, widget.setBusy);
    show(true);
    try {
      await widget.dispatch(config, formValues(element, extra));
    } finally {
      show(false);
    }
  };
  return { run, busy };
}

function indicator(behavior, setSelf, setContainer) {
  if (behavior === "none") return () => {};
  return behavior === "container" ? setContainer : setSelf;
}

/**
 * The value of a field as the user left it, until the server gives another default: also when the
 * widget isn't drawn meanwhile, as while another thread is shown or its card is folded.
 */
export function useOwnValue(node, initial) {
  const { fields, keys } = useContext(WidgetContext);
  const key = keys.get(node);
  const left = fields.get(key);
  const [value, setValue] = useState(left?.given === initial ? left.value : initial);
  const given = useRef(initial);
  useEffect(() => {
    if (given.current !== initial) setValue(initial);
    given.current = initial;
  }, [initial]);
  const change = (next) => {
    if (key) fields.set(key, { given: initial, value: next });
    setValue(next);
  };
  return [value, change];
}

/** The id of the field with this name in this widget, for labels to point to. */
export function useFieldId(name) {
  const { item } = useContext(WidgetContext);
  return `${item.id}-${name}`;
}
