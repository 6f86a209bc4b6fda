"""Widgets that do things: the ways in which an action can be handled.

| in the widget | goes to | and changes |
|---|---|---|
| a row of the list | `action`, streaming | adds a card |
| Feed | `action`, streaming | replaces the card, tells the page by an effect, the model by a note |
| Stroke | `sync_action` | the card; works while an answer streams |
| Try on | lounge.js, no request | the page only |
| Keep | `action`, streaming | the kitten's name and the thread's title |

A title is found beside the answer, by a task in the turn's nursery.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import trio
from pydantic import Field

from chatkit_trio.agents import AgentContext, run_model, simple_to_agent_input, tool
from chatkit_trio.errors import CustomStreamError
from chatkit_trio.server import ChatKitServer, current_turn
from chatkit_trio.stores import MemoryStore
from chatkit_trio.types import (
    AssistantMessageContent,
    AssistantMessageItem,
    ClientEffectEvent,
    HiddenContextItem,
    SyncCustomActionResponse,
    ThreadItemDoneEvent,
    ThreadItemReplacedEvent,
    WidgetItem,
)
from chatkit_trio.web import ChatPage, create_app
from chatkit_trio.widgets import WidgetTemplate
from examples._model import MODEL, Asked, Call, Say, open_model

from . import cats

PROFILE = WidgetTemplate.from_file("profile.widget", base=__file__)
LIST = WidgetTemplate.from_file("cats.widget", base=__file__)
SUGGESTIONS = WidgetTemplate.from_file("names.widget", base=__file__)
INSTRUCTIONS = (
    "You look after the guests of a cat lounge. Show cats by your tools instead of describing"
    " them, and keep your own words short. The cats: " + ", ".join(cats.CATS)
)
CatName = Annotated[str, Field(description="One of the cats")]


class LoungeContext(AgentContext[None]):
    """The context of a turn, with what else the tools of this example need."""

    lounge: dict[str, Any]


@tool
async def show_lounge(context: LoungeContext) -> str:
    """Show who is in, and in which mood."""
    shown = [cats.card_data(context.lounge, cat) for cat in cats.CATS]
    await context.stream_widget(LIST.build({"cats": shown}), ", ".join(cats.CATS))
    return f"Shown: {', '.join(cat['name'] + ' is ' + cat['mood'] for cat in shown)}"


@tool
async def show_cat(context: LoungeContext, cat: CatName) -> str:
    """Show a cat's card, where it can be fed and stroked."""
    data = cats.card_data(context.lounge, cats.named(cat))
    await context.stream_widget(PROFILE.build(data), data["name"])
    return f"Shown: {data['name']}, who is {data['mood']}"


@tool
async def suggest_names(context: LoungeContext) -> str:
    """Show names that the kitten could have."""
    await context.stream_widget(SUGGESTIONS.build({"names": cats.NAMES}), ", ".join(cats.NAMES))
    return "Shown"


