"""The Vercel AI SDK's UI message stream, version 1: `useChat` and assistant-ui on a ChatKit server.

`ai_sdk_blueprint` adds the routes that `DefaultChatTransport` asks, beside the ChatKit endpoint or
without it. docs/how-to/other-clients.md has a client, and says what of ChatKit comes as what.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, FailFast, Field
from pydantic_core import to_json
from quart import Blueprint, Response, request

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
from ._middleware import empty_response, json_response
from ._translating import Chunk, Item, Passage, Translator

__all__ = ["ai_sdk_blueprint"]


def ai_sdk_blueprint(
    server: ChatKitServer[TContext],
    *,
    context: ContextFunction[TContext] | None = None,
    path: str = "/api/chat",
    clients_return: bool = False,
    max_body_bytes: int = DEFAULT_BODY_BYTES,
    cors_origins: CorsOrigins = None,
    allowed_hosts: HostNames = None,
    name: str = "chatkit_ai_sdk",
) -> Blueprint:
    """Return a Quart-Trio blueprint by which clients of the AI SDK talk to the server.

        app = create_app(server)
        app.register_blueprint(ai_sdk_blueprint(server))

    `POST path` answers a message, `GET path/<chat>/stream` goes on with a live answer, `POST
    path/<chat>/stop` ends it, and `GET path/<chat>` returns the messages of a chat. The id of a
    chat is the client's, or that of a thread.

    `clients_return` is for pages that use `resume`: when one is closed, its answer goes on for
    the policy's `return_timeout`, so `stop()` of `useChat` has to be accompanied by a request to
    `stop`. Without it a closed connection is a stop, as for ChatKit.js. A request may have
    `max_body_bytes`: a client sends all messages of its chat unless it is told otherwise.

    `context`, `cors_origins`, `allowed_hosts` and `name` are as for `chatkit_blueprint`. The server
    is entered when the app starts, unless it runs already. Raises `ValueError` for an unfit path.
    """
    return adapter_blueprint(
        AISDKAdapter,
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


class _Part(BaseModel):
    type: str
    text: str = ""
    toolCallId: str | None = None  # noqa: N815  (the protocol's name)
    state: str | None = None
    output: Any = None
    errorText: str | None = None  # noqa: N815


class _Message(BaseModel):
    id: str
    role: Literal["system", "user", "assistant"]
    parts: Annotated[list[_Part], FailFast()]
    metadata: Metadata = Field(default_factory=Metadata)


class _Request(BaseModel):
    id: str
    message: dict[str, Any] | None = None
    messages: Annotated[list[dict[str, Any]], FailFast()] = Field(default_factory=list)
    trigger: Literal["submit-message", "regenerate-message"] = "submit-message"

    def last_message(self) -> _Message:
        """Return the message that is new: a client may send it alone, or at the end of all."""
        last = self.message or (self.messages[-1] if self.messages else None)
        if last is None:
            raise InvalidRequestError("the request has no messages")
        message: _Message = validated(_Message, last, "a message of the AI SDK")
        return message


_DONE = ("output-available", "output-error")


class AISDKAdapter(Adapter[TContext]):
    """The views."""

    last = b"data: [DONE]\n\n"
    headers = {"x-vercel-ai-ui-message-stream": "v1"}  # noqa: RUF012

    def routes(self) -> Iterable[Route]:
        """Return the routes that `DefaultChatTransport` knows, and two for the page."""
        return [
            ("", "POST", self.chat),
            ("/<path:chat_id>/stream", "GET", self.resume),
            ("/<path:chat_id>/stop", "POST", self.stop),
            ("/<path:chat_id>", "GET", self.messages),
        ]

    async def chat(self) -> Response:
        """Answer a message, or go on with the output of a tool."""
        async with self.counted_context() as lent:
            body: _Request = validated(
                _Request, await self.read_request(lent.context), "a chat request of the AI SDK"
            )
            message = body.last_message()
            if message.role == "assistant":
                return await self.answer_call(body.id, _outputs(message), lent, UIMessageTranslator)
            return await self.send(
                body.id,
                _new_message(message),
                lent,
                UIMessageTranslator,
                only_again=body.trigger == "regenerate-message",
            )

    async def resume(self, chat_id: str) -> Response:
        """Tell the answer that is being written, from its beginning on; 204 if there is none."""
        async with self.counted_context() as lent:
            thread_id = await self.find_thread(chat_id, lent.context)
            if thread_id is None or await self.server.live_turns.watchable(thread_id) is None:
                return empty_response()
            message_id = await self.last_message_id(thread_id, lent.context)
            return self.follow(thread_id, lent, UIMessageTranslator(thread_id, message_id))

    async def messages(self, chat_id: str) -> Response:
        """Return the messages of a chat, the latest ones or those before `?after=`."""
        async with self.counted_context() as lent:
            thread_id = await self.require_thread(chat_id, lent.context)
            history = await self.history(thread_id, request.args.get("after"), lent.context)
            thread = await self.server.store.load_thread(thread_id, context=lent.context)
            answer = {
                "id": chat_id,
                "thread_id": thread_id,
                "title": thread.title,
                "messages": ui_messages(thread_id, history),
                "after": history.after,
                "live": history.is_live,
            }
            return json_response(to_json(answer))


def _new_message(message: _Message) -> NewMessage:
    if message.role != "user":
        raise InvalidRequestError("the last message has to be of the role user or assistant")
    if any(part.type == "file" for part in message.parts):
        raise InvalidRequestError(
            "files don't come within a message: create them by ChatKit's attachments.create, and"
            " name their ids in metadata.chatkit.attachments of the message"
        )
    texts = [part.text for part in message.parts if part.type == "text"]
    extras = message.metadata.chatkit
    return NewMessage(id=message.id, texts=texts, extras=extras)


def _outputs(message: _Message) -> dict[str, Any]:
    return {
        part.toolCallId: part.output
        if part.state == "output-available"
        else _failure(part.errorText or "")
        for part in message.parts
        if part.toolCallId is not None and part.state in _DONE
    }


def _failure(text: str) -> dict[str, Any]:
    """Return the output that is stored, and told to the model, of a tool that has failed."""
    return {"error": text, "is_error": True}


def _error_in(output: Any) -> str | None:
    """Return what went wrong in the tool that has this output; None if nothing did."""
    match output:
        case {"error": str(text), "is_error": True} if output == _failure(text):
            return text
    return None


# --- The stream --------------------------------------------------------------------------------


def answer_id(message_id: str) -> str:
    """Return the id of the message that has the whole answer to a message of the user.

    It is the same in the first stream, in one that goes on after a tool, and in the history.
    """
    return f"{message_id}.answer"


class UIMessageTranslator(Translator):
    """Writes the chunks of a UI message stream, as the versions 5 to 7 of the AI SDK read it."""

    def __init__(self, thread_id: str, message_id: str) -> None:
        super().__init__()
        self._thread_id = thread_id
        self._message_id = message_id

    def begin(self) -> list[Chunk]:
        """Begin a message, or go on with it, by a step of its own.

        A client that answers tools by itself looks at the last step only.
        """
        metadata = {"chatkit": {"thread_id": self._thread_id}}
        start = {"type": "start", "messageId": answer_id(self._message_id)}
        return [{**start, "messageMetadata": metadata}, {"type": "start-step"}]

    def open(self, passage: Passage) -> list[Chunk]:
        """Begin a part."""
        return [{"type": f"{_kind(passage)}-start", "id": passage.id}]

    def extend(self, passage: Passage, delta: str) -> list[Chunk]:
        """Add to a part."""
        return [{"type": f"{_kind(passage)}-delta", "id": passage.id, "delta": delta}]

    def close(self, passage: Passage) -> list[Chunk]:
        """End a part; a thought's title is its metadata."""
        end: Chunk = {"type": f"{_kind(passage)}-end", "id": passage.id}
        if passage.title is not None:
            end["providerMetadata"] = {"chatkit": {"title": passage.title}}
        return [end]

    def cite(self, passage: Passage, annotation: Mapping[str, Any]) -> list[Chunk]:
        """Tell a source as a part of its own; an entity comes as it is."""
        source = annotation["source"]
        source_id = f"{passage.id}:source:{len(passage.annotations) - 1}"
        if source["type"] == "url":
            part = {"url": source["url"], "title": source["title"]}
            return [{"type": "source-url", "sourceId": source_id, **part}]
        if source["type"] == "file":
            part = {"title": source["title"], "filename": source["filename"]}
            media_type = _media_type(source["filename"])
            return [
                {"type": "source-document", "sourceId": source_id, "mediaType": media_type, **part}
            ]
        return [{"type": "data-annotation", "id": source_id, "data": annotation}]

    def call(self, call_id: str, name: str, arguments: Any, item_id: str) -> list[Chunk]:
        """Ask for the output of a tool."""
        call = {"toolCallId": call_id, "toolName": name, "input": arguments}
        return [{"type": "tool-input-available", **call}]

    def result(self, call_id: str, output: Any, item_id: str) -> list[Chunk]:
        """Tell the output of a tool, or its error, which ends its step.

        Clients forget with the step which parts were open.
        """
        told: Chunk = {"type": "tool-output-available", "toolCallId": call_id, "output": output}
        if (error := _error_in(output)) is not None:
            told = {"type": "tool-output-error", "toolCallId": call_id, "errorText": error}
        return [told, *self._close_all(), {"type": "finish-step"}, {"type": "start-step"}]

    def show(self, item: Item, *, is_done: bool) -> list[Chunk]:
        """Show an item as data; a picture that is done is a file."""
        if item["type"] != "generated_image":
            return [{"type": f"data-{item['type']}", "id": item["id"], "data": item}]
        image = item.get("image")
        if not is_done:
            return self.aside("generated_image", item)
        if image is None:
            return []
        return [{"type": "file", "url": image["url"], "mediaType": _media_type(image["url"])}]

    def aside(self, name: str, data: Mapping[str, Any]) -> list[Chunk]:
        """Say something to `onData` that becomes no part of the message."""
        return [{"type": f"data-{name}", "data": dict(data), "transient": True}]

    def finished(self) -> list[Chunk]:
        """End the message."""
        return [{"type": "finish-step"}, {"type": "finish"}]

    def cut(self, reason: str) -> list[Chunk]:
        """End the message early."""
        return [*self._ending(reason), {"type": "finish-step"}, {"type": "abort"}]

    def failed(self, message: str, reason: str) -> list[Chunk]:
        """End with an error, which a client throws."""
        ending = [] if reason == "finished" else self._ending(reason)
        return [*ending, {"type": "error", "errorText": message}]

    def _ending(self, reason: str) -> list[Chunk]:
        metadata = {"chatkit": {"ending": {"reason": reason}}}
        return [{"type": "message-metadata", "messageMetadata": metadata}]


