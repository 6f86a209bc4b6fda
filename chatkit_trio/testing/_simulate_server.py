"""The simulator's own server: it does what the words of a message say.

Each word is one part of an answer, such as `say:3:0.2` (a message of three pieces, 0.2 s apart).
It reads the thread's history first, as a server with a model does.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, cast

import trio

from chatkit_trio.actions import Action
from chatkit_trio.errors import CustomStreamError
from chatkit_trio.server import ChatKitServer, TurnPolicy, current_turn
from chatkit_trio.store import Store, StoreItemType
from chatkit_trio.types import (
    AssistantMessageContent,
    AssistantMessageContentPartTextDelta,
    AssistantMessageItem,
    ChatKitReq,
    ClientToolCallItem,
    CustomTask,
    FeedbackKind,
    HiddenContextItem,
    StreamOptions,
    StructuredInputFreeform,
    StructuredInputItem,
    SyncCustomActionResponse,
    ThreadItem,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemRemovedEvent,
    ThreadItemReplacedEvent,
    ThreadItemUpdatedEvent,
    ThreadMetadata,
    ThreadStreamEvent,
    UserMessageItem,
    UserMessageTextContent,
    WidgetItem,
    WidgetStreamingTextValueDelta,
    Workflow,
    WorkflowItem,
    WorkflowTaskAdded,
    WorkflowTaskUpdated,
)
from chatkit_trio.widgets import DynamicWidgetRoot

from ._simulate_plan import Settings

__all__ = ["BUTTON_TEXT", "HIDDEN_TEXT", "PlannedError", "SimulatedServer"]

HIDDEN_TEXT = "for the model only"
"""What hidden items of the own server hold; no client may ever be told it."""

BUTTON_TEXT = "press"
"""What the widgets say that clients act on."""

_HISTORY = 100
_Events = AsyncGenerator[ThreadStreamEvent, None]


class PlannedError(Exception):
    """What an answer raises because its message says so."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """One call of `respond`, and the items it makes."""

    store: Store[Any]
    thread: ThreadMetadata
    context: Any
    quits: list[str]
    """The turns that have stopped themselves."""
    failures: list[str]
    """The turns in which a task has failed."""

    def fields(self, kind: StoreItemType = "message") -> dict[str, Any]:
        return {
            "id": self.store.generate_item_id(kind, self.thread, self.context),
            "thread_id": self.thread.id,
            "created_at": datetime.now(UTC),
        }

    def message(self, text: str, item_id: str | None = None) -> AssistantMessageItem:
        fields = self.fields()
        fields["id"] = item_id or fields["id"]
        return AssistantMessageItem(content=[AssistantMessageContent(text=text)], **fields)

    def widget(self, text: str) -> WidgetItem:
        card = {"type": "Card", "children": [{"type": "Text", "id": "t", "value": text}]}
        return WidgetItem(widget=DynamicWidgetRoot.model_validate(card), **self.fields())


class SimulatedServer(ChatKitServer[Any]):
    """Answers a message by doing what its words say."""

    def __init__(self, store: Store[Any], settings: Settings) -> None:
        super().__init__(store, policy=_policy_of(settings))
        self._settings = settings
        self.quits: list[str] = []
        """The turns that have stopped themselves."""
        self.failures: list[str] = []
        """The turns in which a task has failed."""

    def get_stream_options(self, thread: ThreadMetadata, context: Any) -> StreamOptions:
        return StreamOptions(allow_cancel=self._settings.allow_cancel)

    def get_turn_policy(self, request: ChatKitReq, context: Any) -> TurnPolicy:
        policy = self.policy
        message = getattr(getattr(request, "params", None), "input", None)
        for part in getattr(message, "content", ()):
            for word in getattr(part, "text", "").split():
                name, _, value = word.partition(":")
                if name in _POLICIES:
                    policy = _POLICIES[name](policy, value)
        return policy

    def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: Any
    ) -> AsyncIterator[ThreadStreamEvent]:
        words = _words_of(input_user_message, [])
        # Scopes and nurseries have to be open in the generator that the engine iterates.
        if "nursery" in words:
            return self._answer_in_nursery(thread, input_user_message, context)
        if "scope" in words:
            return self._answer_in_scope(thread, input_user_message, context)
        return self._answer(thread, input_user_message, context)

    async def _answer(
        self, thread: ThreadMetadata, message: UserMessageItem | None, context: Any
    ) -> _Events:
        page = await self.store.load_thread_items(thread.id, None, _HISTORY, "desc", context)
        words = _words_of(message, page.data)
        async with aclosing(self._perform(words, thread, context)) as events:
            async for event in events:
                yield event  # noqa: ASYNC119  (the turn closes this generator)

    async def _answer_in_nursery(
        self, thread: ThreadMetadata, message: UserMessageItem | None, context: Any
    ) -> _Events:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep, 0.3)
            async with aclosing(self._answer(thread, message, context)) as events:
                async for event in events:
                    yield event  # noqa: ASYNC119  (the turn closes this generator)

    async def _answer_in_scope(
        self, thread: ThreadMetadata, message: UserMessageItem | None, context: Any
    ) -> _Events:
        with trio.move_on_after(0.3):
            async with aclosing(self._answer(thread, message, context)) as events:
                async for event in events:
                    yield event  # noqa: ASYNC119  (the turn closes this generator)

    async def action(
        self,
        thread: ThreadMetadata,
        action: Action[str, Any],
        sender: WidgetItem | None,
        context: Any,
    ) -> AsyncIterator[ThreadStreamEvent]:
        words = str(action.payload).split()
        async with aclosing(self._perform(words, thread, context)) as events:
            async for event in events:
                yield event  # noqa: ASYNC119  (the turn closes this generator)

    async def sync_action(
        self,
        thread: ThreadMetadata,
        action: Action[str, Any],
        sender: WidgetItem | None,
        context: Any,
    ) -> SyncCustomActionResponse:
        await trio.sleep(0.1)
        return SyncCustomActionResponse(updated_item=sender)

    async def add_feedback(
        self, thread_id: str, item_ids: list[str], feedback: FeedbackKind, context: Any
    ) -> None:
        await trio.lowlevel.checkpoint()

    async def _perform(self, words: list[str], thread: ThreadMetadata, context: Any) -> _Events:
        answer = _Answer(self.store, thread, context, self.quits, self.failures)
        for word in words:
            name, *arguments = word.split(":")
            if name in _WORDS:
                step = _WORDS[name](answer, *map(float, arguments))
                async with aclosing(cast("_Events", step)) as events:
                    async for event in events:
                        yield event  # noqa: ASYNC119  (closed by who iterates it)


def _policy_of(settings: Settings) -> TurnPolicy:
    return TurnPolicy(
        on_disconnect=cast("Literal['cancel', 'finish'] | float", settings.on_disconnect),
        on_busy=cast("Literal['supersede', 'queue', 'reject']", settings.on_busy),
        settle_timeout=settings.settle_timeout,
        stall_timeout=settings.stall_timeout,
        max_unread_bytes=settings.max_unread_bytes,
        max_replay_bytes=settings.max_replay_bytes,
        heartbeat=None,
    )


_POLICIES: dict[str, Callable[[TurnPolicy, str], TurnPolicy]] = {
    "finish": lambda policy, _: replace(policy, on_disconnect="finish"),
    "grace": lambda policy, value: replace(policy, on_disconnect=float(value)),
    "queue": lambda policy, _: replace(policy, on_busy="queue"),
    "reject": lambda policy, _: replace(policy, on_busy="reject"),
    "idle": lambda policy, value: replace(policy, idle_timeout=float(value)),
    "limit": lambda policy, value: replace(policy, turn_timeout=float(value)),
}


def _words_of(message: UserMessageItem | None, newest_first: list[ThreadItem]) -> list[str]:
    """Return the words of the message, or of what the client has handed in instead."""
    if message is not None:
        texts = [part.text for part in message.content if isinstance(part, UserMessageTextContent)]
        return " ".join(texts).split()
    for item in newest_first:
        if isinstance(item, ClientToolCallItem) and item.status == "completed":
            return str(item.output).split()
        if isinstance(item, StructuredInputItem) and item.status == "answered":
            answer = item.inputs[0].answer
            return " ".join(answer.values if answer is not None else []).split()
    return []


# --- The words ---------------------------------------------------------------------------------


def _added(item: ThreadItem) -> ThreadItemAddedEvent:
    return ThreadItemAddedEvent(item=item)


def _done(item: ThreadItem) -> ThreadItemDoneEvent:
    return ThreadItemDoneEvent(item=item)


def _more(item: ThreadItem, text: str) -> ThreadItemUpdatedEvent:
    delta = AssistantMessageContentPartTextDelta(content_index=0, delta=text)
    return ThreadItemUpdatedEvent(item_id=item.id, update=delta)


async def _say(answer: _Answer, count: float, every: float = 0.0) -> _Events:
    """Stream a message."""
    item = answer.message("")
    yield _added(item)
    text = ""
    for number in range(int(count)):
        await trio.sleep(every)
        piece = f"{number} "
        text += piece
        yield _more(item, piece)
    yield _done(answer.message(text, item.id))


async def _talk(answer: _Answer, count: float, every: float = 0.0) -> _Events:
    """Stream a message and never say that it is done."""
    item = answer.message("")
    yield _added(item)
    for number in range(int(count)):
        await trio.sleep(every)
        yield _more(item, f"{number} ")


async def _burst(answer: _Answer, count: float) -> _Events:  # noqa: ASYNC124
    """Stream a message without ever waiting."""
    item = answer.message("")
    yield _added(item)
    text = ""
    for number in range(int(count)):
        text += f"{number} "
        yield _more(item, f"{number} ")
    yield _done(answer.message(text, item.id))


async def _work(answer: _Answer, count: float, every: float = 0.0) -> _Events:
    """Stream a workflow, and let it grow when it is done."""
    fields = answer.fields("workflow")
    async with aclosing(_labor(answer, count, every, fields)) as events:
        async for event in events:
            yield event  # noqa: ASYNC119  (closed by who iterates it)
    tasks = [CustomTask(title=f"task {n}") for n in range(int(count))]
    yield _done(WorkflowItem(workflow=Workflow(type="custom", tasks=list(tasks)), **fields))
    await trio.sleep(every)
    more = WorkflowTaskAdded(task_index=int(count), task=CustomTask(title="one more"))
    yield ThreadItemUpdatedEvent(item_id=fields["id"], update=more)


async def _labor(
    answer: _Answer, count: float, every: float = 0.0, fields: dict[str, Any] | None = None
) -> _Events:
    """Stream a workflow and never say that it is done."""
    fields = fields or answer.fields("workflow")
    item = WorkflowItem(workflow=Workflow(type="custom", tasks=[]), **fields)
    yield _added(item)
    for number in range(int(count)):
        loading = CustomTask(title=f"task {number}", status_indicator="loading")
        added = WorkflowTaskAdded(task_index=number, task=loading)
        yield ThreadItemUpdatedEvent(item_id=item.id, update=added)
        await trio.sleep(every)
        complete = CustomTask(title=f"task {number}", status_indicator="complete")
        updated = WorkflowTaskUpdated(task_index=number, task=complete)
        yield ThreadItemUpdatedEvent(item_id=item.id, update=updated)


async def _widget(answer: _Answer) -> _Events:
    """Show a widget that a client can act on."""
    await trio.lowlevel.checkpoint()
    yield _done(answer.widget(BUTTON_TEXT))


async def _grow(answer: _Answer, count: float, every: float = 0.0) -> _Events:
    """Show a finished widget and stream text into it."""
    item = answer.widget("")
    yield _done(item)
    for number in range(int(count)):
        await trio.sleep(every)
        delta = WidgetStreamingTextValueDelta(component_id="t", delta=f"{number} ", done=False)
        yield ThreadItemUpdatedEvent(item_id=item.id, update=delta)


async def _silent(answer: _Answer, seconds: float) -> _Events:
    """Wait."""
    await trio.sleep(seconds)
    for event in _NO_EVENTS:
        yield event


async def _title(answer: _Answer, number: float) -> _Events:
    """Change the thread's title; it is saved with the next event."""
    await trio.lowlevel.checkpoint()
    answer.thread.title = f"respond {int(number)}"
    for event in _NO_EVENTS:
        yield event


