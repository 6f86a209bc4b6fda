"""Answers written down in advance: a server without a model, and a model without a network.

A script is a list of steps. A step is a function that is given the `Scene` and yields events; the
functions below make the usual ones, and any async generator function of your own is one too.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias, cast

import trio

from chatkit_trio._engine.policy import TurnPolicy
from chatkit_trio.limits import OwnerLimits
from chatkit_trio.server import ChatKitServer
from chatkit_trio.store import AttachmentStore, Store, StoreItemType, default_generate_id
from chatkit_trio.types import (
    AssistantMessageContent,
    AssistantMessageContentPartAdded,
    AssistantMessageContentPartDone,
    AssistantMessageContentPartTextDelta,
    AssistantMessageItem,
    CustomTask,
    StreamOptions,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemUpdatedEvent,
    ThreadMetadata,
    ThreadStreamEvent,
    UserMessageItem,
    WidgetItem,
    Workflow,
    WorkflowItem,
    WorkflowTaskAdded,
    WorkflowTaskUpdated,
)
from chatkit_trio.widgets import WidgetRoot

__all__ = [
    "Scene",
    "ScriptedModel",
    "ScriptedRespond",
    "ScriptedServer",
    "Step",
    "do",
    "emit",
    "fail",
    "pause",
    "say",
    "scripted_server",
    "set_title",
    "show_widget",
    "work",
]


@dataclass(frozen=True, slots=True)
class Scene:
    """What a step may look at and change: the arguments of `respond`."""

    thread: ThreadMetadata
    message: UserMessageItem | None
    context: Any

    def item_fields(self, kind: StoreItemType = "message") -> dict[str, Any]:
        """Return the fields that every new item needs."""
        return {
            "id": default_generate_id(kind),
            "thread_id": self.thread.id,
            "created_at": datetime.now(UTC),
        }


Step: TypeAlias = Callable[[Scene], AsyncIterator[ThreadStreamEvent]]

_NO_EVENTS: tuple[ThreadStreamEvent, ...] = ()


def say(*deltas: str, every: float = 0.0, finish: bool = True) -> Step:
    """Stream an assistant message, waiting `every` seconds before each piece of text.

    With `finish=False` the message stays unfinished: there is no `thread.item.done`.
    """

    async def step(scene: Scene) -> AsyncGenerator[ThreadStreamEvent]:
        item = AssistantMessageItem(content=[], **scene.item_fields())
        yield ThreadItemAddedEvent(item=item)
        empty = AssistantMessageContent(text="")
        added = AssistantMessageContentPartAdded(content_index=0, content=empty)
        yield ThreadItemUpdatedEvent(item_id=item.id, update=added)
        for delta in deltas:
            await trio.sleep(every)
            update = AssistantMessageContentPartTextDelta(content_index=0, delta=delta)
            yield ThreadItemUpdatedEvent(item_id=item.id, update=update)
        if finish:
            content = AssistantMessageContent(text="".join(deltas))
            done = AssistantMessageContentPartDone(content_index=0, content=content)
            yield ThreadItemUpdatedEvent(item_id=item.id, update=done)
            yield ThreadItemDoneEvent(item=item.model_copy(update={"content": [content]}))

    return step


def work(*titles: str, every: float = 0.0, finish: bool = True) -> Step:
    """Stream a workflow with a task for each title; a task takes `every` seconds."""

    async def step(scene: Scene) -> AsyncGenerator[ThreadStreamEvent]:
        item = WorkflowItem(
            workflow=Workflow(type="custom", tasks=[]), **scene.item_fields("workflow")
        )
        yield ThreadItemAddedEvent(item=item)
        tasks: list[CustomTask] = []
        for index, title in enumerate(titles):
            loading = CustomTask(title=title, status_indicator="loading")
            added = WorkflowTaskAdded(task_index=index, task=loading)
            yield ThreadItemUpdatedEvent(item_id=item.id, update=added)
            await trio.sleep(every)
            tasks.append(CustomTask(title=title, status_indicator="complete"))
            updated = WorkflowTaskUpdated(task_index=index, task=tasks[-1])
            yield ThreadItemUpdatedEvent(item_id=item.id, update=updated)
        if finish:
            workflow = Workflow(type="custom", tasks=list(tasks))
            yield ThreadItemDoneEvent(item=item.model_copy(update={"workflow": workflow}))

    return step


def show_widget(widget: WidgetRoot) -> Step:
    """Show a finished widget."""

    async def step(scene: Scene) -> AsyncGenerator[ThreadStreamEvent]:
        await trio.lowlevel.checkpoint()
        yield ThreadItemDoneEvent(item=WidgetItem(widget=widget, **scene.item_fields()))

    return step


def emit(*events: ThreadStreamEvent | Callable[[Scene], ThreadStreamEvent]) -> Step:
    """Yield these events; for an event that needs the thread's id, pass a function of the scene."""

    async def step(scene: Scene) -> AsyncGenerator[ThreadStreamEvent]:
        for event in events:
            await trio.lowlevel.checkpoint()
            yield event(scene) if callable(event) else event

    return step


