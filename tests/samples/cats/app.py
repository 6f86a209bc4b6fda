"""A cat to look after: a state beside the thread, tools that change it, widgets that name it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any

from agents import Agent, ImageGenerationTool, RunContextWrapper, Runner, StopAtTools, function_tool
from chatkit.agents import (
    AgentContext,
    ResponseStreamConverter,
    ThreadItemConverter,
    stream_agent_response,
)
from chatkit.server import ChatKitServer, StreamingResult
from chatkit.types import (
    Action,
    AssistantMessageContent,
    AssistantMessageItem,
    ClientEffectEvent,
    HiddenContextItem,
    StreamOptions,
    ThreadItemDoneEvent,
    ThreadItemReplacedEvent,
    ThreadMetadata,
    ThreadStreamEvent,
    UserMessageItem,
    WidgetItem,
)
from chatkit.widgets import WidgetTemplate
from fastapi import Depends, FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from memory_store import MemoryStore
from openai.types.responses import ResponseInputTextParam
from openai.types.responses.response_input_item_param import Message
from pydantic import ConfigDict, Field

names_template = WidgetTemplate.from_file("names.widget")


class Cats:
    """What each thread's cat is like."""

    def __init__(self) -> None:
        self._cats: dict[str, dict[str, Any]] = {}

    async def load(self, thread_id: str) -> dict[str, Any]:
        return self._cats.setdefault(thread_id, {"name": None, "energy": 5})


class CatContext(AgentContext):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    cats: Annotated[Cats, Field(exclude=True)]


async def _note(context: CatContext, content: str) -> None:
    await context.store.add_thread_item(
        context.thread.id,
        HiddenContextItem(
            id=context.store.generate_item_id("message", context.thread, context.request_context),
            thread_id=context.thread.id,
            created_at=datetime.now(),
            content=content,
        ),
        context=context.request_context,
    )


@function_tool(description_override="Feed the cat.")
async def feed_cat(ctx: RunContextWrapper[CatContext], meal: str) -> str:
    cat = await ctx.context.cats.load(ctx.context.thread.id)
    cat["energy"] += 3
    await _note(ctx.context, f"<FED_CAT>{meal}</FED_CAT>")
    await ctx.context.stream(ClientEffectEvent(name="update_cat", data=dict(cat)))
    return f"The cat has eaten {meal}. Energy: {cat['energy']}"


@function_tool(description_override="Suggest names for the cat.")
async def suggest_names(ctx: RunContextWrapper[CatContext], names: list[str]) -> str:
    await _note(ctx.context, f"<SUGGESTED>{', '.join(names)}</SUGGESTED>")
    await ctx.context.stream_widget(
        names_template.build({"names": [{"name": name} for name in names], "chosen": ""}),
        copy_text=", ".join(names),
    )
    return "The user sees the names."


cat_agent = Agent[CatContext](
    name="Cat",
    model="gpt-4.1-mini",
    instructions="Help the user to look after a cat.",
    tools=[
        feed_cat,
        suggest_names,
        ImageGenerationTool(tool_config={"type": "image_generation", "partial_images": 3}),
    ],
    tool_use_behavior=StopAtTools(stop_at_tool_names=["suggest_names"]),
)


class Converter(ThreadItemConverter):
    async def hidden_context_to_input(self, item: HiddenContextItem) -> Message:
        text = ResponseInputTextParam(type="input_text", text=str(item.content))
        return Message(type="message", content=[text], role="user")


class CatServer(ChatKitServer[dict[str, Any]]):
    def __init__(self) -> None:
        self.store: MemoryStore = MemoryStore()
        super().__init__(self.store)
        self.cats = Cats()
        self.converter = Converter()

    async def respond(
        self, thread: ThreadMetadata, item: UserMessageItem | None, context: dict[str, Any]
    ) -> AsyncIterator[ThreadStreamEvent]:
        agent_context = CatContext(
            thread=thread, store=self.store, cats=self.cats, request_context=context
        )
        page = await self.store.load_thread_items(
            thread.id, after=None, limit=20, order="desc", context=context
        )
        items = await self.converter.to_agent_input(list(reversed(page.data)))
        result = Runner.run_streamed(cat_agent, items, context=agent_context)
        async for event in stream_agent_response(
            agent_context, result, converter=ResponseStreamConverter(partial_images=3)
        ):
            yield event

    async def action(
        self,
        thread: ThreadMetadata,
        action: Action[str, Any],
        sender: WidgetItem | None,
        context: dict[str, Any],
    ) -> AsyncIterator[ThreadStreamEvent]:
        if action.type != "cats.name" or sender is None:
            return
        name = action.payload["name"]
        cat = await self.cats.load(thread.id)
        cat["name"] = name
        thread.title = f"Lounge of {name}"
        await self.store.save_thread(thread, context)
        widget = names_template.build({"names": [{"name": name}], "chosen": name})
        yield ThreadItemReplacedEvent(item=sender.model_copy(update={"widget": widget}))
        await self.store.add_thread_item(
            thread.id,
            HiddenContextItem(
                id=self.store.generate_item_id("message", thread, context),
                thread_id=thread.id,
                created_at=datetime.now(),
                content=f"<NAMED>{name}</NAMED>",
            ),
            context=context,
        )
        yield ThreadItemDoneEvent(
            item=AssistantMessageItem(
                id=self.store.generate_item_id("message", thread, context),
                thread_id=thread.id,
                created_at=datetime.now(),
                content=[AssistantMessageContent(text=f"{name} likes that name.")],
            )
        )

    def get_stream_options(self, thread: ThreadMetadata, context: dict[str, Any]) -> StreamOptions:
        return StreamOptions(allow_cancel=False)


server = CatServer()
app = FastAPI(title="Cats")


def get_server() -> CatServer:
    return server


@app.post("/chatkit")
async def chatkit_endpoint(
    request: Request,
    server: CatServer = Depends(get_server),  # noqa: B008
) -> Response:
    result = await server.process(await request.body(), {"request": request})
    if isinstance(result, StreamingResult):
        return StreamingResponse(result, media_type="text/event-stream")
    return Response(content=result.json, media_type="application/json")


@app.get("/cats/{thread_id}")
async def read_cat(
    thread_id: str,
    server: CatServer = Depends(get_server),  # noqa: B008
) -> dict[str, Any]:
    return await server.cats.load(thread_id)
