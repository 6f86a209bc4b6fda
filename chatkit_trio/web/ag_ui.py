"""AG-UI, version 1.0: CopilotKit and other clients of that protocol on a ChatKit server.

`ag_ui_blueprint` adds the route that `HttpAgent` asks, and two more: to connect to a chat and to
stop. docs/how-to/other-clients.md has a client, and says what of ChatKit comes as what.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Annotated, Any

from pydantic import BaseModel, FailFast, Field
from pydantic_core import to_json
from quart import Blueprint, Response

from chatkit_trio._engine.reading import read_value
from chatkit_trio.errors import InvalidRequestError
from chatkit_trio.server import ChatKitServer
from chatkit_trio.store import TContext

from ._adapter import (
    DEFAULT_BODY_BYTES,
    Adapter,
    History,
    Metadata,
    NewMessage,
    Route,
    adapter_blueprint,
    validated,
)
from ._blueprint import CorsOrigins
from ._context import ContextFunction
from ._hosts import HostNames
from ._translating import Chunk, Item, Passage, Translator

__all__ = ["ag_ui_blueprint"]

_PROTOCOL_VERSION = "1.0"


def ag_ui_blueprint(
    server: ChatKitServer[TContext],
    *,
    context: ContextFunction[TContext] | None = None,
    path: str = "/ag-ui",
    clients_return: bool = False,
    max_body_bytes: int = DEFAULT_BODY_BYTES,
    cors_origins: CorsOrigins = None,
    allowed_hosts: HostNames = None,
    name: str = "chatkit_ag_ui",
) -> Blueprint:
    """Return a Quart-Trio blueprint by which clients of AG-UI talk to the server.

        app = create_app(server)
        app.register_blueprint(ag_ui_blueprint(server))

    `POST path` runs the agent, which is the server. `POST path/connect`, with the same body, tells
    the messages of a chat and goes on with a live answer; `POST path/<thread>/stop` ends it. The
    id of a thread is the client's, or that of a ChatKit thread.

    `clients_return` is for pages that connect again: when one is closed, its answer goes on for
    the policy's `return_timeout`, so `abortRun()` has to be accompanied by a request to `stop`.
    Without it a closed connection is a stop, as for ChatKit.js. A request may have
    `max_body_bytes`: a client sends all messages of its chat.

    `context`, `cors_origins`, `allowed_hosts` and `name` are as for `chatkit_blueprint`. The server
    is entered when the app starts, unless it runs already. Raises `ValueError` for an unfit path.
    """
    return adapter_blueprint(
        AGUIAdapter,
        server,
        context=context,
        path=path,
        clients_return=clients_return,
        max_body_bytes=max_body_bytes,
        cors_origins=cors_origins,
        allowed_hosts=allowed_hosts,
        name=name,
    )


# --- Requests ----------------------------------------------------------------------------------

_WANTED = "a message of AG-UI"


class _Part(BaseModel):
    type: str
    text: str = ""


class _Parts(BaseModel):
    content: Annotated[list[_Part], FailFast()]


class _Message(BaseModel):
    id: str
    role: str
    content: Any = None
    toolCallId: str = ""  # noqa: N815  (the protocol's name)
    metadata: Metadata = Field(default_factory=Metadata)

    def texts(self) -> list[str]:
        """Return the texts of the message. Raises `InvalidRequestError` if it has other parts."""
        if self.content is None or isinstance(self.content, str):
            return [self.content or ""]
        given: _Parts = validated(_Parts, {"content": self.content}, _WANTED)
        if any(part.type != "text" for part in given.content):
            raise InvalidRequestError(
                "files don't come within a message: create them by ChatKit's attachments.create,"
                " and name their ids in metadata.chatkit.attachments of the message"
            )
        return [part.text for part in given.content]


class _RunInput(BaseModel):
    threadId: str  # noqa: N815
    runId: str  # noqa: N815
    messages: Annotated[list[dict[str, Any]], FailFast()]
    resume: list[Any] | None = None
    protocolVersion: str | None = None  # noqa: N815

    def last_messages(self) -> list[_Message]:
        """Return the user's message at the end, or all outputs of tools there."""
        last: list[_Message] = []
        for given in reversed(self.messages):
            if last and (last[0].role != "tool" or given.get("role") != "tool"):
                break
            last.append(validated(_Message, given, _WANTED))
        if not last or last[0].role not in ("user", "tool"):
            raise InvalidRequestError("the last message has to be of the role user or tool")
        return last


