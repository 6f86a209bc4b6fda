"""The context of a request: made by the user's function, and left when nothing uses it any more.

A context that has an end is entered and left by a task of its own in the server's nursery: the turn
that a request starts outlives the request, and what was opened in a task has to be closed by it.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, Generic, TypeAlias, cast

import trio
from quart import Request, request
from werkzeug.exceptions import Forbidden

from chatkit_trio._engine.groups import ends_process, unwrapped
from chatkit_trio.observe import trace_headers
from chatkit_trio.server import ChatKitServer, StreamingResult, Turn
from chatkit_trio.store import TContext

logger = logging.getLogger(__name__)

ContextFunction: TypeAlias = Callable[
    [Request], TContext | Awaitable[TContext] | AbstractAsyncContextManager[TContext]
]
"""Makes the context of a request: who asks, and whatever else the hooks want to know."""


def check_context(make_context: object) -> None:
    """Raise `TypeError` unless this is None or can make a context."""
    if not (make_context is None or callable(make_context)):
        raise TypeError(f"context must be a function of the request, not {make_context!r}")


class Lent(Generic[TContext]):
    """A context while a view uses it."""

    def __init__(self, context: TContext) -> None:
        self.context = context
        self.until: trio.Event | None = None
        """What else has to happen before the context is left, once the view is over."""

    def keep_for(self, result: StreamingResult) -> None:
        """Have the context last as long as the turn that this request has started, if it has."""
        turn = result.turn
        if isinstance(turn, Turn) and turn.context is self.context:
            self.until = turn.context_is_free


class RequestContext(Generic[TContext]):
    """Calls the user's function for the request that is being answered; without one it is None."""

    def __init__(
        self, server: ChatKitServer[TContext], make_context: ContextFunction[TContext] | None
    ) -> None:
        check_context(make_context)
        self._server = server
        self._make_context = make_context

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Lent[TContext]]:
        """Lend the context to a view. `PermissionError` from the user's function becomes a 403.

        A context manager is left behind the view, with its error if it raises one, or when the
        turn of its stream has ended. What leaving it raises is raised here, or else logged.
        """
        if self._server.turn_story.is_watched:
            trace_headers.set(_trace_headers())
        made = await self._made()
        if not isinstance(made, AbstractAsyncContextManager):
            yield Lent(cast(TContext, made))
            return
        stay = _Stay[TContext](made, self._server.policy.settle_timeout)
        with _may_refuse():
            lent = await self._server.start_task(stay.run, name="chatkit_trio context")
        try:
            yield lent
        except BaseException as error:
            await stay.end(error, lent.until)  # noqa: ASYNC102  (it shields itself)
            raise
        await stay.end(None, lent.until)

    async def _made(self) -> object:
        if self._make_context is None:
            return None
        with _may_refuse():
            # The request itself and not Quart's proxy of it: the turn outlives the view.
            made: object = self._make_context(cast(Any, request)._get_current_object())
            # What is both, as some libraries' connections are, is meant to be left.
            if inspect.isawaitable(made) and not isinstance(made, AbstractAsyncContextManager):
                made = await made
        if inspect.isasyncgen(made):
            raise TypeError(
                "context= is an async generator function: put @contextlib.asynccontextmanager"
                " above it"
            )
        # A class of the user's own that has a plain `with` too may well be meant as it is.
        if inspect.isgenerator(made) or isinstance(made, _PLAIN_MANAGER):
            raise TypeError(
                "context= is a plain generator function, or one below @contextlib.contextmanager:"
                " write async def, and put @contextlib.asynccontextmanager above it"
            )
        return made


class _Stay(Generic[TContext]):
    """The time in which a context manager is entered."""

    def __init__(self, manager: AbstractAsyncContextManager[TContext], timeout: float) -> None:
        self._manager = manager
        self._timeout = timeout
        self._view_is_over = trio.Event()
        self._is_left = trio.Event()
        self._error: BaseException | None = None
        self._failure: BaseException | None = None

    async def run(self, task_status: trio.TaskStatus[Lent[TContext]]) -> None:  # noqa: ASYNC114
        """Enter the manager, and leave it when the view is over, and what it has begun."""
        lent = Lent(await self._manager.__aenter__())
        task_status.started(lent)
        try:
            await self._view_is_over.wait()
            if lent.until is not None:
                # Leaving the server ends the turn, which uses the context until then.
                with trio.CancelScope(shield=True):
                    await lent.until.wait()
        except trio.Cancelled as cancelled:
            self._error = self._error or cancelled
            raise
        finally:
            await self._leave(lent.until is not None)  # noqa: ASYNC102  (it shields itself)

    async def end(self, error: BaseException | None, until: trio.Event | None) -> None:
        """Say that the view is over, and how; if nothing goes on, wait until the manager is left.

        Raises what leaving it raises.
        """
        if until is None:
            self._error = error
        self._view_is_over.set()
        if until is None:
            with trio.CancelScope(shield=True):  # as long as leaving may take
                await self._is_left.wait()
            if self._failure is not None:
                raise self._failure

    async def _leave(self, is_alone: bool) -> None:
        error = self._error
        details = (None, None, None) if error is None else (type(error), error, error.__traceback__)
        try:
            with trio.move_on_after(self._timeout, shield=True) as leaving:
                await self._manager.__aexit__(*details)
            if leaving.cancelled_caught:
                logger.error("leaving a context took longer than %s s; it was cut", self._timeout)
        except BaseException as failure:  # noqa: ASYNC103  (nothing of a request ends the server)
            if ends_process(failure):
                raise
            if is_alone:
                logger.exception("leaving the context of a request failed")
            elif failure is not error:
                self._failure = failure
        finally:
            self._is_left.set()


def _trace_headers() -> dict[str, str]:
    """Return what a request says of the trace that it is a part of."""
    found = {name: request.headers.getlist(name) for name in _TRACE_HEADERS}
    return {name: ",".join(values) for name, values in found.items() if values}


_PLAIN_MANAGER = type(contextmanager(lambda: iter([None]))())
"""The class of what a function below `@contextlib.contextmanager` returns."""

_TRACE_HEADERS = ("traceparent", "tracestate", "baggage")


@contextmanager
def _may_refuse() -> Iterator[None]:
    """Make a 403 of a `PermissionError`, also of one that comes out of a nursery."""
    try:
        yield
    except Exception as error:
        if isinstance(unwrapped(error), PermissionError):
            raise Forbidden("You may not use this chat.") from error
        raise
