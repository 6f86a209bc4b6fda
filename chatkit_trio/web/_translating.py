"""From the events of a turn to the chunks of another protocol's stream: plain rules, no waiting.

A `Translator` folds the events as they are on the wire into items, and says what is new of them in
few words: a passage of text or thought begins, grows and ends; a tool is called and answers; an
item is shown as it is; something is said aside. A subclass has a chunk for each of these words.
What is told is never taken back, because the protocols have no word for that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from chatkit_trio._engine.keeping import ENDING_MESSAGES, stored_reason

Chunk: TypeAlias = dict[str, Any]
"""One event of the other protocol."""

Item: TypeAlias = dict[str, Any]
"""A thread item, as on the wire."""

QUESTIONS = "structured_input"
"""The name of the tool by which questions to the user are told."""

_ON_PURPOSE = ("stopped", "superseded", "disconnected", "stalled")
"""Why an answer was cut, if it was by its user."""

FAILURE = "Something went wrong, and the answer couldn't be finished."
"""What the user is told of an error that has no message of its own."""

_UNTOLD = frozenset(("user_message", "end_of_turn"))
"""Items of which the client knows, or that say nothing to it."""

_CALLS = frozenset(("client_tool_call", QUESTIONS))
"""Items by which the client is asked something."""


@dataclass(slots=True)
class Passage:
    """A text or a thought that is told piece by piece."""

    id: str
    item_id: str
    is_thought: bool = False
    title: str | None = None
    annotations: list[dict[str, Any]] = field(default_factory=list)
    is_open: bool = False
    is_known: bool = False
    """Whether anything has been told of it."""
    _told: list[str] = field(default_factory=list)

    @property
    def told(self) -> str:
        """What has been told of it."""
        return "".join(self._told)

    def grow(self, delta: str) -> None:
        """Take note that more of it is told."""
        self._told.append(delta)


class Translator(ABC):
    """Translates the events of one turn; `feed` takes them, `end` says how the turn ended."""

    items_have_ids_of_their_own = False
    """Whether an item of an earlier answer can be shown anew where it stands."""

    def __init__(self) -> None:
        self.pending_calls: list[str] = []
        """The ids of the calls that wait for the client, in order."""
        self._passages: dict[str, dict[int, Passage]] = {}
        self._shown: dict[str, Item] = {}
        self._changed: dict[str, None] = {}
        self._called: set[str] = set()
        self._error: dict[str, Any] | None = None

    # --- What it is told -----------------------------------------------------------------------

    def feed(self, events: Iterable[Mapping[str, Any]]) -> list[Chunk]:
        """Return what is told of some events.

        An item that is shown and then changed by several of them is shown once more, behind them.
        """
        chunks = [chunk for event in events for chunk in self._of_event(event)]
        return [*chunks, *self._show_changed()]

    def end(self, reason: str) -> list[Chunk]:
        """Return the end of the stream: why the turn ended is as in `Turn.end_reason`."""
        chunks = self._close_all()
        if self._error is not None:
            return chunks + self.failed(self._error.get("message") or FAILURE, reason)
        if reason == "finished":
            return chunks + self.finished()
        # One that is told from the store has no error event.
        if reason in _ON_PURPOSE:
            return chunks + self.cut(reason)
        return chunks + self.failed(ENDING_MESSAGES.get(stored_reason(reason), FAILURE), reason)

    def _of_event(self, event: Mapping[str, Any]) -> list[Chunk]:
        match event["type"]:
            case "thread.item.added":
                return self._begin(event["item"])
            case "thread.item.updated":
                return self._update(event["item_id"], event["update"])
            case "thread.item.done":
                return self._done(event["item"])
            case "thread.item.replaced":
                return self._replaced(event["item"])
            case "thread.item.removed":
                return self._removed(event["item_id"])
            case "thread.created" | "thread.updated":
                thread = event["thread"]
                shown = {name: thread[name] for name in ("id", "title", "status") if name in thread}
                return self.aside("thread", shown)
            case "error":
                # Told at the end: a client reads nothing behind an error.
                self._error = dict(event)
                return []
            case "stream_options":
                return self.aside("stream_options", event["stream_options"])
            case name:
                return self.aside(name, {key: event[key] for key in event if key != "type"})

    # --- Items ---------------------------------------------------------------------------------

    def _begin(self, item: Item) -> list[Chunk]:
        if _has_passages(item):
            return self._passages_of(item)
        # The client is asked something when the question is stored, not before.
        is_shown = item["type"] not in (*_UNTOLD, *_CALLS)
        return self._show(item, is_done=False) if is_shown else []

    def _done(self, item: Item) -> list[Chunk]:
        if _has_passages(item):
            return self._passages_done(item)
        if item["type"] in _CALLS:
            return [*self._call(item), *self._answer_to(item)]
        return [] if item["type"] in _UNTOLD else self._show(item, is_done=True)

    def _replaced(self, item: Item) -> list[Chunk]:
        if _call_id(item) in self._called:
            return self._answer_to(item)
        is_untranslated = not _has_passages(item) and item["type"] not in (*_UNTOLD, *_CALLS)
        if item["id"] in self._shown or (is_untranslated and self.items_have_ids_of_their_own):
            return self._show(item, is_done=True)
        return self.aside("thread.item.replaced", {"item": item})

    def _removed(self, item_id: str) -> list[Chunk]:
        passages = self._passages.pop(item_id, None)
        self._shown.pop(item_id, None)
        self._changed.pop(item_id, None)
        if passages is not None and not any(passage.is_known for passage in passages.values()):
            return []
        closing = [chunk for passage in (passages or {}).values() for chunk in self._close(passage)]
        return [*closing, *self.aside("thread.item.removed", {"item_id": item_id})]

    def _update(self, item_id: str, update: Mapping[str, Any]) -> list[Chunk]:
        match update["type"]:
            case "assistant_message.content_part.text_delta":
                passage = self._passage(item_id, update["content_index"])
                return self._say(passage, update["delta"])
            case "assistant_message.content_part.added":
                return self._text(item_id, update["content_index"], update["content"])
            case "assistant_message.content_part.done":
                index = update["content_index"]
                return self._text(item_id, index, update["content"]) + self._close(
                    self._passage(item_id, index)
                )
            case "assistant_message.content_part.annotation_added":
                passage = self._passage(item_id, update["content_index"])
                return self._cite(passage, [update["annotation"]])
            case "workflow.task.added" | "workflow.task.updated" if item_id not in self._shown:
                return self._task(item_id, update["task_index"], update["task"])
        if (item := self._shown.get(item_id)) is not None:
            fold(item, update)
            self._changed[item_id] = None
        return []

    # --- Passages ------------------------------------------------------------------------------

    def _passage(self, item_id: str, index: int, *, is_thought: bool = False) -> Passage:
        passages = self._passages.setdefault(item_id, {})
        if index not in passages:
            suffix = f":{index}" if index or is_thought else ""
            passages[index] = Passage(f"{item_id}{suffix}", item_id, is_thought)
        return passages[index]

    def _passages_of(self, item: Item) -> list[Chunk]:
        self._passages.setdefault(item["id"], {})
        if item["type"] == "assistant_message":
            told = (self._text(item["id"], *part) for part in enumerate(item["content"]))
        else:
            told = (self._task(item["id"], *task) for task in enumerate(item["workflow"]["tasks"]))
        return [chunk for chunks in told for chunk in chunks]

    def _text(self, item_id: str, index: int, content: Mapping[str, Any]) -> list[Chunk]:
        passage = self._passage(item_id, index)
        known = len(passage.annotations)
        return [
            *self._say_rest(passage, content["text"]),
            *self._cite(passage, content.get("annotations", ())[known:]),
        ]

    def _task(self, item_id: str, index: int, task: Mapping[str, Any]) -> list[Chunk]:
        if task["type"] != "thought":
            shown = {"type": "task", "id": f"{item_id}:{index}", "task": task}
            return self._show(shown, is_done=False)
        passage = self._passage(item_id, index, is_thought=True)
        passage.title = task.get("title")
        return self._say_rest(passage, task["content"])

    def _passages_done(self, item: Item) -> list[Chunk]:
        chunks = self._passages_of(item)
        # It stays known, for an item may be done twice, or be updated when it is done.
        passages = self._passages[item["id"]]
        chunks += [chunk for passage in passages.values() for chunk in self._close(passage)]
        final = _texts(item)
        if any(passage.told != final.get(index, "") for index, passage in passages.items()):
            chunks += self.aside("thread.item.replaced", {"item": item})
        if item["type"] == "workflow" and item["workflow"].get("summary") is not None:
            summary = {**item, "workflow": {**item["workflow"], "tasks": []}}
            chunks += self.show(summary, is_done=True)
        return chunks

    def _say_rest(self, passage: Passage, whole: str) -> list[Chunk]:
        told = passage.told
        return self._say(passage, whole[len(told) :]) if whole.startswith(told) else []

    def _say(self, passage: Passage, delta: str) -> list[Chunk]:
        if not delta:
            return []
        passage.grow(delta)
        return [*self._open(passage), *self.extend(passage, delta)]

    def _cite(self, passage: Passage, annotations: Sequence[dict[str, Any]]) -> list[Chunk]:
        chunks: list[Chunk] = []
        for annotation in annotations:
            passage.is_known = True
            passage.annotations.append(annotation)
            chunks += self.cite(passage, annotation)
        return chunks

    def _open(self, passage: Passage) -> list[Chunk]:
        """Begin a passage, for the first time or anew, unless it is open."""
        if passage.is_open:
            return []
        passage.is_open = passage.is_known = True
        return self.open(passage)

    def _close(self, passage: Passage) -> list[Chunk]:
        if not passage.is_open:
            return []
        passage.is_open = False
        return self.close(passage)

    def _close_all(self) -> list[Chunk]:
        """End the passages that are open; one that grows further is begun anew."""
        passages = (each for item in self._passages.values() for each in item.values())
        return [chunk for passage in passages for chunk in self._close(passage)]

    # --- Calls, and items that are shown as they are -------------------------------------------

    def _call(self, item: Item) -> list[Chunk]:
        call_id = _call_id(item)
        self._called.add(call_id)
        self.pending_calls.append(call_id)
        if item["type"] == QUESTIONS:
            return self.call(call_id, QUESTIONS, {"inputs": item["inputs"]}, item["id"])
        return self.call(call_id, item["name"], item["arguments"], item["id"])

    def _answer_to(self, item: Item) -> list[Chunk]:
        if item["status"] == "pending":
            return []
        if item["type"] == QUESTIONS:
            answers = {each["id"]: each["answer"] for each in item["inputs"] if "answer" in each}
            output: Any = {"status": item["status"], "answers": answers}
        else:
            output = item.get("output")
        call_id = _call_id(item)
        if call_id in self.pending_calls:
            self.pending_calls.remove(call_id)
        return self.result(call_id, output, item["id"])

    def _show(self, item: Item, *, is_done: bool) -> list[Chunk]:
        self._shown[item["id"]] = item
        self._changed.pop(item["id"], None)
        return self.show(item, is_done=is_done)

    def _show_changed(self) -> list[Chunk]:
        changed = [self._shown[item_id] for item_id in self._changed]
        self._changed.clear()
        return [chunk for item in changed for chunk in self.show(item, is_done=False)]

    # --- The words of the other protocol -------------------------------------------------------

    @abstractmethod
    def begin(self) -> list[Chunk]:
        """Begin the stream."""

    @abstractmethod
    def open(self, passage: Passage) -> list[Chunk]:
        """Begin a passage, or one anew that has ended."""

    @abstractmethod
    def extend(self, passage: Passage, delta: str) -> list[Chunk]:
        """Tell more of a passage."""

    @abstractmethod
    def cite(self, passage: Passage, annotation: Mapping[str, Any]) -> list[Chunk]:
        """Tell a source of a passage, the last of its annotations."""

    @abstractmethod
    def close(self, passage: Passage) -> list[Chunk]:
        """End a passage."""

    @abstractmethod
    def call(self, call_id: str, name: str, arguments: Any, item_id: str) -> list[Chunk]:
        """Ask the client to carry out a call."""

    @abstractmethod
    def result(self, call_id: str, output: Any, item_id: str) -> list[Chunk]:
        """Tell what the client has answered to a call."""

    @abstractmethod
    def show(self, item: Item, *, is_done: bool) -> list[Chunk]:
        """Show an item as it is now, in the place of what was shown of it."""

    @abstractmethod
    def aside(self, name: str, data: Mapping[str, Any]) -> list[Chunk]:
        """Say something that is no part of the conversation."""

    @abstractmethod
    def finished(self) -> list[Chunk]:
        """End the stream of an answer that is complete."""

    @abstractmethod
    def cut(self, reason: str) -> list[Chunk]:
        """End the stream of an answer that was cut on purpose."""

    @abstractmethod
    def failed(self, message: str, reason: str) -> list[Chunk]:
        """End the stream with an error."""


def _has_passages(item: Item) -> bool:
    """Say whether an item is told as text or thoughts."""
    if item["type"] == "workflow":
        return bool(item["workflow"]["type"] == "reasoning")
    return bool(item["type"] == "assistant_message")


def _call_id(item: Item) -> str:
    """Return the id under which a client is asked; "" for an item that asks nothing."""
    call_id: str = item.get("call_id", "") if item["type"] != QUESTIONS else item["id"]
    return call_id


def _texts(item: Item) -> dict[int, str]:
    """Return the texts of a message, or the thoughts of a workflow, by their place."""
    if item["type"] == "assistant_message":
        return {index: content["text"] for index, content in enumerate(item["content"])}
    return {
        index: task["content"]
        for index, task in enumerate(item["workflow"]["tasks"])
        if task["type"] == "thought"
    }


def fold(item: Item, update: Mapping[str, Any]) -> None:
    """Change an item as an update says; one that doesn't fit changes nothing."""
    match update["type"]:
        case "widget.root.updated":
            item["widget"] = update["widget"]
        case "widget.component.updated":
            if (component := _component(item.get("widget"), update["component_id"])) is not None:
                component.clear()
                component.update(update["component"])
        case "widget.streaming_text.value_delta":
            if (component := _component(item.get("widget"), update["component_id"])) is not None:
                component["value"] = component.get("value", "") + update["delta"]
        case "workflow.task.added":
            item["workflow"]["tasks"].insert(update["task_index"], update["task"])
        case "workflow.task.updated":
            tasks = item["workflow"]["tasks"]
            if update["task_index"] < len(tasks):
                tasks[update["task_index"]] = update["task"]
        case "generated_image.updated":
            item["image"] = update["image"]
            item["progress"] = update.get("progress")


def _component(part: Any, component_id: str) -> dict[str, Any] | None:
    """Return the component of a widget that has this id."""
    if isinstance(part, dict):
        if part.get("id") == component_id and "type" in part:
            return part
        part = list(part.values())
    if isinstance(part, list):
        for each in part:
            if (found := _component(each, component_id)) is not None:
                return found
    return None
