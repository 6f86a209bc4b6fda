"""What the adapters to other protocols share: their requests become ChatKit's, the turn is theirs.

An `Adapter` asks `ChatKitServer.process` and `follow` as the ChatKit endpoint does, so policies,
owners and limits hold, and what is stored doesn't depend on the protocol. The clients of the other
protocols choose the ids of chats and messages, and never learn others. So these ids are made into
ids of threads and items by a digest, which needs no table and is the same in every process; the id
of a thread or item itself names it too.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Generic, Literal, Self, TypeAlias

from pydantic import BaseModel, FailFast, Field, ValidationError, field_validator, model_validator
from pydantic_core import from_json, to_json
from quart import Blueprint, Response, request
from quart_trio.wrappers import TrioResponse

from chatkit_trio._engine.reading import read_json
from chatkit_trio._engine.replay import LONGEST_ANSWER, latest_items
from chatkit_trio._engine.requests import last_answer, texts_of
from chatkit_trio._engine.wire import describe, item_to_json
from chatkit_trio._settings import check_count, own_path
from chatkit_trio.errors import (
    ConflictError,
    InvalidRequestError,
    NotFoundError,
)
from chatkit_trio.server import ChatKitServer, NonStreamingResult, StreamingResult
from chatkit_trio.store import TContext
from chatkit_trio.types import (
    ClientToolCallItem,
    ErrorEvent,
    InferenceOptions,
    StructuredInputItem,
    ThreadItem,
    UserMessageItem,
)

from ._blueprint import CorsOrigins, tie
from ._context import ContextFunction, Lent, RequestContext
from ._cors import Cors
from ._delivery import Exchange
from ._endpoint import BodyReader
from ._event_stream import EventStreamBody
from ._guard import GuardedRequest
from ._hosts import HostNames
from ._middleware import (
    ALL_METHODS,
    NO_STORE,
    Gate,
    View,
    event_stream,
    json_response,
    with_middleware,
)
from ._sending import Sending
from ._translating import Chunk, Item, Translator

DEFAULT_BODY_BYTES = 4 * 1024 * 1024
"""What a request may have: these clients send all the messages of a chat each time."""

LOST = "The answer can't be followed any further from here; load the chat again."

_HISTORY_ITEMS = 100
_ID_DIGITS = 32

Route: TypeAlias = tuple[str, Literal["GET", "POST"], View]


class Extras(BaseModel):
    """What a message may have that only ChatKit knows, as `metadata.chatkit` of the message."""

    attachments: Annotated[list[str], FailFast()] = []
    quoted_text: str | None = None
    inference_options: InferenceOptions = Field(default_factory=InferenceOptions)

    @field_validator("attachments", mode="before")
    @classmethod
    def _ids(cls, given: Any) -> Any:
        """Return the ids of attachments that are given as the history tells them."""
        if not isinstance(given, list):
            return given
        return [each.get("id", each) if isinstance(each, dict) else each for each in given]


class Metadata(BaseModel):
    """The metadata of a message, as far as it is read: an app may have any there."""

    chatkit: Extras = Field(default_factory=Extras)

    @model_validator(mode="before")
    @classmethod
    def _if_an_object(cls, given: Any) -> Any:
        return given if isinstance(given, dict) else {}


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message of the user, in whichever protocol."""

    id: str
    texts: list[str]
    extras: Extras

    def input(self) -> dict[str, Any]:
        """Return what ChatKit calls the input."""
        content = [{"type": "input_text", "text": text} for text in self.texts]
        return {"content": content, **self.extras.model_dump()}

    def is_stored_as(self, item: UserMessageItem) -> bool:
        """Say whether this is what an item says; the history tells tags as texts."""
        return texts_of(item) == self.texts


@dataclass(frozen=True, slots=True)
class History:
    """A page of a chat, oldest first; it begins with a message of the user, if there is one."""

    items: list[Item]
    endings: list[dict[str, Any]]
    after: str | None
    """The cursor of the older page, if there is one."""
    is_live: bool
    """Whether an answer is being written, which is left out."""


