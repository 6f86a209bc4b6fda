"""A request's body, read from the connection by whoever needs it and no faster.

Quart reads a body as fast as it arrives, whether or not a view wants it, and holds what has come
until the request is over. On the routes of this package Quart is given no body: `RequestBody`
stands in its place and reads the ASGI server's messages itself, under a limit for the size, one for
the time and a minimum pace. A `BodyBudget` bounds what all unfinished bodies hold together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Self, cast

import trio
from quart import Request
from werkzeug.exceptions import ClientDisconnected, RequestTimeout, ServiceUnavailable

from chatkit_trio.errors import LimitError, TooLargeError

SMALL = 64 * 1024
"""A body of up to so many bytes is taken even if the budget is used up."""

MINIMUM_PACE = 1024.0
"""Bytes a second: each byte that arrives earns its sender so much time, and no more."""

_RETRY_AFTER = 2  # seconds; bodies that don't go on are dropped soon
_DISCARDED_AT_MOST = 4 * 1024 * 1024  # bytes
_DISCARDING_TIMEOUT = 5.0  # seconds


class BodyBudget:
    """What the unfinished bodies of a process may hold, and how much of it one owner's may."""

    def __init__(self, total: int, share: int) -> None:
        self._total = total
        self._share = share
        self._held: dict[str, int] = {}

    @property
    def held(self) -> int:
        """How many bytes are held now."""
        return sum(self._held.values())

    @contextmanager
    def hold(self, owner: str) -> Iterator[HeldBody]:
        """Count a body that is being read."""
        body = HeldBody(self, owner)
        try:
            yield body
        finally:
            self._add(owner, -body.size)

    def grow(self, body: HeldBody, size: int) -> None:
        """Count more bytes of a body. Raises `LimitError`, or `ServiceUnavailable` (503)."""
        if body.size + size > SMALL:
            if body.owner and self._held.get(body.owner, 0) + size > self._share:
                raise LimitError(
                    "too many long requests of yours are arriving at once; try again in"
                    f" {_RETRY_AFTER} s",
                    limit="body_bytes_at_once",
                    retry_after=_RETRY_AFTER,
                )
            if self.held + size > self._total:
                raise ServiceUnavailable(
                    "Too many long requests are arriving at once; try again in a moment.",
                    retry_after=_RETRY_AFTER,
                )
        body.size += size
        self._add(body.owner, size)

    def _add(self, owner: str, size: int) -> None:
        held = self._held.get(owner, 0) + size
        if held:
            self._held[owner] = held
        else:
            self._held.pop(owner, None)


class HeldBody:
    """What a budget knows of one body."""

    def __init__(self, budget: BodyBudget, owner: str) -> None:
        self._budget = budget
        self.owner = owner
        self.size = 0

    def grow(self, size: int) -> None:
        """Count more bytes; see `BodyBudget.grow`."""
        self._budget.grow(self, size)


class RequestBody:
    """The chunks of a request's body, to be iterated once, or awaited as a whole.

    The messages of the ASGI server are taken by `receive_for_quart`, which Quart has to call.

    Raises `TooLargeError` for more than `max_bytes`, `ClientDisconnected`, and `RequestTimeout` if
    the whole hasn't arrived within `timeout` seconds, if nothing arrives for `idle_timeout`, or if
    it arrives at less than `MINIMUM_PACE` for that long.
    """

    def __init__(self, receive: Callable[[], Awaitable[Any]], max_bytes: int) -> None:
        self._receive = receive
        self._arrived: deque[bytes] = deque()
        self._arrived_size = 0
        self._is_complete = False
        self._is_disconnected = False
        self._is_left = False
        self._news = trio.lowlevel.ParkingLot()
        self._space = trio.lowlevel.ParkingLot()
        self._size = 0
        self._whole: bytes | None = None
        self.begin(max_bytes, 15.0, 60.0)

    def begin(self, max_bytes: int, idle_timeout: float, timeout: float) -> None:
        """Set the limits, and start the clock."""
        self.max_bytes = max_bytes
        self.idle_timeout = idle_timeout
        now = trio.current_time()
        self._deadline = now + timeout
        self._patience = now + idle_timeout

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._next_chunk()
        if not chunk:
            raise StopAsyncIteration
        self._size += len(chunk)
        if self._size > self.max_bytes:
            raise TooLargeError(f"a request may have {self.max_bytes} bytes at most")
        return chunk

    async def read(self, held: HeldBody | None = None) -> bytes:
        """Return the whole body; what has come so far is counted in `held`."""
        if self._whole is None:
            # One block and not a list: the allocator gives large blocks back to the system.
            whole = bytearray()
            async for chunk in self:
                if held is not None:
                    held.grow(len(chunk))
                whole += chunk
            self._whole = bytes(whole)
        return self._whole

    async def discard_rest(self) -> None:
        """Read on for a while, so that a client that is still sending can read the refusal.

        If the connection were closed at once, it would be reset, and the client would lose the
        answer.
        """
        left = _DISCARDED_AT_MOST
        with trio.move_on_after(_DISCARDING_TIMEOUT), suppress(ClientDisconnected, RequestTimeout):
            while left > 0 and (chunk := await self._next_chunk()):
                left -= len(chunk)

    def leave(self) -> None:
        """Read no more: what still comes is thrown away."""
        self._is_left = True
        self._arrived.clear()
        self._arrived_size = 0
        self._space.unpark_all()

    async def receive_for_quart(self) -> Any:
        """Take the server's messages until the client has left, and return that message.

        Quart calls this beside the view. A little is taken ahead of the view, so that a client that
        leaves is noticed though nobody reads its body yet.
        """
        while not self._is_disconnected:
            while self._arrived_size >= SMALL and not self._is_left:
                await self._space.park()
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._is_disconnected = True
            else:
                self._is_complete = not message.get("more_body", False)
                chunk = bytes(message.get("body", b""))
                if chunk and not self._is_left:
                    self._arrived.append(chunk)
                    self._arrived_size += len(chunk)
            self._news.unpark_all()
        return {"type": "http.disconnect"}

    async def _next_chunk(self) -> bytes:
        """Return what has arrived next, nothing at the end."""
        with trio.move_on_at(min(self._patience, self._deadline)):
            while not self._arrived:
                if self._is_complete:
                    return b""
                if self._is_disconnected:
                    raise ClientDisconnected("The client left before the whole body had arrived.")
                await self._news.park()
            chunk = self._arrived.popleft()
            self._arrived_size -= len(chunk)
            self._space.unpark_all()
            now = trio.current_time()
            earned = max(now, self._patience) + len(chunk) / MINIMUM_PACE
            self._patience = min(now + self.idle_timeout, earned)
            return chunk
        raise RequestTimeout("The request took too long to arrive.")

    # --- What Quart and its users expect of `request.body` -------------------------------------

    def __await__(self) -> Generator[Any, Any, bytes]:
        return self.read().__await__()

    def clear(self) -> None:
        """Forget the body: `get_data(cache=False)` does that."""
        self._whole = b""


def request_body(request: Request) -> RequestBody:
    """Return the body of a request to a path that `Guard` knows."""
    return cast(RequestBody, request.body)
