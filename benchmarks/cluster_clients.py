"""The clients of `benchmarks.cluster`, and what they were shown.

A chat sends one message after the other on one thread. Of each message it does one of these: reads
to the end; leaves and comes back, some times; stops the answer; sends the next message while it is
answered; sends the same request again. Whatever fails is tried again, as a page does: a request
with its `Idempotency-Key`, a watch with its `Last-Event-ID`.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import h11
import trio

from benchmarks.measuring import Connection, Frame, connect

SILENCE = 8.0
"""Seconds without a byte after which a client takes its connection for dead."""

PAUSE = (0.2, 0.6)
"""Seconds before something that failed is tried again."""

PATIENCE = 60.0
"""Seconds for which a client tries one thing."""

WAYS = ("read", "return", "stop", "next", "repeat", "late repeat", "hang up", "no key")
WEIGHTS = (3, 6, 3, 3, 2, 1, 1, 1)
PLAIN = ("hang up", "no key")
"""The ways of clients that ask for no event ids, such as ChatKit.js: they can't come back."""

BROKEN = (
    h11.RemoteProtocolError, trio.BrokenResourceError, trio.ClosedResourceError, OSError,
    trio.TooSlowError,
)  # fmt: skip


@dataclass(eq=False)
class Sent:
    """One message, and what its client was shown of the answer."""

    label: str
    way: str
    key: str | None
    command: dict[str, Any]
    at: float = field(default_factory=time.monotonic)
    is_accepted: bool = False
    """Whether the client was shown that its message is stored."""
    node: str = ""
    """The node that the turn runs on, as far as the client knows."""
    turn_id: str = ""
    end_reason: str = ""
    over_at: float = 0.0
    how: str = ""
    """By what its client was told of the end, if not by the stream."""
    asked: set[str] = field(default_factory=set)
    """The reasons for an early end that the client itself has given."""
    texts: dict[str, str] = field(default_factory=dict)
    """The text of each answer's item that was shown, by id."""
    shown: list[tuple[float, str, int]] = field(default_factory=list)
    """When how much of which item had been shown."""
    frames: dict[int, int] = field(default_factory=dict)
    """A digest of each numbered frame."""
    last: int | None = None
    loaded: list[dict[str, str]] = field(default_factory=list)
    """What had been shown and was missing when the thread was loaded, or the request repeated."""

    @property
    def is_over(self) -> bool:
        return bool(self.end_reason)

    def ends(self, reason: str, how: str = "") -> None:
        """Note how the turn has ended: `over` if its client was told no more than that."""
        if not self.is_over:
            self.end_reason, self.over_at, self.how = reason, time.monotonic(), how

    def note_missing(self, texts: dict[str, str], shown: dict[str, str]) -> None:
        """Note what was shown and isn't in these texts."""
        missing = {id_: text for id_, text in shown.items() if not _holds(texts.get(id_), text)}
        if missing:
            self.loaded.append(missing)

    def takes_over(self, again: Sent) -> None:
        """Take what a repeat of the request was shown."""
        if again.is_over:
            self.ends(again.end_reason, "repeat")
        for id_, text in again.texts.items():
            self.texts[id_] = max(self.texts.get(id_, ""), text, key=len)
        self.shown += again.shown


@dataclass
class Record:
    """All that clients have done and seen."""

    messages: list[Sent] = field(default_factory=list)
    threads: dict[str, str] = field(default_factory=dict)
    """The id of each chat's thread."""
    counts: Counter[str] = field(default_factory=Counter)
    served: list[tuple[str, Sent, str]] = field(default_factory=list)
    """What a node has done with the turn of a message: kind, message, node."""
    traces: dict[int, list[str]] = field(default_factory=dict)
    """What each chat has asked whom."""
    faults: list[str] = field(default_factory=list)
    """What was wrong as a client sees it."""
    events: int = 0

    def wrong(self, what: str) -> None:
        self.faults.append(what)


