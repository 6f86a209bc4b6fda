"""What the store conformance kit stores: one item of each kind, and one call of each method.

An operation is run on a thread prepared for it; what it did is read back as a `Snapshot`, which
says the same of two threads in the same state.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic import TypeAdapter

from chatkit_trio.errors import NotFoundError
from chatkit_trio.store import JournalEntry, Opening, Settlement, Store
from chatkit_trio.types import (
    AssistantMessageContent,
    AssistantMessageItem,
    Attachment,
    AttachmentBase,
    HiddenContextItem,
    InferenceOptions,
    LockedStatus,
    Page,
    SDKHiddenContextItem,
    ThreadItem,
    ThreadItemBase,
    ThreadMetadata,
    TurnEnding,
    UserMessageItem,
    UserMessageTextContent,
)

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)
EXACTLY = NOON.replace(microsecond=123_456)

# One of each kind, with every field that a store could lose.
_FIELDS: dict[str, dict[str, Any]] = {
    "user_message": {
        "content": [
            {"type": "input_text", "text": "What is in here?"},
            {
                "type": "input_tag",
                "id": "tag_1",
                "text": "@sales",
                "data": {"row": 3, "tags": ["a", None, 1.5]},
                "group": "tables",
                "interactive": True,
            },
        ],
        "attachments": [
            {"type": "file", "id": "atc_1", "name": "a.pdf", "mime_type": "application/pdf"},
            {
                "type": "image",
                "id": "atc_2",
                "name": "b.png",
                "mime_type": "image/png",
                "preview_url": "https://files.example/b.png",
                "thread_id": "thr_1",
                "metadata": {"sha256": "00ff"},
            },
        ],
        "quoted_text": "the line above",
        "inference_options": {"tool_choice": {"id": "search"}, "model": "large"},
    },
    "assistant_message": {
        "content": [
            {
                "text": "A table.",
                "annotations": [
                    {
                        "source": {
                            "type": "url",
                            "url": "https://example.com/",
                            "title": "Example",
                            "attribution": "Somebody",
                        },
                        "index": 3,
                    },
                    {"source": {"type": "entity", "id": "e", "title": "E", "data": {"k": "v"}}},
                ],
            },
            {"text": ""},
        ]
    },
    "client_tool_call": {
        "status": "completed",
        "call_id": "call_1",
        "name": "get_selection",
        "arguments": {"deep": {"list": [1, 2, {"x": None}]}},
        "output": {"rows": [1, 2]},
    },
    "widget": {
        "widget": {"type": "Card", "children": [{"type": "Text", "id": "t", "value": "hello"}]},
        "copy_text": "hello",
    },
    "generated_image": {"image": {"id": "img_1", "url": "data:image/png;base64,AAAA"}},
    "structured_input": {
        "status": "answered",
        "inputs": [
            {
                "type": "multiple_choice",
                "id": "q1",
                "question": "Which?",
                "options": [{"value": "red"}, {"value": "blue"}],
                "multiple": True,
                "answer": {"values": ["red"], "skipped": False},
            },
            {"type": "freeform", "id": "q2", "question": "Why?", "description": "in short"},
        ],
    },
    "task": {"task": {"type": "web_search", "title": "Search", "queries": ["trio"]}},
    "workflow": {
        "workflow": {
            "type": "reasoning",
            "tasks": [
                {"type": "thought", "content": "Hm.", "status_indicator": "complete"},
                {"type": "custom", "title": "Look", "icon": "search"},
                {"type": "file", "sources": [{"filename": "a.pdf", "title": "A"}]},
                {"type": "image", "title": "Draw"},
            ],
            "summary": {"duration": 7},
            "expanded": True,
        }
    },
    "end_of_turn": {},
    "hidden_context_item": {"content": {"note": ["for the model", 1, None]}},
    "sdk_hidden_context": {
        "content": "The user stopped the answer.",
        "ending": {"turn_id": "turn_1", "reason": "stopped", "item_ids": ["msg_1", "wf_1"]},
        "approval": {
            "item_id": "msg_2",
            "run": "run_model",
            "calls": [{"id": "call_1", "name": "pay", "arguments": "{}", "state": "begun"}],
            "state": '{"items": []}',
        },
    },
}

ITEM_KINDS = tuple(_FIELDS)

_ITEM: TypeAdapter[ThreadItem] = TypeAdapter(ThreadItem)
_ATTACHMENT: TypeAdapter[Attachment] = TypeAdapter(Attachment)
_ANSWERS: tuple[tuple[type, TypeAdapter[Any]], ...] = (
    (ThreadMetadata, TypeAdapter(ThreadMetadata)),
    (ThreadItemBase, _ITEM),
    (AttachmentBase, _ATTACHMENT),
)


def _nested(depth: int) -> Any:
    value: Any = "bottom"
    for _ in range(depth):
        value = {"deeper": value}
    return value


UNREADABLE = {"nested": _nested(230), "nested deeper": _nested(2000), "big number": 10**5000}
"""Values that some of JSON's writers write and its readers don't read."""


ODD_IDS = {
    "empty": "",
    "nul": "thr_1\x00",
    "lone surrogate": "thr_1\ud83d",
    "a space behind": "thr_1 ",
    "quotes": "thr_1'\"\\%_;--",
    "any thread": "%",
    "emoji": "\U0001f469\u200d\U0001f52c",
    "a kilobyte": "x" * 1024,
}
"""Ids that nothing has."""


def item_of_kind(kind: str, thread_id: str) -> ThreadItem:
    return _ITEM.validate_python(
        {"type": kind, "id": f"{kind}_1", "thread_id": thread_id, "created_at": EXACTLY}
        | _FIELDS[kind]
    )


def at(minutes: float) -> datetime:
    """Return the time so many minutes after noon."""
    return NOON + timedelta(minutes=minutes)


def said(item_id: str, thread_id: str, text: str, minutes: float = 0) -> ThreadItem:
    """Make a message of the user."""
    return UserMessageItem(
        id=item_id,
        thread_id=thread_id,
        created_at=at(minutes),
        content=[UserMessageTextContent(text=text)],
        inference_options=InferenceOptions(),
    )


def answered(item_id: str, thread_id: str, text: str, minutes: float = 0) -> ThreadItem:
    """Make a message of the assistant."""
    return AssistantMessageItem(
        id=item_id,
        thread_id=thread_id,
        created_at=at(minutes),
        content=[AssistantMessageContent(text=text)],
    )


def note(item_id: str, thread_id: str, content: str = "", at: datetime = NOON) -> ThreadItem:
    """Make a small item of any text."""
    return HiddenContextItem(id=item_id, thread_id=thread_id, created_at=at, content=content)


def thread(thread_id: str, title: str | None = None) -> ThreadMetadata:
    return ThreadMetadata(id=thread_id, title=title, created_at=NOON, metadata={"k": [title]})


def full_thread(thread_id: str) -> ThreadMetadata:
    """Make a thread with every field that a store could lose."""
    return ThreadMetadata(
        id=thread_id,
        title="Träume",
        created_at=EXACTLY,
        status=LockedStatus(reason="a reason"),
        allowed_image_domains=["example.com"],
        metadata={"deep": [1, {"x": None}], "numbers": [2**53 + 1, -0.1, 1 / 3]},
    )


def ending_note(item_id: str, thread_id: str, turn_id: str, content: str) -> ThreadItem:
    """Make the note of a turn that was cut."""
    ending = TurnEnding(turn_id=turn_id, reason=content, item_ids=["i5"])
    return SDKHiddenContextItem(
        id=item_id, thread_id=thread_id, created_at=NOON, content=content, ending=ending
    )


def attachment(attachment_id: str, name: str = "a.txt") -> Attachment:
    return _ATTACHMENT.validate_python(
        {
            "type": "image",
            "id": attachment_id,
            "name": name,
            "mime_type": "image/png",
            "preview_url": "https://files.example/a.png",
            "metadata": {"path": "a/b", "deep": [1, {"x": None}]},
            "upload_descriptor": {
                "url": "https://files.example/upload",
                "method": "PUT",
                "headers": {"x-token": "t"},
            },
        }
    )


def plain(value: Any) -> Any:
    """Return what a store answered as plain data, so that a subclass equals its base.

    A store may return subclasses with fields of its own.
    """
    match value:
        case list() | tuple():
            return [plain(one) for one in value]
        case Page():
            return plain(value.data), value.has_more, value.after
        case JournalEntry():
            items, changed = plain(value.items), plain(value.changed_items)
            return value.turn_id, value.thread_id, items, changed, value.reason
    for base, adapter in _ANSWERS:
        if isinstance(value, base):
            return adapter.dump_python(value, mode="json")
    raise TypeError(f"a store doesn't answer with {value!r}")


@dataclass(frozen=True)
class Snapshot:
    """What can be seen of a prepared thread: its title, its items and its attachment's name."""

    title: str | None
    items: tuple[tuple[str, str], ...]
    attachment: str | None


