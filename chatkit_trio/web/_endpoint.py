"""The views of the endpoint, and the context of the request that each of them answers.

`_middleware` wraps the views; it deals with methods, other origins and exceptions.
"""

from __future__ import annotations

import json
import logging
import math
from functools import partial
from typing import Generic

from quart import Response, request
from werkzeug.exceptions import ServiceUnavailable

from chatkit_trio._engine.finding import search, threads_by_activity
from chatkit_trio._engine.loading import load_thread
from chatkit_trio._engine.requests import last_answer
from chatkit_trio.errors import ChatKitError, InvalidRequestError, TooLargeError
from chatkit_trio.server import ChatKitServer, StreamingResult
from chatkit_trio.store import TContext

from ._context import ContextFunction, RequestContext
from ._delivery import Exchange
from ._event_stream import EventStreamBody
from ._guard import GuardedRequest
from ._middleware import empty_response, event_stream, json_response
from ._request_body import BodyBudget, request_body
from ._watch import WatchBody, parse_event_id

logger = logging.getLogger(__name__)

_IDLE_TIMEOUT = 15.0  # seconds in which something of a body has to arrive
_MOST_DIGITS = 9
_UNFINISHED_BYTES = 64 * 1024 * 1024  # that all bodies on their way hold together


def _wants_endings() -> bool:
    return "ChatKit-Endings" in request.headers


def _takes_component_updates() -> bool:
    return "ChatKit-Component-Updates" in request.headers


def _limit() -> int | None:
    """Return how many entries the client wants. Raises `InvalidRequestError`."""
    text = request.args.get("limit")
    if text is None:
        return None
    is_number = text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
    if not is_number or int(text) == 0:
        raise InvalidRequestError("limit has to be a number, 1 or more")
    return int(text)


class BodyReader(Generic[TContext]):
    """Reads the bodies of the requests to one endpoint, within bounds."""

    def __init__(self, server: ChatKitServer[TContext], max_body_bytes: int) -> None:
        self._server = server
        self._max_body_bytes = max_body_bytes
        total = max(_UNFINISHED_BYTES, 4 * max_body_bytes)
        self._budget = BodyBudget(total, share=total // 4)

    async def read(self, context: TContext) -> bytes:
        """Return the request's body. Raises `TooLargeError` as soon as it is too large."""
        body = request_body(request)
        max_bytes = min(self._max_body_bytes, request.max_content_length or self._max_body_bytes)
        timeout = request.body_timeout
        body.begin(max_bytes, _IDLE_TIMEOUT, math.inf if timeout is None else timeout)
        try:
            if (request.content_length or 0) > max_bytes:
                raise TooLargeError(f"a request may have {max_bytes} bytes at most")
            with self._budget.hold(self._server.get_owner(context)) as held:
                return await body.read(held)
        except (ChatKitError, ServiceUnavailable) as error:
            # Without its traceback, which would hold what has come of the body.
            refusal = error.with_traceback(None)
        if request.content_length:  # one that names none may send for ever
            await body.discard_rest()
        raise refusal


class Endpoint(Generic[TContext]):
    """The views of one server."""

    def __init__(
        self,
        server: ChatKitServer[TContext],
        context: ContextFunction[TContext] | None,
        max_body_bytes: int,
    ) -> None:
        self._server = server
        self._context = RequestContext(server, context)
        self._bodies = BodyReader(server, max_body_bytes)

    async def process(self) -> Response:
        """Answer one request of the protocol."""
        # Who asks for ids can come back with the last one.
        with_ids = "ChatKit-Event-Ids" in request.headers
        async with self._context() as lent:
            context = lent.context
            # Before the body is read: who may not ask, or has asked too often, isn't listened to.
            await self._server.count_request(context)
            result = await self._server.process(
                await self._bodies.read(context),
                context,
                can_return=with_ids,
                idempotency_key=request.headers.get("Idempotency-Key"),
                with_endings=_wants_endings(),
                with_names="ChatKit-Names" in request.headers,
                component_updates=_takes_component_updates(),
                is_counted=True,
            )
            if isinstance(result, StreamingResult):
                Exchange.of(request.scope).begin(result)
                lent.keep_for(result)
        if isinstance(result, StreamingResult):
            sending = GuardedRequest.of(request).sending
            return event_stream(EventStreamBody(result, sending, with_ids=with_ids))
        return json_response(result.json)

    async def watch(self, thread_id: str) -> Response:
        """Stream the thread's live turn, or what the client has missed of it, if there is one.

        If there is none, a client that asks is told how the last answer ended.
        """
        async with self._context() as lent:
            await self._server.count_request(lent.context)
            last = parse_event_id(
                request.headers.get("Last-Event-ID") or request.args.get("last_event_id")
            )
            await load_thread(self._server.store, thread_id, lent.context)
            turn_id = await self._server.live_turns.watchable(thread_id)
            if turn_id is None or (last is not None and last.turn_id != turn_id):
                return await self._no_turn(thread_id, lent.context)
        sending = GuardedRequest.of(request).sending
        follow = partial(
            self._server.follow, thread_id, component_updates=_takes_component_updates()
        )
        return event_stream(WatchBody(follow, last, sending))

    async def _no_turn(self, thread_id: str, context: TContext) -> Response:
        """Answer a client that has nothing to go on with: its turn is over."""
        if not _wants_endings():
            return empty_response()
        is_live, ending = await last_answer(self._server, thread_id, context)
        answer = {"live": is_live, "ending": None if ending is None else ending.model_dump()}
        return json_response(json.dumps(answer).encode())

    async def threads(self) -> Response:
        """Answer with a page of threads, the latest active first."""
        async with self._context() as lent:
            await self._server.count_request(lent.context)
            limit, after = _limit(), request.args.get("after")
            return json_response(
                await threads_by_activity(self._server, limit, after, lent.context)
            )

    async def search(self) -> Response:
        """Answer with a page of threads that match what is asked for."""
        async with self._context() as lent:
            await self._server.count_request(lent.context)
            query, limit, after = request.args.get("q"), _limit(), request.args.get("after")
            if query is None:
                raise InvalidRequestError("q is missing: what to search for, as in ?q=boats")
            return json_response(await search(self._server, query, limit, after, lent.context))

    async def attachment_url(self, attachment_id: str) -> Response:
        """Answer with the URL of an attachment's bytes, or null if its store has none."""
        async with self._context() as lent:
            await self._server.count_request(lent.context)
            store = self._server.required_attachment_store()
            url = await store.attachment_url(attachment_id, lent.context)
        return json_response(json.dumps({"url": url}).encode())

    async def stop(self, thread_id: str) -> Response:
        """End the thread's live turn; its answer so far is kept."""
        async with self._context() as lent:
            await load_thread(self._server.store, thread_id, lent.context)
            stopped = await self._server.stop(thread_id, by_client=True)
        return json_response(json.dumps({"stopped": stopped}).encode())
