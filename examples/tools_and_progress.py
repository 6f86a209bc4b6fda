"""A day out, planned with three tools at once.

Tools are trio functions. Those that the model asks for together run together, in the turn's
nursery; each shows its step in a workflow and says what it is doing. If a tool fails, the model is
told, and the user isn't.

    python -m examples.tools_and_progress
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import trio
from pydantic import Field

from chatkit_trio.agents import AgentContext, run_model, simple_to_agent_input, tool
from chatkit_trio.server import ChatKitServer
from chatkit_trio.stores import MemoryStore
from chatkit_trio.types import CustomTask
from chatkit_trio.web import ChatPage, create_app
from examples._model import MODEL, Asked, Call, Say, open_model
from examples._run import run

WEATHER = {"Porto": "24 °C and sunny", "Bergen": "11 °C and rain", "Ghent": "18 °C and cloudy"}
TRAINS = {"Porto": "8:40 and 10:10", "Bergen": "7:55", "Ghent": "every half hour from 6:30"}
SIGHTS = {
    "Porto": ["the tiles of São Bento station", "the lower deck of the bridge"],
    "Bergen": ["the wooden quay", "the funicular, if the clouds are high"],
}  # Ghent is missing, so the tool fails for it
City = Annotated[str, Field(description="The city's name, in English")]


@asynccontextmanager
async def step(context: AgentContext, title: str, icon: str) -> AsyncIterator[None]:
    """Show a step of the workflow that is being worked on, and tick it off if it succeeds."""
    task = CustomTask(title=title, icon=icon, status_indicator="loading")
    await context.add_workflow_task(task)
    tasks = context.workflow_item.workflow.tasks
    index = next(index for index, other in enumerate(tasks) if other is task)
    yield
    done = task.model_copy(update={"status_indicator": "complete"})
    await context.update_workflow_task(done, index)


@tool
async def weather(context: AgentContext, city: City) -> str:
    """Look up tomorrow's weather in a city."""
    async with step(context, f"Weather in {city}", "globe"):
        await trio.sleep(0.8)  # a request to a weather service
        return WEATHER[city]


@tool
async def trains(context: AgentContext, city: City) -> str:
    """Look up when trains leave for a city."""
    async with step(context, f"Trains to {city}", "compass"):
        await context.stream_progress("Asking the railway, which takes its time…", icon="clock")
        await trio.sleep(2)
        return TRAINS[city]


@tool
async def sights(context: AgentContext, city: City) -> list[str]:
    """List sights of a city."""
    async with step(context, f"Sights of {city}", "map-pin"):
        await trio.sleep(1.4)
        return SIGHTS[city]


class DayOut(ChatKitServer[None]):
    """Plans a day in one of three cities."""

    async def respond(self, thread, input_user_message, context):
        if thread.title is None and (city := city_in(input_user_message.content[0].text)):
            thread.title = f"A day in {city}"
        page = await self.store.load_thread_items(thread.id, None, 30, "desc", context)
        agent = AgentContext(thread=thread, store=self.store, request_context=context)
        async with open_model(offline) as model:
            events = run_model(
                agent,
                model,
                model=MODEL,
                instructions=(
                    "You plan a day out for tomorrow. Call all tools you need at once."
                    f" You know these cities: {', '.join(WEATHER)}."
                ),
                input=await simple_to_agent_input(page.data[::-1]),
                tools=[weather, trains, sights],
            )
            async for event in events:
                yield event  # noqa: ASYNC119 (the turn closes this generator)


def city_in(words: str) -> str | None:
    named = re.search("|".join(WEATHER), words, re.IGNORECASE)
    return None if named is None else named[0].title()


def offline(asked: Asked) -> list[Say | Call]:
    """Do what a model would: ask all tools, then sum up what they return."""
    city = city_in(asked.message)
    if city is None:
        return [Say(f"I know my way around {', '.join(WEATHER)}. Where shall it be?")]
    if not asked.results:
        return [Call(name, {"city": city}) for name in ("weather", "trains", "sights")]
    found = {name: outputs[0] for name, outputs in asked.results.items()}
    plan = f"**{city}, tomorrow:** {found['weather']}.\n\n- Trains: {found['trains']}\n"
    seen = re.findall(r'"([^"]+)"', found["sights"])
    return [Say(plan + (f"- See {' and '.join(seen)}" if seen else "- I found no list of sights"))]


app = create_app(
    DayOut(MemoryStore()),
    page=ChatPage(
        name="A day out",
        greeting="Where to tomorrow?",
        prompts=["Plan a day in Porto", "What about Bergen?", "A day in Ghent, please"],
    ),
)

if __name__ == "__main__":
    run(app)