class CatLounge(ChatKitServer[None]):
    """Shows cats, and keeps how they are doing.

    Their state isn't kept in `thread.metadata`: a sync action runs beside a turn, and the turn has
    its own copy of the thread, which it would save over the action's changes.
    """

    def __init__(self, store):
        super().__init__(store)
        self.lounges: dict[str, dict[str, Any]] = {}

    def lounge_of(self, thread) -> dict[str, Any]:
        return self.lounges.setdefault(thread.id, {})

    async def respond(self, thread, input_user_message, context):
        if thread.title is None:
            current_turn().nursery.start_soon(self.find_title, thread, input_user_message)
        page = await self.store.load_thread_items(thread.id, None, 30, "desc", context)
        agent = LoungeContext(
            thread=thread,
            store=self.store,
            request_context=context,
            lounge=self.lounge_of(thread),
        )
        async with open_model(offline) as model:
            events = run_model(
                agent,
                model,
                model=MODEL,
                instructions=INSTRUCTIONS,
                input=await simple_to_agent_input(page.data[::-1]),
                tools=[show_lounge, show_cat, suggest_names],
            )
            async for event in events:
                yield event  # noqa: ASYNC119 (the turn closes this generator)

    async def find_title(self, thread, message):
        """Think of a title; the change is saved and announced with the next event."""
        await trio.sleep(0.5)  # a second, smaller model could be asked here
        cat = cats.named(message.content[0].text)
        thread.title = "At the cat lounge" if cat is None else f"About {cat}"

    def action(self, thread, action, sender, context):
        handlers = {"cat.show": self.show, "cat.feed": self.feed, "name.keep": self.keep_name}
        return handlers[action.type](thread, action.payload, sender, context)

    async def show(self, thread, payload, sender, context):
        data = cats.card_data(self.lounge_of(thread), known_cat(payload))
        card = WidgetItem(widget=PROFILE.build(data), **self.fields(thread, context))
        yield ThreadItemDoneEvent(item=card)

    async def feed(self, thread, payload, sender, context):
        lounge, cat = self.lounge_of(thread), known_cat(payload)
        meals = cats.feed(lounge, cat)
        data = cats.card_data(lounge, cat)
        if sender is not None:
            # The item itself is replaced, so that the card looks the same after a reload.
            yield ThreadItemReplacedEvent(
                item=sender.model_copy(update={"widget": PROFILE.build(data)})
            )
        yield ClientEffectEvent(name="cat_mood", data={"cat": data["name"], "mood": data["mood"]})
        note = f"The user gave {data['name']} meal number {meals}; now it is {data['mood']}."
        yield ThreadItemDoneEvent(
            item=HiddenContextItem(content=note, **self.fields(thread, context))
        )
        if meals > 3:
            yield self.words(thread, f"{data['name']} has had enough, and says so.", context)

    async def keep_name(self, thread, payload, sender, context):
        name = payload["name"]
        if name not in cats.NAMES:
            raise CustomStreamError("That name isn't on the list.")
        self.lounge_of(thread)["kitten's name"] = name
        thread.title = f"A kitten called {name}"
        yield ClientEffectEvent(name="cat_named", data={"name": name})
        yield self.words(thread, f"Then **{name}** it is.", context)

    async def sync_action(self, thread, action, sender, context):  # noqa: ASYNC124 (as declared)
        lounge, cat = self.lounge_of(thread), known_cat(action.payload)
        cats.stroke(lounge, cat)
        card = PROFILE.build(cats.card_data(lounge, cat))
        return SyncCustomActionResponse(
            updated_item=None if sender is None else sender.model_copy(update={"widget": card})
        )

    def words(self, thread, text: str, context) -> ThreadItemDoneEvent:
        content = [AssistantMessageContent(text=text)]
        item = AssistantMessageItem(content=content, **self.fields(thread, context))
        return ThreadItemDoneEvent(item=item)

    def fields(self, thread, context) -> dict[str, Any]:
        """Return the fields that every new item needs."""
        return {
            "id": self.store.generate_item_id("message", thread, context),
            "thread_id": thread.id,
            "created_at": datetime.now(UTC),
        }


def known_cat(payload: Any) -> str:
    """Return the cat that an action is about. A payload comes from the client: check it."""
    cat = payload.get("cat") if isinstance(payload, dict) else None
    if cat not in cats.CATS:
        raise CustomStreamError("There is no such cat here.")
    return cat


def offline(asked: Asked) -> list[Say | Call]:
    """Do what a model would."""
    if "suggest_names" in asked.results:
        return [Say("Try some on, and keep the one it listens to.")]
    if "show_cat" in asked.results:
        return [Say("Gently, please.")]
    if "show_lounge" in asked.results:
        return [Say("Choose one to meet it.")]
    if asked.mentions("name", "call"):
        return [Call("suggest_names")]
    cat = cats.named(asked.message)
    return [Call("show_lounge") if cat is None else Call("show_cat", {"cat": cat})]


app = create_app(
    CatLounge(MemoryStore()),
    page=ChatPage(
        name="Cat lounge",
        greeting="Come in, they won't bite",
        prompts=[
            "Who is here today?",
            "I'd like to meet Saffron",
            "What shall we call the kitten?",
        ],
        scripts=[Path(__file__).with_name("lounge.js")],
    ),
)