async def _shield(answer: _Answer, count: float) -> _Events:
    """Do what has to be carried through, and go on yielding when it may be too late."""
    item = answer.message("")
    yield _added(item)
    for number in range(int(count)):
        with trio.CancelScope(shield=True):
            await trio.sleep(0.05)
        yield _more(item, f"{number} ")


async def _cleanup(answer: _Answer, seconds: float) -> _Events:
    """Clean up slowly."""
    try:
        async with aclosing(_say(answer, 3, 0.1)) as events:
            async for event in events:
                yield event  # noqa: ASYNC119  (closed by who iterates it)
    finally:
        with trio.move_on_after(2, shield=True):
            await trio.sleep(seconds)


async def _rewrite(answer: _Answer) -> _Events:
    """Replace a message that is done."""
    item = answer.message("draft")
    yield _done(item)
    await trio.sleep(0.05)
    yield ThreadItemReplacedEvent(item=answer.message("final", item.id))


async def _remove(answer: _Answer) -> _Events:
    """Take a message back that is done."""
    item = answer.message("withdrawn")
    yield _done(item)
    await trio.sleep(0.05)
    yield ThreadItemRemovedEvent(item_id=item.id)


async def _hidden(answer: _Answer) -> _Events:
    """Tell the model something."""
    await trio.lowlevel.checkpoint()
    yield _done(HiddenContextItem(content=HIDDEN_TEXT, **answer.fields()))


