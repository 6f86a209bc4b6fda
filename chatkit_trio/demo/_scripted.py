"""An assistant without a model: it answers with prepared texts, at a model's pace.

Like an assistant with a model it reads the conversation from the store, with the hidden notes, and
continues sensibly after its answer was cut short. The thread's metadata notes which text it was
saying, and how much of it has been said.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any, TypeAlias

import trio

from chatkit_trio.limits import OwnerLimits
from chatkit_trio.server import CancelReason, ChatKitServer, TurnPolicy
from chatkit_trio.store import Store
from chatkit_trio.types import (
    AssistantMessageContent,
    AssistantMessageContentPartAdded,
    AssistantMessageContentPartDone,
    AssistantMessageContentPartTextDelta,
    AssistantMessageItem,
    DurationSummary,
    ThoughtTask,
    ThreadItem,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemUpdate,
    ThreadItemUpdatedEvent,
    ThreadMetadata,
    ThreadStreamEvent,
    UserMessageItem,
    Workflow,
    WorkflowItem,
    WorkflowTaskAdded,
    WorkflowTaskUpdated,
)

from ._history import CutAnswer, cut_answer, text_of, title_of
from ._topics import RECOVERED, TOPICS, topic_named, wants_more

Step: TypeAlias = tuple[float, ThreadStreamEvent]
"""An event, and how many seconds to wait before it."""

_HISTORY_LENGTH = 40
_LIST_ITEM = re.compile(r"(\d+\.|[-*]) ")
_LAST_WORDS = 6
_THINKING_TIME = 0.6  # seconds a thought

_EXCUSES = {
    CancelReason.STOPPED: "You stopped me",
    CancelReason.DISCONNECTED: "You left, or the connection did",
    CancelReason.STALLED: "The connection stalled",
    CancelReason.DEADLINE: "My time was up",
    CancelReason.SHUTDOWN: "I was restarted in the middle of my answer",
    CancelReason.SUPERSEDED: "You had another question before I was done",
    CancelReason.FAILED: "Something broke",
    CancelReason.INCOMPLETE: "My answer grew too long",
    CancelReason.CRASHED: "The server went down in the middle of my answer",
}


class ScriptedAssistant(ChatKitServer[Any]):
    """Answers from `TOPICS`, with `words_per_second` as its pace."""

    def __init__(
        self,
        store: Store[Any],
        *,
        policy: TurnPolicy,
        owner_limits: OwnerLimits | None = None,
        words_per_second: float = 40.0,
    ) -> None:
        super().__init__(store, policy=policy, owner_limits=owner_limits)
        self._pause = 1.0 / words_per_second

    async def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: Any
    ) -> AsyncIterator[ThreadStreamEvent]:
        if input_user_message is None:
            return
        message = text_of(input_user_message)
        thread.title = thread.title or title_of(message)
        page = await self.store.load_thread_items(thread.id, None, _HISTORY_LENGTH, "desc", context)
        cut = cut_answer(page.data[::-1])
        for pause, event in self._steps(thread, input_user_message, cut, context):
            await trio.sleep(pause)
            yield event
        if thread.metadata.get("fails_on") == input_user_message.id:
            raise RuntimeError("the demo was asked to fail")

    def _steps(
        self, thread: ThreadMetadata, message: UserMessageItem, cut: CutAnswer | None, context: Any
    ) -> Iterator[Step]:
        _note_what_was_said(thread, cut)
        topic = topic_named(text_of(message))
        if wants_more(text_of(message)) and _rest(thread):
            _begin_item_again(thread)
            yield from self._tell(thread, _rest(thread), context)
        elif cut is not None and topic is None:
            yield from self._say(thread, f"{_excuse(cut)} Shall I go on?", context)
        else:
            name = topic or "hello"
            yield from self._think(thread, TOPICS[name].thoughts, context)
            yield from self._tell(thread, _begin(thread, name, message, cut), context)

    def _think(
        self, thread: ThreadMetadata, thoughts: tuple[str, ...], context: Any
    ) -> Iterator[Step]:
        workflow = Workflow(type="reasoning", tasks=[])
        item = WorkflowItem(
            id=self.store.generate_item_id("workflow", thread, context),
            thread_id=thread.id,
            created_at=datetime.now(UTC),
            workflow=workflow,
        )
        yield 0, ThreadItemAddedEvent(item=item)
        for index, thought in enumerate(thoughts):
            task = ThoughtTask(content="", status_indicator="loading")
            yield 0, _update(item, WorkflowTaskAdded(task_index=index, task=task))
            task = ThoughtTask(content=thought, status_indicator="complete")
            yield _THINKING_TIME, _update(item, WorkflowTaskUpdated(task_index=index, task=task))
            workflow.tasks.append(task)
        workflow.summary = DurationSummary(duration=round(_THINKING_TIME * len(thoughts)))
        yield 0, ThreadItemDoneEvent(item=item)

    def _tell(self, thread: ThreadMetadata, script: str, context: Any) -> Iterator[Step]:
        """Say the script, or its rest, and note in the thread how much has been said."""
        thread.metadata["telling"] = True
        *steps, last = self._say(thread, script, context)
        yield from steps
        thread.metadata["telling"] = False
        thread.metadata["said"] = len(thread.metadata["script"])
        yield last

    def _say(self, thread: ThreadMetadata, text: str, context: Any) -> Iterator[Step]:
        item = AssistantMessageItem(
            id=self.store.generate_item_id("message", thread, context),
            thread_id=thread.id,
            created_at=datetime.now(UTC),
            content=[],
        )
        yield 0, ThreadItemAddedEvent(item=item)
        content = AssistantMessageContent(text="")
        yield 0, _update(item, AssistantMessageContentPartAdded(content_index=0, content=content))
        for word in re.findall(r"\s*\S+|\s+$", text):
            delta = AssistantMessageContentPartTextDelta(content_index=0, delta=word)
            yield self._pause, _update(item, delta)
        content = AssistantMessageContent(text=text)
        yield 0, _update(item, AssistantMessageContentPartDone(content_index=0, content=content))
        yield 0, ThreadItemDoneEvent(item=item.model_copy(update={"content": [content]}))


def _begin(
    thread: ThreadMetadata, topic: str, message: UserMessageItem, cut: CutAnswer | None
) -> str:
    """Return the text for a topic, and note in the thread that it is being said."""
    script = TOPICS[topic].answer
    if topic == "failure" and thread.metadata.pop("fails_on", None) == message.id:
        script = RECOVERED
    elif topic == "failure":
        thread.metadata["fails_on"] = message.id
    if cut is not None and cut.text:
        script = f"{_excuse(cut)} Now to your question.\n\n{script}"
    thread.metadata.update(script=script, said=0)
    return script


def _note_what_was_said(thread: ThreadMetadata, cut: CutAnswer | None) -> None:
    if cut is not None and thread.metadata.get("telling"):
        rest = thread.metadata["script"][thread.metadata["said"] :]
        thread.metadata["said"] += len(cut.text) + len(rest) - len(rest.lstrip())
    thread.metadata["telling"] = False


def _rest(thread: ThreadMetadata) -> str:
    """Return the part of the latest script that hasn't been said yet."""
    script: str = thread.metadata.get("script", "")
    return script[thread.metadata.get("said", 0) :].lstrip()


def _begin_item_again(thread: ThreadMetadata) -> None:
    """Say an item of a list from its beginning: the rest alone would be a paragraph, not a list."""
    script, said = thread.metadata["script"], thread.metadata["said"]
    line = script.rfind("\n", 0, said) + 1
    if _LIST_ITEM.match(script, line):
        thread.metadata["said"] = line


def _excuse(cut: CutAnswer) -> str:
    words = cut.text.split()[-_LAST_WORDS:]
    if not words:
        return f"{_EXCUSES[cut.reason]} before I had said anything."
    return f"{_EXCUSES[cut.reason]}. I'd got to “{' '.join(words)}”."


def _update(item: ThreadItem, update: ThreadItemUpdate) -> ThreadItemUpdatedEvent:
    return ThreadItemUpdatedEvent(item_id=item.id, update=update)
