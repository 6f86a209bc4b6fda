"""Conversations for a differential test: the same requests and the same `respond` for both sides.

`Scripts` is written against the names that the original and chatkit_trio share; `sdk` is whichever
package's modules are under test. Nothing here waits, so it runs on asyncio and on Trio.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Scripts:
    """The hooks of both servers; the text of the user's message picks the script."""

    def __init__(self, sdk: Any, new_id: Callable[[str], str]) -> None:
        self.sdk = sdk
        self.types = sdk.types
        self.new_id = new_id

    def respond(self, thread: Any, message: Any, context: Any) -> AsyncIterator[Any]:
        text = "".join(part.text for part in message.content) if message else "after input"
        return getattr(self, text.replace(" ", "_"))(thread)

    def assistant_item(self, thread: Any, *texts: str) -> Any:
        content = [self.types.AssistantMessageContent(text=text) for text in texts]
        return self.types.AssistantMessageItem(
            id=self.new_id("msg"), thread_id=thread.id, created_at=NOW, content=content
        )

    def updated(self, item: Any, name: str, **fields: Any) -> Any:
        update = getattr(self.types, name)(**fields)
        return self.types.ThreadItemUpdatedEvent(item_id=item.id, update=update)

    async def streamed_text(self, thread: Any) -> AsyncIterator[Any]:
        t, item = self.types, self.assistant_item(thread)
        yield t.ThreadItemAddedEvent(item=item)
        part = t.AssistantMessageContent(text="")
        yield self.updated(item, "AssistantMessageContentPartAdded", content_index=0, content=part)
        thread.title = "A title"
        for delta in ("Hello ", "wörld\r\n", '\u2028"quoted" ', "</script>"):
            yield self.updated(
                item, "AssistantMessageContentPartTextDelta", content_index=0, delta=delta
            )
        source = t.URLSource(title="A page", url="https://example.com/")
        note = t.Annotation(source=source, index=3)
        yield self.updated(
            item,
            "AssistantMessageContentPartAnnotationAdded",
            content_index=0,
            annotation_index=0,
            annotation=note,
        )
        full = t.AssistantMessageContent(text="Hello wörld", annotations=[note])
        yield self.updated(item, "AssistantMessageContentPartDone", content_index=0, content=full)
        yield t.ThreadItemDoneEvent(item=item.model_copy(update={"content": [full]}))
        thread.metadata["secret"] = {"nested": None}

    async def whole_items(self, thread: Any) -> AsyncIterator[Any]:
        t = self.types
        yield t.ThreadItemDoneEvent(item=self.assistant_item(thread, "One", "Two"))
        base = {"id": self.new_id("x"), "thread_id": thread.id, "created_at": NOW}
        yield t.ThreadItemDoneEvent(item=t.EndOfTurnItem(**base))
        task = t.CustomTask(title="Look", status_indicator="loading", content="now")
        yield t.ThreadItemDoneEvent(item=t.TaskItem(**{**base, "id": self.new_id("x")}, task=task))
        yield t.ThreadItemDoneEvent(
            item=t.HiddenContextItem(**{**base, "id": self.new_id("x")}, content={"a": None})
        )

    async def asides(self, thread: Any) -> AsyncIterator[Any]:
        t = self.types
        yield t.ProgressUpdateEvent(icon="search", text="Looking")
        yield t.ClientEffectEvent(name="confetti", data={"n": 3, "nothing": None})
        yield t.NoticeEvent(level="warning", message="**Mind** the gap", title="Notice")
        yield t.ErrorEvent(code="custom", message="not fatal", allow_retry=True)
        yield t.ErrorEvent()

    async def workflow(self, thread: Any) -> AsyncIterator[Any]:
        t = self.types
        item = t.WorkflowItem(
            id=self.new_id("wf"),
            thread_id=thread.id,
            created_at=NOW,
            workflow=t.Workflow(type="reasoning", tasks=[]),
        )
        yield t.ThreadItemAddedEvent(item=item)
        thought = t.ThoughtTask(content="Hm")
        yield self.updated(item, "WorkflowTaskAdded", task_index=0, task=thought)
        thought = t.ThoughtTask(content="Hm, yes", title="Thinking")
        yield self.updated(item, "WorkflowTaskUpdated", task_index=0, task=thought)
        summary = t.DurationSummary(duration=3)
        done = t.Workflow(type="reasoning", tasks=[thought], summary=summary)
        yield t.ThreadItemDoneEvent(item=item.model_copy(update={"workflow": done}))

    async def image(self, thread: Any) -> AsyncIterator[Any]:
        t = self.types
        item = t.GeneratedImageItem(id=self.new_id("img"), thread_id=thread.id, created_at=NOW)
        yield t.ThreadItemAddedEvent(item=item)
        image = t.GeneratedImage(id="i1", url="data:image/png;base64,AA==")
        yield self.updated(item, "GeneratedImageUpdated", image=image, progress=0.5)
        yield t.ThreadItemDoneEvent(item=item.model_copy(update={"image": image}))

    def card(self, text: str, streaming: bool) -> Any:
        return self.sdk.widgets.DynamicWidgetRoot.model_validate(
            {
                "type": "Card",
                "children": [
                    {"type": "Text", "id": "body", "value": text, "streaming": streaming},
                    {"type": "Button", "label": "Go", "onClickAction": {"type": "go"}},
                ],
            }
        )

    async def widget(self, thread: Any) -> AsyncIterator[Any]:
        async def states() -> AsyncIterator[Any]:
            yield self.card("", True)
            yield self.card("Hello", True)
            yield self.card("Hello world", True)

        stream_widget = self.sdk.server.stream_widget
        async for event in stream_widget(thread, states(), generate_id=self.new_id):
            yield event
        async for event in stream_widget(
            thread, self.card("static", False), copy_text="copy", generate_id=self.new_id
        ):
            yield event

    async def replaced_and_removed(self, thread: Any) -> AsyncIterator[Any]:
        t = self.types
        first, second = self.assistant_item(thread, "a"), self.assistant_item(thread, "b")
        yield t.ThreadItemDoneEvent(item=first)
        yield t.ThreadItemDoneEvent(item=second)
        better = first.model_copy(update={"content": [t.AssistantMessageContent(text="better")]})
        yield t.ThreadItemReplacedEvent(item=better)
        yield t.ThreadItemRemovedEvent(item_id=second.id)

    async def custom_error(self, thread: Any) -> AsyncIterator[Any]:
        thread.title = "Before the error"
        yield self.types.ProgressUpdateEvent(text="soon")
        thread.title = "With the error"
        raise self.sdk.errors.CustomStreamError("Quota is used up", allow_retry=True)

    async def coded_error(self, thread: Any) -> AsyncIterator[Any]:
        yield self.types.ProgressUpdateEvent(text="soon")
        raise self.sdk.errors.StreamError(self.sdk.errors.ErrorCode.STREAM_ERROR)

    async def plain_error(self, thread: Any) -> AsyncIterator[Any]:
        yield self.types.ProgressUpdateEvent(text="soon")
        raise ZeroDivisionError("a secret")

    async def silence(self, thread: Any) -> AsyncIterator[Any]:
        return
        yield

    async def locking(self, thread: Any) -> AsyncIterator[Any]:
        thread.status = self.types.LockedStatus(reason="enough")
        thread.allowed_image_domains = ["example.com"]
        yield self.types.ProgressUpdateEvent(text="locked")

    async def tool_call(self, thread: Any) -> AsyncIterator[Any]:
        yield self.types.ThreadItemDoneEvent(
            item=self.types.ClientToolCallItem(
                id=self.new_id("tc"),
                thread_id=thread.id,
                created_at=NOW,
                status="pending",
                call_id="call_1",
                name="get_stations",
                arguments={"line": "red", "none": None},
            )
        )

    async def questions(self, thread: Any) -> AsyncIterator[Any]:
        t = self.types
        options = [
            t.StructuredInputMultipleChoiceOption(value="red"),
            t.StructuredInputMultipleChoiceOption(value="blue"),
        ]
        yield t.ThreadItemDoneEvent(
            item=t.StructuredInputItem(
                id=self.new_id("si"),
                thread_id=thread.id,
                created_at=NOW,
                status="pending",
                inputs=[
                    t.StructuredInputMultipleChoice(id="q1", question="Colour?", options=options),
                    t.StructuredInputFreeform(id="q2", question="Why?", description="In short"),
                    t.StructuredInputFreeform(id="q3", question="Else?"),
                ],
            )
        )

    async def after_input(self, thread: Any) -> AsyncIterator[Any]:
        yield self.types.ThreadItemDoneEvent(item=self.assistant_item(thread, "Thanks"))

    async def action(self, thread: Any, action: Any, sender: Any, context: Any) -> Any:
        t = self.types
        yield t.ThreadItemDoneEvent(item=self.assistant_item(thread, f"{action.type} {sender.id}"))
        yield t.ThreadItemUpdatedEvent(
            item_id=sender.id, update=t.WidgetRootUpdated(widget=self.card("changed", False))
        )

    async def sync_action(self, thread: Any, action: Any, sender: Any, context: Any) -> Any:
        item = sender.model_copy(update={"widget": self.card(str(action.payload), False)})
        return self.types.SyncCustomActionResponse(updated_item=item)

    async def transcribe(self, audio_input: Any, context: Any) -> Any:
        text = f"{audio_input.data!r} {audio_input.mime_type} {audio_input.media_type}"
        return self.types.TranscriptionResult(text=text)


