// Starts the page.

import { h, render } from "../vendor/vendor.js";
import { App, onEscape } from "./app.js";
import { config } from "./config.js";
import { installRegistries } from "./host.js";
import { state, subscribe } from "./state.js";
import { titleOf } from "./thread_list.js";
import { loadThreads, showAddressed } from "./threads.js";

function draw() {
  const { thread, phase } = state.conversation;
  const title = thread ? `${titleOf(thread)} · ${config.appName}` : config.appName;
  document.title = phase === "streaming" ? `… ${title}` : title;
  render(h(App), document.getElementById("app"));
}

installRegistries();
subscribe(draw);
window.addEventListener("popstate", showAddressed);
document.addEventListener("keydown", onEscape);
showAddressed();
loadThreads();
