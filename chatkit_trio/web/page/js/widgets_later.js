// Widgets, forms, steps, tools and generated images, loaded when the first one is to be shown: many conversations have none.

import * as vendor from "../vendor/vendor.js";
import * as composer from "./composer.js";
import * as guard from "./guard.js";
import * as icons from "./icons.js";
import * as link from "./link.js";
import * as markdown from "./markdown.js";
import * as messages from "./messages.js";
import { once } from "./once.js";
import * as picture from "./picture.js";
import { place } from "./place.js";
import * as strings from "./strings.js";
import * as context from "./widget_context.js";
import * as tree from "./widget_tree.js";

const PATIENCE = 3000; // milliseconds until it is tried again

// What they need of the chat's other modules, which have one state: see sharedModules in build.mjs.
const SHARED = {
  "vendor.js": vendor,
  "composer.js": composer,
  "guard.js": guard,
  "icons.js": icons,
  "link.js": link,
  "markdown.js": markdown,
  "messages.js": messages,
  "picture.js": picture,
  "strings.js": strings,
  "widget_context.js": context,
  "widget_tree.js": tree,
};

let loaded = null;

/** Loads these looks; those that wait for them are drawn next. */
export const loadWidgets = once(async () => {
  const chunk = (await import("./widgets_chunk.js")).default(SHARED);
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(chunk.css);
  place.root.adoptedStyleSheets.push(sheet);
  loaded = chunk;
});

function later(name) {
  return function Later(props) {
    const [tries, setTries] = vendor.useState(0);
    const Loaded = loaded?.[name];
    vendor.useEffect(() => {
      if (Loaded) return undefined;
      let timer = null;
      const again = () => setTries(tries + 1);
      loadWidgets().then(again, (error) => {
        console.warn(error.message);
        timer = setTimeout(again, PATIENCE);
      });
      return () => clearTimeout(timer);
    }, [tries]);
    return Loaded ? vendor.html`<${Loaded} ...${props} />` : vendor.html`<p class="shimmer">${strings.strings.loading}</p>`;
  };
}

export const ClientToolCall = later("ClientToolCall");
export const GeneratedImage = later("GeneratedImage");
export const Node = later("Node");
export const StructuredInput = later("StructuredInput");
export const TaskItem = later("TaskItem");
export const WorkflowItem = later("WorkflowItem");