def say(text: str, thread_id: str | None = None, **extra: Any) -> dict[str, Any]:
    user_input = {
        "content": [{"type": "input_text", "text": text}],
        "attachments": [],
        "inference_options": {},
        **extra,
    }
    if thread_id is None:
        return {"type": "threads.create", "params": {"input": user_input}}
    params = {"thread_id": thread_id, "input": user_input}
    return {"type": "threads.add_user_message", "params": params}


def ask(request_type: str, /, **params: Any) -> dict[str, Any]:
    return {"type": request_type, "params": params}


_AUDIO = base64.b64encode(b"sound").decode()
_TAG = {"type": "input_tag", "id": "t1", "text": "@Ann", "data": {"n": 1}, "group": "people"}

CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "streamed text": [
        say("streamed text"),
        say("streamed text", "thread_1"),
        ask("threads.get_by_id", thread_id="thread_1"),
        ask("threads.list", limit=1, order="desc"),
        ask("items.list", thread_id="thread_1", limit=2, order="asc"),
        ask("items.list", thread_id="thread_1", limit=2, order="desc", after="msg_5"),
        ask("threads.update", thread_id="thread_1", title="Renamed"),
        ask("items.feedback", thread_id="thread_1", item_ids=["msg_3"], kind="positive"),
        ask("threads.delete", thread_id="thread_1"),
        ask("threads.list"),
    ],
    "rich input": [
        say(
            "silence",
            content=[{"type": "input_text", "text": "silence"}],
            quoted_text="before",
            inference_options={"model": "m", "tool_choice": {"id": "search"}},
        ),
        ask("threads.get_by_id", thread_id="thread_1"),
    ],
    "tags": [say("", content=[_TAG | {"text": "silence"}])],
    "whole items": [
        say("whole items"),
        ask("threads.get_by_id", thread_id="thread_1"),
        ask("items.list", thread_id="thread_1"),
    ],
    "asides": [say("asides")],
    "workflow": [say("workflow"), ask("items.list", thread_id="thread_1")],
    "image": [say("image"), ask("items.list", thread_id="thread_1")],
    "widget": [say("widget"), ask("items.list", thread_id="thread_1")],
    "replaced and removed": [
        say("replaced and removed"),
        ask("items.list", thread_id="thread_1"),
    ],
    "custom error": [say("custom error"), ask("threads.get_by_id", thread_id="thread_1")],
    "coded error": [say("coded error")],
    "plain error": [say("plain error"), say("silence", "thread_1")],
    "locking": [say("locking"), ask("threads.get_by_id", thread_id="thread_1")],
    "client tool": [
        say("tool call"),
        ask("threads.add_client_tool_output", thread_id="thread_1", result={"a": [1, None]}),
        ask("threads.get_by_id", thread_id="thread_1"),
    ],
    "structured input": [
        say("questions"),
        ask(
            "threads.add_structured_input",
            thread_id="thread_1",
            item_id="si_3",
            input={
                "status": "answered",
                "answers": {
                    "q1": {"values": ["red", "blue"]},
                    "q2": {"values": [], "skipped": True},
                    "unknown": {"values": ["x"]},
                },
            },
        ),
        ask("threads.get_by_id", thread_id="thread_1"),
    ],
    "structured input skipped": [
        say("questions"),
        ask(
            "threads.add_structured_input",
            thread_id="thread_1",
            item_id="si_3",
            input={"status": "skipped", "answers": {}},
        ),
    ],
    "retry": [
        say("whole items"),
        ask("threads.retry_after_item", thread_id="thread_1", item_id="message_2"),
        ask("items.list", thread_id="thread_1"),
    ],
    "actions": [
        say("widget"),
        ask(
            "threads.custom_action",
            thread_id="thread_1",
            item_id="message_3",
            action={"type": "go", "payload": {"x": 1}},
        ),
        ask(
            "threads.custom_action",
            thread_id="thread_1",
            item_id="message_2",
            action={"type": "go"},
        ),
        ask(
            "threads.sync_custom_action",
            thread_id="thread_1",
            item_id="message_4",
            action={"type": "go", "payload": [None, 2]},
        ),
    ],
    "dictation": [ask("input.transcribe", audio_base64=_AUDIO, mime_type="audio/webm;codecs=opus")],
    "attachments": [
        ask("attachments.create", name="a.png", size=3, mime_type="image/png"),
        say("silence", attachments=["attachment_1"]),
        ask("attachments.delete", attachment_id="attachment_1"),
    ],
}


def body(request: dict[str, Any]) -> str:
    return json.dumps(request)
