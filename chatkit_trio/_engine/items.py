"""What an event does to a turn's items, decided without waiting.

`TurnItems` is fed every event of a turn and says what has to be stored and whether the client may
see it. It owns the items that were begun and aren't stored yet, so that at any moment
`unfinished()` is what the client has been shown. No trio, no store, no clock: the engine
(`_stream`) performs what is decided here.
"""

from __future__ import annotations

import copy
import enum
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from chatkit_trio.types import (
    AssistantMessageContent,
    AssistantMessageContentPartAdded,
    AssistantMessageContentPartAnnotationAdded,
    AssistantMessageContentPartDone,
    AssistantMessageContentPartTextDelta,
    AssistantMessageItem,
    BaseTask,
    GeneratedImageItem,
    GeneratedImageUpdated,
    HiddenContextItem,
    SDKHiddenContextItem,
    TaskItem,
    ThreadItem,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemRemovedEvent,
    ThreadItemReplacedEvent,
    ThreadItemUpdate,
    ThreadItemUpdatedEvent,
    ThreadMetadata,
    ThreadStreamEvent,
    WidgetComponentUpdated,
    WidgetItem,
    WidgetRootUpdated,
    WidgetStreamingTextValueDelta,
    WorkflowItem,
    WorkflowTaskAdded,
    WorkflowTaskUpdated,
)

from .widget_diff import apply_widget_update

logger = logging.getLogger(__name__)

MAX_CONTENT_PARTS = 1024
"""The most parts one message may have: an index from a model must not size a list of ours."""


class CancelReason(enum.StrEnum):
    """Why a turn ended before its answer was complete."""

    STOPPED = "stopped"
    DISCONNECTED = "disconnected"
    STALLED = "stalled"
    DEADLINE = "deadline"
    SHUTDOWN = "shutdown"
    SUPERSEDED = "superseded"
    FAILED = "failed"
    CRASHED = "crashed"


_WITHDRAWN = "Treat the request it answered as withdrawn: don't resume it unless the user asks."
_OPEN = "The user may still want the rest of it."

ENDING_NOTES: dict[CancelReason, str] = {
    CancelReason.STOPPED: f"The user stopped the previous answer before its end. {_WITHDRAWN}",
    CancelReason.DISCONNECTED: (
        "The user cancelled the previous answer, or lost the connection, before its end."
        f" {_WITHDRAWN}"
    ),
    CancelReason.STALLED: (
        f"The user's connection stalled, so the previous answer was cut short. {_OPEN}"
    ),
    CancelReason.DEADLINE: (
        f"The previous answer reached its time limit and was cut short. {_OPEN}"
    ),
    CancelReason.SHUTDOWN: (
        f"The server was restarted during the previous answer, which was cut short. {_OPEN}"
    ),
    CancelReason.SUPERSEDED: (
        "The user sent something new during the previous answer, which was cut short."
        " Answer the new message."
    ),
    CancelReason.FAILED: f"An error cut the previous answer short. {_OPEN}",
    CancelReason.CRASHED: (
        f"The server failed during the previous answer, which was cut short. {_OPEN}"
    ),
}
"""What the model is told, by a hidden item, about an answer that ended early."""


@dataclass(frozen=True, slots=True)
class AddItem:
    """Append this finished item to the thread."""

    item: ThreadItem


@dataclass(frozen=True, slots=True)
class SaveItem:
    """Put this item in the place of the stored one."""

    item: ThreadItem


@dataclass(frozen=True, slots=True)
class DeleteItem:
    """Delete this item from the thread."""

    item_id: str


@dataclass(frozen=True, slots=True)
class UpdateStoredItem:
    """Load a finished item, apply the update, and save it."""

    item_id: str
    update: ThreadItemUpdate


StoreEffect: TypeAlias = AddItem | SaveItem | DeleteItem | UpdateStoredItem


def is_hidden(item: ThreadItem) -> bool:
    """Say whether the item is for the model only and must never reach a client."""
    return isinstance(item, HiddenContextItem | SDKHiddenContextItem)


