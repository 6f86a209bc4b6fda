"""Each of the 16 requests at its limit, valid and hostile, beside a stream that must go on.

What is counted is work between two checkpoints, in bytes that a parser or an encoder went over: no
clock is looked at. `benchmarks/attacks/input.py` measures the times over real sockets.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import pytest
import trio

from chatkit_trio._engine import input_limits, pages, reading
from chatkit_trio._engine.pace import PIECE, BigWork
from chatkit_trio.limits import DEFAULT_BODY_BYTES, RequestLimits
from chatkit_trio.server import ChatKitServer
from chatkit_trio.store import AttachmentStore
from chatkit_trio.stores import SQLiteStore, _records
from chatkit_trio.types import (
    Attachment,
    AttachmentCreateParams,
    AudioInput,
    ClientToolCallItem,
    FileAttachment,
    StructuredInputFreeform,
    StructuredInputItem,
    SyncCustomActionResponse,
    ThreadItem,
    ThreadMetadata,
    ThreadStreamEvent,
    TranscriptionResult,
    UserMessageItem,
    WidgetItem,
)
from chatkit_trio.web import create_app
from tests.engine.parts import NOW

from .http import CREATE, client_of

LIMITS = RequestLimits()
ONE_PASS = 1024 * 1024 + 4096
"""Bytes: what one request other than a recording may have is gone over at one go."""


class _Attachments(AttachmentStore[Any]):
    async def create_attachment(self, input: AttachmentCreateParams, context: Any) -> Attachment:
        return FileAttachment(id="new", name=input.name, mime_type=input.mime_type)

    async def delete_attachment(self, attachment_id: str, context: Any) -> None:
        return


class _Server(ChatKitServer[Any]):
    """Answers everything; the first message is answered for ever."""

    async def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: Any
    ) -> AsyncIterator[ThreadStreamEvent]:
        if input_user_message is not None and input_user_message.quoted_text == "for ever":
            await trio.sleep_forever()
        return
        yield

    async def action(
        self, thread: ThreadMetadata, action: Any, sender: WidgetItem | None, context: Any
    ) -> AsyncIterator[ThreadStreamEvent]:
        return
        yield

    async def sync_action(
        self, thread: ThreadMetadata, action: Any, sender: WidgetItem | None, context: Any
    ) -> SyncCustomActionResponse:
        return SyncCustomActionResponse()

    async def transcribe(self, audio_input: AudioInput, context: Any) -> TranscriptionResult:
        return TranscriptionResult(text=str(len(audio_input.data)))


class Work(trio.abc.Instrument):
    """Counts the bytes that are gone over, at most, between two checkpoints."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.most = 0
        self.passes: dict[str, int] = {}
        self._now = 0
        for place, name in (
            (reading, "from_json"),
            (reading, "parse_request"),
            (reading, "_decoded_base64"),
            (_records, "decode_item"),
            (_records, "decode_thread"),
        ):
            patch.setattr(place, name, self._counted(name, getattr(place, name), of_result=False))
        for place, name in ((pages, "item_to_json"), (pages, "to_json"), (pages, "frame")):
            patch.setattr(place, name, self._counted(name, getattr(place, name), of_result=True))

    def _counted(self, name: str, do: Callable[..., Any], *, of_result: bool) -> Callable[..., Any]:
        @wraps(do)
        def counted(given: Any, **arguments: Any) -> Any:
            result = do(given, **arguments)
            self._now += len(result if of_result else given)
            self.most = max(self.most, self._now)
            self.passes[name] = self.passes.get(name, 0) + 1
            return result

        return counted

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._now = 0


def _message(text: str, attachments: int = 0) -> dict[str, Any]:
    tag = {"type": "input_tag", "id": "i" * LIMITS.id_chars, "text": "", "data": {"a": [0] * 200}}
    return {
        "content": [{"type": "input_text", "text": text}, *[tag] * LIMITS.tags],
        "attachments": ["a"] * attachments,
        "quoted_text": "q" * LIMITS.quote_chars,
        "inference_options": {"model": "m" * LIMITS.id_chars},
    }


