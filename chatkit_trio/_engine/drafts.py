"""Items while they stream: a draft is an item with the updates that it has got so far.

Text is kept in pieces, because adding to a string is quadratic. Everything else is copied when it
comes, because `respond` may keep changing its objects: what is kept is what was sent. Nothing here
waits.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import singledispatch
from typing import Any, Protocol

from pydantic import BaseModel

from chatkit_trio.types import (
    Annotation,
    AssistantMessageContent,
    AssistantMessageContentPartAdded,
    AssistantMessageContentPartAnnotationAdded,
    AssistantMessageContentPartDone,
    AssistantMessageContentPartTextDelta,
    AssistantMessageItem,
    BaseTask,
    GeneratedImageItem,
    GeneratedImageUpdated,
    ThreadItem,
    ThreadItemUpdate,
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

_MAX_WIDGET_UPDATES = 32
"""So many updates of a widget are collected before they are applied to it."""


class UnfitUpdate(Exception):
    """An update that an item can't take: it is neither sent nor stored."""

    def __init__(self, item_id: str, update: ThreadItemUpdate, why: str) -> None:
        super().__init__(f"update {update.type} ignored: item {item_id} {why}")

    @classmethod
    def of_kind(cls, item: ThreadItem, update: ThreadItemUpdate) -> UnfitUpdate:
        """Return the error for an update that is made for items of another kind."""
        return cls(item.id, update, f"is of the kind {item.type}")


def _require(value: object, kind: type[Any], name: str) -> None:
    """Refuse a part that wasn't validated: of a model made by model_construct(), or set later."""
    if not isinstance(value, kind):
        raise TypeError(
            f"{name} of an item or update must be {kind.__name__}, not {type(value).__name__}"
        )


class Draft(Protocol):
    """An item that may still be updated."""

    def apply(self, update: ThreadItemUpdate) -> None:
        """Take an update in. Raises `UnfitUpdate` if it is of another kind of item."""
        ...

    def item(self) -> ThreadItem:
        """Return the item as it is now."""
        ...


@singledispatch
def _draft(item: ThreadItem) -> Draft:
    return _PlainDraft(item)


def draft_of(item: ThreadItem) -> Draft:
    """Return a draft of a copy of the item."""
    return _draft(item.model_copy(deep=True))


class _PlainDraft:
    """An item of a kind that has no updates."""

    def __init__(self, item: ThreadItem) -> None:
        self._item = item

    def apply(self, update: ThreadItemUpdate) -> None:
        raise UnfitUpdate.of_kind(self._item, update)

    def item(self) -> ThreadItem:
        return self._item


class _Part:
    """One content part."""

    def __init__(self, content: AssistantMessageContent) -> None:
        _require(content.text, str, "text")
        for annotation in content.annotations:
            _require(annotation, Annotation, "annotation")
        self.pieces = [content.text]
        self.annotations = list(content.annotations)

    def content(self) -> AssistantMessageContent:
        self.pieces = ["".join(self.pieces)]
        return AssistantMessageContent(text=self.pieces[0], annotations=list(self.annotations))


class MessageDraft:
    """An assistant message."""

    def __init__(self, item: AssistantMessageItem) -> None:
        self._base = item
        self._parts = [_Part(content) for content in item.content]

    def add_text(self, index: int, text: str) -> None:
        """Take a text delta in. Raises `ValueError` for an index that no part may have."""
        parts = self._parts
        part = parts[index] if 0 <= index < len(parts) else self._part(index)
        part.pieces.append(text)

    def apply(self, update: ThreadItemUpdate) -> None:
        match update:
            case AssistantMessageContentPartTextDelta():
                _require(update.delta, str, "delta")
                self.add_text(update.content_index, update.delta)
            case AssistantMessageContentPartAdded() | AssistantMessageContentPartDone():
                _require(update.content, AssistantMessageContent, "content")
                part = _Part(update.content)
                part.annotations = [each.model_copy(deep=True) for each in part.annotations]
                self._part(update.content_index)
                self._parts[update.content_index] = part
            case AssistantMessageContentPartAnnotationAdded():
                _require(update.annotation, Annotation, "annotation")
                annotations = self._part(update.content_index).annotations
                annotation = update.annotation.model_copy(deep=True)
                annotations.insert(update.annotation_index, annotation)
            case _:
                raise UnfitUpdate.of_kind(self._base, update)

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


# Not as a decorator: then type checkers would take the class for a function.
_draft.register(AssistantMessageItem)(MessageDraft)


@_draft.register(WorkflowItem)
class _WorkflowDraft:
    def __init__(self, item: WorkflowItem) -> None:
        self._item = item.model_copy(
            update={"workflow": item.workflow.model_copy(update={"tasks": [*item.workflow.tasks]})}
        )

    def apply(self, update: ThreadItemUpdate) -> None:
        tasks = self._item.workflow.tasks
        match update:
            case WorkflowTaskAdded():
                _require(update.task, BaseTask, "task")
                tasks.append(update.task.model_copy(deep=True))
            case WorkflowTaskUpdated():
                _require(update.task, BaseTask, "task")
                if not 0 <= update.task_index < len(tasks):
                    raise UnfitUpdate(self._item.id, update, f"has no task {update.task_index}")
                tasks[update.task_index] = update.task.model_copy(deep=True)
            case _:
                raise UnfitUpdate.of_kind(self._item, update)

    def item(self) -> ThreadItem:
        workflow = self._item.workflow
        return self._item.model_copy(
            update={"workflow": workflow.model_copy(update={"tasks": [*workflow.tasks]})}
        )


@_draft.register(WidgetItem)
class _WidgetDraft:
    """A widget and the updates since its last whole state; runs of text deltas are joined."""

    def __init__(self, item: WidgetItem) -> None:
        self._base = item
        self._updates: list[WidgetComponentUpdated | WidgetStreamingTextValueDelta] = []

    def apply(self, update: ThreadItemUpdate) -> None:
        match update:
            case WidgetRootUpdated():
                _require(update.widget, BaseModel, "widget")
                widget = update.widget.model_copy(deep=True)
                self._base = self._base.model_copy(update={"widget": widget})
                self._updates = []
            case WidgetComponentUpdated() | WidgetStreamingTextValueDelta():
                if isinstance(update, WidgetComponentUpdated):
                    _require(update.component, BaseModel, "component")
                else:
                    _require(update.delta, str, "delta")
                self._updates.append(update.model_copy(deep=True))
                if len(self._updates) >= _MAX_WIDGET_UPDATES:
                    self.item()
            case _:
                raise UnfitUpdate.of_kind(self._base, update)

    def item(self) -> ThreadItem:
        widget = self._base.widget
        for update in _joined(self._updates):
            try:
                widget = apply_widget_update(widget, update)
            except (LookupError, ValueError) as error:
                # One wrong update must not lose the widget, nor the answer that it is part of.
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


@_draft.register(GeneratedImageItem)
class _ImageDraft:
    def __init__(self, item: GeneratedImageItem) -> None:
        self._item = item

    def apply(self, update: ThreadItemUpdate) -> None:
        if not isinstance(update, GeneratedImageUpdated):
            raise UnfitUpdate.of_kind(self._item, update)
        _require(update.image, BaseModel, "image")
        image = update.image.model_copy(deep=True)
        self._item = self._item.model_copy(update={"image": image})

    def item(self) -> ThreadItem:
        return self._item