def is_visible(event: ThreadStreamEvent) -> bool:
    """Say whether the client may see the event."""
    if isinstance(event, ThreadItemAddedEvent | ThreadItemDoneEvent | ThreadItemReplacedEvent):
        return not is_hidden(event.item)
    return True


# --- Items while they stream -------------------------------------------------------------------


class _Draft(Protocol):
    """An item that has begun and isn't done."""

    def apply(self, update: ThreadItemUpdate) -> None: ...

    def item(self) -> ThreadItem: ...


class _PlainDraft:
    """An item of a kind that has no updates."""

    def __init__(self, item: ThreadItem) -> None:
        self._item = item

    def apply(self, update: ThreadItemUpdate) -> None:
        logger.warning("update %s doesn't fit item %s; ignored", update.type, self._item.id)

    def item(self) -> ThreadItem:
        return self._item


class _Part:
    """One content part: its text in pieces, for adding to a string is quadratic."""

    def __init__(self, content: AssistantMessageContent) -> None:
        self.pieces = [content.text]
        self.annotations = list(content.annotations)

    def content(self) -> AssistantMessageContent:
        self.pieces = ["".join(self.pieces)]
        return AssistantMessageContent(text=self.pieces[0], annotations=list(self.annotations))


class _MessageDraft:
    def __init__(self, item: AssistantMessageItem) -> None:
        self._base = item
        self._parts = [_Part(content) for content in item.content]

    def apply(self, update: ThreadItemUpdate) -> None:
        match update:
            case AssistantMessageContentPartTextDelta():
                self._part(update.content_index).pieces.append(update.delta)
            case AssistantMessageContentPartAdded() | AssistantMessageContentPartDone():
                self._part(update.content_index)
                self._parts[update.content_index] = _Part(update.content)
            case AssistantMessageContentPartAnnotationAdded():
                annotations = self._part(update.content_index).annotations
                annotations.insert(update.annotation_index, update.annotation)
            case _:
                logger.warning("update %s doesn't fit message %s", update.type, self._base.id)

    def _part(self, index: int) -> _Part:
        if not 0 <= index < MAX_CONTENT_PARTS:
            raise ValueError(
                f"content_index {index} of item {self._base.id} is out of range:"
                f" parts are numbered from 0, and a message has at most {MAX_CONTENT_PARTS}"
            )
        while len(self._parts) <= index:
            self._parts.append(_Part(AssistantMessageContent(text="", annotations=[])))
        return self._parts[index]

    def item(self) -> ThreadItem:
        content = [part.content() for part in self._parts]
        return self._base.model_copy(update={"content": content})


class _WorkflowDraft:
    def __init__(self, item: WorkflowItem) -> None:
        self._item = item.model_copy(
            update={"workflow": item.workflow.model_copy(update={"tasks": [*item.workflow.tasks]})}
        )

    def apply(self, update: ThreadItemUpdate) -> None:
        tasks = self._item.workflow.tasks
        match update:
            case WorkflowTaskAdded():
                tasks.append(update.task)
            case WorkflowTaskUpdated() if 0 <= update.task_index < len(tasks):
                tasks[update.task_index] = update.task
            case _:
                logger.warning("update %s doesn't fit workflow %s", update.type, self._item.id)

    def item(self) -> ThreadItem:
        workflow = self._item.workflow
        return self._item.model_copy(
            update={"workflow": workflow.model_copy(update={"tasks": [*workflow.tasks]})}
        )


class _WidgetDraft:
    """A widget and the updates since its last whole state; runs of text deltas are joined."""

    def __init__(self, item: WidgetItem) -> None:
        self._base = item
        self._updates: list[WidgetComponentUpdated | WidgetStreamingTextValueDelta] = []

    def apply(self, update: ThreadItemUpdate) -> None:
        match update:
            case WidgetRootUpdated():
                self._base = self._base.model_copy(update={"widget": update.widget})
                self._updates = []
            case WidgetComponentUpdated() | WidgetStreamingTextValueDelta():
                self._updates.append(update)
            case _:
                logger.warning("update %s doesn't fit widget %s", update.type, self._base.id)

    def item(self) -> ThreadItem:
        widget = self._base.widget
        for update in _joined(self._updates):
            try:
                widget = apply_widget_update(widget, update)
            except (LookupError, ValueError) as error:
                # One wrong update mustn't cost the widget, nor the answer that it is part of.
                logger.warning("update of widget %s ignored: %s", self._base.id, error)
        self._base = self._base.model_copy(update={"widget": widget})
        self._updates = []
        return self._base