def pause(seconds: float) -> Step:
    """Wait, as for a model that is thinking."""

    async def wait(scene: Scene) -> None:
        await trio.sleep(seconds)

    return do(wait)


def do(action: Callable[[Scene], Awaitable[object] | None]) -> Step:
    """Call a function, and await what it returns if that is awaitable."""

    async def step(scene: Scene) -> AsyncGenerator[ThreadStreamEvent]:
        awaitable = action(scene)
        if awaitable is not None:
            await awaitable
        for event in _NO_EVENTS:
            yield event

    return step


def set_title(title: str) -> Step:
    """Give the thread a title; the turn saves it with the next event."""

    def change(scene: Scene) -> None:
        scene.thread.title = title

    return do(change)


def fail(error: Exception) -> Step:
    """Raise an exception."""

    def raise_error(scene: Scene) -> None:
        raise error

    return do(raise_error)


class ScriptedRespond:
    """A `respond` that plays steps, one script a call; further calls play the last script again.

    `scenes` has the arguments of every call.
    """

    def __init__(self, *scripts: Sequence[Step]) -> None:
        if not scripts:
            raise ValueError("ScriptedRespond needs a script, at least an empty one")
        self.scenes: list[Scene] = []
        self._scripts = scripts

    def __call__(
        self, thread: ThreadMetadata, message: UserMessageItem | None, context: Any
    ) -> AsyncIterator[ThreadStreamEvent]:
        scene = Scene(thread, message, context)
        script = self._scripts[min(len(self.scenes), len(self._scripts) - 1)]
        self.scenes.append(scene)
        return _play(script, scene)


async def _play(script: Sequence[Step], scene: Scene) -> AsyncIterator[ThreadStreamEvent]:
    for step in script:
        # aclosing: if the turn ends at the yield, the garbage collector must not close this.
        async with aclosing(cast("AsyncGenerator[ThreadStreamEvent, None]", step(scene))) as events:
            async for event in events:
                yield event  # noqa: ASYNC119 (the turn closes this generator)


class ScriptedServer(ChatKitServer[Any]):
    """A server that answers by a script; make one with `scripted_server`."""

    def __init__(
        self,
        store: Store[Any],
        respond: Callable[..., Any],
        *,
        attachment_store: AttachmentStore[Any] | None = None,
        policy: TurnPolicy | None = None,
        allow_cancel: bool = True,
        owner_limits: OwnerLimits | None = None,
    ) -> None:
        super().__init__(store, attachment_store, policy=policy, owner_limits=owner_limits)
        self.script = respond
        self.allow_cancel = allow_cancel

    def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: Any
    ) -> AsyncIterator[ThreadStreamEvent]:
        """Play the next script."""
        answer: AsyncIterator[ThreadStreamEvent] = self.script(thread, input_user_message, context)
        return answer

    def get_stream_options(self, thread: ThreadMetadata, context: Any) -> StreamOptions:
        """Return the `allow_cancel` this server was made with."""
        return StreamOptions(allow_cancel=self.allow_cancel)


def scripted_server(
    store: Store[Any],
    *scripts: Sequence[Step],
    policy: TurnPolicy | None = None,
    allow_cancel: bool = True,
    owner_limits: OwnerLimits | None = None,
) -> ScriptedServer:
    """Return a server, not yet running, that plays one script a turn.

    server = scripted_server(MemoryStore(), [say("Hello", " there", every=0.1)])
    """
    respond = ScriptedRespond(*scripts)
    return ScriptedServer(
        store, respond, policy=policy, allow_cancel=allow_cancel, owner_limits=owner_limits
    )


class ScriptedModel:
    """A double of a model's client: streams text, and counts streams that were left open.

        async with model.stream("Why?") as deltas:
            async for delta in deltas:
                ...

    Each call streams the next of `answers`, one piece every `every` seconds; further calls stream
    the last answer again. An exception among the pieces is raised when it is reached.
    """

    def __init__(self, *answers: Sequence[str | Exception], every: float = 0.0) -> None:
        if not answers:
            raise ValueError("ScriptedModel needs an answer, at least an empty one")
        self.prompts: list[Any] = []
        """The prompts of all calls."""
        self.open_streams = 0
        """How many streams haven't been closed; at the end of a test it should be 0."""
        self._answers = answers
        self._every = every

    @asynccontextmanager
    async def stream(self, prompt: Any) -> AsyncIterator[AsyncIterator[str]]:
        """Open the stream that answers a prompt."""
        answer = self._answers[min(len(self.prompts), len(self._answers) - 1)]
        self.prompts.append(prompt)
        self.open_streams += 1
        try:
            async with aclosing(self._pieces(answer)) as pieces:
                yield pieces
        finally:
            self.open_streams -= 1

    async def _pieces(self, answer: Sequence[str | Exception]) -> AsyncGenerator[str]:
        for piece in answer:
            await trio.sleep(self._every)
            if isinstance(piece, Exception):
                raise piece
            yield piece
