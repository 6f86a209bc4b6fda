"""What the chat can do with the map, and how each learns about the other.

- `get_selected_stations` is a client tool: the turn ends with the call, the page answers with the
  stations that are selected on the map, and a new turn continues the answer.
- `show_route` draws on the map by a client effect.
- Stations in an answer become entity annotations, those a user mentions with @ become tags.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

from pydantic import Field
from quart import jsonify

from chatkit_trio.agents import AgentContext, ClientToolCall, ThreadItemConverter, run_model, tool
from chatkit_trio.server import ChatKitServer
from chatkit_trio.stores import MemoryStore
from chatkit_trio.types import (
    Annotation,
    AssistantMessageItem,
    ClientEffectEvent,
    EntitySource,
    ThreadItemDoneEvent,
    ThreadItemReplacedEvent,
    UserMessageItem,
    UserMessageTagContent,
    UserMessageTextContent,
)
from chatkit_trio.web import ChatPage, create_app
from examples._model import MODEL, Asked, Call, Say, open_model

from . import network
from .network import STATIONS, Station

StationName = Annotated[str, Field(description="The station's name")]
INSTRUCTIONS = (
    "You help people find their way on a metro map that they see beside this chat. When they"
    " speak of selected stations, or of 'these', ask the map. The stations are: "
    + ", ".join(station.name for station in STATIONS.values())
)


@tool
async def get_selected_stations(context: AgentContext) -> str:  # noqa: ASYNC124 (as tools are)
    """Ask the page which stations are selected on the map."""
    context.client_tool_call = ClientToolCall(name="get_selected_stations", arguments={})
    return "The page will answer."


@tool
async def show_route(context: AgentContext, start: StationName, end: StationName) -> str:
    """Find the shortest way, draw it on the map, and return its stations."""
    way = network.route(*network.named(f"{start}, {end}"))
    data = {"stations": [station.id for station in way]}
    await context.stream(ClientEffectEvent(name="show_route", data=data))
    return ", ".join(station.name for station in way)


@tool
async def describe_station(name: StationName) -> str:  # noqa: ASYNC124 (as tools are)
    """Return what is known about a station."""
    (station,) = network.named(name)
    lines = " and ".join(network.lines_at(station))
    return f"{station.name} is on {lines}. {station.note}"


class TagConverter(ThreadItemConverter):
    """Tells the model about a tagged station, from our own data: a tag comes from the client."""

    async def tag_to_message_content(self, tag):  # noqa: ASYNC124 (as declared)
        station = STATIONS.get(tag.id)
        note = "no such station" if station is None else station.note
        return {"type": "input_text", "text": f"@{tag.text}: {note}"}


class MetroMap(ChatKitServer[None]):
    """Answers about the network of `network.py`."""

    async def respond(self, thread, input_user_message, context):
        if input_user_message is not None:
            words = "".join(part.text for part in input_user_message.content)
            thread.title = thread.title or words[:40]
        if input_user_message is not None and (tagged := with_tags(input_user_message)):
            yield ThreadItemReplacedEvent(item=tagged)
        page = await self.store.load_thread_items(thread.id, None, 30, "desc", context)
        agent = AgentContext(thread=thread, store=self.store, request_context=context)
        async with open_model(offline) as model:
            events = run_model(
                agent,
                model,
                model=MODEL,
                instructions=INSTRUCTIONS,
                input=await TagConverter().to_agent_input(page.data[::-1]),
                tools=[get_selected_stations, show_route, describe_station],
            )
            async for event in events:
                if isinstance(event, ThreadItemDoneEvent):
                    annotate(event.item)
                yield event  # noqa: ASYNC119 (the turn closes this generator)


def with_tags(message: UserMessageItem) -> UserMessageItem | None:
    """Return the message with each @Station as a tag; None if there is none.

    The page sends those that were chosen from its list as tags; people may also just type them.
    """
    pattern = "|".join(re.escape(station.name) for station in STATIONS.values())
    content = []
    for part in message.content:
        pieces = re.split(rf"@({pattern})\b", getattr(part, "text", ""), flags=re.IGNORECASE)
        if isinstance(part, UserMessageTagContent) or len(pieces) == 1:
            content.append(part)
            continue
        for place, piece in enumerate(pieces):
            content.append(tag_of(piece) if place % 2 else UserMessageTextContent(text=piece))
    return None if content == message.content else message.model_copy(update={"content": content})


def tag_of(name: str) -> UserMessageTagContent:
    (station,) = network.named(name)
    return UserMessageTagContent(
        id=station.id, text=station.name, data={"station": station.id}, group="Stations"
    )


def annotate(item: object) -> None:
    """Make each station in an answer an entity that the page can open."""
    if not isinstance(item, AssistantMessageItem):
        return
    for part in item.content:
        first: dict[Station, int] = {}
        for station, end in network.mentions(part.text):
            first.setdefault(station, end)
        part.annotations = [
            Annotation(source=entity_of(station), index=end) for station, end in first.items()
        ]


def entity_of(station: Station) -> EntitySource:
    return EntitySource(
        id=station.id,
        title=station.name,
        description=station.note,
        icon="map-pin",
        label=" · ".join(network.lines_at(station)),
        interactive=True,
        data={"station": station.id},
    )


def offline(asked: Asked) -> list[Say | Call]:
    """Do what a model would."""
    found = asked.results
    if "show_route" in found:
        stops = found["show_route"][0].split(", ")
        return [Say(f"From {stops[0]} it's {len(stops) - 1} stops: {' → '.join(stops[1:])}.")]
    if "describe_station" in found:
        return [Say(found["describe_station"][0])]
    if "get_selected_stations" in found:
        selected = json.loads(found["get_selected_stations"][0])["stations"]
        return _about([STATIONS[station_id] for station_id in selected])
    if asked.mentions("select", "these", "map"):
        return [Call("get_selected_stations")]
    return _about(network.named(asked.message))


def _about(stations: list[Station]) -> list[Say | Call]:
    if len(stations) > 1:
        ends = {"start": stations[0].name, "end": stations[-1].name}
        return [Call("show_route", ends)]
    if stations:
        return [Call("describe_station", {"name": stations[0].name})]
    return [Say("Name one station or two, or select some on the map and ask about “these”.")]


app = create_app(
    MetroMap(MemoryStore()),
    page=ChatPage(
        name="Metro map",
        greeting="Where are you going?",
        prompts=[
            "How do I get from Harbour to Airport?",
            "What is at @Library?",
            "How do I get between these?",
        ],
        scripts=[Path(__file__).with_name("map.js")],
    ),
)


@app.get("/metro.json")
async def metro():  # noqa: ASYNC124 (a plain function would get a thread)
    """What map.js draws; an app of create_app takes routes like any other."""
    return jsonify(network.as_json())
