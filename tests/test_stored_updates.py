"""Updates of items that were done in an earlier turn: stored too, however the turn ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
import trio

from chatkit_trio.server import ChatKitServer
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import ChatClient
from chatkit_trio.types import (
    CustomTask,
    ProgressUpdateEvent,
    ThreadItem,
    ThreadItemDoneEvent,
    ThreadItemUpdate,
    ThreadItemUpdatedEvent,
    ThreadMetadata,
    ThreadStreamEvent,
    UserMessageItem,
    WidgetComponentUpdated,
    WidgetItem,
    WidgetRootUpdated,
    WidgetStreamingTextValueDelta,
    Workflow,
    WorkflowItem,
    WorkflowTaskAdded,
    WorkflowTaskUpdated,
)
from chatkit_trio.widgets import DynamicWidgetComponent, DynamicWidgetRoot


def card(text: str) -> DynamicWidgetRoot:
    return DynamicWidgetRoot.model_validate(
        {"type": "Card", "children": [{"type": "Markdown", "id": "body", "value": text}]}
    )


class GrowingServer(ChatKitServer[None]):
    """The first turn makes an item, the second sends updates of it and then takes its time."""

    def __init__(self, item: ThreadItem, updates: list[ThreadItemUpdate]) -> None:
        super().__init__(MemoryStore())
        self._item = item
        self._updates = updates

    async def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: None
    ) -> AsyncIterator[ThreadStreamEvent]:
        item = self._item.model_copy(update={"thread_id": thread.id})
        if not await self.store.has_item(thread.id, item.id, context):
            yield ThreadItemDoneEvent(item=item)
            return
        for update in self._updates:
            yield ThreadItemUpdatedEvent(item_id=item.id, update=update)
        yield ProgressUpdateEvent(text="working")
        await trio.sleep(10)


BASE: dict[str, Any] = {"id": "i1", "thread_id": "", "created_at": datetime(2026, 1, 2, tzinfo=UTC)}
WIDGET = WidgetItem(**BASE, widget=card("Hello"))
WORKFLOW = WorkflowItem(
    **BASE, workflow=Workflow(type="custom", tasks=[CustomTask(title="a", content="1")])
)
LOADING = CustomTask(title="b", status_indicator="loading")
GROWN_TASKS = [
    {"type": "custom", "status_indicator": "none", "title": "a", "content": "2"},
    {"type": "custom", "status_indicator": "none", "title": "b"},
]


async def stored_after(server: GrowingServer, cut_short: bool) -> dict[str, Any]:
    """Run both turns, the second to its end or not, and return what the store has of the item."""
    async with server, ChatClient.of_server(server) as client:
        async with client.send("make it") as first:
            await first.read()
        async with client.send("go on", first.thread_id) as second:
            await second.wait_for(ProgressUpdateEvent)
            if not cut_short:
                await second.read()
        assert first.thread_id is not None
        item = await server.store.load_item(first.thread_id, "i1", None)
    return item.model_dump(exclude_none=True)


@pytest.mark.parametrize("cut_short", [False, True])
@pytest.mark.parametrize(
    ("updates", "text"),
    [
        ([WidgetRootUpdated(widget=card("New"))], "New"),
        (
            [
                WidgetComponentUpdated(
                    component_id="body",
                    component=DynamicWidgetComponent(type="Markdown", id="body", value="Part"),
                )
            ],
            "Part",
        ),
        (
            [
                WidgetStreamingTextValueDelta(component_id="body", delta=delta, done=False)
                for delta in (", ", "world")
            ],
            "Hello, world",
        ),
    ],
)
async def test_a_finished_widget_that_changes_is_stored_changed(
    cut_short: bool,
    updates: list[ThreadItemUpdate],
    text: str,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Defect 6.2: the update was sent and not stored, so the widget reverted after a reload."""
    stored = await stored_after(GrowingServer(WIDGET, updates), cut_short)

    assert stored["widget"]["children"][0]["value"] == text


@pytest.mark.parametrize("cut_short", [False, True])
async def test_a_workflow_that_goes_on_in_a_later_turn_is_stored_grown(
    cut_short: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """In the store afterwards: both tasks, and none of them still loading."""
    updates: list[ThreadItemUpdate] = [
        WorkflowTaskUpdated(task_index=0, task=CustomTask(title="a", content="2")),
        WorkflowTaskAdded(task_index=1, task=LOADING),
    ]

    stored = await stored_after(GrowingServer(WORKFLOW, updates), cut_short)

    assert stored["workflow"]["tasks"] == GROWN_TASKS
