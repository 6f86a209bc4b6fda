// What vendor.js exports; the page's own modules import third-party code from there only.
import { h } from "preact";
import htm from "htm";

export { Component, createContext, Fragment, h, render } from "preact";
export {
  useContext,
  useEffect,
  useId,
  useLayoutEffect,
  useMemo,
  useRef,
  useState,
} from "preact/hooks";
export { createParser } from "eventsource-parser";
export const html = htm.bind(h);
