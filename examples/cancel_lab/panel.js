// What a single page can't do to its own answer: speak at the same time, and read nothing.

const STYLE = `
  @media (min-width: 64rem) { body { display: grid; grid-template-columns: minmax(0, 1fr) 19rem; } }
  @media (max-width: 64rem) { body { display: grid; grid-template-rows: 65dvh 35dvh; }
    chatkit-trio.whole-page { height: 100%; } }
  .lab { max-height: 100dvh; overflow: auto; padding: 1rem 1.25rem; font-size: 0.875rem; overflow-wrap: anywhere;
    border: 0 solid var(--line); border-width: 1px 0 0 1px; background: var(--surface-secondary); }
  .lab h2 { font-size: 1rem; margin: 1.25rem 0 0.4rem; }
  .lab h2:first-child { margin-top: 0.25rem; }
  .lab p { margin: 0 0 0.75rem; color: var(--text-secondary); }
  .lab button { display: block; width: 100%; margin: 0 0 0.5rem; padding: 0.45rem 0.9rem; text-align: start;
    border: 1px solid var(--line-strong); border-radius: 9px; background: var(--surface-elevated);
    color: inherit; font: inherit; cursor: pointer; }`;

const EXPERIMENTS = [
  {
    title: "A rival",
    text: "Sends a message while the answer streams, as a second tab would.",
    buttons: {
      "that supersedes": () => rival("I'm a rival, and supersede you."),
      "that queues": () => rival("I'm a rival, and queue."),
      "that is rejected": () => rival("I'm a rival. Reject me!"),
    },
  },
  {
    title: "A stall",
    text: "Begins an answer of its own and reads nothing of it, without hanging up.",
    buttons: { "Flood, and don't read": stall },
  },
  {
    title: "A crash",
    text: "Kill the server with kill -9 in the middle of an answer, and start it again. Or end it"
      + " with Ctrl-C. Then reload, and ask what happened.",
    buttons: {},
  },
];

const log = document.createElement("p");
log.setAttribute("role", "status");

function tell(text) {
  log.textContent = text;
}

function post(type, params) {
  const headers = { "Content-Type": "application/json", Accept: "text/event-stream" };
  return fetch("chatkit", { method: "POST", headers, body: JSON.stringify({ type, params }) });
}

function message(text) {
  return { content: [{ type: "input_text", text }], attachments: [], inference_options: {} };
}

async function rival(text) {
  const threadId = location.hash.match(/^#\/t\/(.+)$/)?.[1];
  if (!threadId) return tell("Let it count first.");
  tell("The rival has spoken…");
  const response = await post("threads.add_user_message", { thread_id: threadId, input: message(text) });
  if (!response.ok) return tell((await response.json()).error.message);
  await response.text();
  location.reload();
}

async function stall() {
  tell("Reading the first words, and no more…");
  const response = await post("threads.create", { input: message("Flood me") });
  const reader = response.body.getReader();
  const words = new TextDecoder().decode((await reader.read()).value);
  const threadId = JSON.parse(words.slice(words.indexOf("{"), words.indexOf("\n"))).thread.id;
  while ((await fetch(`chatkit/threads/${threadId}/turn`, { method: "GET" }).then(hangUp)) !== 204) {
    tell("Connected, and reading nothing…");
    await new Promise((wake) => setTimeout(wake, 1000));
  }
  reader.cancel();
  location.hash = `#/t/${threadId}`;
  tell("It has stalled. Ask what happened.");
}

// Ask whether the turn is live, without reading along.
async function hangUp(response) {
  await response.body?.cancel();
  return response.status;
}

const panel = document.createElement("aside");
panel.className = "lab";
for (const { title, text, buttons } of EXPERIMENTS) {
  const heading = document.createElement("h2");
  heading.textContent = title;
  const note = document.createElement("p");
  note.textContent = text;
  panel.append(heading, note);
  for (const [label, run] of Object.entries(buttons)) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label;
    button.addEventListener("click", () => run().catch((error) => tell(error.message)));
    panel.append(button);
  }
}
panel.append(log);
const style = document.createElement("style");
style.textContent = STYLE;
document.head.append(style);
document.body.append(panel);
