"""A metro map: a client that selects what the model asks about, and a title beside the answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any

from agents import Agent, RunContextWrapper, Runner, StopAtTools, function_tool
from chatkit.agents import AgentContext, ClientToolCall, ThreadItemConverter, stream_agent_response
from chatkit.server import ChatKitServer, StreamingResult
from chatkit.types import (
    Action,
    AssistantMessageContent,
    AssistantMessageItem,
    ClientEffectEvent,
    HiddenContextItem,
    ProgressUpdateEvent,
    ThreadItemDoneEvent,
    ThreadItemReplacedEvent,
    ThreadMetadata,
    ThreadStreamEvent,
    UserMessageItem,
    UserMessageTagContent,
    WidgetItem,
)
from chatkit.widgets import Button, Card, Row, Text
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from memory_store import MemoryStore
from openai.types.responses import ResponseInputTextParam
from openai.types.responses.response_input_item_param import Message
from pydantic import BaseModel, ConfigDict, Field

LINES = {"red": "Red line", "blue": "Blue line"}


class RequestContext(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    request: Any
    map_id: str | None = None


class Metro:
    def __init__(self) -> None:
        self.stations: dict[str, list[str]] = {"red": ["North"], "blue": ["Harbour"]}


class MetroContext(AgentContext):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    metro: Annotated[Metro, Field(exclude=True)]
    request_context: Annotated[RequestContext, Field(exclude=True)]


def lines_widget(selected: str | None = None) -> Card:
    return Card(
        key="lines",
        children=[
            Row(
                children=[
                    Text(value=f"{name}{' *' if key == selected else ''}"),
                    Button(
                        label="Choose",
                        disabled=selected is not None,
                        onClickAction={"type": "line.select", "payload": {"id": key}},
                    ),
                ]
            )
            for key, name in LINES.items()
        ],
    )


@function_tool(description_override="Show the lines, so that the user chooses one.")
async def show_lines(ctx: RunContextWrapper[MetroContext]) -> str:
    await ctx.context.stream(ProgressUpdateEvent(icon="map-pin", text="Looking at the map"))
    await ctx.context.stream_widget(lines_widget())
    return "The user sees the lines."


@function_tool(description_override="Add a station to a line.")
async def add_station(ctx: RunContextWrapper[MetroContext], line: str, name: str) -> str:
    stations = ctx.context.metro.stations[line]
    stations.append(name)
    await ctx.context.stream(ClientEffectEvent(name="add_station", data={"stations": stations}))
    return f"{name} is on the {LINES[line]}."


@function_tool(description_override="Ask which stations are selected on the user's canvas.")
async def get_selected(ctx: RunContextWrapper[MetroContext]) -> str:
    ctx.context.client_tool_call = ClientToolCall(
        name="get_selected", arguments={"map": ctx.context.request_context.map_id}
    )
    return "The client is asked."


metro_agent = Agent[MetroContext](
    name="Metro",
    model="gpt-4.1-mini",
    instructions="Help the user to plan a metro.",
    tools=[show_lines, add_station, get_selected],
    tool_use_behavior=StopAtTools(stop_at_tool_names=["show_lines", "get_selected"]),
)
title_agent = Agent(name="Title", model="gpt-5-nano", instructions="Write a title.")


class Converter(ThreadItemConverter):
    async def hidden_context_to_input(self, item: HiddenContextItem) -> Message:
        text = ResponseInputTextParam(type="input_text", text=str(item.content))
        return Message(type="message", content=[text], role="user")

    async def tag_to_message_content(self, tag: UserMessageTagContent) -> ResponseInputTextParam:
        return ResponseInputTextParam(type="input_text", text=f"<STATION>{tag.text}</STATION>")


class MetroServer(ChatKitServer[RequestContext]):
    def __init__(self) -> None:
        self.store: MemoryStore = MemoryStore()
        super().__init__(self.store)
        self.metro = Metro()
        self.converter = Converter()

    async def respond(
        self, thread: ThreadMetadata, item: UserMessageItem | None, context: RequestContext
    ) -> AsyncIterator[ThreadStreamEvent]:
        updating_title = asyncio.create_task(self._update_title(thread, item, context))
        page = await self.store.load_thread_items(
            thread.id, after=None, limit=20, order="desc", context=context
        )
        items = await self.converter.to_agent_input(list(reversed(page.data)))
        agent_context = MetroContext(
            thread=thread, store=self.store, metro=self.metro, request_context=context
        )
        result = Runner.run_streamed(metro_agent, items, context=agent_context)
        async for event in stream_agent_response(agent_context, result):
            yield event
        await updating_title

    async def action(
        self,
        thread: ThreadMetadata,
        action: Action[str, Any],
        sender: WidgetItem | None,
        context: RequestContext,
    ) -> AsyncIterator[ThreadStreamEvent]:
        if action.type != "line.select" or action.payload is None:
            return
        line = action.payload["id"]
        if sender:
            widget = lines_widget(selected=line)
            yield ThreadItemReplacedEvent(item=sender.model_copy(update={"widget": widget}))
        await self.store.add_thread_item(
            thread.id,
            HiddenContextItem(
                id=self.store.generate_item_id("message", thread, context),
                thread_id=thread.id,
                created_at=datetime.now(),
                content=f"<LINE_SELECTED>{line}</LINE_SELECTED>",
            ),
            context=context,
        )
        yield ThreadItemDoneEvent(
            item=AssistantMessageItem(
                thread_id=thread.id,
                id=self.store.generate_item_id("message", thread, context),
                created_at=datetime.now(),
                content=[AssistantMessageContent(text="At its beginning or its end?")],
            )
        )
        yield ClientEffectEvent(name="select_place", data={"line": line})

    async def _update_title(
        self, thread: ThreadMetadata, message: UserMessageItem | None, context: RequestContext
    ) -> None:
        if message is None or thread.title is not None:
            return
        run = await Runner.run(title_agent, input=await self.converter.to_agent_input(message))
        thread.title = run.final_output.strip(".")
        await self.store.save_thread(thread, context=context)


server = MetroServer()
app = FastAPI(title="Metro")


@app.post("/chatkit")
async def chatkit_endpoint(request: Request) -> Response:
    context = RequestContext(request=request, map_id=request.headers.get("map-id"))
    result = await server.process(await request.body(), context)
    if isinstance(result, StreamingResult):
        return StreamingResponse(result, media_type="text/event-stream")
    return Response(content=result.json, media_type="application/json")


@app.get("/map")
async def read_map() -> dict[str, Any]:
    return {"stations": server.metro.stations}