async def _change_title(thread: ThreadMetadata, seconds: float) -> None:
    await trio.sleep(seconds)
    thread.title = "a task's title"


async def _task(answer: _Answer, seconds: float) -> _Events:
    """Start a task that finds a title."""
    await trio.lowlevel.checkpoint()
    current_turn().nursery.start_soon(_change_title, answer.thread, seconds)
    for event in _NO_EVENTS:
        yield event


async def _tool(answer: _Answer) -> _Events:
    """Call a tool of the client."""
    await trio.lowlevel.checkpoint()
    fields = answer.fields("tool_call")
    yield _done(ClientToolCallItem(name="where", call_id="call", arguments={}, **fields))


async def _ask(answer: _Answer) -> _Events:
    """Ask the user a question."""
    await trio.lowlevel.checkpoint()
    inputs = [StructuredInputFreeform(id="q", question="Why?")]
    yield _done(StructuredInputItem(inputs=list(inputs), **answer.fields()))


async def _fail(answer: _Answer) -> _Events:
    """Fail, and tell the user why."""
    await trio.lowlevel.checkpoint()
    for event in _NO_EVENTS:
        yield event
    raise CustomStreamError("planned")


async def _break(answer: _Answer) -> _Events:
    """Fail with an error that the user isn't told."""
    await trio.lowlevel.checkpoint()
    for event in _NO_EVENTS:
        yield event
    raise PlannedError("planned")


