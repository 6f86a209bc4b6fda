// Builds what the server sends: the modules and styles of this folder become files in ../static,
// whose names tell what is in them, so that browsers keep them for ever. Each is there compressed
// too. `--check` writes nothing, and says whether the files there are those that would be built.
//
//   npm install --no-package-lock && node build.mjs [--check]
//
// `--npm FOLDER VERSION` writes the element as a package for npm instead: for apps that bundle it.

import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { brotliCompressSync, brotliDecompressSync, constants, gunzipSync, gzipSync } from "node:zlib";
import * as esbuild from "esbuild";

const SOURCES = import.meta.dirname;
const BUILT = join(SOURCES, "..", "static");
const COMMON = { bundle: true, minify: true, write: false, format: "esm", target: "es2022", legalComments: "none", charset: "utf8" };
const LICENCES = "/* preact, htm, eventsource-parser: licences in vendor/LICENSES.txt of the package */";

const files = new Map(); // by name: what is built
const names = {}; // the names of the entries, for the server

function keep(entry, code) {
  const [stem, extension] = entry.split(/\.(?=[^.]*$)/);
  const hash = createHash("sha256").update(code).digest("hex").slice(0, 12);
  const name = `${stem}-${hash}.${extension}`;
  files.set(name, Buffer.from(code));
  return name;
}