class Refused(Exception):
    """The server couldn't do it now."""


class Chat:
    """One user: sends messages on one thread until told to stop."""

    def __init__(
        self, number: int, port: int, record: Record, pace: float, goes_on: Callable[[], bool]
    ) -> None:
        self.number = number
        self._port = port
        self._record = record
        self._pace = pace
        self._goes_on = goes_on
        self._rng = random.Random(number)
        self._thread_id: str | None = None
        self._messages = 0

    async def run(self) -> None:
        before: Sent | None = None
        async with trio.open_nursery() as nursery:
            while self._goes_on():
                sent = self._new()
                if before is not None:
                    before.asked.add("superseded")
                if not await self._act(sent, nursery):
                    return
                before = sent if not sent.is_over else None
                await trio.sleep(self._rng.uniform(0, 0.5))

    def _new(self) -> Sent:
        self._messages += 1
        # The first message makes the thread, and its client has to learn which one.
        way = "read" if self._messages == 1 else self._rng.choices(WAYS, WEIGHTS)[0]
        label = f"{self.number}.{self._messages}"
        command = {
            "label": label,
            "pieces": self._rng.randint(2, 7),
            "parts": self._rng.randint(1, 3),
            "pause": self._pace,
        }
        sent = Sent(label, way, None if way == "no key" else f"key-{label}", command)
        self._record.messages.append(sent)
        return sent

    async def _act(self, sent: Sent, nursery: trio.Nursery) -> bool:
        """Send a message and do with its answer what its way is; say whether the chat goes on."""
        some = self._rng.randint(1, sent.command["pieces"])
        stops_after = None if sent.way in ("read", "late repeat", "no key") else some
        if not await self._send(sent, stops_after):
            return sent.way == "no key" and self._thread_id is not None
        match sent.way:
            case "hang up":
                sent.asked.add("disconnected")
            case "return":
                await self._finish(sent, self._rng.randint(0, 2))
            case "stop":
                # As a page does: it reads on while another request asks for the stop.
                if not sent.is_over:
                    nursery.start_soon(self._finish, sent, 0)
                    await self._stop(sent)
            case "next":
                if self._rng.random() < 0.5:
                    nursery.start_soon(self._finish, sent, 0)
                else:
                    sent.asked.add("disconnected")
            case "repeat":
                await self._repeat(sent)
                await self._finish(sent, 0)
            case "late repeat":
                await self._finish(sent, 0)
                await self._repeat(sent)
            case "no key":
                if not sent.is_over:
                    sent.asked.add("disconnected")
            case _:
                await self._finish(sent, 0)
        return True

    # --- Sending -------------------------------------------------------------------------------

    async def _send(self, sent: Sent, stops_after: int | None) -> bool:
        """Send a message until it is accepted, and read so many deltas, or to the end."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                await self._post(sent, stops_after)
            except (*BROKEN, Refused):
                self._record.counts["requests tried again"] += 1
            if sent.is_accepted:
                return True
            if sent.key is None:
                sent.asked.add("disconnected")
                self._record.counts["messages without a key whose fate isn't known"] += 1
                return False
            await trio.sleep(self._rng.uniform(*PAUSE))
        self._record.wrong(f"{sent.label} wasn't accepted for {PATIENCE:.0f} s")
        return False

    async def _post(self, sent: Sent, stops_after: int | None) -> None:
        headers = [("connection", "close")]
        has_ids = sent.way not in PLAIN
        if has_ids:
            headers.append(("ChatKit-Event-Ids", "1"))
        if sent.key is not None:
            headers.append(("Idempotency-Key", sent.key))
        # An earlier try may have begun the turn, or one that has ended before its beginning.
        sent.frames, sent.last, sent.turn_id = {}, None, ""
        async with self._asking("POST", "/chatkit", self._body(sent), headers) as (answer, node):
            sent.node = node
            follower = Follower(sent, self._record, is_numbered=has_ids)
            await self._follow(sent, answer, follower, stops_after)

    def _body(self, sent: Sent) -> dict[str, Any]:
        content = [{"type": "input_text", "text": json.dumps(sent.command)}]
        given = {"content": content, "attachments": [], "inference_options": {}}
        if self._messages == 1:
            return {"type": "threads.create", "params": {"input": given}}
        params = {"thread_id": self._thread_id, "input": given}
        return {"type": "threads.add_user_message", "params": params}

    async def _follow(
        self, sent: Sent, answer: Connection, follower: Follower, stops_after: int | None
    ) -> None:
        async with aclosing(answer.frames()) as frames:
            while True:
                with trio.fail_after(SILENCE):
                    try:
                        frame = await anext(frames)
                    except StopAsyncIteration:
                        if sent.way in PLAIN:
                            sent.ends("over")
                        return
                self._record.events += 1
                if frame.event.get("type") == "thread.created":
                    self._is_thread(frame.event["thread"]["id"])
                if frame.event.get("type") == "error":
                    told = frame.event.get("message", frame.event["code"])
                    self._record.counts[f"error event: {told}"] += 1
                    if not sent.is_accepted:
                        raise Refused(json.dumps(frame.event))
                if follower.is_another_turn(frame):
                    sent.ends("over", "another turn")
                    return
                follower.take(frame)
                if stops_after is not None and follower.deltas >= stops_after:
                    return
                if frame.name in ("turn.end", "reload"):
                    return

    def _is_thread(self, thread_id: str) -> None:
        if self._thread_id not in (None, thread_id):
            self._record.wrong(f"chat {self.number} has two threads")
        self._thread_id = thread_id
        self._record.threads[str(self.number)] = thread_id

    # --- Coming back ---------------------------------------------------------------------------

    async def _finish(self, sent: Sent, leaves: int) -> None:
        """Read an answer to its end, and leave so many times on the way."""
        deadline = time.monotonic() + PATIENCE
        while not sent.is_over and time.monotonic() < deadline:
            if leaves:
                leaves -= 1
                await trio.sleep(self._rng.uniform(0, 0.4))
            try:
                await self._watch(sent, self._rng.randint(1, 12) if leaves else None)
            except (*BROKEN, Refused):
                self._record.counts["watches tried again"] += 1
                await trio.sleep(self._rng.uniform(*PAUSE))
        if not sent.is_over:
            self._record.wrong(f"the end of {sent.label} wasn't seen for {PATIENCE:.0f} s")

    async def _watch(self, sent: Sent, stops_after: int | None) -> None:
        headers = [("connection", "close")]
        if sent.last is not None:
            headers.append(("Last-Event-ID", f"{sent.turn_id}.{sent.last}"))
        path = f"/chatkit/threads/{self._thread_id}/turn"
        async with self._asking("GET", path, None, headers) as (answer, node):
            if answer.status == 204:
                self._record.counts["turns that were over at a return"] += 1
                await self._load(sent)
                sent.ends("over", "204")
                return
            self._record.served.append(("watch", sent, node))
            follower = Follower(sent, self._record, is_numbered=True, comes_back=True)
            await self._follow(sent, answer, follower, stops_after)
        if follower.has_to_reload:
            self._record.counts["reloads"] += 1
            sent.last = None
            if await self._is_live(sent):
                await self._load(sent, is_over=False)
            else:
                await self._load(sent)
                sent.ends("over", "204 after a reload")

    async def _is_live(self, sent: Sent) -> bool:
        """Say whether the turn that is live on the thread is this message's."""
        headers = [("connection", "close"), ("ChatKit-Endings", "1")]
        headers.append(("Last-Event-ID", f"{sent.turn_id}.0"))
        path = f"/chatkit/threads/{self._thread_id}/turn"
        async with self._asking("GET", path, None, headers) as (answer, _):
            kind = answer.headers.get("content-type", "")
            return kind.startswith("text/event-stream")

    async def _load(self, sent: Sent, *, is_over: bool = True) -> None:
        """Load the thread's items, from whatever node; after the end all that was shown is there.

        Before that a node that doesn't answer may keep back what came after its last checkpoint.
        """
        shown = dict(sent.texts)
        params = {"thread_id": self._thread_id, "limit": 100, "order": "desc"}
        body = {"type": "items.list", "params": params}
        async with self._asking("POST", "/chatkit", body, [("connection", "close")]) as (answer, _):
            with trio.fail_after(SILENCE):
                page = json.loads(await answer.body())
        texts = {
            item["id"]: item["content"][0]["text"] if item["content"] else ""
            for item in page["data"]
            if item["type"] == "assistant_message"
        }
        if is_over:
            sent.note_missing(texts, shown)

    # --- Stopping and repeating ----------------------------------------------------------------

    async def _stop(self, sent: Sent) -> None:
        sent.asked.add("stopped")
        path = f"/chatkit/threads/{self._thread_id}/stop"
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                headers = [("connection", "close")]
                async with self._asking("POST", path, None, headers, 20.0) as (answer, node):
                    with trio.fail_after(SILENCE):
                        stopped = json.loads(await answer.body())["stopped"]
                    self._record.served.append(("stop", sent, node))
                    self._record.counts["stopped" if stopped else "stopped too late"] += 1
                    await self._load(sent)
                    return
            except (*BROKEN, Refused):
                self._record.counts["stops tried again"] += 1
                await trio.sleep(self._rng.uniform(*PAUSE))
        self._record.wrong(f"{sent.label} couldn't be stopped for {PATIENCE:.0f} s")

    async def _repeat(self, sent: Sent) -> None:
        """Send a request again: its client gets the turn from its beginning, or what is stored."""
        deadline = time.monotonic() + PATIENCE
        headers = [
            ("connection", "close"),
            ("ChatKit-Event-Ids", "1"),
            ("Idempotency-Key", sent.key or ""),
        ]
        while time.monotonic() < deadline:
            again = Sent(sent.label, sent.way, sent.key, sent.command)
            shown = dict(sent.texts)
            try:
                body = self._body(sent)
                async with self._asking("POST", "/chatkit", body, headers) as (answer, node):
                    self._record.served.append(("repeat", sent, node))
                    follower = Follower(again, self._record, is_numbered=True)
                    await self._follow(again, answer, follower, None)
            except (*BROKEN, Refused):
                self._record.counts["repeats tried again"] += 1
            sent.takes_over(again)
            if again.is_over:
                sent.note_missing(again.texts, shown)
                return
            await trio.sleep(self._rng.uniform(*PAUSE))
        self._record.wrong(f"the repeat of {sent.label} didn't end for {PATIENCE:.0f} s")

    @asynccontextmanager
    async def _asking(
        self,
        method: str,
        path: str,
        body: Any,
        headers: list[tuple[str, str]],
        patience: float = SILENCE,
    ) -> AsyncIterator[tuple[Connection, str]]:
        """Ask through nginx; yield the answer and its node. Raises `Refused` for an error."""
        async with connect(self._port) as connection:
            with trio.fail_after(patience):
                status = await connection.request(method, path, body, headers)
            if status in (409, 429, 500, 502, 503, 504):
                self._record.counts[f"status {status}"] += 1
                if status in (409, 500):
                    with trio.fail_after(SILENCE):
                        text = (await connection.body()).decode(errors="replace")
                    self._record.wrong(f"{method} {path} got {status}: {text[:200]}")
                raise Refused(str(status))
            if status not in (200, 204):
                raise AssertionError(f"{method} {path}: {status} {await connection.body()!r}")
            node = connection.headers.get("x-node", "")
            about = dict(headers).get("Last-Event-ID", "")
            self._record.traces.setdefault(self.number, []).append(
                f"{time.monotonic():.2f} {method} {path[-5:]} {status} {node[5:9]} {about}"
                f" of {self._messages}"
            )
            yield connection, node