async def _fail_later(failures: list[str]) -> None:
    await trio.sleep(0.1)
    failures.append(current_turn().id)
    raise PlannedError("planned, in a task")


async def _failtask(answer: _Answer) -> _Events:
    """Start a task that fails."""
    await trio.lowlevel.checkpoint()
    current_turn().nursery.start_soon(_fail_later, answer.failures)
    for event in _NO_EVENTS:
        yield event


async def _quit(answer: _Answer) -> _Events:
    """Stop the turn from within."""
    await trio.lowlevel.checkpoint()
    answer.quits.append(current_turn().id)
    current_turn().cancel()
    for event in _NO_EVENTS:
        yield event


_NO_EVENTS: tuple[ThreadStreamEvent, ...] = ()

_WORDS: dict[str, Callable[..., AsyncIterator[ThreadStreamEvent]]] = {
    "say": _say,
    "talk": _talk,
    "burst": _burst,
    "work": _work,
    "labor": _labor,
    "widget": _widget,
    "grow": _grow,
    "silent": _silent,
    "title": _title,
    "shield": _shield,
    "cleanup": _cleanup,
    "rewrite": _rewrite,
    "remove": _remove,
    "hidden": _hidden,
    "task": _task,
    "tool": _tool,
    "ask": _ask,
    "fail": _fail,
    "break": _break,
    "failtask": _failtask,
    "quit": _quit,
}