class TranslatedBody(EventStreamBody):
    """The frames of a turn in the words of another protocol."""

    def __init__(
        self, result: StreamingResult | None, sending: Sending, translator: Translator, last: bytes
    ) -> None:
        super().__init__(result, sending, with_ids=False)
        self._translator = translator
        self._last = last
        self._preamble = framed(translator.begin())

    def _encoded(self, result: StreamingResult, frames: list[bytes]) -> bytes:
        return framed(self._translator.feed(events_of(frames)))

    def _end(self, result: StreamingResult) -> bytes:
        return framed(self._translator.end(result.turn.end_reason)) + self._last

    def _lost(self) -> bytes:
        self._translator.feed([{"type": "error", "message": LOST}])
        return framed(self._translator.end("lost")) + self._last

    def _refused(self, error: ErrorEvent) -> bytes:
        self._translator.feed([error.model_dump(exclude_none=True)])
        return framed(self._translator.end("failed")) + self._last


class FollowingBody(TranslatedBody):
    """The last answer of a thread from its beginning, then what is live of it.

    The reader is opened when the body is entered, as in `WatchBody`. If the turn has ended by then,
    the answer is told as it is stored. If a turn is live all the same, as one is whose node doesn't
    answer in time, the client is told to load the chat again.
    """

    _leads = False

    def __init__(
        self,
        adapter: Adapter[TContext],
        thread_id: str,
        context: TContext,
        sending: Sending,
        translator: Translator,
        last: bytes,
    ) -> None:
        super().__init__(None, sending, translator, last)
        self._follow = partial(adapter.server.follow, thread_id, start=None)
        self._stored = partial(adapter.answer_as_stored, thread_id, context)

    async def __aenter__(self) -> Self:
        self._result = await self._follow()
        if self._result is None:
            self._preamble += self._ended(await self._stored())
        return await super().__aenter__()

    def _ended(self, stored: tuple[list[Item], str] | None) -> bytes:
        if stored is None:
            return self._lost()
        items, reason = stored
        done = [{"type": "thread.item.done", "item": item} for item in items]
        chunks = [*self._translator.feed(done), *self._translator.end(reason)]
        return framed(chunks) + self._last


