"""Support of an airline: widgets that change a booking, files, dictation, a customer beside it."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any

from agents import Agent, RunContextWrapper, Runner, StopAtTools, function_tool
from attachment_store import LocalAttachmentStore
from chatkit.agents import AgentContext, ThreadItemConverter, stream_agent_response
from chatkit.server import ChatKitServer, StreamingResult
from chatkit.types import (
    Action,
    AssistantMessageContent,
    AssistantMessageItem,
    Attachment,
    AudioInput,
    ClientEffectEvent,
    HiddenContextItem,
    ImageAttachment,
    ThreadItemDoneEvent,
    ThreadItemUpdated,
    ThreadMetadata,
    ThreadStreamEvent,
    TranscriptionResult,
    UserMessageItem,
    WidgetItem,
    WidgetRootUpdated,
)
from chatkit.widgets import Button, Card, Title
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import Response, StreamingResponse
from memory_store import MemoryStore
from openai import OpenAI
from openai.types.responses import ResponseInputImageParam, ResponseInputTextParam
from openai.types.responses.response_input_item_param import Message

client = OpenAI()

Handler = Callable[
    [ThreadMetadata, Action[str, Any], WidgetItem | None, dict[str, Any]],
    AsyncIterator[ThreadStreamEvent],
]


class Customers:
    """What is known of the customer of each thread."""

    def __init__(self) -> None:
        self.meals: dict[str, str] = {}

    def to_dict(self, thread_id: str) -> dict[str, Any]:
        return {"meal": self.meals.get(thread_id)}


customers = Customers()


def meals_widget(selected: str | None = None) -> Card:
    return Card(
        key="meals",
        children=[
            Title(value="Which meal?", size="sm"),
            *(
                Button(
                    label=meal,
                    style="primary" if meal == selected else "secondary",
                    disabled=selected is not None,
                    onClickAction={"type": "support.set_meal", "payload": {"meal": meal}},
                )
                for meal in ("vegetarian", "none")
            ),
        ],
    )


@function_tool(description_override="Ask the customer for a meal.")
async def ask_for_meal(ctx: RunContextWrapper[AgentContext]) -> str:
    await ctx.context.stream_widget(meals_widget(), copy_text="Which meal?")
    return "The customer is asked."


@function_tool(description_override="Change the customer's seat.")
async def change_seat(ctx: RunContextWrapper[AgentContext], seat: str) -> str:
    if seat == "0A":
        raise ValueError("there is no such seat")
    return f"The seat is {seat}."


support_agent = Agent[AgentContext](
    name="Support",
    model="gpt-4.1-mini",
    instructions="Help the customer of an airline.",
    tools=[ask_for_meal, change_seat],
    tool_use_behavior=StopAtTools(stop_at_tool_names=["ask_for_meal"]),
)
title_agent = Agent(name="Title", model="gpt-5-nano", instructions="Write a title.")


class Converter(ThreadItemConverter):
    def __init__(self, files: LocalAttachmentStore) -> None:
        super().__init__()
        self.files = files

    async def attachment_to_message_content(
        self, attachment: Attachment
    ) -> ResponseInputImageParam | ResponseInputTextParam:
        data = self.files.files[attachment.id]
        if not isinstance(attachment, ImageAttachment):
            return ResponseInputTextParam(type="input_text", text=data.decode())
        url = f"data:{attachment.mime_type};base64,{base64.b64encode(data).decode()}"
        return ResponseInputImageParam(type="input_image", detail="auto", image_url=url)

    async def hidden_context_to_input(self, item: HiddenContextItem) -> Message:
        text = ResponseInputTextParam(type="input_text", text=str(item.content))
        return Message(type="message", content=[text], role="user")


class SupportServer(ChatKitServer[dict[str, Any]]):
    def __init__(self) -> None:
        store = MemoryStore()
        files = LocalAttachmentStore(store)
        super().__init__(store, attachment_store=files)
        self.store = store
        self.files = files
        self.converter = Converter(files)
        self._handlers: dict[str, Handler] = {"support.set_meal": self._set_meal}

    async def respond(
        self, thread: ThreadMetadata, item: UserMessageItem | None, context: dict[str, Any]
    ) -> AsyncIterator[ThreadStreamEvent]:
        if item is None:
            return
        title = asyncio.create_task(self._update_title(thread, item))
        page = await self.store.load_thread_items(
            thread.id, after=None, limit=20, order="desc", context=context
        )
        items = await self.converter.to_agent_input(list(reversed(page.data)))
        meal = Message(
            type="message",
            role="user",
            content=[
                ResponseInputTextParam(
                    type="input_text", text=f"<CUSTOMER>{customers.to_dict(thread.id)}</CUSTOMER>"
                )
            ],
        )
        agent_context = AgentContext(thread=thread, store=self.store, request_context=context)
        result = Runner.run_streamed(support_agent, [meal, *items], context=agent_context)
        async for event in stream_agent_response(agent_context, result):
            yield event
        await title

    async def action(
        self,
        thread: ThreadMetadata,
        action: Action[str, Any],
        sender: WidgetItem | None,
        context: dict[str, Any],
    ) -> AsyncIterator[ThreadStreamEvent]:
        handler = self._handlers.get(action.type)
        if handler is None:
            return
        async for event in handler(thread, action, sender, context):
            yield event

    async def _set_meal(
        self,
        thread: ThreadMetadata,
        action: Action[str, Any],
        sender: WidgetItem | None,
        context: dict[str, Any],
    ) -> AsyncIterator[ThreadStreamEvent]:
        meal = action.payload["meal"]
        customers.meals[thread.id] = meal
        if sender is not None:
            yield ThreadItemUpdated(
                item_id=sender.id,
                update=WidgetRootUpdated(widget=meals_widget(selected=meal)),
            )
        yield ThreadItemDoneEvent(
            item=AssistantMessageItem(
                thread_id=thread.id,
                id=self.store.generate_item_id("message", thread, context),
                created_at=datetime.now(),
                content=[AssistantMessageContent(text=f"Your meal is {meal} now.")],
            )
        )
        hidden = HiddenContextItem(
            id=self.store.generate_item_id("message", thread, context),
            thread_id=thread.id,
            created_at=datetime.now(),
            content=f"<WIDGET_ACTION>{action.type}: {meal}</WIDGET_ACTION>",
        )
        await self.store.add_thread_item(thread.id, hidden, context)
        yield ClientEffectEvent(
            name="customer/update", data={"customer": customers.to_dict(thread.id)}
        )

    async def transcribe(
        self, audio_input: AudioInput, context: dict[str, Any]
    ) -> TranscriptionResult:
        answer = client.audio.transcriptions.create(
            model="gpt-4o-transcribe", file=("audio.webm", audio_input.data, audio_input.mime_type)
        )
        return TranscriptionResult(text=answer.text)

    async def _update_title(self, thread: ThreadMetadata, item: UserMessageItem) -> None:
        if thread.title is not None:
            return
        run = await Runner.run(title_agent, input=await self.converter.to_agent_input(item))
        thread.title = run.final_output


server = SupportServer()
app = FastAPI(title="Support")
app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"])


def get_server() -> SupportServer:
    return server


@app.post("/support/chatkit")
async def chatkit_endpoint(
    request: Request,
    server: SupportServer = Depends(get_server),  # noqa: B008
) -> Response:
    result = await server.process(await request.body(), {"request": request})
    if isinstance(result, StreamingResult):
        return StreamingResponse(result, media_type="text/event-stream")
    return Response(content=result.json, media_type="application/json")


@app.post("/support/files/{attachment_id}", name="upload")
async def upload(
    attachment_id: str,
    request: Request,
    server: SupportServer = Depends(get_server),  # noqa: B008
) -> dict[str, Any]:
    data = await request.body()
    if not data:
        raise HTTPException(400, "The file is empty.")
    attachment = await server.store.load_attachment(attachment_id, {"request": request})
    server.files.files[attachment_id] = data
    return attachment.model_dump(mode="json")


@app.get("/support/files/{attachment_id}", name="content")
async def content(
    attachment_id: str,
    request: Request,
    server: SupportServer = Depends(get_server),  # noqa: B008
) -> Response:
    attachment = await server.store.load_attachment(attachment_id, {"request": request})
    return Response(content=server.files.files[attachment_id], media_type=attachment.mime_type)


@app.get("/support/customer")
async def customer(thread_id: str) -> dict[str, Any]:
    return {"customer": customers.to_dict(thread_id)}