GONE = "gone"


async def prepare(store: Store[Any], thread_id: str, context: Any) -> None:
    """Store the thread an operation is run on."""
    await store.save_thread(thread(thread_id, "before"), context)
    for item_id in ("i1", "i2", "i3", "i4"):
        await store.add_thread_item(thread_id, note(item_id, thread_id, "before"), context)
    await store.save_attachment(attachment(f"atc_{thread_id}", "before"), context)


async def snapshot(store: Store[Any], thread_id: str, context: Any) -> Snapshot:
    try:
        title = (await store.load_thread(thread_id, context)).title
        page = await store.load_thread_items(thread_id, None, 100, "asc", context)
        items = tuple((item.id, getattr(item, "content", "")) for item in page.data)
    except NotFoundError:
        title, items = GONE, ()
    try:
        name = (await store.load_attachment(f"atc_{thread_id}", context)).name
    except NotFoundError:
        name = GONE
    return Snapshot(title, items, name)


Operation = Callable[[Store[Any], str, Any], Awaitable[object]]


def _settlement(thread_id: str) -> Settlement:
    return Settlement(
        thread_id,
        new_items=tuple(note(item_id, thread_id, "new") for item_id in ("i4", "i5", "i6")),
        changed_items=(note("i1", thread_id, "after"), note("i2", thread_id, "after")),
        thread=thread(thread_id, "after"),
    )