class Adapter(ABC, Generic[TContext]):
    """The views of one adapter.

    `clients_return` says that its clients come back to a live answer, as in `can_return` of
    `ChatKitServer.process`.
    """

    last = b""
    """What stands behind the last event of each stream."""
    headers: Mapping[str, str] = {}
    """What each stream has besides the headers of event streams."""

    def __init__(
        self,
        server: ChatKitServer[TContext],
        context: ContextFunction[TContext] | None,
        max_body_bytes: int,
        *,
        clients_return: bool,
    ) -> None:
        self.server = server
        self._context = RequestContext(server, context)
        self._bodies = BodyReader(server, max_body_bytes)
        self._clients_return = clients_return

    @abstractmethod
    def routes(self) -> Iterable[Route]:
        """Return paths below the adapter's own, their methods and views."""

    # --- Requests ------------------------------------------------------------------------------

    @asynccontextmanager
    async def counted_context(self) -> AsyncIterator[Lent[TContext]]:
        """Lend the context of a request that has been counted."""
        async with self._context() as lent:
            await self.server.count_request(lent.context)
            yield lent

    async def read_request(self, context: TContext) -> dict[str, Any]:
        """Return the JSON object that the client has sent."""
        body = await self._bodies.read(context)
        return await read_json(body, self.server.limits, self.server.big_work)

    async def find_thread(
        self, chat_id: str, context: TContext, *, in_haste: bool = False
    ) -> str | None:
        """Return the id of the thread of a chat, if there is one.

        Waits while the first message of a new chat is being stored by this process; `in_haste`
        bounds that.
        """
        check_id(chat_id, self.server.limits.id_chars)
        new_thread_id = self.thread_id_of(chat_id, context)
        await self.server.live_turns.begun(new_thread_id, in_haste=in_haste)
        for thread_id in (chat_id, new_thread_id):
            try:
                await self.server.store.load_thread(thread_id, context=context)
            except NotFoundError:
                continue
            return thread_id
        return None

    async def require_thread(self, chat_id: str, context: TContext) -> str:
        """Return the id of the thread of a chat. Raises `NotFoundError`."""
        thread_id = await self.find_thread(chat_id, context)
        if thread_id is None:
            raise NotFoundError(f"there is no chat {chat_id}")
        return thread_id

    def thread_id_of(self, chat_id: str, context: TContext) -> str:
        """Return the id that the thread of a new chat gets. Each owner has chats of its own."""
        return digest_id("thr", self.server.store.get_owner(context), chat_id)

    async def find_message(
        self, thread_id: str, message_id: str, context: TContext
    ) -> UserMessageItem | None:
        """Return the stored item of a message of the user, if there is one."""
        for item_id in (message_id, digest_id("msg", thread_id, message_id)):
            try:
                item = await self.server.store.load_item(thread_id, item_id, context=context)
            except NotFoundError:
                continue
            if isinstance(item, UserMessageItem):
                return item
        return None

    async def send(
        self,
        chat_id: str,
        message: NewMessage,
        lent: Lent[TContext],
        make_translator: Callable[[str, str], Translator],
        *,
        only_again: bool = False,
    ) -> Response:
        """Answer a message; one that is in the chat already is answered again.

        `make_translator` gets the id of the thread and that of the message. With `only_again` the
        message has to be in the chat.
        """
        check_id(message.id, self.server.limits.id_chars)
        thread_id = await self.find_thread(chat_id, lent.context)
        stored = None
        if thread_id is not None:
            stored = await self.find_message(thread_id, message.id, lent.context)
        if stored is None and only_again:
            raise NotFoundError(f"there is no message {message.id} in chat {chat_id}")
        if thread_id is not None and stored is not None:
            if not (only_again or message.is_stored_as(stored)):
                raise ConflictError(
                    f"message {message.id} is in chat {chat_id} with another text; messages can't"
                    " be edited: send a new one, with an id of its own"
                )
            params: dict[str, Any] = {"thread_id": thread_id, "item_id": stored.id}
            translator = make_translator(thread_id, stored.id)
            return await self.stream("threads.retry_after_item", params, lent, translator)
        is_new = thread_id is None
        thread_id = self.thread_id_of(chat_id, lent.context) if thread_id is None else thread_id
        message_id = digest_id("msg", thread_id, message.id)
        params = {"input": message.input()}
        if not is_new:
            params["thread_id"] = thread_id
        kind = "threads.create" if is_new else "threads.add_user_message"
        translator = make_translator(thread_id, message_id)
        # It may be there by the time its turn begins, if it is sent twice at once.
        return await self.stream(kind, params, lent, translator, (thread_id, message_id))

    async def answer_call(
        self,
        chat_id: str,
        outputs: Mapping[str, Any],
        lent: Lent[TContext],
        make_translator: Callable[[str, str], Translator],
    ) -> Response:
        """Hand in what the client has answered to the call that the thread waits for.

        `outputs` are answers by the id of their call; others are passed over.
        """
        thread_id = await self.require_thread(chat_id, lent.context)
        await self.server.live_turns.ready_to_read(thread_id)
        items = await latest_items(self.server.store, thread_id, lent.context)
        kind, params = _hand_in(items, outputs)
        translator = make_translator(thread_id, _message_id(thread_id, items))
        return await self.stream(kind, {"thread_id": thread_id, **params}, lent, translator)

    async def last_message_id(self, thread_id: str, context: TContext) -> str:
        """Return the id of the user's last message, or of the thread if it has none near its end.

        The answer to it is one message in protocols whose messages have parts.
        """
        return _message_id(thread_id, await latest_items(self.server.store, thread_id, context))

    async def stream(
        self,
        kind: str,
        params: Mapping[str, Any],
        lent: Lent[TContext],
        translator: Translator,
        new_ids: tuple[str | None, str | None] = (None, None),
    ) -> Response:
        """Answer with the stream of a ChatKit request.

        `new_ids` are those of the thread and the message that it makes, if it makes any.
        """
        new_thread_id, new_message_id = new_ids
        result = await self.server.process(
            to_json({"type": kind, "params": params}),
            lent.context,
            can_return=self._clients_return,
            is_counted=True,
            new_thread_id=new_thread_id,
            new_message_id=new_message_id,
            answers_again=new_message_id is not None,
        )
        assert isinstance(result, StreamingResult)
        Exchange.of(request.scope).begin(result)
        lent.keep_for(result)
        sending = GuardedRequest.of(request).sending
        return self.event_stream(TranslatedBody(result, sending, translator, self.last))

    def follow(self, thread_id: str, lent: Lent[TContext], translator: Translator) -> Response:
        """Answer with the last answer of a thread, and go on with what is live of it."""
        lent.until = Exchange.of(request.scope).is_over  # the body reads the store
        sending = GuardedRequest.of(request).sending
        return self.event_stream(
            FollowingBody(self, thread_id, lent.context, sending, translator, self.last)
        )

    def tell(self, chunks: Iterable[Chunk]) -> Response:
        """Answer with a stream that is complete."""
        response = TrioResponse(
            framed(chunks) + self.last, headers=NO_STORE, content_type="text/event-stream"
        )
        response.headers.update(self.headers)
        return response

    def event_stream(self, body: EventStreamBody) -> Response:
        """Return a response that sends a stream."""
        response = event_stream(body)
        response.headers.update(self.headers)
        return response

    async def stop(self, chat_id: str) -> Response:
        """End the live answer of a chat; what there is of it is kept."""
        async with self._context() as lent:
            thread_id = await self.find_thread(chat_id, lent.context, in_haste=True)
            stopped = thread_id is not None and await self.server.stop(thread_id, by_client=True)
        return json_response(json.dumps({"stopped": stopped}).encode())

    # --- What is stored ------------------------------------------------------------------------

    async def history(self, thread_id: str, after: str | None, context: TContext) -> History:
        """Return the latest page of a thread, or the one before the item `after`.

        The answer to the last message is left out while it is being written: who follows it is
        told all of it.
        """
        while True:
            turn_id = await self.server.live_turns.watchable(thread_id)
            items, endings, cursor = await self._items_from_message(thread_id, after, context)
            if turn_id == await self.server.live_turns.watchable(thread_id):
                break
        messages = [place for place, item in enumerate(items) if item["type"] == "user_message"]
        if turn_id is not None and after is None:
            items = items[: messages[-1] + 1] if messages else []
        if cursor is not None and messages:
            # An answer that begins on the older page is told there as a whole.
            items, cursor = items[messages[0] :], items[messages[0]]["id"]
        return History(items=items, endings=endings, after=cursor, is_live=turn_id is not None)

    async def _items_from_message(
        self, thread_id: str, after: str | None, context: TContext
    ) -> tuple[list[Item], list[dict[str, Any]], str | None]:
        """Return a page's items, oldest first, endings, and the cursor of the older page.

        It is as long as it has to be to have a message of the user.
        """
        items: list[Item] = []
        endings: list[dict[str, Any]] = []
        while True:
            page = await self._page(thread_id, after, context)
            items = [*page["data"][::-1], *items]
            endings += page.get("endings", [])
            after = page.get("after") if page["has_more"] else None
            has_message = any(item["type"] == "user_message" for item in page["data"])
            if has_message or after is None or len(items) >= LONGEST_ANSWER:
                return items, endings, after

    async def _page(self, thread_id: str, after: str | None, context: TContext) -> dict[str, Any]:
        params = {"thread_id": thread_id, "limit": _HISTORY_ITEMS, "order": "desc"}
        if after is not None:
            params["after"] = after
        result = await self.server.process(
            to_json({"type": "items.list", "params": params}),
            context,
            with_endings=True,
            is_counted=True,
        )
        assert isinstance(result, NonStreamingResult)
        async with self.server.big_work.begin() as pace:
            await pace.before(len(result.json))
            page: dict[str, Any] = from_json(result.json)
        return page

    async def answer_as_stored(
        self, thread_id: str, context: TContext
    ) -> tuple[list[Item], str] | None:
        """Return the items of the last answer and how it ended; None if a turn is live."""
        is_live, ending = await last_answer(self.server, thread_id, context)
        items = await latest_items(self.server.store, thread_id, context)
        if is_live or await self.server.live_turns.is_live(thread_id):
            return None
        reason = "finished" if ending is None else ending.reason
        return [from_json(item_to_json(item)) for item in items], reason


