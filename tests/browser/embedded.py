"""A server for a chat in somebody else's page: its answers tell what they were asked."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import AsyncIterator
from typing import Any

import trio
from werkzeug.exceptions import Unauthorized

from chatkit_trio.actions import Action
from chatkit_trio.errors import CustomStreamError
from chatkit_trio.server import ChatKitServer, stream_text
from chatkit_trio.stores import DiskAttachmentStore, MemoryStore
from chatkit_trio.types import (
    ClientEffectEvent,
    ClientToolCallItem,
    ThreadItemDoneEvent,
    ThreadMetadata,
    UserMessageItem,
    WidgetItem,
)
from chatkit_trio.web import create_app
from chatkit_trio.widgets import (
    Button,
    Card,
    Checkbox,
    Col,
    Form,
    Icon,
    Input,
    ListView,
    ListViewItem,
    RadioGroup,
    Select,
    Text,
    Textarea,
)

from .held import Held

held = Held()
"""The answers to messages with the word "held"."""

WIDGET = Card(
    children=[
        Text(value="A card"),
        Button(
            label="Here",
            onClickAction={"type": "here", "payload": {"n": 1}, "handler": "client"},
        ),
        Button(label="There", onClickAction={"type": "there", "payload": {"n": 2}}),
    ]
)

FORM = Card(
    asForm=True,
    children=[Input(name="elements", placeholder="Elements"), Input(name="closest.a")],
    confirm={"label": "Send it", "action": {"type": "there"}},
)
OPTIONS = [{"label": word, "value": word} for word in ("Red", "Blue")]
FIELDS = Card(
    children=[
        Icon(name="bolt"),
        RadioGroup(name="colour", options=OPTIONS),
        Form(
            onSubmitAction={"type": "there"},
            children=[
                Input(name="who", placeholder="Who"),
                Textarea(name="why", placeholder="Why"),
                Select(name="which", placeholder="Which", options=OPTIONS),
                RadioGroup(name="form.colour", options=OPTIONS),
                Checkbox(name="sure", label="Sure"),
                Text(value="A title", editable={"name": "title"}),
                Button(label="Hand it in", submit=True),
            ],
        ),
        Col(children=[Form(children=[Input(name="who", placeholder="Who else")])]),
    ]
)
LIST = ListView(
    limit=1,
    children=[
        ListViewItem(children=[Text(value=word)], onClickAction={"type": "there"})
        for word in ("One", "Two")
    ],
)


class Server(ChatKitServer[Any]):
    async def respond(
        self, thread: ThreadMetadata, input_user_message: UserMessageItem | None, context: Any
    ) -> AsyncIterator[Any]:
        if input_user_message is None:
            words = f"The tool said: {await self._output(thread)}"
            async for event in stream_text(thread, [words]):
                yield event
            return
        said = "".join(part.text for part in input_user_message.content)
        if "fail" in said:
            raise CustomStreamError("That was too much for me.", allow_retry=False)
        if "effect" in said:
            yield ClientEffectEvent(name="blink", data={"times": 2})
        if "held" in said:
            await held.wait()
        if "tool" in said:
            yield ThreadItemDoneEvent(item=self._call(thread))
            return
        for word, widget in (
            ("widget", WIDGET),
            ("form", FORM),
            ("fields", FIELDS),
            ("list", LIST),
        ):
            if word in said:
                item_id = self.store.generate_item_id("message", thread, context)
                yield ThreadItemDoneEvent(item=self._widget(thread, item_id, widget))
                return
        if "slowly" in said:
            async for event in stream_text(thread, _slowly()):
                yield event
            return
        async for event in stream_text(thread, ["```json\n", as_json(input_user_message), "\n```"]):
            yield event

    async def action(
        self, thread: ThreadMetadata, action: Action[str, Any], sender: Any, context: Any
    ) -> AsyncIterator[Any]:
        words = f"Action {action.type} {json.dumps(action.payload)} of {sender and sender.type}"
        async for event in stream_text(thread, [words]):
            yield event

    async def _output(self, thread: ThreadMetadata) -> str:
        items = await self.store.load_thread_items(thread.id, None, 1, "desc", None)
        return json.dumps(items.data[0].output)  # type: ignore[union-attr]

    def _call(self, thread: ThreadMetadata) -> ClientToolCallItem:
        return ClientToolCallItem(
            id="call_1",
            thread_id=thread.id,
            created_at=thread.created_at,
            call_id="c1",
            name="get_currentPlace",
            arguments={"precise": True},
        )

    def _widget(self, thread: ThreadMetadata, item_id: str, widget: Any) -> WidgetItem:
        return WidgetItem(
            id=item_id, thread_id=thread.id, created_at=thread.created_at, widget=widget
        )


async def _slowly() -> AsyncIterator[str]:
    for number in range(1, 2000):
        yield f"{number} "
        await trio.sleep(0.02)


def as_json(message: UserMessageItem) -> str:
    parts = [part.model_dump(exclude_defaults=True) for part in message.content]
    options = message.inference_options.model_dump(exclude_none=True)
    told = {"content": parts, "quoted": message.quoted_text, "options": options}
    return json.dumps(told | {"attachments": [each.name for each in message.attachments]})


def context_of(request: Any) -> str:
    """Let everybody in but those whose session has ended."""
    if request.headers.get("Authorization") == "Bearer expired":
        raise Unauthorized
    return request.headers.get("Authorization", "somebody")


store = MemoryStore[str]()
files = DiskAttachmentStore[str](
    tempfile.mkdtemp(),
    metadata=store,
    base_url=f"{os.environ['CHAT_URL']}/attachments",
    secret="of these tests, and long enough",
    max_bytes=20_000,
)
server = Server(store, files)
app = create_app(server, context=context_of, cors_origins=[os.environ["HOST_ORIGIN"]])


@app.get("/let-go")
async def let_go() -> str:
    """Let an answer go on that a message with "held" has begun, or is about to."""
    return await held.let_go()
