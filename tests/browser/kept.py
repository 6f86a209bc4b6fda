"""A server whose answers do what the message says, for the tests of what the page keeps."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import trio

from chatkit_trio.limits import RequestLimits
from chatkit_trio.server import ChatKitServer, stream_text
from chatkit_trio.stores import DiskAttachmentStore, SQLiteStore
from chatkit_trio.types import (
    AudioInput,
    ClosedStatus,
    LockedStatus,
    StructuredInputFreeform,
    StructuredInputItem,
    StructuredInputMultipleChoice,
    StructuredInputMultipleChoiceOption,
    ThreadItemDoneEvent,
    ThreadMetadata,
    TranscriptionResult,
    UserMessageItem,
)
from chatkit_trio.web import ChatPage, create_app


async def words(text: str) -> AsyncIterator[str]:
    """Say what the message asks for: `count 200 every 10 ms`, `fail`; `say: ...`; or repeat it.

    `begin: ...` says it and stops there.
    """
    if text.startswith(("say:", "begin:")):
        yield text.partition(":")[2]
        if text.startswith("begin:"):
            await trio.sleep_forever()
        return
    counting = re.search(r"count (\d+) every (\d+) ms", text)
    if counting is None:
        yield f"You said: {text}"
    else:
        for number in range(1, int(counting[1]) + 1):
            yield f"{number}\n\n"
            await trio.sleep(int(counting[2]) / 1000)
    if "fail" in text:
        raise OSError("the model is away")


class Server(ChatKitServer[None]):
    async def add_feedback(self, *_: Any) -> None:
        await trio.lowlevel.checkpoint()

    async def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: None
    ) -> AsyncIterator[Any]:
        if input_user_message is None:
            async for event in stream_text(thread, [await self._given(thread)]):
                yield event
            return
        parts = input_user_message.content
        text = "".join(part.text for part in parts if part.type == "input_text")
        if "silent" in text:
            await trio.sleep_forever()
        if "lock this" in text:
            thread.status = LockedStatus(reason="Ann is looking at it.")
        if "close this" in text:
            thread.status = ClosedStatus()
        if "questions" in text:
            yield ThreadItemDoneEvent(item=self._form(thread, int(text.split()[0])))
            return
        async for event in stream_text(thread, words(text)):
            yield event

    async def transcribe(self, audio_input: AudioInput, context: None) -> TranscriptionResult:
        await trio.lowlevel.checkpoint()
        return TranscriptionResult(text="buy oranges")

    def _form(self, thread: ThreadMetadata, count: int) -> StructuredInputItem:
        options = [StructuredInputMultipleChoiceOption(value=each) for each in ("Yes", "No")]
        inputs: list[Any] = [
            StructuredInputMultipleChoice(id=f"q{n}", question=f"Question {n}?", options=options)
            for n in range(1, count)
        ]
        last = StructuredInputFreeform(id="last", question="Anything else?")
        return StructuredInputItem(
            id=self.store.generate_item_id("message", thread, None),
            thread_id=thread.id,
            created_at=datetime.now(UTC),
            inputs=[*inputs, last],
        )

    async def _given(self, thread: ThreadMetadata) -> str:
        page = await self.store.load_thread_items(thread.id, None, 1, "desc", None)
        item = page.data[0]
        assert isinstance(item, StructuredInputItem)
        answers = [each.answer for each in item.inputs]
        return str([answer.values if answer else None for answer in answers])


database = Path(os.environ["KEPT_DATABASE"])
store = SQLiteStore[None](database)
files = DiskAttachmentStore[None](
    database.parent / "files",
    metadata=store,
    base_url=f"{os.environ['KEPT_URL']}/attachments",
    secret="of these tests, and long enough",
    max_bytes=20_000,
    accept=["image/*", "text/plain"],
)
server = Server(
    store,
    files,
    journal_interval=0.1,
    limits=RequestLimits(attachments=2, text_chars=20_000),
)
app = create_app(server, page=ChatPage(prompts=["Say something", "And more"]))