def _kind(passage: Passage) -> str:
    return "reasoning" if passage.is_thought else "text"


def _media_type(name: str) -> str:
    """Return the media type of a file or picture by its name or URL."""
    if name.startswith("data:"):
        return name[5:].split(",", 1)[0].split(";", 1)[0] or "text/plain"
    path = name.split("?", 1)[0].split("#", 1)[0]
    return mimetypes.guess_type(path)[0] or "application/octet-stream"


# --- The history -------------------------------------------------------------------------------


def ui_messages(thread_id: str, history: History) -> list[dict[str, Any]]:
    """Return the messages of a page: all between two messages of the user is one answer."""
    messages: list[dict[str, Any]] = []
    answer: list[Item] = []
    asked_by = thread_id
    for item in history.items:
        if item["type"] != "user_message":
            answer.append(item)
            continue
        messages += _answer_message(thread_id, asked_by, answer, history.endings)
        messages.append(_user_message(item))
        asked_by, answer = item["id"], []
    return messages + _answer_message(thread_id, asked_by, answer, history.endings)


def _user_message(item: Item) -> dict[str, Any]:
    parts = [{"type": "text", "text": part["text"]} for part in item["content"]]
    parts += [
        {"type": "data-attachment", "id": attachment["id"], "data": attachment}
        for attachment in item["attachments"]
    ]
    known: dict[str, Any] = {"created_at": item["created_at"]}
    if "quoted_text" in item:
        known["quoted_text"] = item["quoted_text"]
    return {"id": item["id"], "role": "user", "parts": parts, "metadata": {"chatkit": known}}


