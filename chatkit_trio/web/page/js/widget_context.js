// What a component of a widget needs to know of the widget it is in.

import { createContext, useContext, useState } from "../vendor/vendor.js";
import { formValues } from "./widget_actions.js";

export const WidgetContext = createContext(null);

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
      await widget.dispatch(config, { ...formValues(element), ...extra });
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

/** The id of the field with this name in this widget, for labels to point to. */
export function useFieldId(name) {
  const { item } = useContext(WidgetContext);
  return `${item.id}-${name}`;
}
