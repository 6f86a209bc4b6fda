"""A guide to news: three agents, one of which is another's tool; mentions; widgets that stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any

from agents import Agent, RunContextWrapper, Runner, StopAtTools, function_tool
from chatkit.agents import AgentContext, ThreadItemConverter, stream_agent_response
from chatkit.server import ChatKitServer, StreamingResult
from chatkit.types import (
    Action,
    AssistantMessageContent,
    AssistantMessageItem,
    CustomTask,
    HiddenContextItem,
    ProgressUpdateEvent,
    ThreadItemDoneEvent,
    ThreadItemUpdated,
    ThreadMetadata,
    ThreadStreamEvent,
    UserMessageItem,
    UserMessageTagContent,
    WidgetItem,
    WidgetRootUpdated,
    Workflow,
)
from chatkit.widgets import Button, Card, ListView, ListViewItem, Text
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from memory_store import MemoryStore
from openai.types.responses import ResponseInputTextParam
from openai.types.responses.response_input_item_param import Message
from pydantic import BaseModel, ConfigDict, Field

ARTICLES = {"parade": "An unplanned parade", "pies": "Pies for all"}
EVENTS = {"fair": "A fair", "concert": "A concert"}


class RequestContext(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    request: Any
    article_id: str | None = None


class NewsContext(AgentContext):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    articles: Annotated[dict[str, str], Field(exclude=True)]
    request_context: Annotated[RequestContext, Field(exclude=True)]


def events_widget(chosen: str | None = None) -> ListView:
    return ListView(
        children=[
            ListViewItem(
                key=key,
                onClickAction={"type": "view_event", "payload": {"id": key}},
                children=[Text(value=f"{name}: open" if key == chosen else name)],
            )
            for key, name in EVENTS.items()
        ]
    )


@function_tool(description_override="Get the article that the user is looking at.")
async def get_current_article(ctx: RunContextWrapper[NewsContext]) -> str:
    article_id = ctx.context.request_context.article_id
    await ctx.context.stream(ProgressUpdateEvent(icon="document", text="Loading the article"))
    return ctx.context.articles.get(article_id or "", "There is no article.")


@function_tool(description_override="Show articles.")
async def show_articles(ctx: RunContextWrapper[NewsContext], intro: str) -> str:
    async def grow() -> AsyncIterator[Card]:
        text = ""
        for word in intro.split():
            text = f"{text} {word}".strip()
            yield Card(children=[Text(id="intro", value=text, streaming=text != intro)])
        yield Card(
            children=[
                Text(id="intro", value=intro, streaming=False),
                *(
                    Button(
                        label=title,
                        onClickAction={"type": "open_article", "payload": {"id": article_id}},
                    )
                    for article_id, title in ARTICLES.items()
                ),
            ]
        )

    await ctx.context.stream_widget(grow())
    return "The user sees the articles."


@function_tool(description_override="Show events.")
async def show_events(ctx: RunContextWrapper[AgentContext]) -> str:
    await ctx.context.start_workflow(Workflow(type="custom", tasks=[]))
    await ctx.context.add_workflow_task(CustomTask(title="Looked at the calendar", icon="calendar"))
    await ctx.context.end_workflow()
    await ctx.context.stream_widget(events_widget())
    return "The user sees the events."


event_agent = Agent[AgentContext](
    name="Events",
    model="gpt-4.1-mini",
    instructions="Find events.",
    tools=[show_events],
    tool_use_behavior=StopAtTools(stop_at_tool_names=["show_events"]),
)
puzzle_agent = Agent[AgentContext](
    name="Puzzles", model="gpt-4.1-mini", instructions="Make puzzles."
)
news_agent = Agent[NewsContext](
    name="News",
    model="gpt-4.1-mini",
    instructions="Help the user to read news.",
    tools=[
        get_current_article,
        show_articles,
        puzzle_agent.as_tool(tool_name="ask_puzzles", tool_description="Have a puzzle made."),
    ],
    tool_use_behavior=StopAtTools(stop_at_tool_names=["show_articles"]),
)
title_agent = Agent(name="Title", model="gpt-5-nano", instructions="Write a title.")


class Converter(ThreadItemConverter):
    async def tag_to_message_content(self, tag: UserMessageTagContent) -> ResponseInputTextParam:
        title = ARTICLES.get(tag.id, tag.text)
        return ResponseInputTextParam(type="input_text", text=f"<ARTICLE>{title}</ARTICLE>")

    async def hidden_context_to_input(self, item: HiddenContextItem) -> Message:
        text = ResponseInputTextParam(type="input_text", text=str(item.content))
        return Message(type="message", content=[text], role="user")


class NewsServer(ChatKitServer[RequestContext]):
    def __init__(self) -> None:
        self.store: MemoryStore = MemoryStore()
        super().__init__(self.store)
        self.converter = Converter()

    async def respond(
        self, thread: ThreadMetadata, item: UserMessageItem | None, context: RequestContext
    ) -> AsyncIterator[ThreadStreamEvent]:
        updating_title = asyncio.create_task(self._update_title(thread, item))
        page = await self.store.load_thread_items(
            thread.id, after=None, limit=20, order="desc", context=context
        )
        items = await self.converter.to_agent_input(list(reversed(page.data)))
        agent, agent_context = self._agent_for(thread, item, context)
        result = Runner.run_streamed(agent, items, context=agent_context)
        async for event in stream_agent_response(agent_context, result):
            yield event
        await updating_title

    def _agent_for(
        self, thread: ThreadMetadata, item: UserMessageItem | None, context: RequestContext
    ) -> tuple[Agent[Any], AgentContext[Any]]:
        choice = item.inference_options.tool_choice if item else None
        plain = AgentContext(thread=thread, store=self.store, request_context=context)
        if choice is not None and choice.id == "event_finder":
            return event_agent, plain
        if choice is not None and choice.id == "puzzle":
            return puzzle_agent, plain
        return news_agent, NewsContext(
            thread=thread, store=self.store, articles=ARTICLES, request_context=context
        )

    async def action(
        self,
        thread: ThreadMetadata,
        action: Action[str, Any],
        sender: WidgetItem | None,
        context: RequestContext,
    ) -> AsyncIterator[ThreadStreamEvent]:
        chosen = action.payload.get("id")
        if action.type == "view_event" and sender is not None and chosen in EVENTS:
            yield ThreadItemUpdated(
                item_id=sender.id, update=WidgetRootUpdated(widget=events_widget(chosen))
            )
        if action.type == "open_article":
            yield ThreadItemDoneEvent(
                item=AssistantMessageItem(
                    thread_id=thread.id,
                    id=self.store.generate_item_id("message", thread, context),
                    created_at=datetime.now(),
                    content=[AssistantMessageContent(text=f"A summary of _{ARTICLES[chosen]}_?")],
                )
            )

    async def _update_title(self, thread: ThreadMetadata, message: UserMessageItem | None) -> None:
        if message is None or thread.title is not None:
            return
        run = await Runner.run(title_agent, input=await self.converter.to_agent_input(message))
        thread.title = run.final_output[:1].upper() + run.final_output[1:]


server = NewsServer()
app = FastAPI(title="News")


@app.post("/chatkit")
async def chatkit_endpoint(request: Request) -> Response:
    article_id = request.headers.get("article-id")
    context = RequestContext(request=request, article_id=article_id)
    result = await server.process(await request.body(), context)
    if isinstance(result, StreamingResult):
        return StreamingResponse(result, media_type="text/event-stream")
    return Response(content=result.json, media_type="application/json")


@app.get("/articles")
async def list_articles() -> dict[str, Any]:
    return {"articles": ARTICLES}