def _answer_message(
    thread_id: str, asked_by: str, items: list[Item], endings: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the message that a client has made of the stream of these items."""
    translator = UIMessageTranslator(thread_id, asked_by)
    done = [{"type": "thread.item.done", "item": item} for item in items]
    parts = _parts_of([*translator.begin(), *translator.feed(done)])
    if all(part["type"] == "step-start" for part in parts):
        return []
    known: dict[str, Any] = {"thread_id": thread_id, "created_at": items[0]["created_at"]}
    ids = {item["id"] for item in items}
    for ending in endings:
        if not ids.isdisjoint(ending["item_ids"]):
            known["ending"] = ending
    metadata = {"chatkit": known}
    return [{"id": answer_id(asked_by), "role": "assistant", "parts": parts, "metadata": metadata}]


def _parts_of(chunks: Iterable[Chunk]) -> list[dict[str, Any]]:
    """Return the parts that a client makes of the chunks of a complete message."""
    parts: list[dict[str, Any]] = []
    by_id: dict[str, dict[str, Any]] = {}
    for chunk in chunks:
        kind, _, step = chunk["type"].partition("-")
        match kind, step:
            case "start", "step":
                parts.append({"type": "step-start"})
            case "text" | "reasoning", "start":
                by_id[chunk["id"]] = {"type": kind, "text": "", "state": "done"}
                parts.append(by_id[chunk["id"]])
            case "text" | "reasoning", "delta":
                by_id[chunk["id"]]["text"] += chunk["delta"]
            case "text" | "reasoning", "end" if "providerMetadata" in chunk:
                by_id[chunk["id"]]["providerMetadata"] = chunk["providerMetadata"]
            case "tool", "input-available":
                call = {name: chunk[name] for name in ("toolCallId", "input")}
                part = {"type": f"tool-{chunk['toolName']}", "state": "input-available", **call}
                by_id[chunk["toolCallId"]] = part
                parts.append(part)
            case "tool", "output-available":
                part = by_id[chunk["toolCallId"]]
                part |= {"state": "output-available", "output": chunk["output"]}
            case "tool", "output-error":
                part = by_id[chunk["toolCallId"]]
                part |= {"state": "output-error", "errorText": chunk["errorText"]}
            case "data", _ if not chunk.get("transient"):
                parts.append(chunk)
            case "source" | "file", _:
                parts.append(chunk)
    return parts