def _joined(
    updates: Iterable[WidgetComponentUpdated | WidgetStreamingTextValueDelta],
) -> list[WidgetComponentUpdated | WidgetStreamingTextValueDelta]:
    """Join neighbouring text deltas of one component into one."""
    runs: list[list[WidgetComponentUpdated | WidgetStreamingTextValueDelta]] = []
    for update in updates:
        if runs and _continues(runs[-1][-1], update):
            runs[-1].append(update)
        else:
            runs.append([update])
    return [_join_run(run) for run in runs]


def _continues(
    last: WidgetComponentUpdated | WidgetStreamingTextValueDelta,
    update: WidgetComponentUpdated | WidgetStreamingTextValueDelta,
) -> bool:
    return (
        isinstance(last, WidgetStreamingTextValueDelta)
        and isinstance(update, WidgetStreamingTextValueDelta)
        and last.component_id == update.component_id
    )


def _join_run(
    run: list[WidgetComponentUpdated | WidgetStreamingTextValueDelta],
) -> WidgetComponentUpdated | WidgetStreamingTextValueDelta:
    deltas = [update for update in run if isinstance(update, WidgetStreamingTextValueDelta)]
    if len(deltas) < 2:
        return run[0]
    return deltas[-1].model_copy(update={"delta": "".join(update.delta for update in deltas)})


class _ImageDraft:
    def __init__(self, item: GeneratedImageItem) -> None:
        self._item = item

    def apply(self, update: ThreadItemUpdate) -> None:
        if isinstance(update, GeneratedImageUpdated):
            self._item = self._item.model_copy(update={"image": update.image})
        else:
            logger.warning("update %s doesn't fit image %s", update.type, self._item.id)

    def item(self) -> ThreadItem:
        return self._item


_DRAFTS: dict[type[Any], Callable[[Any], _Draft]] = {
    AssistantMessageItem: _MessageDraft,
    WorkflowItem: _WorkflowDraft,
    WidgetItem: _WidgetDraft,
    GeneratedImageItem: _ImageDraft,
}


COLLECTED_UPDATES = WidgetStreamingTextValueDelta | WorkflowTaskAdded | WorkflowTaskUpdated
"""Updates that come in many small pieces: of a stored item, they are saved when the turn ends."""


def draft_of(item: ThreadItem) -> _Draft:
    """Return a draft that starts as a copy of the item, for `respond` may go on changing its."""
    return _DRAFTS.get(type(item), _PlainDraft)(item.model_copy(deep=True))


def updated_item(item: ThreadItem, update: ThreadItemUpdate) -> ThreadItem:
    """Return the item with one update applied."""
    draft = draft_of(item)
    draft.apply(update)
    return draft.item()


# --- A turn's items ----------------------------------------------------------------------------

_STORED_EVENTS = ThreadItemDoneEvent | ThreadItemRemovedEvent | ThreadItemReplacedEvent
_STORED_UPDATES = (
    WidgetRootUpdated
    | WidgetComponentUpdated
    | WidgetStreamingTextValueDelta
    | GeneratedImageUpdated
    | WorkflowTaskAdded
    | WorkflowTaskUpdated
)
"""Updates that make sense for an item that is done already, and are then stored."""


