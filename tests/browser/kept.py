"""A server whose answers do what the message says, for the tests of what the page keeps."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import trio

from chatkit_trio.actions import Action
from chatkit_trio.limits import RequestLimits
from chatkit_trio.server import ChatKitServer, TurnPolicy, stream_text
from chatkit_trio.stores import DiskAttachmentStore, SQLiteStore
from chatkit_trio.types import (
    AudioInput,
    ClientEffectEvent,
    ClosedStatus,
    LockedStatus,
    NoticeEvent,
    StructuredInputFreeform,
    StructuredInputItem,
    StructuredInputMultipleChoice,
    StructuredInputMultipleChoiceOption,
    SyncCustomActionResponse,
    ThreadItemDoneEvent,
    ThreadMetadata,
    TranscriptionResult,
    UserMessageItem,
    WidgetItem,
)
from chatkit_trio.web import ChatPage, create_app
from chatkit_trio.widgets import Button, Card, Text

from .held import Held

held = Held()
"""The answers that are held at a number."""


async def words(text: str) -> AsyncIterator[str]:
    """Say what the message asks for: `count 200 every 10 ms`, `fail`; `say: ...`; or repeat it.

    `begin: ...` says it and stops there, `5 times: ...` repeats it. `count 9 every 10 ms, held at
    3` says 3, and no more before it is let go.
    """
    if text.startswith(("say:", "begin:")):
        yield text.partition(":")[2]
        if text.startswith("begin:"):
            await trio.sleep_forever()
        return
    if repeating := re.match(r"(\d+) times: (.*)", text, re.DOTALL):
        yield repeating[2] * int(repeating[1])
        return
    counting = re.search(r"count (\d+) every (\d+) ms(?:, held at (\d+))?", text)
    if counting is None:
        yield f"You said: {text}"
    else:
        for number in range(1, int(counting[1]) + 1):
            yield f"{number}\n\n"
            if str(number) == counting[3]:
                await held.wait()
            await trio.sleep(int(counting[2]) / 1000)
    if "fail" in text:
        raise OSError("the model is away")


def card(count: int) -> Card:
    """A card that says how often it was pressed, with a button for each way to tell the server."""
    pressed: Any = {"type": "pressed", "streaming": False}
    told: Any = {"type": "told"}
    return Card(
        children=[
            Text(value=f"Pressed {count} times"),
            Button(label="Press", onClickAction=pressed),
            Button(label="Tell", onClickAction=told),
        ]
    )


class Server(ChatKitServer[None]):
    presses: ClassVar[Counter[str]] = Counter()
    """How often what is on a card was pressed, by thread."""

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
        if text.startswith("widget:"):
            yield ThreadItemDoneEvent(item=self._card(thread, text.removeprefix("widget:")))
            return
        if "silent" in text:
            await trio.sleep_forever()
        if "lock this" in text:
            thread.status = LockedStatus(reason="Ann is looking at it.")
        if "close this" in text:
            thread.status = ClosedStatus()
        if "effect" in text:
            yield ClientEffectEvent(name="blink", data={})
        if "notice" in text:
            yield NoticeEvent(level="info", message="Mind the gap")
        if "card" in text:
            yield ThreadItemDoneEvent(item=self._card(thread))
            return
        if "questions" in text:
            yield ThreadItemDoneEvent(item=self._form(thread, int(text.split()[0])))
            return
        async for event in stream_text(thread, words(text)):
            yield event

    async def action(
        self, thread: ThreadMetadata, action: Action[str, Any], sender: Any, context: None
    ) -> AsyncIterator[Any]:
        self.presses[thread.id] += 1
        async for event in stream_text(thread, [f"Told {self.presses[thread.id]} times"]):
            yield event

    async def sync_action(
        self, thread: ThreadMetadata, action: Action[str, Any], sender: Any, context: None
    ) -> SyncCustomActionResponse:
        await trio.lowlevel.checkpoint()
        self.presses[thread.id] += 1
        widget = card(self.presses[thread.id])
        return SyncCustomActionResponse(updated_item=sender.model_copy(update={"widget": widget}))

    async def transcribe(self, audio_input: AudioInput, context: None) -> TranscriptionResult:
        await trio.lowlevel.checkpoint()
        return TranscriptionResult(text="buy oranges")

    def _card(self, thread: ThreadMetadata, widget: str | None = None) -> WidgetItem:
        return WidgetItem(
            id=self.store.generate_item_id("message", thread, None),
            thread_id=thread.id,
            created_at=datetime.now(UTC),
            widget=Card.model_validate_json(widget) if widget else card(0),
        )

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
    policy=TurnPolicy(on_busy=os.environ.get("KEPT_ON_BUSY", "supersede")),  # type: ignore[arg-type]
    limits=RequestLimits(attachments=2, text_chars=20_000),
)
app = create_app(server, page=ChatPage(prompts=["Say something", "And more"]))


@app.get("/let-go")
async def let_go() -> str:
    """Let an answer go on that is held, or is about to be."""
    return await held.let_go()
