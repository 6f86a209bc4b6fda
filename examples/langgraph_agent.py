"""A graph of LangGraph that looks things up and answers, streamed from asyncio.

LangGraph runs on asyncio. `iterate_on_asyncio` runs its `astream_events` there, and this server
turns the events into a thread: a tool that starts is progress, what the model says is a message.
Stopping the answer cancels the graph. The model has a script; any chat model of LangChain's fits in
its place.

    pip install langgraph
    python -m examples.langgraph_agent
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGenerationChunk
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from chatkit_trio.agents import iterate_on_asyncio
from chatkit_trio.server import ChatKitServer
from chatkit_trio.stores import MemoryStore
from chatkit_trio.types import (
    AssistantMessageContent,
    AssistantMessageContentPartTextDelta,
    AssistantMessageItem,
    ProgressUpdateEvent,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemUpdatedEvent,
)
from chatkit_trio.web import create_app
from examples._run import run

TIDES = {"Dover": "high at 11:20", "Brest": "low at 9:05"}


@tool
async def tide(port: str) -> str:
    """Look up the tide in a port."""
    await asyncio.sleep(0.01)
    return TIDES.get(port, "not known")


class Offline(BaseChatModel):
    """Ask for the tide in the ports that are named, and say what it is."""

    @property
    def _llm_type(self):
        return "scripted"

    def bind_tools(self, tools, **options):
        return self

    def _generate(self, messages, stop=None, run_manager=None, **options):
        raise NotImplementedError("this model only streams")

    async def _astream(self, messages, stop=None, run_manager=None, **options):
        found = [message.content for message in messages if isinstance(message, ToolMessage)]
        ports = [port for port in TIDES if port in messages[-1].content]
        if isinstance(messages[-1], HumanMessage) and ports:
            calls = [
                {"name": "tide", "args": f'{{"port": "{port}"}}', "id": port, "index": number}
                for number, port in enumerate(ports)
            ]
            message = AIMessageChunk(content="", tool_call_chunks=calls)
            yield ChatGenerationChunk(message=message)
            return
        answer = f"The tide is {' and '.join(found)}." if found else "Name a port, please."
        for word in answer.split(" "):
            await asyncio.sleep(0.01)
            yield ChatGenerationChunk(message=AIMessageChunk(content=f"{word} "))


async def ask_model(state: MessagesState):
    return {"messages": [await Offline().bind_tools([tide]).ainvoke(state["messages"])]}


builder = StateGraph(MessagesState)
builder.add_node("model", ask_model)
builder.add_node("tools", ToolNode([tide]))
builder.add_edge(START, "model")
builder.add_conditional_edges("model", tools_condition)
builder.add_edge("tools", "model")
graph = builder.compile()


class Harbour(ChatKitServer[None]):
    async def respond(self, thread, input_user_message, context):
        newest = await self.store.load_thread_items(thread.id, None, 30, "desc", context)
        messages = [message for item in newest.data[::-1] for message in messages_of(item)]
        # Named arguments go in by `partial`.
        run_graph = partial(graph.astream_events, {"messages": messages}, version="v2")
        async with (
            aclosing(iterate_on_asyncio(run_graph)) as events,
            aclosing(self.thread_events(thread, events, context)) as made,
        ):
            async for event in made:
                yield event  # noqa: ASYNC119 (the turn closes this generator)

    async def thread_events(self, thread, events: AsyncIterator[dict], context):
        """Yield what the events of the graph mean in the thread."""
        message = None
        async for event in events:
            match event["event"]:
                case "on_tool_start":
                    yield ProgressUpdateEvent(text=f"Looking up {event['data']['input']['port']}")
                case "on_chat_model_stream" if text := event["data"]["chunk"].text:
                    if message is None:
                        message = self.new_message(thread, context)
                        yield ThreadItemAddedEvent(item=message)
                    update = AssistantMessageContentPartTextDelta(content_index=0, delta=text)
                    yield ThreadItemUpdatedEvent(item_id=message.id, update=update)
                case "on_chat_model_end" if message is not None:
                    content = AssistantMessageContent(text=event["data"]["output"].text)
                    done = message.model_copy(update={"content": [content]})
                    yield ThreadItemDoneEvent(item=done)
                    message = None

    def new_message(self, thread, context):
        return AssistantMessageItem(
            id=self.store.generate_item_id("message", thread, context),
            thread_id=thread.id,
            created_at=datetime.now(UTC),
            content=[],
        )


def messages_of(item):
    """Return what the model is told of an item; a note says how a cut answer ended."""
    match item.type:
        case "user_message":
            return [HumanMessage("".join(part.text for part in item.content))]
        case "assistant_message":
            return [AIMessage("".join(part.text for part in item.content))]
        case "sdk_hidden_context":
            return [HumanMessage(f"(A note for the agent: {item.content})")]
        case _:
            return []


app = create_app(Harbour(MemoryStore()))

if __name__ == "__main__":
    run(app)
