// Bundles an app of React that shows the chat: node react_app.mjs FOLDER, into FOLDER/app.js. The
// package of the element is FOLDER/node_modules/chatkit-trio.

import { createRequire } from "node:module";
import { join } from "node:path";

const root = join(import.meta.dirname, "..", "..");
const esbuild = createRequire(join(root, "chatkit_trio", "web", "page", "package.json"))("esbuild");
const [folder] = process.argv.slice(2);

const APP = `
  import { createElement as h, StrictMode, useState } from "react";
  import { createRoot } from "react-dom/client";
  import { ChatKit, useChatKit } from "chatkit-trio/react";
  import "chatkit-trio";

  function App() {
    const [count, setCount] = useState(0);
    const [thread, setThread] = useState("none");
    const { control, sendUserMessage } = useChatKit({
      api: { url: window.chatUrl },
      header: { rightAction: { icon: "plus", label: "Count", onClick: () => setCount(count + 1) } },
      onClientTool: () => ({ count }),
      onThreadChange: ({ threadId }) => setThread(threadId ?? "none"),
    });
    return h("section", null,
      h("p", { id: "count" }, String(count)),
      h("p", { id: "thread" }, thread),
      h("button", { id: "ask", onClick: () => sendUserMessage({ text: "a tool" }) }, "Ask"),
      h(ChatKit, { control, style: { display: "block", height: 500 } }));
  }

  createRoot(document.getElementById("root")).render(h(StrictMode, null, h(App)));
`;

await esbuild.build({
  stdin: { contents: APP, resolveDir: folder },
  bundle: true,
  format: "esm",
  splitting: true,
  outdir: join(folder, "built"),
  entryNames: "app",
  nodePaths: [join(root, "tests", "clients", "node_modules")],
  define: { "process.env.NODE_ENV": '"development"' },
});
