// <chatkit-trio> for React: a component and a hook with the names of @openai/chatkit-react. React
// itself comes from the app, by its own name: a bundler or an import map finds it.

import { createElement, useEffect, useMemo, useRef } from "react";

const METHODS = [
  "focusComposer", "setThreadId", "sendUserMessage", "setComposerValue", "sendCustomAction",
  "showHistory", "hideHistory", "fetchUpdates", "stop",
];

// onThreadChange is the handler of chatkit.thread.change.
const EVENTS = [
  "ready", "error", "effect", "deeplink", "response.start", "response.end", "thread.change",
  "thread.load.start", "thread.load.end", "tool.change", "log", "state",
];

function handlerName(event) {
  return `on${event.split(".").map((part) => part[0].toUpperCase() + part.slice(1)).join("")}`;
}

const HANDLERS = Object.fromEntries(EVENTS.map((event) => [handlerName(event), `chatkit.${event}`]));

/** Returns { control, ref, ...methods }: `control` is for <ChatKit>, the methods are the element's. */
export function useChatKit(given) {
  const ref = useRef(null);
  const isHandler = ([name]) => name in HANDLERS;
  const entries = Object.entries(given);
  const handlers = Object.fromEntries(entries.filter(isHandler));
  const options = Object.fromEntries(entries.filter((entry) => !isHandler(entry)));
  const methods = useMemo(() => {
    const call = (name) => (...args) => {
      if (!ref.current) throw new Error("ChatKit isn't on the page yet");
      return ref.current[name](...args);
    };
    return Object.fromEntries(METHODS.map((name) => [name, call(name)]));
  }, []);
  return { control: { ref, options, handlers }, ref, ...methods };
}

// Functions are new with each render; what the chat is told of is the rest.
function told(options) {
  return JSON.stringify(options, (key, value) => (typeof value === "function" ? "function" : value));
}

/** The chat. `control` is what useChatKit returned; all else are properties of the element. */
export function ChatKit({ control, ...props }) {
  const latest = useRef(control);
  latest.current = control;
  const { ref, options } = control;
  useEffect(() => {
    const element = ref.current;
    const listeners = Object.entries(HANDLERS).map(([name, event]) => {
      const listener = ({ detail }) => latest.current.handlers[name]?.(detail);
      element.addEventListener(event, listener);
      return [event, listener];
    });
    return () => listeners.forEach(([event, listener]) => element.removeEventListener(event, listener));
  }, []);
  useEffect(() => {
    ref.current.options = withLatest(options, latest); // which waits until the element is defined
  }, [told(options)]);
  return createElement("chatkit-trio", { ref, ...props });
}

// A function that the chat keeps always calls the one of the newest render.
function withLatest(options, latest, path = []) {
  return Object.fromEntries(Object.entries(options).map(([name, value]) => {
    const here = [...path, name];
    if (typeof value === "function") {
      return [name, (...args) => here.reduce((at, key) => at[key], latest.current.options)(...args)];
    }
    const isGroup = typeof value === "object" && value !== null && !Array.isArray(value);
    return [name, isGroup ? withLatest(value, latest, here) : value];
  }));
}
