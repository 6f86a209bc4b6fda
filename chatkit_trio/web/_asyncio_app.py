"""`AsyncioApp`: a whole application that needs asyncio, under a server that runs on trio.

The application runs on the asyncio thread, and so do its start and its end; what is mounted beside
it runs on trio. A start that fails fails for all of them.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

import trio

from chatkit_trio._foreign_text import text_of
from chatkit_trio._settings import is_path
from chatkit_trio.agents import run_on_asyncio, run_on_trio

from ._paths import place_of

logger = logging.getLogger(__name__)

ASGIApp = Callable[..., Awaitable[None]]


class AsyncioApp:
    """Run an ASGI application that needs asyncio, such as one of FastAPI, beside a chat on trio.

        app = AsyncioApp(api, beside={"/chatkit": create_app(server)})

    Serve it as any app for trio: `hypercorn --worker-class trio main:app`. Requests at and below
    the paths of `beside` go to those apps, which run on trio and see the whole path; of several
    paths that fit, the longest counts. All others go to `app`, on the asyncio thread. At the start
    `app` comes first, and at the end last, so that what it opens is there for the others. If one
    fails to start, those before it are ended and the failure is told to the server. In `app`,
    `await run_on_trio(server.store.load_thread, ...)` reaches what lives on trio.

    A cancelled request cancels what it runs on asyncio, and waits for its end, two seconds at most.
    Raises `ValueError` for a key of `beside` that is no path, or that is the same path as another.
    """

    def __init__(self, app: ASGIApp, *, beside: Mapping[str, ASGIApp] | None = None) -> None:
        self._app = app
        self.beside: dict[str, ASGIApp] = {}
        """What runs on trio, by the path."""
        for path, mounted in (beside or {}).items():
            place = _place(path)
            if place in self.beside:
                raise ValueError(f"beside must be different paths, not several that are {place!r}")
            self.beside[place] = mounted

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request, or start and end the applications, as ASGI says."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        else:
            await self._app_for(scope)(scope, receive, send)

    def _app_for(self, scope: Any) -> ASGIApp:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        mount = place_of(path, self.beside)
        return self._on_asyncio if mount is None else self.beside[mount]

    async def _on_asyncio(self, scope: Any, receive: Any, send: Any) -> None:
        await run_on_asyncio(
            self._app, scope, partial(run_on_trio, receive), partial(run_on_trio, send)
        )

    async def _live(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        # One that is at several paths lives once.
        beside = {id(app): app for app in self.beside.values()}
        lives = [_Life(app, scope) for app in (self._on_asyncio, *beside.values())]
        begun: list[_Life] = []
        async with trio.open_nursery() as nursery:
            for life in lives:
                nursery.start_soon(life.run)
                await life.begin()
                if life.failure is not None:
                    break
                begun.append(life)
            else:
                await send({"type": "lifespan.startup.complete"})
                await receive()
            for life in reversed(begun):
                await life.end()
            nursery.cancel_scope.cancel()  # one that has failed may wait for more
        failures = [life.failure for life in lives if life.failure is not None]
        if len(begun) < len(lives):
            await send({"type": "lifespan.startup.failed", "message": "\n".join(failures)})
        elif failures:
            await send({"type": "lifespan.shutdown.failed", "message": "\n".join(failures)})
        else:
            await send({"type": "lifespan.shutdown.complete"})


def _place(path: object) -> str:
    """Return '/chat' for a path such as 'chat/', and "" for the whole site."""
    if not is_path(path):
        raise ValueError(f"beside must be paths such as '/chat', and one is {path!r}")
    return f"/{path.strip('/')}".rstrip("/")


class _Life:
    """The start and the end of one application."""

    def __init__(self, app: ASGIApp, scope: Any) -> None:
        self.failure: str | None = None
        """Why it couldn't start, or end."""
        self._app = app
        self._scope = scope
        self._asking, self._asked = trio.open_memory_channel[dict[str, str]](1)
        self._has_answered = trio.Event()
        self._is_over = False

    async def run(self) -> None:
        try:
            await self._app(self._scope, self._asked.receive, self._answer)
        except Exception as error:
            self._failed(error)
        finally:
            self._is_over = True
            self._has_answered.set()

    async def begin(self) -> None:
        """Let it start, and wait until it has, or has failed."""
        await self._ask("lifespan.startup")

    async def end(self) -> None:
        """Let it end, and wait until it has, or has failed."""
        if not self._is_over:
            self._has_answered = trio.Event()
            await self._ask("lifespan.shutdown")

    async def _ask(self, type: str) -> None:
        await self._asking.send({"type": type})
        await self._has_answered.wait()

    async def _answer(self, message: Any) -> None:
        await trio.lowlevel.checkpoint()
        if message["type"].endswith(".failed"):
            self.failure = message.get("message") or "an application failed, and doesn't say why"
        self._has_answered.set()

    def _failed(self, error: Exception) -> None:
        if self.failure is not None:
            return  # it has said so: an application may raise what it has told
        if self._has_answered.is_set():
            self.failure = f"{type(error).__name__}: {text_of(error)}"
        # Else ASGI says that it knows no start and end, and is served nevertheless.
        logger.log(
            logging.WARNING if self.failure is None else logging.ERROR,
            "an application beside others has no lifespan, or failed in it",
            exc_info=error,
        )
