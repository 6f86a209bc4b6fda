"""Who asks: the context of a request, by the one function of the user's."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeAlias, cast

from quart import Request, request
from typing_extensions import TypeVar
from werkzeug.exceptions import Forbidden

TContext = TypeVar("TContext", default=Any)

ContextFunction: TypeAlias = Callable[[Request], TContext | Awaitable[TContext]]
"""Makes the context of a request: who asks, and whatever else the hooks want to know."""


class Caller(Generic[TContext]):
    """Makes the context of the request that is being answered; without a function it is None."""

    def __init__(self, make_context: ContextFunction[TContext] | None) -> None:
        self._make_context = make_context

    async def __call__(self) -> TContext:
        """Return the context. `PermissionError` from the user's function becomes a 403."""
        if self._make_context is None:
            return cast(TContext, None)
        try:
            # The request itself and not Quart's proxy of it: the turn outlives the view.
            context = self._make_context(cast(Any, request)._get_current_object())
            return cast(TContext, await context if inspect.isawaitable(context) else context)
        except PermissionError as error:
            raise Forbidden("You may not use this chat.") from error