class AGUIAdapter(Adapter[TContext]):
    """The views."""

    def routes(self) -> Iterable[Route]:
        """Return the route of `HttpAgent`, and two for the page."""
        return [
            ("", "POST", self.run),
            ("/connect", "POST", self.connect),
            ("/<path:chat_id>/stop", "POST", self.stop),
        ]

    async def run(self) -> Response:
        """Answer a message, or go on with the output of a tool."""
        async with self.counted_context() as lent:
            body = await self._run_input(lent.context)
            if body.resume:
                raise InvalidRequestError(
                    "this server interrupts no runs: there is nothing to resume"
                )
            messages = body.last_messages()
            translate = partial(_translator, body)
            if messages[0].role == "tool":
                outputs = {
                    each.toolCallId: await self._output("".join(each.texts())) for each in messages
                }
                return await self.answer_call(body.threadId, outputs, lent, translate)
            (message,) = messages
            extras = message.metadata.chatkit
            new = NewMessage(id=message.id, texts=message.texts(), extras=extras)
            return await self.send(body.threadId, new, lent, translate)

    async def connect(self) -> Response:
        """Tell the messages of a chat, and go on with a live answer if there is one."""
        async with self.counted_context() as lent:
            body = await self._run_input(lent.context)
            thread_id = await self.find_thread(body.threadId, lent.context)
            translator = _translator(body)
            if thread_id is None:  # a chat that is new
                return self.tell([*translator.begin(), *translator.end("finished")])
            history = await self.history(thread_id, None, lent.context)
            translator.messages = messages_of(history)
            translator.pending_calls = pending_calls(history)
            if history.is_live:
                return self.follow(thread_id, lent, translator)
            return self.tell([*translator.begin(), *translator.end("finished")])

    async def _output(self, content: str) -> Any:
        """Return what a tool has put out: an object or list that was made a text, or the text."""
        if content.lstrip()[:1] in ("{", "["):
            with suppress(InvalidRequestError, UnicodeEncodeError):
                text = content.encode()
                return await read_value(text, self.server.limits, self.server.big_work)
        return content

    async def _run_input(self, context: TContext) -> _RunInput:
        body: _RunInput = validated(
            _RunInput, await self.read_request(context), "a RunAgentInput of AG-UI"
        )
        return body


def _translator(body: _RunInput, thread_id: str = "", message_id: str = "") -> AGUITranslator:
    knows_outcomes = body.protocolVersion is not None
    return AGUITranslator(body.threadId, body.runId, knows_outcomes=knows_outcomes)


# --- The stream --------------------------------------------------------------------------------


class AGUITranslator(Translator):
    """Writes AG-UI events. Items keep their ids as messages.

    Clients before version 1.0 name no version, and refuse an event whose outcome they don't know.
    """

    items_have_ids_of_their_own = True

    def __init__(self, thread_id: str, run_id: str, *, knows_outcomes: bool = True) -> None:
        super().__init__()
        self._knows_outcomes = knows_outcomes
        self._run = {"threadId": thread_id, "runId": run_id}
        self.messages: list[dict[str, Any]] | None = None
        """The messages that are told before anything else, if they are."""

    def begin(self) -> list[Chunk]:
        """Begin the run."""
        started = {"type": "RUN_STARTED", **self._run, "protocolVersion": _PROTOCOL_VERSION}
        if self.messages is None:
            return [started]
        return [started, {"type": "MESSAGES_SNAPSHOT", "messages": self.messages}]

    def open(self, passage: Passage) -> list[Chunk]:
        """Begin a message."""
        if not passage.is_thought:
            return [_event("TEXT_MESSAGE_START", passage, role="assistant")]
        start = _event("REASONING_MESSAGE_START", passage, role="reasoning")
        return [_event("REASONING_START", passage), start]

    def extend(self, passage: Passage, delta: str) -> list[Chunk]:
        """Add to a message."""
        kind = "REASONING_MESSAGE_CONTENT" if passage.is_thought else "TEXT_MESSAGE_CONTENT"
        return [_event(kind, passage, delta=delta)]

    def close(self, passage: Passage) -> list[Chunk]:
        """End a message; its sources, or a thought's title, are its metadata."""
        known: dict[str, Any] = {}
        if passage.annotations:
            known["annotations"] = passage.annotations
        if passage.title is not None:
            known["title"] = passage.title
        extra = {"metadata": {"chatkit": known}} if known else {}
        if not passage.is_thought:
            return [_event("TEXT_MESSAGE_END", passage, **extra)]
        end = _event("REASONING_MESSAGE_END", passage, **extra)
        return [end, _event("REASONING_END", passage)]

    def cite(self, passage: Passage, annotation: Mapping[str, Any]) -> list[Chunk]:
        """Begin the message, maybe anew: sources come with its end, and more than one at once."""
        return self._open(passage)

    def call(self, call_id: str, name: str, arguments: Any, item_id: str) -> list[Chunk]:
        """Call a tool of the client."""
        start = {"toolCallId": call_id, "toolCallName": name, "parentMessageId": item_id}
        return [
            {"type": "TOOL_CALL_START", **start},
            {"type": "TOOL_CALL_ARGS", "toolCallId": call_id, "delta": _json(arguments)},
            {"type": "TOOL_CALL_END", "toolCallId": call_id},
        ]

    def result(self, call_id: str, output: Any, item_id: str) -> list[Chunk]:
        """Tell the output of a tool as a message."""
        content = output if isinstance(output, str) else _json(output)
        result = {"messageId": f"{item_id}:output", "toolCallId": call_id, "content": content}
        return [{"type": "TOOL_CALL_RESULT", **result, "role": "tool"}]

    def show(self, item: Item, *, is_done: bool) -> list[Chunk]:
        """Show an item as an activity."""
        activity = {"messageId": item["id"], "activityType": item["type"], "content": item}
        return [{"type": "ACTIVITY_SNAPSHOT", **activity, "replace": True}]

    def aside(self, name: str, data: Mapping[str, Any]) -> list[Chunk]:
        """Say something by an event of our own."""
        return [{"type": "CUSTOM", "name": f"chatkit.{name}", "value": dict(data)}]

    def finished(self) -> list[Chunk]:
        """End the run."""
        outcome: dict[str, Any] = {"type": "success"}
        if self.pending_calls:
            outcome["pendingToolCallIds"] = self.pending_calls
        return [self._end(outcome)]

    def cut(self, reason: str) -> list[Chunk]:
        """End the run as cancelled."""
        return [*self.aside("ending", {"reason": reason}), self._end({"type": "cancelled"})]

    def failed(self, message: str, reason: str) -> list[Chunk]:
        """End the run with an error, whose code says why."""
        code = "refused" if reason == "finished" else reason
        return [{"type": "RUN_ERROR", "message": message, "code": code}]

    def _end(self, outcome: dict[str, Any]) -> Chunk:
        end: Chunk = {"type": "RUN_FINISHED", **self._run}
        return {**end, "outcome": outcome} if self._knows_outcomes else end


