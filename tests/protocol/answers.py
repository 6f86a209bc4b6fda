"""What the server of the recorded protocol answers: docs/reference/protocol.md has this as a table.

Written against the names that the original and chatkit_trio share; `sdk` is whichever has been
imported, and `sleep` is its event loop's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from typing import Any


def answering_server(sdk: Any, sleep: Callable[[float], Awaitable[None]]) -> Any:
    """Return the class of a server whose answer depends on the text of the message."""
    t = sdk.types

    class AnsweringServer(sdk.server.ChatKitServer):
        async def respond(self, thread: Any, message: Any, context: Any) -> AsyncIterator[Any]:
            text = "".join(part.text for part in message.content) if message else "words"
            async for event in getattr(self, text)(thread, context):
                yield event

        async def words(self, thread: Any, context: Any, pause: float = 0) -> AsyncIterator[Any]:
            item = self.begun(thread, context)
            yield t.ThreadItemAddedEvent(item=item)
            text = ""
            for word in ("One ", "two ", "three."):
                text += word
                yield self.delta(item, word)
                await sleep(pause)
            yield t.ThreadItemDoneEvent(item=self.with_text(item, text))

        async def slowly(self, thread: Any, context: Any) -> AsyncIterator[Any]:
            async for event in self.words(thread, context, 0.3):
                yield event

        async def title(self, thread: Any, context: Any) -> AsyncIterator[Any]:
            thread.title = "A title"
            async for event in self.words(thread, context):
                yield event

        async def wait(self, thread: Any, context: Any) -> AsyncIterator[Any]:
            item = self.begun(thread, context)
            yield t.ThreadItemAddedEvent(item=item)
            yield self.delta(item, "One ")
            await sleep(3600)

        async def widget(self, thread: Any, context: Any) -> AsyncIterator[Any]:
            button = {"type": "Button", "label": "Go", "onClickAction": {"type": "go"}}
            card = {"type": "Card", "children": [{"type": "Text", "value": "Shall I?"}, button]}
            widget = t.WidgetItem.model_validate({**self.head(thread, context), "widget": card})
            yield t.ThreadItemDoneEvent(item=widget)

        async def tool(self, thread: Any, context: Any) -> AsyncIterator[Any]:
            call = {"call_id": "call_1", "name": "choose", "arguments": {"from": [1, 2]}}
            item = t.ClientToolCallItem(**self.head(thread, context), status="pending", **call)
            yield t.ThreadItemDoneEvent(item=item)

        async def asides(self, thread: Any, context: Any) -> AsyncIterator[Any]:
            yield t.ProgressUpdateEvent(icon="search", text="Looking")
            yield t.ClientEffectEvent(name="confetti", data={"n": 3})
            yield t.NoticeEvent(level="warning", message="Mind the gap")

        async def error(self, thread: Any, context: Any) -> AsyncIterator[Any]:
            if thread.id:
                raise sdk.errors.CustomStreamError("No more today.", allow_retry=False)
            yield

        async def action(
            self, thread: Any, action: Any, sender: Any, context: Any
        ) -> AsyncIterator[Any]:
            async for event in self.words(thread, context):
                yield event

        async def add_feedback(self, *arguments: Any) -> None:
            """Take it, and do nothing."""

        def head(self, thread: Any, context: Any) -> dict[str, Any]:
            id_ = self.store.generate_item_id("message", thread, context)
            return {
                "id": id_,
                "thread_id": thread.id,
                "created_at": datetime.now(thread.created_at.tzinfo),
            }

        def begun(self, thread: Any, context: Any) -> Any:
            return t.AssistantMessageItem(**self.head(thread, context), content=[])

        def with_text(self, item: Any, text: str) -> Any:
            return item.model_copy(update={"content": [t.AssistantMessageContent(text=text)]})

        def delta(self, item: Any, text: str) -> Any:
            delta = t.AssistantMessageContentPartTextDelta(content_index=0, delta=text)
            return t.ThreadItemUpdatedEvent(item_id=item.id, update=delta)

    return AnsweringServer
