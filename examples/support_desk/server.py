"""A case at the desk, from its first message to its end.

- Who the customer is comes from the request (here: a cookie), and owns threads and files.
- A hidden item, stored once a thread, gives the model the customer's record; no client sees it.
- Files are sent in two phases: the page creates an attachment and uploads the file to its URL; then
  it sends the message.
- Speech becomes text in `transcribe`.
- Closing the case locks the thread: it can be read, and takes no more messages.
"""

from __future__ import annotations

import base64
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field
from quart import Request
from quart_trio import QuartTrio

from chatkit_trio.agents import AgentContext, ThreadItemConverter, run_model, tool
from chatkit_trio.server import ChatKitServer
from chatkit_trio.stores import SQLiteStore
from chatkit_trio.stores.attachments import DiskAttachmentStore
from chatkit_trio.types import (
    AudioInput,
    HiddenContextItem,
    LockedStatus,
    ThreadItemDoneEvent,
    TranscriptionResult,
)
from chatkit_trio.web import ChatPage, create_app
from examples._model import MODEL, Asked, Call, Say, open_model

from . import records

INSTRUCTIONS = (
    "You are the support desk of a bicycle workshop. A note tells you who the customer is. Use the"
    " tools; never promise what they don't say. Close the case when the customer is content."
)
SPOKEN = "My rear brake squeals when it rains."
READ_AT_MOST = 4000  # characters of a text file that the model gets

OrderNumber = Annotated[str, Field(description="The number of one of the customer's orders")]


@tool
async def order_status(context: AgentContext[str], number: OrderNumber) -> str:  # noqa: ASYNC124
    """Look up one of the customer's orders."""
    orders = {order.number: order for order in records.orders_of(context.request_context)}
    order = orders.get(number)
    return "no such order" if order is None else f"{order.thing}: {order.status}"


@tool
async def book_repair(context: AgentContext[str], problem: str) -> str:
    """Book a repair in the workshop."""
    await context.stream_progress("Looking into the workshop's calendar…", icon="calendar")
    context.thread.title = f"Repair: {problem[:40]}"
    return "Thursday at 9:30"


@tool
async def close_case(context: AgentContext[str], reason: str) -> str:  # noqa: ASYNC124 (as tools are)
    """Close the case: the customer can then write only in a new conversation."""
    context.thread.status = LockedStatus(reason=reason)
    return "closed"


class FileConverter(ThreadItemConverter):
    """Lets the model read text files and see images."""

    def __init__(self, files: DiskAttachmentStore[str], customer: str) -> None:
        self._files = files
        self._customer = customer

    async def attachment_to_message_content(self, attachment):
        data = await self._files.read_attachment(attachment.id, self._customer)
        if attachment.type == "image":
            url = f"data:{attachment.mime_type};base64,{base64.b64encode(data).decode()}"
            return {"type": "input_image", "detail": "auto", "image_url": url}
        is_text = attachment.mime_type.startswith("text/")
        words = data.decode(errors="replace")[:READ_AT_MOST] if is_text else "(not text)"
        return {"type": "input_text", "text": f"\nAttached {attachment.name}:\n{words}"}


class SupportDesk(ChatKitServer[str]):
    """The desk; its context is the customer's name."""

    attachment_store: DiskAttachmentStore[str]

    async def respond(self, thread, input_user_message, context):
        if not thread.metadata.get("briefed"):
            thread.metadata["briefed"] = True
            yield ThreadItemDoneEvent(item=self.briefing(thread, context))
        page = await self.store.load_thread_items(thread.id, None, 40, "desc", context)
        converter = FileConverter(self.attachment_store, context)
        agent = AgentContext(thread=thread, store=self.store, request_context=context)
        async with open_model(offline) as model:
            events = run_model(
                agent,
                model,
                model=MODEL,
                instructions=INSTRUCTIONS,
                input=await converter.to_agent_input(page.data[::-1]),
                tools=[order_status, book_repair, close_case],
            )
            async for event in events:
                yield event  # noqa: ASYNC119 (the turn closes this generator)

    def briefing(self, thread, customer: str) -> HiddenContextItem:
        return HiddenContextItem(
            id=self.store.generate_item_id("message", thread, customer),
            thread_id=thread.id,
            created_at=datetime.now(UTC),
            content=records.record_of(customer),
        )

    async def transcribe(self, audio_input: AudioInput, context: str) -> TranscriptionResult:
        if not os.environ.get("OPENAI_API_KEY"):
            return TranscriptionResult(text=SPOKEN)
        from openai import AsyncOpenAI  # imported here, because it is an extra

        recording = ("recording", audio_input.data, audio_input.media_type)
        async with AsyncOpenAI() as client:
            heard = await client.audio.transcriptions.create(
                model="gpt-4o-mini-transcribe", file=recording
            )
        return TranscriptionResult(text=heard.text)


def offline(asked: Asked) -> list[Say | Call]:
    """Do what a model would."""
    if "close_case" in asked.results:
        return [Say("Glad it's settled. I've closed this case; ride well!")]
    if "book_repair" in asked.results:
        when = asked.results["book_repair"][0]
        return [Say(f"Bring it in on **{when}**. Is there anything else?")]
    if "order_status" in asked.results:
        return [Say("Here is what I see:\n\n- " + "\n- ".join(asked.results["order_status"]))]
    return [_reply(asked)]


def _reply(asked: Asked) -> Say | Call:
    if "\nAttached " in asked.message:
        name, _, words = asked.message.partition("\nAttached ")[2].partition(":\n")
        return Say(f"Thank you, I've read *{name}*. It begins: “{words.splitlines()[0]}”")
    if asked.mentions("thank", "that's all", "close"):
        return Call("close_case", {"reason": "This case is closed."})
    if asked.mentions("repair", "brake", "broken", "squeal"):
        return Call("book_repair", {"problem": asked.message.strip(" .!")})
    if asked.mentions("order", "delivery", "where"):
        numbers = [word for word in asked.message.split() if word.strip("?.,").isdigit()]
        return Call("order_status", {"number": numbers[0].strip("?.,") if numbers else "1042"})
    return Say("Ask about an order, tell me what's broken, or attach a file or a photo.")


def customer_of(request: Request) -> str:
    """Return who is asking. A real desk takes it from its login."""
    return request.cookies.get("customer", "ines")


def make_app(directory: str | os.PathLike[str], origin: str) -> QuartTrio:
    """Return the app; `origin` is where browsers reach it, for the URLs of files."""
    store: SQLiteStore[str] = SQLiteStore(Path(directory, "support-desk.sqlite3"), owner=str)
    files: DiskAttachmentStore[str] = DiskAttachmentStore(
        Path(directory, "support-desk-files"),
        metadata=store,
        base_url=f"{origin}/attachments",
        secret=os.environ.get("SUPPORT_DESK_SECRET", "for this machine only"),
        max_bytes=5 * 1024 * 1024,
        accept=["image/*", "text/*", "application/pdf"],
        owner=str,
        context_for_owner=str,
    )
    return create_app(
        SupportDesk(store, files),
        context=customer_of,
        page=ChatPage(
            name="Support desk",
            greeting="What can we do for your bicycle?",
            prompts=["Where is order 1077?", "My front brake is broken", "Thanks, that's all!"],
        ),
    )


app = make_app(".", os.environ.get("ORIGIN", f"http://127.0.0.1:{os.environ.get('PORT', 8000)}"))