class Follower:
    """Reads the frames of one response, and notes in `Sent` what they show."""

    def __init__(
        self, sent: Sent, record: Record, *, is_numbered: bool, comes_back: bool = False
    ) -> None:
        self._sent = sent
        self._record = record
        self._is_numbered = is_numbered
        self._expected = None if comes_back and sent.last is None else 0
        if comes_back and sent.last is not None:
            self._expected = sent.last + 1
        self._comes_back = comes_back
        self._so_far: int | None = None
        """The number that the events of the state so far have, all the same one."""
        self.deltas = 0
        self.has_to_reload = False

    def is_another_turn(self, frame: Frame) -> bool:
        """Say whether a watch without an id has come to the thread's next turn."""
        is_free = self._comes_back and self._expected is None and frame.id is not None
        return is_free and frame.id.rpartition(".")[0] != self._sent.turn_id  # type: ignore

    def take(self, frame: Frame) -> None:
        sent = self._sent
        if frame.name == "reload":
            self.has_to_reload = True
            return
        if frame.name == "turn.end":
            sent.ends(frame.event["reason"])
            return
        is_new = not self._is_numbered or frame.id is None or self._is_new(frame)
        if is_new:
            self._show(frame)
        self.deltas += frame.delta is not None

    def _is_new(self, frame: Frame) -> bool:
        """Check a frame's number; say whether the client hasn't seen it yet."""
        sent = self._sent
        assert frame.id is not None
        turn_id, _, digits = frame.id.rpartition(".")
        number, digest = int(digits), hash(json.dumps(frame.event))
        sent.turn_id = sent.turn_id or turn_id
        if turn_id != sent.turn_id:
            self._record.wrong(f"{sent.label}: a frame of {turn_id} in the stream of another turn")
        if self._expected is None:
            self._expected = self._so_far = number
        if number == self._so_far:
            self._expected = number + 1
            sent.last = number
            return True
        if number != self._expected:
            self._record.wrong(f"{sent.label}: frame {number} where {self._expected} was due")
            self._expected = number
        self._expected += 1
        if number in sent.frames:
            if sent.frames[number] != digest:
                self._record.wrong(f"{sent.label}: frame {number} differs when it comes again")
            return False
        sent.frames[number] = digest
        sent.last = number if sent.last is None else max(number, sent.last)
        return True

    def _show(self, frame: Frame) -> None:
        sent, event = self._sent, frame.event
        match event["type"]:
            case "thread.item.added" | "thread.item.done":
                item = event["item"]
                if item["type"] == "user_message":
                    self._accept(item)
                elif item["type"] == "assistant_message":
                    text = item["content"][0]["text"] if item["content"] else ""
                    before = sent.texts.get(item["id"], "")
                    if not _holds(text, before):
                        self._record.wrong(f"{sent.label}: {item['id']} was taken back")
                    self._shown(item["id"], text)
            case "thread.item.updated" if frame.delta is not None:
                item_id = event["item_id"]
                self._shown(item_id, sent.texts.get(item_id, "") + frame.delta)
            case _:
                pass

    def _accept(self, item: dict[str, Any]) -> None:
        label = json.loads(item["content"][0]["text"])["label"]
        if label == self._sent.label:
            self._sent.is_accepted = True
        elif not self._comes_back:
            self._record.wrong(f"{self._sent.label} was shown as {label}")

    def _shown(self, item_id: str, text: str) -> None:
        self._sent.texts[item_id] = text
        self._sent.shown.append((time.monotonic(), item_id, len(text)))


def _holds(text: str | None, shown: str) -> bool:
    """Say whether a stored text holds what was shown; a blank one needn't be kept."""
    return not shown or (text is not None and text.startswith(shown))
