// What all dialogs do. The browser's own <dialog> traps the focus and knows Escape.

import { useLayoutEffect, useRef } from "../vendor/vendor.js";
import { place } from "./place.js";

/** Returns the reference for a dialog that is open as long as it is drawn, and what Escape does. */
export function useModal(close) {
  const element = useRef(null);
  useLayoutEffect(() => {
    const before = place.root.activeElement;
    const dialog = element.current;
    dialog.showModal();
    return () => {
      dialog.close(); // as long as it is open, nothing behind it takes the focus
      if (before?.isConnected) before.focus();
    };
  }, []);
  const onCancel = (event) => {
    event.preventDefault();
    close();
  };
  return { ref: element, onCancel };
}
