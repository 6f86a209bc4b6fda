import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";

globalThis.window = new EventTarget();
globalThis.document = Object.assign(new EventTarget(), { visibilityState: "visible" });

// Browsers of the page have it, node 20 hasn't.
Promise.withResolvers ??= () => {
  const settlers = {};
  const promise = new Promise((resolve, reject) => Object.assign(settlers, { resolve, reject }));
  return { promise, ...settlers };
};

const { options } = await import("../../../chatkit_trio/web/page/js/options.js");
const { Turn } = await import("../../../chatkit_trio/web/page/js/turn.js");

let asked; // the addresses that were asked for
let answers; // what each is answered with, the last one ever after
let heard; // the events of the conversation

const stream = (body) => new Response(body, { headers: { "Content-Type": "text/event-stream" } });
const broken = () => stream(new ReadableStream({ start: (controller) => controller.error(new TypeError("cut")) }));
const refused = (status, body = "{}") => () => new Response(body, { status });
const ENDED = 'id: 2\nevent: turn.end\ndata: {"reason": "finished"}\n\n';
const ended = () => stream(ENDED);

const conversation = () => ({
  threadId: "thr_1",
  isOurServer: true,
  apply: (event) => heard.push(event.type),
  beginAnew: () => {},
  setReconnecting: () => {},
  refresh: async () => heard.push("refresh"),
});

async function settled() {
  for (let turn = 0; turn < 50; turn += 1) await new Promise(setImmediate);
}

beforeEach(() => {
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout"] });
  [asked, answers, heard] = [[], [], []];
  options.endpoint = "https://a.example/chatkit";
  options.fetch = async (url) => {
    asked.push(url);
    return (answers.length > 1 ? answers.shift() : answers[0])();
  };
});

test("who comes back after a reload pauses after each refusal", async () => {
  answers = [refused(503)];
  const over = new Turn(conversation(), false).follow(async () => stream("event: reload\ndata: {}\n\n"));
  await settled();
  assert.equal(asked.length, 1);
  mock.timers.tick(500);
  await settled();
  assert.equal(asked.length, 2);

  answers = [ended];
  mock.timers.tick(1000);
  await over;
  assert.equal(asked.length, 3);
});

test("a page of a proxy isn't the server's word that it can't be come back to", async () => {
  answers = [refused(404, "<h1>404</h1>"), ended];
  const over = new Turn(conversation(), false).follow(async () => stream('id: 1\ndata: {"type": "one"}\n\n'));
  for (const delay of [250, 500]) {
    await settled();
    mock.timers.tick(delay);
  }
  await over;

  assert.equal(asked.length, 2);
});

test("what broke off before its first word is asked for again, by a server that knows its key", async () => {
  const opened = [broken, () => stream(`id: 1\ndata: {"type": "one"}\n\n${ENDED}`)];
  let accepted = 0;
  const turn = new Turn(conversation(), false);
  const over = turn.follow(async () => opened.shift()(), () => (accepted += 1));
  await settled();
  mock.timers.tick(250);
  await over;

  assert.deepEqual([heard, asked, accepted], [["one"], [], 1]);
});

test("what broke off is asked for once by other servers, and by who only reads it", async () => {
  for (const [isOurServer, isAttached] of [[false, false], [true, true]]) {
    answers = [() => new Response(null, { status: 204 })];
    let opened = 0;
    const turn = new Turn({ ...conversation(), isOurServer }, isAttached);
    const over = turn.follow(async () => broken((opened += 1)));
    await settled();
    mock.timers.tick(250);
    await over;

    assert.equal(opened, 1);
  }
  assert.deepEqual(heard, ["refresh", "refresh"]);
});

test("a stream with ids that falls silent, or that a network was lost under, is read anew", async () => {
  const silent = () => {
    const first = new TextEncoder().encode('id: 1\ndata: {"type": "one"}\n\n');
    return stream(new ReadableStream({ start: (controller) => controller.enqueue(first) }));
  };
  for (const end of [() => mock.timers.tick(60_000), () => window.dispatchEvent(new Event("online"))]) {
    answers = [ended];
    const over = new Turn(conversation(), false).follow(async () => silent());
    await settled();
    end();
    await settled();
    mock.timers.tick(250);
    await over;
  }

  assert.equal(asked.length, 2);
});
