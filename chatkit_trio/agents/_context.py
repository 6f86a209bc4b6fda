"""`AgentContext`: what the tools of a model run may use, and where their events go.

Its methods may be called in trio tasks and in tools that an asyncio library runs. A call from
asyncio is carried over to trio, so that the context's state and queue change on trio only.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Annotated, Any, Generic

from pydantic import BaseModel, ConfigDict, PrivateAttr, SkipValidation

from chatkit_trio.icons import IconName
from chatkit_trio.server import stream_widget
from chatkit_trio.store import Store, StoreItemType, TContext
from chatkit_trio.types import (
    DurationSummary,
    GeneratedImageItem,
    ProgressUpdateEvent,
    Task,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemReplacedEvent,
    ThreadItemUpdatedEvent,
    ThreadMetadata,
    ThreadStreamEvent,
    Workflow,
    WorkflowItem,
    WorkflowSummary,
    WorkflowTaskAdded,
    WorkflowTaskUpdated,
)
from chatkit_trio.widgets import WidgetRoot

from ._asyncio_thread import run_on_trio
from ._queue import EventQueue


class ClientToolCall(BaseModel):
    """A call of a function in the page; the turn ends with it when a tool has set it."""

    name: str
    arguments: dict[str, Any]


class AgentContext(BaseModel, Generic[TContext]):
    """The turn as the tools of a model run see it.

    Pass it to the run and to `stream_agent_response` or `run_model`; it serves one such stream at
    a time. Subclass it to add fields of your own. Up to 256 events wait for the stream to begin.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    thread: ThreadMetadata
    store: Annotated[Store[TContext], SkipValidation]
    request_context: TContext
    previous_response_id: str | None = None
    client_tool_call: ClientToolCall | None = None
    workflow_item: WorkflowItem | None = None
    """The workflow in progress; changed by the methods below and by the stream."""
    generated_image_item: GeneratedImageItem | None = None
    """The image in progress."""

    _queue: EventQueue = PrivateAttr(default_factory=EventQueue)
    _resumed_workflow_id: str | None = PrivateAttr(default=None)

    def generate_id(self, type: StoreItemType, thread: ThreadMetadata | None = None) -> str:
        """Return a new id, made by the store, for an item of this kind, or for a thread."""
        if type == "thread":
            return self.store.generate_thread_id(self.request_context)
        return self.store.generate_item_id(type, thread or self.thread, self.request_context)

    async def stream(self, event: ThreadStreamEvent) -> None:
        """Send an event to the client, in order with the model's events.

        Waits while 256 events haven't been read; raises `RuntimeError` if so many wait and the
        stream hasn't begun. A cancelled call has sent nothing.
        """
        await run_on_trio(self._queue.put, event)

    async def stream_progress(self, text: str, icon: IconName | None = None) -> None:
        """Show what is going on; the client drops it when the turn ends."""
        await self.stream(ProgressUpdateEvent(text=text, icon=icon))

    async def stream_widget(
        self, widget: WidgetRoot | AsyncIterator[WidgetRoot], copy_text: str | None = None
    ) -> None:
        """Send a widget, or the growing states of one, and return when it's complete.

        An async iterator is iterated by the calling task, and closed if that is cancelled.
        """
        events = stream_widget(self.thread, widget, copy_text, self.generate_id)
        async with aclosing(events):
            async for event in events:
                await self.stream(event)

    async def start_workflow(self, workflow: Workflow) -> None:
        """Begin a workflow and end the one in progress.

        A custom workflow without tasks is shown when it gets its first task; a reasoning workflow
        is shown at once.
        """
        await run_on_trio(self._start_workflow, workflow)

    async def add_workflow_task(self, task: Task) -> None:
        """Append a task to the workflow in progress, or to a new one if there is none."""
        await run_on_trio(self._add_workflow_task, task)

    async def update_workflow_task(self, task: Task, task_index: int) -> None:
        """Replace a task of the workflow in progress.

        Raises `ValueError` if no workflow is in progress, and `IndexError` if it has no such task.
        """
        await run_on_trio(self._update_workflow_task, task, task_index)

    async def end_workflow(
        self, summary: WorkflowSummary | None = None, expanded: bool = False
    ) -> None:
        """End the workflow in progress, if there is one.

        Without a `summary` the workflow shows how long it took.
        """
        await run_on_trio(self._end_workflow, summary, expanded)

    # --- On trio -------------------------------------------------------------------------------
    #
    # The stream changes the workflow when it comes to the model's events, so what the model has
    # done before has to be through before a tool changes it.

    async def _start_workflow(self, workflow: Workflow) -> None:
        await self._queue.wait_handled()
        if self.workflow_item is not None and self._is_shown(self.workflow_item):
            await self._end_workflow(None, False)
        self.workflow_item = self._new_workflow(workflow)
        if self._is_shown(self.workflow_item):
            await self._queue.put(ThreadItemAddedEvent(item=snapshot(self.workflow_item)))

    async def _add_workflow_task(self, task: Task) -> None:
        await self._queue.wait_handled()
        if self.workflow_item is None:
            self.workflow_item = self._new_workflow(Workflow(type="custom", tasks=[]))
        item = self.workflow_item
        was_shown = self._is_shown(item)
        item.workflow.tasks.append(task)
        if was_shown:
            await self._queue.put(task_added(item, len(item.workflow.tasks) - 1))
        else:
            await self._queue.put(ThreadItemAddedEvent(item=snapshot(item)))

    async def _update_workflow_task(self, task: Task, task_index: int) -> None:
        await self._queue.wait_handled()
        item = self.workflow_item
        if item is None:
            raise ValueError("there is no workflow in progress: start one, or add a task, first")
        count = len(item.workflow.tasks)
        if not 0 <= task_index < count:
            raise IndexError(
                f"there is no task_index {task_index} of workflow {item.id}: it has {count} tasks"
            )
        item.workflow.tasks[task_index] = task
        await self._queue.put(task_updated(item, task_index))

    async def _end_workflow(self, summary: WorkflowSummary | None, expanded: bool) -> None:
        await self._queue.wait_handled()
        item = self.workflow_item
        if item is not None:
            if summary is not None:
                item.workflow.summary = summary
            self.workflow_item = None
            await self._queue.put(self._ended(item, expanded))

    def _is_shown(self, item: WorkflowItem) -> bool:
        """Say whether the client has a workflow.

        A custom one isn't sent until it has a task, but one of an earlier turn is in the thread.
        """
        workflow = item.workflow
        is_resumed = item.id == self._resumed_workflow_id
        return is_resumed or workflow.type == "reasoning" or bool(workflow.tasks)

    def _new_workflow(self, workflow: Workflow) -> WorkflowItem:
        return WorkflowItem(
            id=self.generate_id("workflow"),
            thread_id=self.thread.id,
            created_at=datetime.now(UTC),
            workflow=workflow,
        )

    def _ended(self, item: WorkflowItem, expanded: bool) -> ThreadStreamEvent:
        if item.workflow.summary is None:
            # The application may have made it, with a time of any zone or none.
            seconds = (datetime.now(UTC) - item.created_at.astimezone(UTC)).total_seconds()
            item.workflow.summary = DurationSummary(duration=int(seconds))
        item.workflow.expanded = expanded
        return self._finished(item)

    def _finished(self, item: WorkflowItem) -> ThreadStreamEvent:
        """Return the event that stores a workflow, new or continued from an earlier turn."""
        if item.id == self._resumed_workflow_id:
            return ThreadItemReplacedEvent(item=snapshot(item))
        return ThreadItemDoneEvent(item=snapshot(item))


def snapshot(item: WorkflowItem) -> WorkflowItem:
    """Return a copy for an event, which must not change when the item changes later."""
    return item.model_copy(deep=True)


def task_added(item: WorkflowItem, task_index: int) -> ThreadItemUpdatedEvent:
    """Return the event for a new task."""
    task = item.workflow.tasks[task_index].model_copy(deep=True)
    update = WorkflowTaskAdded(task_index=task_index, task=task)
    return ThreadItemUpdatedEvent(item_id=item.id, update=update)


def task_updated(item: WorkflowItem, task_index: int) -> ThreadItemUpdatedEvent:
    """Return the event for a changed task."""
    task = item.workflow.tasks[task_index].model_copy(deep=True)
    update = WorkflowTaskUpdated(task_index=task_index, task=task)
    return ThreadItemUpdatedEvent(item_id=item.id, update=update)
