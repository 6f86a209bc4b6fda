"""A ChatKit client for tests: every request of the protocol, typed, over any transport."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Literal, Self, TypeVar

from pydantic import TypeAdapter
from pydantic_core import to_json

from chatkit_trio.actions import Action
from chatkit_trio.server import ChatKitServer
from chatkit_trio.types import (
    AnswerEnding,
    Attachment,
    AttachmentCreateParams,
    AttachmentDeleteParams,
    AttachmentsCreateReq,
    AttachmentsDeleteReq,
    BaseReq,
    FeedbackKind,
    InferenceOptions,
    InputTranscribeParams,
    InputTranscribeReq,
    ItemFeedbackParams,
    ItemsFeedbackReq,
    ItemsListParams,
    ItemsListReq,
    Page,
    StructuredInputAnswerSubmission,
    StructuredInputSubmission,
    SyncCustomActionResponse,
    Thread,
    ThreadAddClientToolOutputParams,
    ThreadAddStructuredInputParams,
    ThreadAddUserMessageParams,
    ThreadCreateParams,
    ThreadCustomActionParams,
    ThreadDeleteParams,
    ThreadGetByIdParams,
    ThreadItem,
    ThreadListParams,
    ThreadRetryAfterItemParams,
    ThreadsAddClientToolOutputReq,
    ThreadsAddStructuredInputReq,
    ThreadsAddUserMessageReq,
    ThreadsCreateReq,
    ThreadsCustomActionReq,
    ThreadsDeleteReq,
    ThreadsGetByIdReq,
    ThreadsListReq,
    ThreadsRetryAfterItemReq,
    ThreadsSyncCustomActionReq,
    ThreadsUpdateReq,
    ThreadUpdateParams,
    ToolChoice,
    TranscriptionResult,
    UserMessageInput,
    UserMessageTextContent,
)

from ._asgi import ASGIApp, ASGITransport
from ._client_turn import ClientTurn
from ._http import SocketTransport
from ._transport import Connection, Headers, ServerTransport, Transport

__all__ = ["ChatClient"]

_T = TypeVar("_T")
Order = Literal["asc", "desc"]

_THREAD = TypeAdapter(Thread)
_THREADS = TypeAdapter(Page[Thread])
_ITEMS: TypeAdapter[Page[ThreadItem]] = TypeAdapter(Page[ThreadItem])
_ATTACHMENT: TypeAdapter[Attachment] = TypeAdapter(Attachment)
_TRANSCRIPTION = TypeAdapter(TranscriptionResult)
_SYNC_ACTION = TypeAdapter(SyncCustomActionResponse)
_NOTHING: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])

_PAGE_SIZE = 100


class ChatClient:
    """A client of the protocol, as a page is one. Make one with `of_server`, `of_app` or `at`.

        async with MyServer(MemoryStore()) as server, ChatClient.of_server(server) as client:
            async with client.send("Hello") as turn:
                await turn.read()
            assert turn.text == "Hi!"

    `can_return` says whether the client knows how to come back to its turn. Over HTTP it does by
    default: it asks for event ids, and the turn goes on for the policy's `return_timeout` when it
    leaves. Without HTTP there are no ids, so by default leaving a stream cancels the turn at once,
    as with ChatKit.js.

    Every method raises `RequestRefused` if the server answers with an error status. Those that
    change something take an `idempotency_key`: send the same request with the same key again, and
    the server carries it out once.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @classmethod
    def of_server(
        cls, server: ChatKitServer[Any], context: Any = None, *, can_return: bool = False
    ) -> Self:
        """Return a client that calls a server without HTTP; the server must be running.

        Every request gets this `context`.
        """
        return cls(ServerTransport(server, context, can_return=can_return))

    @classmethod
    def of_app(
        cls,
        app: ASGIApp | Any,
        path: str = "/chatkit",
        *,
        headers: Headers = (),
        can_return: bool = True,
    ) -> Self:
        """Return a client that calls an ASGI application in this process, without sockets.

        Entering the client runs the application's start-up; leaving the client runs the shutdown.
        """
        return cls(ASGITransport(app, path, headers, can_return=can_return))

    @classmethod
    def at(cls, url: str, *, headers: Headers = (), can_return: bool = True) -> Self:
        """Return a client of the server at a URL, such as `http://127.0.0.1:8000/chatkit`."""
        return cls(SocketTransport(url, headers, can_return=can_return))

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._transport.__aexit__(*exc_info)  # noqa: ASYNC102  (passed on)

    # --- Streaming requests --------------------------------------------------------------------

    def send(
        self,
        text: str,
        thread_id: str | None = None,
        *,
        attachments: Sequence[str] = (),
        quoted_text: str | None = None,
        model: str | None = None,
        tool: str | None = None,
        idempotency_key: str | None = None,
    ) -> AbstractAsyncContextManager[ClientTurn]:
        """Send a message and stream the answer; without a `thread_id` in a new thread."""
        choice = None if tool is None else ToolChoice(id=tool)
        message = UserMessageInput(
            content=[UserMessageTextContent(text=text)],
            attachments=list(attachments),
            quoted_text=quoted_text,
            inference_options=InferenceOptions(model=model, tool_choice=choice),
        )
        if thread_id is None:
            create = ThreadsCreateReq(params=ThreadCreateParams(input=message))
            return self.stream(create, idempotency_key=idempotency_key)
        params = ThreadAddUserMessageParams(thread_id=thread_id, input=message)
        return self.stream(ThreadsAddUserMessageReq(params=params), idempotency_key=idempotency_key)

    def send_tool_output(
        self, thread_id: str, result: Any, *, idempotency_key: str | None = None
    ) -> AbstractAsyncContextManager[ClientTurn]:
        """Hand in the output of the thread's pending client tool call."""
        params = ThreadAddClientToolOutputParams(thread_id=thread_id, result=result)
        request = ThreadsAddClientToolOutputReq(params=params)
        return self.stream(request, idempotency_key=idempotency_key)

    def send_answers(
        self,
        thread_id: str,
        item_id: str,
        answers: Mapping[str, Sequence[str]] | None,
        *,
        idempotency_key: str | None = None,
    ) -> AbstractAsyncContextManager[ClientTurn]:
        """Answer a structured input, by question id; None skips all questions."""
        given = {
            question: StructuredInputAnswerSubmission(values=list(values))
            for question, values in (answers or {}).items()
        }
        submission = StructuredInputSubmission(
            status="skipped" if answers is None else "answered", answers=given
        )
        params = ThreadAddStructuredInputParams(
            thread_id=thread_id, item_id=item_id, input=submission
        )
        request = ThreadsAddStructuredInputReq(params=params)
        return self.stream(request, idempotency_key=idempotency_key)

    def retry(
        self,
        thread_id: str,
        item_id: str,
        text: str | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> AbstractAsyncContextManager[ClientTurn]:
        """Have a user message answered again; all items behind it are deleted.

        `text` takes the place of what it said, as when a user edits a message.
        """
        edited = None
        if text is not None:
            edited = UserMessageInput(
                content=[UserMessageTextContent(text=text)],
                attachments=[],
                inference_options=InferenceOptions(),
            )
        params = ThreadRetryAfterItemParams(thread_id=thread_id, item_id=item_id, input=edited)
        return self.stream(ThreadsRetryAfterItemReq(params=params), idempotency_key=idempotency_key)

    def act(
        self,
        thread_id: str,
        action: Action[str, Any],
        item_id: str | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> AbstractAsyncContextManager[ClientTurn]:
        """Send a widget's action and stream the events that it causes."""
        params = ThreadCustomActionParams(thread_id=thread_id, item_id=item_id, action=action)
        return self.stream(ThreadsCustomActionReq(params=params), idempotency_key=idempotency_key)

    def stream(
        self, request: BaseReq, *, idempotency_key: str | None = None
    ) -> AbstractAsyncContextManager[ClientTurn]:
        """Send any streaming request."""
        thread_id = getattr(getattr(request, "params", None), "thread_id", None)
        connecting = self._transport.stream(_encoded(request), idempotency_key=idempotency_key)
        return self._reading(connecting, thread_id)

    def watch(
        self, thread_id: str, last_event_id: str | None = None
    ) -> AbstractAsyncContextManager[ClientTurn]:
        """Read a thread's live turn, as a page does after a reload.

        The stream begins behind the event `last_event_id`, by default at the turn's first event. It
        has no events if no turn is live, or another one.
        """
        return self._reading(self._transport.watch(thread_id, last_event_id), thread_id)

    async def stop(self, thread_id: str) -> None:
        """End the thread's live turn, if it has one; returns when the turn is settled.

        Refused (409) is the stop of an answer whose options have `allow_cancel=False`.
        """
        await self._transport.stop(thread_id)

    @asynccontextmanager
    async def _reading(
        self, connecting: AbstractAsyncContextManager[Connection], thread_id: str | None
    ) -> AsyncIterator[ClientTurn]:
        async with connecting as connection:
            turn = ClientTurn(connection, self.stop)
            turn.belongs_to(thread_id)
            yield turn

    # --- Requests with one answer --------------------------------------------------------------

    async def thread(self, thread_id: str, *, with_endings: bool = False) -> Thread:
        """Return a thread with its first page of items, in `items.endings` how answers were cut."""
        params = ThreadGetByIdParams(thread_id=thread_id)
        return await self._ask(ThreadsGetByIdReq(params=params), _THREAD, with_endings=with_endings)

    async def threads(self) -> list[Thread]:
        """Return all threads, the oldest first; sends one request for each page."""
        return await _all_pages(partial(self.threads_page, order="asc"))

    async def threads_page(
        self, *, limit: int | None = None, order: Order = "desc", after: str | None = None
    ) -> Page[Thread]:
        """Return one page of the threads."""
        params = ThreadListParams(limit=limit, order=order, after=after)
        return await self._ask(ThreadsListReq(params=params), _THREADS)

    async def items(self, thread_id: str) -> list[ThreadItem]:
        """Return all visible items of a thread in order; sends one request for each page."""
        return await _all_pages(partial(self.items_page, thread_id, order="asc"))

    async def items_page(
        self,
        thread_id: str,
        *,
        limit: int | None = None,
        order: Order = "desc",
        after: str | None = None,
        with_endings: bool = False,
    ) -> Page[ThreadItem]:
        """Return one page of a thread's items, with `endings` of its cut answers if asked for."""
        params = ItemsListParams(thread_id=thread_id, limit=limit, order=order, after=after)
        return await self._ask(ItemsListReq(params=params), _ITEMS, with_endings=with_endings)

    async def last_ending(self, thread_id: str) -> AnswerEnding | None:
        """Return how the thread's last answer was cut; None if it wasn't, or if a turn is live."""
        return await self._transport.last_ending(thread_id)

    async def rename(
        self, thread_id: str, title: str, *, idempotency_key: str | None = None
    ) -> Thread:
        """Give a thread a title."""
        params = ThreadUpdateParams(thread_id=thread_id, title=title)
        return await self._ask(ThreadsUpdateReq(params=params), _THREAD, idempotency_key)

    async def delete(self, thread_id: str, *, idempotency_key: str | None = None) -> None:
        """Delete a thread."""
        params = ThreadDeleteParams(thread_id=thread_id)
        await self._ask(ThreadsDeleteReq(params=params), _NOTHING, idempotency_key)

    async def give_feedback(
        self,
        thread_id: str,
        item_ids: Sequence[str],
        kind: FeedbackKind,
        *,
        idempotency_key: str | None = None,
    ) -> None:
        """Rate items."""
        params = ItemFeedbackParams(thread_id=thread_id, item_ids=list(item_ids), kind=kind)
        await self._ask(ItemsFeedbackReq(params=params), _NOTHING, idempotency_key)

    async def create_attachment(
        self, name: str, size: int, mime_type: str, *, idempotency_key: str | None = None
    ) -> Attachment:
        """Create an attachment for a file of `size` bytes; it says where to upload them."""
        params = AttachmentCreateParams(name=name, size=size, mime_type=mime_type)
        return await self._ask(AttachmentsCreateReq(params=params), _ATTACHMENT, idempotency_key)

    async def delete_attachment(
        self, attachment_id: str, *, idempotency_key: str | None = None
    ) -> None:
        """Delete an attachment."""
        params = AttachmentDeleteParams(attachment_id=attachment_id)
        await self._ask(AttachmentsDeleteReq(params=params), _NOTHING, idempotency_key)

    async def transcribe(
        self, audio: bytes, mime_type: str, *, idempotency_key: str | None = None
    ) -> TranscriptionResult:
        """Return the text of a recording."""
        encoded = base64.b64encode(audio).decode()
        params = InputTranscribeParams(audio_base64=encoded, mime_type=mime_type)
        return await self._ask(InputTranscribeReq(params=params), _TRANSCRIPTION, idempotency_key)

    async def act_and_wait(
        self,
        thread_id: str,
        action: Action[str, Any],
        item_id: str | None = None,
        *,
        idempotency_key: str | None = None,
    ) -> SyncCustomActionResponse:
        """Send a widget's action that doesn't stream, and return the answer."""
        params = ThreadCustomActionParams(thread_id=thread_id, item_id=item_id, action=action)
        return await self._ask(
            ThreadsSyncCustomActionReq(params=params), _SYNC_ACTION, idempotency_key
        )

    async def ask(
        self,
        request: BaseReq | bytes,
        *,
        idempotency_key: str | None = None,
        with_endings: bool = False,
    ) -> bytes:
        """Send any request that has one answer, or any bytes, and return the answer's JSON."""
        body = request if isinstance(request, bytes) else _encoded(request)
        return await self._transport.ask(
            body, idempotency_key=idempotency_key, with_endings=with_endings
        )

    async def _ask(
        self,
        request: BaseReq,
        answer: TypeAdapter[_T],
        idempotency_key: str | None = None,
        *,
        with_endings: bool = False,
    ) -> _T:
        return answer.validate_json(
            await self.ask(request, idempotency_key=idempotency_key, with_endings=with_endings)
        )


def _encoded(request: BaseReq) -> bytes:
    body = request.model_dump(mode="json", exclude_none=True)
    if isinstance(request, ThreadsAddClientToolOutputReq):
        body["params"].setdefault("result", None)  # a tool may return nothing
    return to_json(body)


async def _all_pages(load: Callable[..., Awaitable[Page[_T]]]) -> list[_T]:
    found: list[_T] = []
    page: Page[_T] = await load(limit=_PAGE_SIZE)
    found += page.data
    while page.has_more:
        if page.after is None:
            raise ValueError(
                "the server has more than this page, and gives no cursor to go on from"
            )
        page = await load(limit=_PAGE_SIZE, after=page.after)
        found += page.data
    return found
