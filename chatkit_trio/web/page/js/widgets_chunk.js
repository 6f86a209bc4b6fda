// What widgets_later.js loads: the looks of widgets, forms, steps, tools and images. The build takes what they import
// from the chat's other modules from the chat itself.

export { default as css } from "../css/chat.css?widgets"; // which the build makes of those styles
export { GeneratedImage } from "./generated_image.js";
export { StructuredInput } from "./structured_input.js";
export { ClientToolCall } from "./tool_call.js";
export { Node } from "./widgets.js";
export { TaskItem, WorkflowItem } from "./workflow.js";