class TurnItems:
    """The items of one turn: pending until the store has them.

    Feed it each event *before* acting on it, and tell it when a write is `done`. A finished item
    whose write hasn't been confirmed is kept as it is, so that a write that failed or timed out
    is made up for when the turn settles.
    """

    def __init__(self) -> None:
        self._drafts: dict[str, _Draft] = {}
        self._finished: dict[str, ThreadItem] = {}
        self._overwriting: set[str] = set()
        self._reopened: dict[str, _Draft] = {}
        self._stored: set[str] = set()
        self.version = 0
        """Grows with every event that changes what `unfinished()` returns."""

    def feed(self, event: ThreadStreamEvent) -> StoreEffect | None:
        """Fold an event in and return what the store has to do before it's forwarded."""
        handler = _ON_EVENT.get(type(event))
        return None if handler is None else handler(self, event)

    def needs_no_write(self, event: ThreadStreamEvent) -> bool:
        """Say whether `feed` will have nothing for the store to do."""
        if isinstance(event, ThreadItemUpdatedEvent):
            return (
                event.item_id in self._drafts
                or event.item_id in self._reopened
                or not isinstance(event.update, _STORED_UPDATES)
            )
        return not isinstance(event, _STORED_EVENTS)

    def done(self, effect: StoreEffect) -> None:
        """Note that the store has carried out the effect."""
        match effect:
            case AddItem() | SaveItem():
                self._finished.pop(effect.item.id, None)
                self._stored.add(effect.item.id)
            case DeleteItem():
                self._stored.discard(effect.item_id)
            case UpdateStoredItem():
                pass

    def begun(self) -> list[ThreadItem]:
        """Return the items that were begun and not done, as the client has seen them so far."""
        return [draft.item() for draft in self._drafts.values()]

    def unconfirmed(self) -> list[ThreadItem]:
        """Return finished items of which it isn't known that the store has them."""
        return list(self._finished.values())

    def unconfirmed_additions(self) -> list[ThreadItem]:
        """Return those of them that are to be added."""
        return [item for key, item in self._finished.items() if key not in self._overwriting]

    def changed(self) -> list[ThreadItem]:
        """Return items that take the place of stored ones, and haven't yet for all we know."""
        over = [item for key, item in self._finished.items() if key in self._overwriting]
        return [*over, *kept_items(self.reopened())]

    def unfinished(self) -> list[ThreadItem]:
        """Return all that the store may lack."""
        return [*self._finished.values(), *self.begun()]

    def reopen(self, item: ThreadItem, update: ThreadItemUpdate) -> None:
        """Start collecting small updates of an item that was stored earlier."""
        draft = draft_of(item)
        draft.apply(update)
        self._reopened[item.id] = draft

    def reopened(self) -> list[ThreadItem]:
        """Return items stored earlier that have grown since."""
        return [draft.item() for draft in self._reopened.values()]

    def clear(self) -> None:
        """Forget everything: the turn has been settled."""
        self._drafts.clear()
        self._finished.clear()
        self._reopened.clear()

    def _added(self, event: ThreadItemAddedEvent) -> None:
        self._drafts[event.item.id] = draft_of(event.item)
        self.version += 1

    def _updated(self, event: ThreadItemUpdatedEvent) -> StoreEffect | None:
        update = event.update
        draft = self._drafts.get(event.item_id) or self._reopened.get(event.item_id)
        if draft is not None:
            draft.apply(update)
            self.version += 1
            return None
        if isinstance(update, _STORED_UPDATES):
            return UpdateStoredItem(event.item_id, update)
        return None

    def _done(self, event: ThreadItemDoneEvent) -> StoreEffect:
        if event.item.id in self._stored:
            return self._overwrite(event.item)
        self._finish(event.item)
        return AddItem(event.item)

    def _replaced(self, event: ThreadItemReplacedEvent) -> StoreEffect:
        return self._overwrite(event.item)

    def _overwrite(self, item: ThreadItem) -> StoreEffect:
        self._finish(item)
        self._overwriting.add(item.id)
        return SaveItem(item)

    def _finish(self, item: ThreadItem) -> None:
        self._drafts.pop(item.id, None)
        self._reopened.pop(item.id, None)
        self._finished[item.id] = item
        self.version += 1

    def _removed(self, event: ThreadItemRemovedEvent) -> StoreEffect:
        for items in (self._drafts, self._finished, self._reopened):
            items.pop(event.item_id, None)
        self.version += 1
        return DeleteItem(event.item_id)