def _event(kind: str, passage: Passage, **fields: Any) -> Chunk:
    return {"type": kind, "messageId": passage.id, **fields}


def _json(value: Any) -> str:
    return to_json(value).decode()


# --- The history -------------------------------------------------------------------------------


def messages_of(history: History) -> list[dict[str, Any]]:
    """Return the messages that a client has of these items."""
    messages: list[dict[str, Any]] = []
    for item in history.items:
        if item["type"] == "user_message":
            messages.append(_user_message(item))
        else:
            translator = AGUITranslator("", "")
            done = {"type": "thread.item.done", "item": item}
            told = _messages_of(translator.feed([done]))
            for ending in history.endings:
                if told and item["id"] in ending["item_ids"]:
                    told[-1].setdefault("metadata", {}).setdefault("chatkit", {})["ending"] = ending
            messages += told
    return messages


def pending_calls(history: History) -> list[str]:
    """Return the calls that the client hasn't answered yet: the last item may be one."""
    translator = AGUITranslator("", "")
    translator.feed([{"type": "thread.item.done", "item": item} for item in history.items[-1:]])
    return translator.pending_calls


def _user_message(item: Item) -> dict[str, Any]:
    known: dict[str, Any] = {
        name: item[name] for name in ("created_at", "quoted_text") if name in item
    }
    if item["attachments"]:
        known["attachments"] = item["attachments"]
    parts = [{"type": "text", "text": part["text"]} for part in item["content"]]
    content = parts[0]["text"] if len(parts) == 1 else parts
    return {"id": item["id"], "role": "user", "content": content, "metadata": {"chatkit": known}}


def _messages_of(events: Iterable[Chunk]) -> list[dict[str, Any]]:
    """Return the messages that a client makes of the events of complete items."""
    messages: dict[str, dict[str, Any]] = {}
    calls: dict[str, dict[str, str]] = {}
    for event in events:
        match event["type"]:
            case "TEXT_MESSAGE_START" | "REASONING_MESSAGE_START":
                messages[event["messageId"]] = {"role": event["role"], "content": ""}
            case "TEXT_MESSAGE_CONTENT" | "REASONING_MESSAGE_CONTENT":
                messages[event["messageId"]]["content"] += event["delta"]
            case "TEXT_MESSAGE_END" | "REASONING_MESSAGE_END" if "metadata" in event:
                messages[event["messageId"]]["metadata"] = event["metadata"]
            case "TOOL_CALL_START":
                function = {"name": event["toolCallName"], "arguments": ""}
                calls[event["toolCallId"]] = function
                call = {"id": event["toolCallId"], "type": "function", "function": function}
                parent = {"role": "assistant", "toolCalls": [call]}
                messages[event["parentMessageId"]] = parent
            case "TOOL_CALL_ARGS":
                calls[event["toolCallId"]]["arguments"] += event["delta"]
            case "TOOL_CALL_RESULT":
                output = {"toolCallId": event["toolCallId"], "content": event["content"]}
                messages[event["messageId"]] = {"role": "tool", **output}
            case "ACTIVITY_SNAPSHOT":
                activity = {"activityType": event["activityType"], "content": event["content"]}
                messages[event["messageId"]] = {"role": "activity", **activity}
    return [{"id": message_id, **message} for message_id, message in messages.items()]