READS: dict[str, Operation] = {
    "load_thread": lambda store, thr, c: store.load_thread(thr, c),
    "load_threads": lambda store, thr, c: store.load_threads(2, None, "desc", c),
    "load_thread_items": lambda store, thr, c: store.load_thread_items(thr, "i1", 2, "asc", c),
    "load_item": lambda store, thr, c: store.load_item(thr, "i2", c),
    "load_attachment": lambda store, thr, c: store.load_attachment(f"atc_{thr}", c),
}

WRITES: dict[str, Operation] = {
    "save_thread": lambda store, thr, c: store.save_thread(thread(thr, "after"), c),
    "update_thread": lambda store, thr, c: store.update_thread(thread(thr, "after"), c),
    "delete_thread": lambda store, thr, c: store.delete_thread(thr, c),
    "add_thread_item": lambda store, thr, c: store.add_thread_item(thr, note("i5", thr), c),
    "save_item": lambda store, thr, c: store.save_item(thr, note("i2", thr, "after"), c),
    "save_item (a new one)": lambda store, thr, c: store.save_item(thr, note("i5", thr), c),
    "update_item": lambda store, thr, c: store.update_item(thr, note("i2", thr, "after"), c),
    "delete_thread_item": lambda store, thr, c: store.delete_thread_item(thr, "i2", c),
    "save_attachment": lambda store, thr, c: store.save_attachment(
        attachment(f"atc_{thr}", "after"), c
    ),
    "delete_attachment": lambda store, thr, c: store.delete_attachment(f"atc_{thr}", c),
    "settle": lambda store, thr, c: store.settle(_settlement(thr), c),
    "delete_items_after": lambda store, thr, c: store.delete_items_after(thr, "i2", c),
}


async def live_a_turn(store: Store[Any], thread_id: str, context: Any) -> None:
    """Begin a turn, write down what it has so far, and settle it."""
    assert store.journal is not None
    turn_id, item = f"turn_{thread_id}", note("i5", thread_id, "answer")
    await store.journal.begin(turn_id, thread_id, context)
    await store.journal.checkpoint([JournalEntry(turn_id, thread_id, (item,))])
    await store.settle(Settlement(thread_id, turn_id, (item,)), context)


def opening(turn_id: str, thread_id: str) -> Opening:
    """Make the first writes of a turn on a prepared thread: one item."""
    return Opening(thread_id, turn_id, new_items=(note(f"of_{turn_id}", thread_id),))


def full_opening(turn_id: str, thread_id: str) -> Opening:
    """Make first writes of every kind, on a prepared thread, which has to be as it was prepared."""
    return Opening(
        thread_id,
        turn_id,
        attachments=(attachment(f"atc_{thread_id}", "after"),),
        delete_after="i3",
        deleted_item_ids=("i2", "i9"),
        new_items=(note("i4", thread_id, "new"), note("i5", thread_id, "new")),
        changed_items=(note("i1", thread_id, "after"), note("i6", thread_id, "new")),
        needs_active=True,
        last_item_id="i4",
        unchanged_items=(note("i1", thread_id, "before"), note("i3", thread_id, "before")),
    )


A_FULL_OPENING = Snapshot(
    "before",
    (("i1", "after"), ("i3", "before"), ("i4", "new"), ("i5", "new"), ("i6", "new")),
    "after",
)
"""What a prepared thread is after `full_opening`."""


async def begin_a_turn(store: Store[Any], thread_id: str, context: Any) -> None:
    """Let a turn begin with first writes of every kind."""
    assert store.coordination is not None
    await store.coordination.begin(full_opening(f"turn_{thread_id}", thread_id), context)


A_TURN = "a whole turn"
A_BEGINNING = "the beginning of a turn"

OPERATIONS: dict[str, Operation] = READS | WRITES | {A_TURN: live_a_turn, A_BEGINNING: begin_a_turn}

MANY_STEPS = ("settle", "delete_items_after")
"""The operations that a store without transactions does in more than one step."""