_ON_EVENT: dict[type[Any], Callable[[TurnItems, Any], StoreEffect | None]] = {
    ThreadItemAddedEvent: TurnItems._added,
    ThreadItemUpdatedEvent: TurnItems._updated,
    ThreadItemDoneEvent: TurnItems._done,
    ThreadItemReplacedEvent: TurnItems._replaced,
    ThreadItemRemovedEvent: TurnItems._removed,
}


# --- What is kept of an item that never got done -----------------------------------------------


def kept_items(items: Iterable[ThreadItem]) -> list[ThreadItem]:
    """Return what to store of items that were cut short, by kind.

    Assistant messages with text, workflows with tasks, images with a picture, widgets, tasks and
    hidden items are kept, with nothing in them left "loading". Empty ones are dropped, and so are
    questions and tool calls to the client, which the client was never asked.
    """
    kept = (_keep(item) for item in items)
    return [item for item in kept if item is not None]


def _keep(item: ThreadItem) -> ThreadItem | None:
    rule = _KEEP.get(type(item))
    return None if rule is None else rule(item)


def _keep_message(item: AssistantMessageItem) -> ThreadItem | None:
    return item if any(content.text.strip() for content in item.content) else None


def _keep_workflow(item: WorkflowItem) -> ThreadItem | None:
    if not item.workflow.tasks:
        return None
    tasks = [_at_rest(task) for task in item.workflow.tasks]
    return item.model_copy(update={"workflow": item.workflow.model_copy(update={"tasks": tasks})})


def _keep_task(item: TaskItem) -> ThreadItem | None:
    return item.model_copy(update={"task": _at_rest(item.task)})


def _at_rest(task: BaseTask) -> BaseTask:
    """Return the task without its spinner: nothing is working on it any more."""
    if task.status_indicator != "loading":
        return task
    return task.model_copy(update={"status_indicator": "none"})


def _keep_widget(item: WidgetItem) -> ThreadItem | None:
    return item


def _keep_image(item: GeneratedImageItem) -> ThreadItem | None:
    return item if item.image is not None else None


def _keep_hidden(item: ThreadItem) -> ThreadItem | None:
    return item


_KEEP: dict[type[Any], Callable[[Any], ThreadItem | None]] = {
    AssistantMessageItem: _keep_message,
    WorkflowItem: _keep_workflow,
    TaskItem: _keep_task,
    WidgetItem: _keep_widget,
    GeneratedImageItem: _keep_image,
    HiddenContextItem: _keep_hidden,
    SDKHiddenContextItem: _keep_hidden,
}


# --- The thread's own fields -------------------------------------------------------------------


def as_metadata(thread: ThreadMetadata) -> ThreadMetadata:
    """Return a deep copy of the thread's own fields: never a subclass with items in it.

    Everything that goes to `Store.save_thread` passes here. Raises `ValueError` for fields that
    `respond` has set to what they can't be: stored, they would make the thread unreadable.
    """
    return ThreadMetadata.model_validate(copy.deepcopy(_fields(thread)))


def _fields(thread: ThreadMetadata) -> dict[str, Any]:
    return {name: getattr(thread, name) for name in ThreadMetadata.model_fields}


class ThreadWatch:
    """Notices that `respond` has changed the thread, by comparing it to what was last saved."""

    def __init__(self, thread: ThreadMetadata) -> None:
        self._thread = thread
        self._saved = copy.deepcopy(_fields(thread))

    def changed(self) -> bool:
        """Say whether the thread differs from what the store has."""
        fields = self._thread.__dict__  # asked after every event: no dictionary is built for it
        return any(fields[name] != value for name, value in self._saved.items())

    def saved_title(self, title: str) -> None:
        """Note that the store has this title."""
        self._saved["title"] = title

    def saved(self, snapshot: ThreadMetadata) -> None:
        """Note that the store has this state of the thread."""
        self._saved = _fields(snapshot)
