// What widgets_later.js loads: the looks of widgets and forms. The build takes what they import from
// the chat's other modules from the chat itself.

export { StructuredInput } from "./structured_input.js";
export { Node } from "./widgets.js";