def _message_id(thread_id: str, items: list[ThreadItem]) -> str:
    """Return the id of the message that the latest items begin with, or of the thread."""
    return items[0].id if items and isinstance(items[0], UserMessageItem) else thread_id


def _hand_in(items: list[ThreadItem], outputs: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the kind of request that hands in an answer to what is asked in these items."""
    for item in reversed(items):
        match item:
            case ClientToolCallItem(status="pending") if item.call_id in outputs:
                return "threads.add_client_tool_output", {"result": outputs[item.call_id]}
            case StructuredInputItem(status="pending") if item.id in outputs:
                answers = {"item_id": item.id, "input": outputs[item.id]}
                return "threads.add_structured_input", answers
    raise ConflictError(
        "the chat doesn't wait for the output of any of these calls: "
        + (", ".join(outputs) or "there is none")
    )


def adapter_blueprint(
    kind: type[Adapter[TContext]],
    server: ChatKitServer[TContext],
    *,
    context: ContextFunction[TContext] | None,
    path: str,
    clients_return: bool,
    max_body_bytes: int,
    cors_origins: CorsOrigins,
    allowed_hosts: HostNames,
    name: str,
) -> Blueprint:
    """Return a blueprint with the routes of such an adapter at a path, on which the server runs."""
    check_count("max_body_bytes", max_body_bytes)
    adapter = kind(server, context, max_body_bytes, clients_return=clients_return)
    if (place := own_path(path)) is None:
        raise ValueError(f"path must be a path such as '/api/chat', not {path!r}")
    blueprint = Blueprint(name, __name__)
    gate = Gate(allowed_hosts, Cors.of(cors_origins))
    for rule, method, view in adapter.routes():
        blueprint.add_url_rule(
            place + rule,
            endpoint=view.__name__,
            view_func=with_middleware(view, methods=[method], gate=gate),
            methods=ALL_METHODS,
            provide_automatic_options=False,
        )
    tie(blueprint, server, gate, [place], max_body_bytes)
    return blueprint


def digest_id(prefix: str, scope: str, name: str) -> str:
    """Return an id of the store's usual shape for what a client has named within a scope."""
    digest = hashlib.sha256(json.dumps([scope, name]).encode()).hexdigest()
    return f"{prefix}_{digest[:_ID_DIGITS]}"


def check_id(given: str, most_chars: int) -> None:
    """Raise `InvalidRequestError` for what can't be an id that a client has chosen."""
    if not 0 < len(given) <= most_chars:
        raise InvalidRequestError(f"an id of a chat or message has 1 to {most_chars} characters")


def validated(model: type[BaseModel], given: Any, wanted: str) -> Any:
    """Return a model of what a client has sent. Raises `InvalidRequestError` that says why not."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise InvalidRequestError(f"this is not {wanted}: {describe(error)}") from error


def events_of(frames: Iterable[bytes]) -> list[dict[str, Any]]:
    """Return the events in frames. JSON has no raw newlines, so that an event is one line."""
    return [
        from_json(line.removeprefix(b"data: "))
        for frame in frames
        for line in frame.split(b"\n\n")
        if line
    ]


def framed(chunks: Iterable[Chunk]) -> bytes:
    """Return chunks as SSE frames."""
    return b"".join(b"data: " + to_json(chunk) + b"\n\n" for chunk in chunks)
