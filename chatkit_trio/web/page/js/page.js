// The page that the server shows by itself: one <chatkit-trio>, set up by the page's <meta> tags,
// with the thread in the address. A page's own scripts can register or listen to:
//   window.chatkitClientTools[name] = async (params) => result
//   window.chatkitActions[type]     = async ({ action, item, threadId }) => {}
//   window.chatkitEffects[name]     = (data) => {}
//   window.chatkitEntities          = { onTagSearch, onClick, onRequestPreview, showComposerMenu }
// and all events of the element, which get to the window too.

function meta(name, fallback = "") {
  return document.querySelector(`meta[name="${name}"]`)?.content || fallback;
}

function json(name) {
  const text = meta(name);
  try {
    return text ? JSON.parse(text) : null;
  } catch {
    console.warn(`${name} is not JSON; what is built in is used`);
    return null;
  }
}

const chat = document.querySelector("chatkit-trio");
const name = meta("application-name", "chatkit_trio");
const given = json("chatkit-options") ?? {};
let shown = { phase: "loading", threadId: null, title: null };

window.chatkitClientTools ??= {};
window.chatkitActions ??= {};
window.chatkitEffects ??= {};

function registered(registry, key) {
  return Object.hasOwn(registry, key) ? registry[key] : null;
}

function onClientTool({ name: tool, params }) {
  const run = registered(window.chatkitClientTools, tool);
  if (!run) throw new Error(`This page has no tool named “${tool}”.`);
  return run(params);
}

function onWidgetAction(action, item) {
  return registered(window.chatkitActions, action.type)?.({ action, item, threadId: shown.threadId });
}

chat.addEventListener("chatkit.effect", ({ detail: { name: effect, data } }) => {
  try {
    registered(window.chatkitEffects, effect)?.(data);
  } catch (error) {
    console.error(`Effect ${effect} failed`, error);
  }
});

// The address: #/t/<id> shows a thread, anything else a new chat.

function addressed() {
  const match = location.hash.match(/^#\/t\/(.+)$/);
  try {
    return match ? decodeURIComponent(match[1]) : null;
  } catch {
    return null; // somebody has cut the address short
  }
}

chat.addEventListener("chatkit.thread.change", ({ detail: { threadId } }) => {
  if (addressed() === threadId) return;
  history.pushState(null, "", threadId ? `#/t/${encodeURIComponent(threadId)}` : "#/");
});

window.addEventListener("popstate", () => chat.setThreadId(addressed()));

// Title, state and theme

chat.addEventListener("chatkit.state", ({ detail }) => {
  shown = detail;
  document.body.dataset.state = detail.phase;
  const words = detail.title ? `${detail.title} · ${name}` : name;
  document.title = detail.phase === "streaming" ? `… ${words}` : words;
});

chat.addEventListener("chatkit.theme.change", ({ detail: { colorScheme } }) => {
  document.documentElement.dataset.theme = colorScheme;
});

const files = json("chatkit-files") ?? {};
const theme = typeof given.theme === "string" ? { colorScheme: given.theme } : given.theme;

chat.setOptions({
  ...given,
  alone: true,
  deepLinks: given.deepLinks ?? false,
  name,
  api: { url: meta("chatkit-endpoint", "chatkit") },
  theme: { toggle: !theme?.colorScheme, ...theme },
  history: { sidebar: true, ...given.history },
  threadItemActions: { feedback: meta("chatkit-feedback") === "on", retry: true, ...given.threadItemActions },
  startScreen: { greeting: meta("chatkit-greeting"), prompts: json("chatkit-prompts") ?? [], ...given.startScreen },
  composer: {
    ...given.composer,
    dictation: { enabled: meta("chatkit-dictation") === "on" },
    attachments: {
      enabled: meta("chatkit-attachments") === "on",
      maxCount: files.maxCount,
      maxSize: files.maxBytes,
      accept: files.accept && Object.fromEntries(files.accept.map((type) => [type, []])),
    },
  },
  initialThread: addressed(),
  onClientTool,
  widgets: { onAction: onWidgetAction },
  entities: window.chatkitEntities,
});
chat.focusComposer();