_LONG_TEXT = "Of all, these. " * (LIMITS.text_chars // 15)
_ITEM = {"thread_id": "t", "item_id": "question"}
_PAYLOAD = {"type": "a" * LIMITS.id_chars, "payload": [[0, ""]] * (LIMITS.values // 4)}

VALID: dict[str, dict[str, Any]] = {
    "threads.create": {"input": _message(_LONG_TEXT, LIMITS.attachments)},
    "threads.add_user_message": {"thread_id": "t", "input": _message(_LONG_TEXT)},
    "threads.add_client_tool_output": {
        "thread_id": "calling",
        "result": {str(number): ["x" * 40] for number in range(LIMITS.values // 3)},
    },
    "threads.add_structured_input": {
        **_ITEM,
        "input": {"answers": {str(n): {"values": ["v" * 20] * 100} for n in range(100)}},
    },
    "threads.custom_action": {"thread_id": "t", "action": _PAYLOAD},
    "threads.sync_custom_action": {"thread_id": "t", "action": _PAYLOAD},
    "threads.retry_after_item": {"thread_id": "t", "item_id": "message"},
    "threads.get_by_id": {"thread_id": "t"},
    "threads.list": {"limit": 10**9},
    "threads.update": {"thread_id": "t", "title": "x" * LIMITS.name_chars},
    "threads.delete": {"thread_id": "t"},
    "items.list": {"thread_id": "t", "limit": 10**9},
    "items.feedback": {
        "thread_id": "t",
        "item_ids": ["i" * LIMITS.id_chars] * LIMITS.item_ids,
        "kind": "positive",
    },
    "attachments.create": {"name": "n" * LIMITS.name_chars, "size": 10**4000, "mime_type": "a/b"},
    "attachments.delete": {"attachment_id": "a"},
    "input.transcribe": {
        "audio_base64": base64.b64encode(b"\0" * 7_800_000).decode(),
        "mime_type": "audio/webm",
    },
}


def _hostile(kind: str) -> Iterator[bytes]:
    """Yield bodies as long as they may be for the web layer or for this request."""
    head = f'{{"type":"{kind}","params":'.encode()
    for size in (LIMITS.bytes_of(kind), LIMITS.longest_body):
        room = size - 300
        yield head + b"[" + b"0," * (room // 2) + b"0]}"
        yield head + b"[" * (room // 2) + b"]" * (room // 2) + b"}"
        yield head + b'{"limit":[],"input":{"content":[' + b"{}," * (room // 3) + b"{}]}}}"
        yield head + b'{"limit":[],"thread_id":"' + b"\\n" * (room // 2) + b'"}}'
        yield head + b"}" * room
        yield head + b'{"limit":[],"input":{"answers":{' + b'"":0,' * (room // 5) + b'"":0}}}}'
        yield head + b'{"limit":[],"item_ids":[' + b'"",' * (room // 3) + b'""]}}'
        yield head + b'{"limit":[],"action":{"payload":' + b"1" * room + b"}}}"


@pytest.fixture
async def server(tmp_path: Path) -> _Server:
    store = SQLiteStore[Any](tmp_path / "chat.db")
    async with store:
        for thread_id in ("t", "calling"):
            await store.save_thread(ThreadMetadata(id=thread_id, created_at=NOW), None)
        await store.save_attachment(FileAttachment(id="a", name="n", mime_type="a/b"), None)
        message = UserMessageItem.model_validate(
            {"id": "message", "thread_id": "t", "created_at": NOW, "attachments": []}
            | {"content": [{"type": "input_text", "text": _LONG_TEXT}], "inference_options": {}}
        )
        copies = [message.model_copy(update={"id": f"message{number}"}) for number in range(20)]
        question = StructuredInputItem(
            id="question",
            thread_id="t",
            created_at=NOW,
            inputs=[StructuredInputFreeform(id=str(n), question="?") for n in range(100)],
        )
        call = ClientToolCallItem(
            id="call", thread_id="calling", created_at=NOW, call_id="c", name="n", arguments={}
        )
        items: list[ThreadItem] = [message, *copies, question, call]
        for item in items:
            await store.add_thread_item(item.thread_id, item, None)
    return _Server(store, _Attachments())


def _bystander() -> dict[str, Any]:
    body: dict[str, Any] = json.loads(json.dumps(CREATE))
    body["params"]["input"]["quoted_text"] = "for ever"
    return body


async def test_all_requests_are_looked_at() -> None:
    assert VALID.keys() == DEFAULT_BODY_BYTES.keys()


@pytest.mark.parametrize("kind", VALID)
async def test_a_valid_request_at_its_limit_leaves_room_between_its_steps(
    kind: str, server: _Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = json.dumps({"type": kind, "params": VALID[kind]}).encode()
    work = Work(monkeypatch)

    async with (
        client_of(create_app(server)) as client,
        client.open("POST", "/chatkit", _bystander()) as stream,
    ):
        trio.lowlevel.add_instrument(work)
        answer = await client.post(body)
        trio.lowlevel.remove_instrument(work)
        assert stream.status == 200
        assert len(server.live_turns) == 1

    assert answer.status == 200, answer.body[:300]
    assert work.passes["parse_request"] >= 1
    longest = LIMITS.bytes_of(kind) if kind == "input.transcribe" else ONE_PASS
    assert work.most <= longest


@pytest.mark.parametrize("kind", VALID)
async def test_a_hostile_request_is_refused_before_it_is_worked_on(
    kind: str, server: _Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = Work(monkeypatch)

    async with (
        client_of(create_app(server)) as client,
        client.open("POST", "/chatkit", _bystander()) as stream,
    ):
        trio.lowlevel.add_instrument(work)
        for body in _hostile(kind):
            answer = await client.post(body)
            assert answer.status in (400, 413), (answer.status, body[:80])
            assert len(answer.body) < 2000
        trio.lowlevel.remove_instrument(work)
        assert stream.status == 200
        assert len(server.live_turns) == 1

    longest = LIMITS.bytes_of(kind) if kind == "input.transcribe" else ONE_PASS
    assert work.most <= longest


async def test_the_scan_of_a_long_body_gives_way_after_every_piece() -> None:
    body = b'"' + b"x" * 3_000_000 + b'"'

    steps = list(input_limits.check_shape(body, LIMITS))

    assert len(steps) > len(body) / PIECE
    assert max(steps) <= PIECE


async def test_of_many_long_requests_one_is_worked_on_between_two_rounds_of_the_scheduler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ten requests of a millisecond each would be a gap of ten."""
    work = Work(monkeypatch)

    class Rounds(trio.abc.Instrument):
        """Counts the passes in a round of the scheduler."""

        most = before = 0

        def before_io_wait(self, timeout: float) -> None:
            now = sum(work.passes.values())
            self.most, self.before = max(self.most, now - self.before), now

    big_work, rounds = BigWork(), Rounds()
    body = json.dumps({"type": "threads.create", "params": VALID["threads.create"]}).encode()
    async with trio.open_nursery() as nursery:
        trio.lowlevel.add_instrument(rounds)
        for _ in range(10):
            nursery.start_soon(reading.read_request, body, LIMITS, big_work)
    trio.lowlevel.remove_instrument(rounds)

    assert sum(work.passes.values()) == 20
    assert rounds.most == 1


async def test_an_event_is_handed_from_task_to_task_between_two_pieces() -> None:
    """On its way to the socket each task is a round of the scheduler."""
    pieces = 0

    async def work() -> None:
        nonlocal pieces
        async with BigWork().begin() as pace:
            while True:
                await pace.before(PIECE)
                pieces += 1

    async def hand_over(
        source: trio.MemoryReceiveChannel[None], target: trio.MemorySendChannel[None]
    ) -> None:
        async for event in source:
            await target.send(event)

    first, source = trio.open_memory_channel[None](0)
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            target, following = trio.open_memory_channel[None](0)
            nursery.start_soon(hand_over, source, target)
            source = following
        nursery.start_soon(work)
        while pieces < 5:
            await trio.lowlevel.checkpoint()
        before = pieces
        await first.send(None)
        await source.receive()
        worked = pieces - before
        nursery.cancel_scope.cancel()

    assert worked <= 1
