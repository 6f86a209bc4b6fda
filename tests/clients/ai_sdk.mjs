// Plays a user of a page made with the AI SDK: node ai_sdk.mjs VERSION URL SCENARIO. Prints JSON.
const [version, url, name] = process.argv.slice(2);
const { Chat } = await import(`ai-sdk-react-${version}`);
const { DefaultChatTransport, lastAssistantMessageIsCompleteWithToolCalls } =
  await import(`ai-${version}`);

const id = `${name} of/${version}/${process.pid}`; // a chat of its own for each run
const seen = { data: [], errors: [], finishes: [] };

function chat(id, settings = {}) {
  const { path = "/api/chat", headers, ...rest } = settings;
  return new Chat({
    id,
    transport: new DefaultChatTransport({ api: url + path, headers }),
    onData: (part) => seen.data.push(part),
    onError: (error) => seen.errors.push(error.message),
    onFinish: ({ isAbort, isError }) => seen.finishes.push({ isAbort, isError }),
    ...rest,
  });
}

const post = (path) => fetch(url + path, { method: "POST" });
const history = async (id, path = "/api/chat") => (await fetch(`${url}${path}/${encodeURIComponent(id)}`)).json();
const result = (each) => ({ messages: each.messages, status: each.status, ...seen });

async function until(condition) {
  const end = Date.now() + 15_000;
  while (!condition()) {
    if (Date.now() > end) throw new Error("it hasn't happened");
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

const text = (each) => (each.lastMessage?.parts ?? []).map((part) => part.text ?? "").join("");
const saysHalf = (each) => () => each.lastMessage?.role === "assistant" && text(each) === "half ";

const scenarios = {
  async everything() {
    const mine = chat(id);
    await mine.sendMessage({ text: "everything" });
    return { ...result(mine), history: await history(id) };
  },

  async late() {
    const mine = chat(id);
    await mine.sendMessage({ text: "late" });
    return result(mine);
  },

  async turns() {
    const mine = chat(id);
    await mine.sendMessage({ text: "one" });
    await mine.sendMessage({ text: "two" });
    const before = (await history(id)).messages;
    await mine.regenerate();
    const page = await history(id);
    // Another page goes on with what is stored, under the thread's own id.
    const other = chat(page.thread_id, { messages: page.messages });
    await other.sendMessage({ text: "three" });
    await other.regenerate({ messageId: other.messages[2].id });
    return { ...result(other), before, page, history: await history(id) };
  },

  async tool() {
    const mine = chat(id, {
      sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithToolCalls,
      onToolCall: ({ toolCall }) => {
        const output = `${toolCall.toolName} ${JSON.stringify(toolCall.input)}`;
        mine.addToolOutput({ tool: toolCall.toolName, toolCallId: toolCall.toolCallId, output });
      },
    });
    await mine.sendMessage({ text: "tool" });
    await until(() => text(mine).includes("So it is") && mine.status === "ready");
    return { ...result(mine), history: await history(id) };
  },

  async questions() {
    const mine = chat(id, {
      sendAutomaticallyWhen: lastAssistantMessageIsCompleteWithToolCalls,
    });
    await mine.sendMessage({ text: "ask" });
    const asked = mine.lastMessage.parts.at(-1);
    const output = { answers: { colour: { values: ["red"] } } };
    mine.addToolOutput({ tool: "structured_input", toolCallId: asked.toolCallId, output });
    await until(() => text(mine).includes("So it is") && mine.status === "ready");
    return { ...result(mine), asked, history: await history(id) };
  },

  async closed() {
    const mine = chat(id);
    const sending = mine.sendMessage({ text: "half" });
    await until(saysHalf(mine));
    await mine.stop();
    await sending;
    return result(mine);
  },

  async stopped() {
    const mine = chat(id);
    const sending = mine.sendMessage({ text: "half" });
    await until(saysHalf(mine));
    const answer = await (await post(`/api/chat/${encodeURIComponent(id)}/stop`)).json();
    await sending;
    return { ...result(mine), answer, history: await history(id) };
  },

  async resumed() {
    const path = "/api/chat-returning";
    const mine = chat(id, { path });
    const sending = mine.sendMessage({ text: "half" });
    await until(saysHalf(mine));
    await mine.stop(); // the page is closed
    await sending;
    const page = await history(id, path);
    const back = chat(id, { path, messages: page.messages });
    const resuming = back.resumeStream();
    await until(saysHalf(back));
    await post("/release");
    await resuming;
    const again = chat(id, { path, messages: back.messages });
    await again.resumeStream();
    return {
      ...result(again), page, first: mine.messages.map((each) => each.id),
      history: await history(id, path),
    };
  },

  async failed() {
    const mine = chat(id);
    await mine.sendMessage({ text: "fail" });
    return { ...result(mine), history: await history(id) };
  },

  async bug() {
    const mine = chat(id);
    await mine.sendMessage({ text: "bug" });
    return result(mine);
  },

  async refused() {
    await chat(id, { headers: { "X-User": "nobody" } }).sendMessage({ text: "one" });
    const mine = chat(id);
    const file = { type: "file", mediaType: "image/png", url: "data:image/png;base64,AAAA" };
    await mine.sendMessage({ text: "look", files: [file] });
    await mine.sendMessage({ text: "one" });
    const edited = { role: "user", parts: [{ type: "text", text: "two" }] };
    await mine.sendMessage({ ...edited, messageId: mine.messages.at(-2).id });
    return result(mine);
  },
};

console.log(JSON.stringify(await scenarios[name]()));
process.exit(0);
