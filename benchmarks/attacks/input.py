"""Requests that cost the server more than their sender, and threads full of what they left.

The hostile bodies have 10 MB, as much as the web layer reads, or what their request may have. The
heavy threads are written into the database by this process: items as an older version took them.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import trio

from benchmarks.attacks import Attack, Outcome, Victim
from chatkit_trio.stores import SQLiteStore
from chatkit_trio.types import (
    ClientToolCallItem,
    InferenceOptions,
    ThreadItem,
    ThreadMetadata,
    UserMessageItem,
    UserMessageTagContent,
    UserMessageTextContent,
)

_SIZE = 9_900_000  # bytes
_MESSAGE_SIZE = 1_000_000
_ROUNDS = 3
_AT_ONCE = 8

_TAG = b'{"type":"input_tag","id":"","text":"","data":{}}'
_REFUSED = frozenset((400, 413))


def _message(content: bytes, *, more: bytes = b"") -> bytes:
    head = b'{"type":"threads.create","params":{"input":{"content":'
    return head + content + b',"attachments":[],"inference_options":{}' + more + b"}}}"


def _list_of(entry: bytes, size: int = _SIZE) -> bytes:
    return b"[" + b",".join([entry] * (size // (len(entry) + 1))) + b"]"


def _object_of(size: int = _SIZE) -> bytes:
    return b"{" + b",".join(b'"%07d":0' % number for number in range(size // 12)) + b"}"


def _data(value: bytes) -> bytes:
    """Return content whose one tag has this as data."""
    return b'[{"type":"input_tag","id":"i","text":"t","data":{"a":' + value + b"}}]"


def _text(piece: bytes, size: int = _SIZE) -> bytes:
    return b'[{"type":"input_text","text":"' + piece * (size // len(piece)) + b'"}]'


def _action(payload: bytes) -> bytes:
    head = b'{"type":"threads.custom_action","params":{"thread_id":"t","action":{"type":"a",'
    return head + b'"payload":' + payload + b"}}}"


def _answers(value: bytes, count: int) -> bytes:
    answers = b",".join(b'"%d":%s' % (number, value) for number in range(count))
    head = b'{"type":"threads.add_structured_input","params":{"thread_id":"t","item_id":"i",'
    return head + b'"input":{"answers":{' + answers + b"}}}}"


def _hostile() -> Mapping[str, bytes]:
    """Return the bodies that are refused, by what they are made of."""
    return {
        "a list of zeros for content": _message(_list_of(b"0")),
        "the same within the limit of its bytes": _message(_list_of(b"0", 90_000)),
        "nested 4,900,000 deep": _message(_data(b"[" * (_SIZE // 2) + b"]" * (_SIZE // 2))),
        "lists nested 150 deep, again and again": _action(_list_of(b"[" * 150 + b"]" * 150)),
        "a string of 10 MB": _message(_text(b"x")),
        "escapes only": _message(_text(rb"\"\\\n")),
        "surrogates": _message(_text(rb"\ud83d\ude00")),
        "lone surrogates": _message(_text(rb"\ud83d", _MESSAGE_SIZE)),
        "a number of 10 MB": _action(b"1" * _SIZE),
        "a fraction of 1 MB": _action(b"0." + b"1" * 250_000 + b"z"),
        "800,000 keys": _action(_object_of()),
        "one key, again and again": _action(b"{" + _list_of(b'"a":0')[1:-1] + b"}"),
        "200,000 tags": _message(_list_of(_TAG)),
        "20,000 tags, 1 MB": _message(_list_of(_TAG, _MESSAGE_SIZE)),
        "wrong parts": _message(_list_of(b'{"type":"x","text":0}')),
        "wrong answers": _answers(b"0", 100) + b" " * 9_000_000,
        "wrong values of 100 answers": _answers(b'{"values":' + _list_of(b"0", 200) + b"}", 100),
        "empty strings": _action(_list_of(b'""')),
        "ids of 10 MB": b'{"type":"threads.delete","params":{"thread_id":"' + b"x" * _SIZE + b'"}}',
        "3,000,000 ids": _feedback(_SIZE // 3),
        "blanks": b" " * _SIZE + b"{}",
        "garbage behind it": _message(_text(b"x", 1000)) + b"}" * 9_000_000,
        "a recording that isn't one": _recording(b"\\n" * (_SIZE // 2)),
    }


def _feedback(count: int) -> bytes:
    ids = b",".join([b'""'] * count)
    head = b'{"type":"items.feedback","params":{"thread_id":"t","kind":"positive","item_ids":['
    return head + ids + b"]}}"


def _recording(audio: bytes) -> bytes:
    head = b'{"type":"input.transcribe","params":{"mime_type":"audio/webm","audio_base64":"'
    return head + audio + b'"}}'


def _valid() -> Mapping[str, bytes]:
    """Return bodies that keep to the limits, as big as they may be."""
    text = b"Of all the words, these. " * (490_000 // 25)
    tag = b'{"type":"input_tag","id":"i","text":"t","data":{"a":"' + b"x" * 4000 + b'"}}'
    return {
        "a message of 500,000 characters": _message(_text(text, len(text))),
        "a message of 100 tags": _message(_list_of(tag, 100 * (len(tag) + 1))),
        "a payload of 49,000 values": _action(_list_of(b"0", 98_000)),
        "a payload of 24,000 lists": _action(_list_of(b"[]", 72_000)),
        "a recording of 10 MB": _recording(b"QUJD" * (_SIZE // 4)),
    }


def _blows(body: Callable[[], bytes], statuses: frozenset[int], count: int) -> Any:
    async def run(victim: Victim) -> Outcome:
        made, found = body(), list[int]()

        async def strike() -> None:
            status, _ = await victim.ask("POST", "/chatkit", made)
            found.append(status)

        for _ in range(_ROUNDS):
            async with trio.open_nursery() as nursery:
                for _ in range(count):
                    nursery.start_soon(strike)
        wrong = [status for status in found if status not in statuses]
        return Outcome(len(found), len(found) - len(wrong), f"answers {wrong}" if wrong else "")

    return run


def _bodies() -> list[Attack]:
    attacks = []
    for what in _hostile():
        body = lambda what=what: _hostile()[what]  # noqa: E731
        run = _blows(body, _REFUSED, 1)
        attacks.append(Attack(what=f"refused: {what}", fault="F1", run=run))
    for what in _valid():
        body = lambda what=what: _valid()[what]  # noqa: E731
        # Actions are asked of a thread that isn't there, and nobody listens to recordings.
        statuses = frozenset((200, 404, 501))
        attacks.append(Attack(what=f"taken: {what}", fault="F1", run=_blows(body, statuses, 1)))
        # Bodies of one owner may hold so much together; the others are told when to come back.
        run = _blows(body, statuses | {503}, _AT_ONCE)
        attacks.append(Attack(what=f"taken, {_AT_ONCE} at once: {what}", fault="F1", run=run))
    return attacks


# --- Reads -------------------------------------------------------------------------------------


def _item(number: int, content: list[Any]) -> UserMessageItem:
    return UserMessageItem(
        id=f"msg_{number}",
        thread_id="thr_heavy",
        created_at=datetime.now(UTC),
        content=content,
        inference_options=InferenceOptions(),
    )


def _texts(number: int) -> ThreadItem:
    return _item(number, [UserMessageTextContent(text="Lorem, ipsum. " * (9_000_000 // 14))])


def _tags(number: int) -> ThreadItem:
    tag = UserMessageTagContent(id="", text="", data={})
    return _item(number, [tag] * (9_000_000 // 75))


def _zeros(number: int) -> ThreadItem:
    tag = UserMessageTagContent(id="i", text="t", data={"a": [0] * 4_500_000})
    return _item(number, [tag])


def _outputs(number: int) -> ThreadItem:
    return ClientToolCallItem(
        id=f"tc_{number}",
        thread_id="thr_heavy",
        created_at=datetime.now(UTC),
        status="completed",
        call_id=f"call_{number}",
        name="look",
        arguments={},
        output=[{}] * 3_000_000,
    )


_HEAVY: Mapping[str, Callable[[int], ThreadItem]] = {
    "9 MB of text": _texts,
    "120,000 tags": _tags,
    "4,500,000 zeros": _zeros,
    "a tool's 3,000,000 objects": _outputs,
}


def _reads(make: Callable[[int], ThreadItem]) -> Callable[[Victim], Awaitable[Outcome]]:
    async def run(victim: Victim) -> Outcome:
        async with SQLiteStore[Any](victim.database) as store:
            thread = ThreadMetadata(id="thr_heavy", created_at=datetime.now(UTC))
            await store.save_thread(thread, None)
            for number in range(10):
                await store.add_thread_item(thread.id, make(number), None)
        statuses: list[int] = []

        async def ask(kind: str, **params: Any) -> bytes:
            body = {"type": kind, "params": {"thread_id": "thr_heavy", **params}}
            headers = [("ChatKit-Endings", "1")]
            status, answer = await victim.ask("POST", "/chatkit", body, headers)
            statuses.append(status)
            return answer

        async def read_all() -> None:
            await ask("threads.get_by_id")
            page = json.loads(await ask("items.list", limit=100))
            while page.get("has_more"):
                page = json.loads(await ask("items.list", limit=100, after=page["after"]))
            await victim.ask("GET", "/chatkit/threads/thr_heavy/turn", None)
            await ask("threads.retry_after_item", item_id="msg_9")

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(read_all)
        right = sum(status in (200, 404) for status in statuses)
        return Outcome(len(statuses), right)

    return run


ATTACKS = (
    *_bodies(),
    *(
        Attack(what=f"read: ten items of {what}, by three at once", fault="F1", run=_reads(make))
        for what, make in _HEAVY.items()
    ),
)
