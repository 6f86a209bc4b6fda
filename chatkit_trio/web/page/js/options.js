// What the page around wants of the chat: the options of ChatKit.js, and some of our own, as the
// modules can rely on them. Read where they are used, since setOptions may change them at any time.

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isFunction = (value) => typeof value === "function";

// By group; null is a group that has no fields of its own, or one that is passed on.
const KNOWN = {
  api: ["url", "fetch", "domainKey", "uploadStrategy"],
  theme: ["colorScheme", "typography", "radius", "density", "color", "toggle"],
  header: ["enabled", "title", "leftAction", "rightAction"],
  history: ["enabled", "showDelete", "showRename", "sidebar"],
  startScreen: ["greeting", "prompts"],
  threadItemActions: ["feedback", "retry"],
  composer: ["placeholder", "attachments", "tools", "models", "dictation"],
  disclaimer: ["text", "highContrast"],
  entities: ["onTagSearch", "showComposerMenu", "onClick", "onRequestPreview"],
  widgets: ["onAction"],
  thread: ["autoScroll"],
  locale: null,
  frameTitle: null,
  initialThread: null,
  onClientTool: null,
  name: null,
  user: null,
  signInUrl: null,
  deepLinks: null,
  alone: null,
};

// What some options have to be, since the chat would fail on something else.
const isText = (value) => typeof value === "string";
const isList = (value) => Array.isArray(value) && value.every(isObject);
const KINDS = [
  ["a function", isFunction, ["api.fetch", "onClientTool", "entities.onTagSearch", "entities.onClick", "entities.onRequestPreview", "widgets.onAction"]],
  ["a string", isText, ["locale", "frameTitle", "initialThread", "name", "user", "signInUrl", "header.title.text", "startScreen.greeting", "composer.placeholder", "disclaimer.text"]],
  ["a list of objects", isList, ["composer.tools", "composer.models", "startScreen.prompts", "theme.typography.fontSources"]],
  ["an object", isObject, [
    "api.uploadStrategy", "header.title", "header.leftAction", "header.rightAction", "composer.attachments", "composer.dictation",
    "theme.typography", "theme.color", "theme.color.grayscale", "theme.color.accent", "theme.color.surface",
  ]],
];

function checkKinds(given) {
  for (const [words, isOne, paths] of KINDS) {
    for (const path of paths) {
      const value = path.split(".").reduce((at, name) => at?.[name], given);
      if (value != null && !isOne(value)) throw new TypeError(`the option ${path} has to be ${words}`);
    }
  }
}

/** The options that hold now. */
export const options = {};

/** Takes a whole set of options in the place of those before; what isn't given is the default. */
export function takeOptions(given) {
  const taken = { ...checked(given), revision: (options.revision ?? 0) + 1 };
  for (const name of Object.keys(options)) delete options[name];
  Object.assign(options, taken);
}

function checked(given) {
  if (!isObject(given)) throw new TypeError("setOptions wants an object of options");
  for (const [name, value] of Object.entries(given)) checkGroup(name, value);
  checkKinds(given);
  const group = (name) => given[name] ?? {};
  return {
    ...scoped(apiOf(given.api), given.user ?? null),
    theme: typeof given.theme === "string" ? { colorScheme: given.theme } : group("theme"),
    locale: given.locale ?? null,
    frameTitle: given.frameTitle ?? null,
    name: given.name ?? null,
    initialThread: given.initialThread ?? null,
    signInUrl: given.signInUrl ?? null,
    deepLinks: given.deepLinks !== false,
    alone: given.alone === true, // the chat is the whole page, and has its landmarks
    onClientTool: given.onClientTool ?? null,
    header: { enabled: true, ...group("header"), title: { enabled: true, ...given.header?.title } },
    history: { enabled: true, showDelete: true, showRename: true, sidebar: false, ...group("history") },
    startScreen: { greeting: null, ...group("startScreen"), prompts: given.startScreen?.prompts ?? [] },
    threadItemActions: { feedback: false, retry: false, ...group("threadItemActions") },
    composer: composerOf(group("composer")),
    disclaimer: given.disclaimer?.text ? given.disclaimer : null,
    entities: group("entities"),
    onWidgetAction: given.widgets?.onAction ?? null,
    autoScroll: given.thread?.autoScroll !== false,
  };
}

function checkGroup(name, value) {
  if (!Object.hasOwn(KNOWN, name)) return console.warn(`<chatkit-trio> has no option ${name}`);
  if (KNOWN[name] === null || value == null || (name === "theme" && typeof value === "string")) return;
  if (!isObject(value)) throw new TypeError(`the option ${name} has to be an object`);
  for (const field of Object.keys(value)) {
    if (!KNOWN[name].includes(field) && name !== "api") console.warn(`<chatkit-trio> has no option ${name}.${field}`);
  }
}

function apiOf(api) {
  if (api && "getClientSecret" in api) {
    throw new TypeError("api.getClientSecret is for OpenAI's own service: give api.url, the address of your server");
  }
  if (typeof api?.url !== "string" || !api.url) {
    throw new TypeError("the option api.url is missing: it is the address of your server's endpoint, such as /chatkit");
  }
  const strategy = api.uploadStrategy;
  if (strategy?.type === "direct" && !strategy.uploadUrl) {
    throw new TypeError("api.uploadStrategy of type direct needs an uploadUrl");
  }
  return {
    endpoint: new URL(api.url, document.baseURI).href.replace(/\/$/, ""),
    fetch: api.fetch ?? ((url, init) => fetch(url, init)),
    uploadUrl: strategy?.type === "direct" ? new URL(strategy.uploadUrl, document.baseURI).href : null,
  };
}

// What is kept in the browser belongs to a server, and to a user if the page says who that is.
function scoped(api, user) {
  const scope = user === null ? api.endpoint : `${api.endpoint}#${encodeURIComponent(user)}`;
  return { ...api, user, scope };
}

function composerOf(composer) {
  const { attachments, dictation } = composer;
  return {
    placeholder: composer.placeholder ?? null,
    attachments: attachments?.enabled === true,
    files: {
      maxCount: attachments?.maxCount ?? null,
      maxBytes: attachments?.maxSize ?? null, // a number, or numbers by media type
      accept: acceptOf(attachments?.accept),
    },
    dictation: dictation?.enabled === true,
    tools: composer.tools ?? [],
    models: composer.models ?? [],
  };
}

// { "image/*": [".png"] } as a list of media types and endings.
function acceptOf(accept) {
  if (!isObject(accept)) return null;
  return Object.entries(accept).flatMap(([type, endings]) => [type, ...(endings ?? [])]);
}
