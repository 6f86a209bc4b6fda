"""What a thread says, as a list of short lines: so that a test can compare all of it."""

from __future__ import annotations

from typing import Any

from chatkit_trio._engine.keeping import ENDING_NOTES
from chatkit_trio.store import Store
from chatkit_trio.types import (
    AssistantMessageItem,
    SDKHiddenContextItem,
    ThreadItem,
    UserMessageItem,
    WorkflowItem,
)

_REASONS = {text: reason.value for reason, text in ENDING_NOTES.items()}


async def transcript(store: Store[Any], thread_id: str | None, context: Any = None) -> list[str]:
    """Return the items of a thread as they are stored, hidden ones too, one line each."""
    assert thread_id is not None
    page = await store.load_thread_items(thread_id, None, 100, "asc", context)
    return lines(page.data)


def lines(items: list[ThreadItem]) -> list[str]:
    return [_line(item) for item in items]


def _line(item: ThreadItem) -> str:
    match item:
        case UserMessageItem():
            return "user: " + "".join(part.text for part in item.content)
        case AssistantMessageItem():
            return "assistant: " + "".join(part.text for part in item.content)
        case WorkflowItem():
            tasks = [f"{task.title} {task.status_indicator}" for task in item.workflow.tasks]
            return "workflow: " + ", ".join(tasks)
        case SDKHiddenContextItem():
            return "note: " + _REASONS.get(item.content, item.content)
        case _:
            return item.type