// A rem of the chat is its own, whatever the page around says a rem is.
function withOwnRem(css) {
  return css.replace(/(?<![\w.#-])(\d*\.?\d+)rem\b/g, "calc($1 * var(--rem))");
}

// What is drawn later has its styles later too: this is where they stand.
const STYLES_OF_WIDGETS = /\/\* Widgets \*\/[^]*(?=\/\* Paper \*\/)/;

function partOf(css, suffix) {
  return suffix === "?widgets" ? css.match(STYLES_OF_WIDGETS)[0] : css.replace(STYLES_OF_WIDGETS, "");
}

const chatStyles = {
  name: "styles of the chat, as text",
  setup(build) {
    build.onLoad({ filter: /\.css$/ }, async ({ path, suffix }) => {
      const css = withOwnRem(partOf(readFileSync(path, "utf8"), suffix));
      const { code } = await esbuild.transform(css, { loader: "css", minify: true, target: "es2022" });
      return { contents: code, loader: "text" };
    });
  },
};

// What is imported when it is needed is a file of its own.
const laterFiles = {
  name: "files that are loaded later",
  setup(build) {
    build.onResolve({ filter: /./ }, async (args) => {
      if (args.kind !== "dynamic-import" || !args.path.startsWith(".")) return undefined;
      const path = join(args.resolveDir, args.path);
      const name = basename(path) === "widgets_chunk.js" ? await bundledForTheChat(path) : await bundled(path);
      return { path: `./${name}`, external: true };
    });
  },
};

// The chat's own modules hold its state: what is loaded later gets them from the chat that loads it.
const sharedModules = {
  name: "modules of the chat that loads this",
  setup(build) {
    const later = readFileSync(join(SOURCES, "js", "widgets_later.js"), "utf8");
    const shared = new Set([...later.matchAll(/"([a-z_]+\.js)":/g)].map(([, name]) => name));
    build.onResolve({ filter: /./ }, ({ path }) =>
      shared.has(basename(path)) ? { path: basename(path), namespace: "chat" } : undefined);
    build.onLoad({ filter: /./, namespace: "chat" }, ({ path }) => ({ contents: `module.exports = ofTheChat["${path}"]` }));
  },
};

// The modules hold one chat. A page may have several: each element calls this for modules of its own.
const eachElementItsOwn = {
  name: "the chat as a function that makes one",
  setup(build) {
    // By now these have the names of what was built.
    build.onResolve({ filter: /./ }, ({ kind, path }) => (kind === "dynamic-import" ? { path, external: true } : undefined));
    build.onLoad({ filter: /js\/chat\.js$/ }, async ({ path }) => {
      const options = { ...COMMON, minify: false, format: "iife", globalName: "chat", plugins: [laterFiles, withoutIndents] };
      const { outputFiles } = await esbuild.build({ ...options, entryPoints: [path] });
      return { contents: `export function newChat() {\n${outputFiles[0].text}\nreturn chat;\n}` };
    });
  },
};

// Our own modules have templates of several lines: what they are indented by says nothing.
const withoutIndents = {
  name: "modules without their indents",
  setup(build) {
    build.onLoad({ filter: /page\/js\/[^/]*\.js$/ }, ({ path }) => ({ contents: readFileSync(path, "utf8").replace(/\n[ ]+/g, "\n") }));
  },
};

async function bundled(path, entry = basename(path), options = {}) {
  const { outputFiles } = await esbuild.build({ ...COMMON, entryPoints: [path], ...options });
  return keep(entry, outputFiles[0].text);
}

async function bundledForTheChat(path) {
  const options = { ...COMMON, format: "iife", globalName: "chunk", entryPoints: [path], plugins: [sharedModules, withoutIndents, chatStyles] };
  const { outputFiles } = await esbuild.build(options);
  return keep(basename(path), `export default function (ofTheChat) {\n${outputFiles[0].text}return chunk;\n}\n`);
}

async function build() {
  const source = (name) => join(SOURCES, name);
  names["element.js"] = await bundled(source("js/element.js"), "element.js", {
    plugins: [eachElementItsOwn, chatStyles],
    banner: { js: LICENCES },
  });
  names["page.js"] = await bundled(source("js/page.js"));
  names["admin.js"] = await bundled(source("js/admin.js"), "admin.js", { banner: { js: LICENCES } });
  for (const sheet of ["page.css", "admin.css"]) {
    const css = ["tokens.css", sheet].map((name) => readFileSync(source(`css/${name}`), "utf8")).join("\n");
    const { code } = await esbuild.transform(css, { loader: "css", minify: true, target: "es2022" });
    names[sheet] = keep(sheet, code);
  }
  names["favicon.svg"] = keep("favicon.svg", readFileSync(source("favicon.svg"), "utf8"));
  files.set("names.json", Buffer.from(`${JSON.stringify(names, null, 2)}\n`));
}

function brotli(content) {
  return brotliCompressSync(content, { params: { [constants.BROTLI_PARAM_SIZE_HINT]: content.length } });
}

const isCompressed = (name) => name !== "names.json";

function write() {
  rmSync(BUILT, { recursive: true, force: true });
  mkdirSync(BUILT);
  for (const [name, content] of files) {
    writeFileSync(join(BUILT, name), content);
    if (!isCompressed(name)) continue;
    writeFileSync(join(BUILT, `${name}.gz`), gzipSync(content, { level: 9 }));
    writeFileSync(join(BUILT, `${name}.br`), brotli(content));
  }
}

// Compressed bytes may differ from one zlib to the next; what is in them may not.
function check() {
  const wanted = new Set([...files.keys()].flatMap((name) => (isCompressed(name) ? [name, `${name}.gz`, `${name}.br`] : [name])));
  const found = new Set(readdirSync(BUILT));
  const wrong = [...wanted].filter((name) => !found.has(name)).concat([...found].filter((name) => !wanted.has(name)));
  for (const [name, content] of files) {
    const read = (ending, open) => found.has(name + ending) && !open(readFileSync(join(BUILT, name + ending))).equals(content);
    if (read("", (bytes) => bytes) || read(".gz", gunzipSync) || read(".br", brotliDecompressSync)) wrong.push(name);
  }
  return wrong;
}

const PAGES_OWN = ["page.js", "page.css", "admin.js", "admin.css", "favicon.svg"]; // not the element's

const PACKAGE = {
  name: "chatkit-trio",
  description: "The chat of chatkit_trio as a custom element, and for React",
  license: "Apache-2.0",
  type: "module",
  exports: {
    ".": { types: "./chatkit-trio.d.ts", default: "./chatkit-trio.js" },
    "./react": { types: "./react.d.ts", default: "./react.js" },
  },
  sideEffects: ["./chatkit-trio.js"],
  peerDependencies: { react: ">=18" },
  peerDependenciesMeta: { react: { optional: true } },
};

function writePackage(folder, version) {
  mkdirSync(folder, { recursive: true });
  const put = (name, content) => writeFileSync(join(folder, name), content);
  for (const [name, content] of files) {
    const isElements = !["names.json", ...PAGES_OWN.map((each) => names[each])].includes(name);
    if (isElements) put(name === names["element.js"] ? "chatkit-trio.js" : name, content);
  }
  for (const name of ["react.js", "react.d.ts", "chatkit-trio.d.ts"]) put(name, readFileSync(join(SOURCES, name)));
  put("LICENSES.txt", readFileSync(join(SOURCES, "vendor", "LICENSES.txt")));
  put("package.json", `${JSON.stringify({ ...PACKAGE, version }, null, 2)}\n`);
}

await build();
const [mode, folder, version] = process.argv.slice(2);
if (mode === "--npm") {
  writePackage(folder, version);
} else if (mode === "--check") {
  const wrong = check();
  if (wrong.length > 0) {
    console.error(`The files in static aren't what the sources make: ${wrong.join(", ")}. Run node build.mjs.`);
    process.exit(1);
  }
} else {
  write();
  for (const [name, content] of files) {
    console.log(`${name}: ${content.length} bytes, ${gzipSync(content, { level: 9 }).length} gzipped`);
  }
}
