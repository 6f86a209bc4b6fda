// Plays a user of a page made with AG-UI: node ag_ui.mjs PACKAGE URL SCENARIO. Prints JSON.
const [packageName, url, name] = process.argv.slice(2);
const { HttpAgent, runHttpRequest, transformHttpEventStream } = await import(packageName);

console.warn = console.error; // standard output is the result's

class ChatKitAgent extends HttpAgent {
  connect(input) {
    const asked = () => this.fetch(`${this.url}/connect`, this.requestInit(input));
    return transformHttpEventStream(runHttpRequest(asked));
  }
}

const id = `${name} of/${packageName}/${process.pid}`; // a chat of its own for each run
const seen = { events: [], errors: [], outcomes: [] };
const watching = {
  onEvent: ({ event }) => { seen.events.push(event); },
  onRunErrorEvent: ({ event }) => { seen.errors.push([event.code, event.message]); },
  onRunFailed: ({ error }) => { seen.errors.push([error.status, error.payload?.error?.message]); },
  onRunFinishedEvent: ({ event, outcome, pendingToolCallIds }) => {
    seen.outcomes.push([outcome ?? event.outcome?.type, pendingToolCallIds]);
  },
};

function agent(threadId, { path = "/ag-ui", ...settings } = {}) {
  const mine = new ChatKitAgent({ url: url + path, threadId, ...settings });
  mine.subscribe(watching);
  return mine;
}

let count = 0;
async function say(mine, content) {
  mine.addMessage({ id: `m${++count}`, role: "user", content });
  return mine.runAgent();
}

async function connected(threadId, path) {
  const mine = agent(threadId, { path });
  await mine.connectAgent();
  return mine.messages;
}

const post = (path) => fetch(url + path, { method: "POST" });
const result = (mine) => ({ messages: mine.messages, ...seen });

async function until(condition) {
  const end = Date.now() + 15_000;
  while (!condition()) {
    if (Date.now() > end) throw new Error("it hasn't happened");
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

const saysHalf = (mine) => () => mine.messages.at(-1)?.content === "half ";

const scenarios = {
  async everything() {
    const mine = agent(id);
    await say(mine, "everything");
    return { ...result(mine), history: await connected(id) };
  },

  async late() {
    const mine = agent(id);
    await say(mine, "late");
    return { ...result(mine), history: await connected(id) };
  },

  async turns() {
    const mine = agent(id);
    await say(mine, "one");
    await say(mine, "two");
    mine.setMessages(mine.messages.slice(0, -1));
    await mine.runAgent(); // the last message again
    const other = agent(id);
    await other.connectAgent();
    await say(other, [{ type: "text", text: "three" }]);
    return { ...result(other), history: await connected(id) };
  },

  async tool() {
    const mine = agent(id);
    await say(mine, "tool");
    const toolCallId = seen.outcomes.at(-1)[1]?.[0] ?? "call_1";
    mine.addMessage({ id: "output", role: "tool", toolCallId, content: "Porto" });
    await mine.runAgent();
    return { ...result(mine), history: await connected(id) };
  },

  async questions() {
    const mine = agent(id);
    await say(mine, "ask");
    const [call] = mine.messages.at(-1).toolCalls;
    const content = JSON.stringify({ answers: { colour: { values: ["red"] } } });
    mine.addMessage({ id: "output", role: "tool", toolCallId: call.id, content });
    await mine.runAgent();
    return { ...result(mine), history: await connected(id) };
  },

  async closed() {
    const mine = agent(id);
    const running = say(mine, "half");
    await until(saysHalf(mine));
    mine.abortRun();
    await running;
    return result(mine);
  },

  async stopped() {
    const mine = agent(id);
    const running = say(mine, "half");
    await until(saysHalf(mine));
    const answer = await (await post(`/ag-ui/${encodeURIComponent(id)}/stop`)).json();
    await running;
    return { ...result(mine), answer, history: await connected(id) };
  },

  async resumed() {
    const path = "/ag-ui-returning";
    const mine = agent(id, { path });
    const running = say(mine, "half");
    await until(saysHalf(mine));
    mine.abortRun(); // the page is closed
    await running;
    const back = agent(id, { path });
    const connecting = back.connectAgent();
    await until(saysHalf(back));
    await post("/release");
    await connecting;
    return { ...result(back), history: await connected(id, path) };
  },

  async failed() {
    const mine = agent(id);
    await say(mine, "fail");
    return { ...result(mine), history: await connected(id) };
  },

  async bug() {
    const mine = agent(id);
    await say(mine, "bug");
    return result(mine);
  },

  async refused() {
    const nobody = agent(id, { headers: { "X-User": "nobody" } });
    await say(nobody, "one").catch(() => {});
    const mine = agent(id);
    const source = { type: "url", value: "https://site.example/a.png" };
    await say(mine, [{ type: "image", source }]).catch(() => {});
    mine.setMessages([]);
    await say(mine, "one");
    mine.setMessages([{ ...mine.messages[0], content: "two" }]);
    await mine.runAgent().catch(() => {});
    return result(mine);
  },

  async fresh() {
    return { messages: await connected(id), ...seen };
  },
};

console.log(JSON.stringify(await scenarios[name]()));
process.exit(0);
