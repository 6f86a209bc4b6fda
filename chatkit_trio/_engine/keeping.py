"""Why a turn ended early, what is kept of its unfinished items, and who is told what.

Plain data and rules: nothing here waits.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Iterable
from functools import singledispatch

from chatkit_trio.types import (
    AssistantMessageItem,
    BaseTask,
    GeneratedImageItem,
    HiddenContextItem,
    SDKHiddenContextItem,
    TaskItem,
    ThreadItem,
    WidgetItem,
    WorkflowItem,
)

logger = logging.getLogger(__name__)


class CancelReason(enum.StrEnum):
    """Why a turn ended before its answer was complete."""

    STOPPED = "stopped"
    DISCONNECTED = "disconnected"
    STALLED = "stalled"
    SILENT = "silent"
    DEADLINE = "deadline"
    SHUTDOWN = "shutdown"
    SUPERSEDED = "superseded"
    FAILED = "failed"
    INCOMPLETE = "incomplete"
    CRASHED = "crashed"


def stored_reason(value: str) -> CancelReason:
    """Return the reason that is stored as this; one of a newer release counts as a crash."""
    try:
        return CancelReason(value)
    except ValueError:
        return CancelReason.CRASHED


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
    CancelReason.SILENT: (
        f"The previous answer stopped arriving for too long and was cut short. {_OPEN}"
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
    CancelReason.INCOMPLETE: (
        "The previous answer is incomplete: it ended at a limit of the model, such as the longest"
        f" answer it may give. {_OPEN}"
    ),
    CancelReason.CRASHED: (
        f"The server failed during the previous answer, which was cut short. {_OPEN}"
    ),
}
"""What the model is told, by a hidden item, about an answer that ended early."""


def ending_note(reason: CancelReason) -> str:
    """Return what the default hidden note tells the model about an answer that ended early.

        prompt = [*messages, {"role": "developer", "content": ending_note(reason)}]

    For a `handle_stream_cancelled` of your own, or a prompt that isn't made from stored items.
    """
    return ENDING_NOTES[reason]


ENDING_MESSAGES: dict[CancelReason, str] = {
    CancelReason.SILENT: "Nothing came from the assistant for too long; the answer was cut short.",
    CancelReason.DEADLINE: "The answer took too long and was cut short.",
    CancelReason.SHUTDOWN: "The server is restarting; the answer was cut short.",
    CancelReason.INCOMPLETE: "The answer is incomplete: the assistant reached its limit.",
}
"""What the user is told at the end of the stream. The user knows about the other reasons."""


def kept_items(items: Iterable[ThreadItem]) -> list[ThreadItem]:
    """Return what to store of items that were cut short, by kind.

    Assistant messages with text, workflows with tasks, images with a picture, widgets, tasks and
    hidden items are kept, with nothing in them left "loading". Empty ones are dropped, and so are
    questions and tool calls to the client, because the client was never asked.
    """
    kept = (_keep_safely(item) for item in items)
    return [item for item in kept if item is not None]


def _keep_safely(item: ThreadItem) -> ThreadItem | None:
    try:
        return _keep(item)
    except Exception:
        # Of a model made by model_construct(). Whether it can be stored is for the store to say.
        logger.exception(
            "item %s lacks what an item of its type needs; the store gets it as it is", item.id
        )
        return item


# A subclass of an item class is treated as its class: singledispatch looks along the MRO.
@singledispatch
def _keep(item: object) -> ThreadItem | None:
    return None


@_keep.register
def _(item: AssistantMessageItem) -> ThreadItem | None:
    return item if any(content.text.strip() for content in item.content) else None


@_keep.register
def _(item: WorkflowItem) -> ThreadItem | None:
    if not item.workflow.tasks:
        return None
    tasks = [_at_rest(task) for task in item.workflow.tasks]
    return item.model_copy(update={"workflow": item.workflow.model_copy(update={"tasks": tasks})})


@_keep.register
def _(item: TaskItem) -> ThreadItem | None:
    return item.model_copy(update={"task": _at_rest(item.task)})


@_keep.register
def _(item: GeneratedImageItem) -> ThreadItem | None:
    return item if item.image is not None else None


@_keep.register(WidgetItem)
@_keep.register(HiddenContextItem)
@_keep.register(SDKHiddenContextItem)
def _(item: ThreadItem) -> ThreadItem | None:
    return item


def _at_rest(task: BaseTask) -> BaseTask:
    """Return the task without its spinner: nothing is working on it any more."""
    if task.status_indicator != "loading":
        return task
    return task.model_copy(update={"status_indicator": "none"})
