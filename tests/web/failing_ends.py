"""Apps for `chatkit-trio serve` whose shutdown fails, each in its own way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from chatkit_trio.server import ChatKitServer, stream_text
from chatkit_trio.stores import MemoryStore
from chatkit_trio.web import AsyncioApp, create_app

REASON = "the pool won't close"


class Unclosable(MemoryStore[Any]):
    async def __aexit__(self, *args: object) -> None:
        raise RuntimeError(REASON)


class Echo(ChatKitServer[Any]):
    def respond(self, thread: Any, input_user_message: Any, context: Any) -> Any:
        return stream_text(thread, ["Hello"])


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    raise RuntimeError(REASON)


async def bare(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.failed", "message": REASON})


async def raising(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        raise RuntimeError(REASON)


async def after_serving() -> None:
    raise RuntimeError(REASON)


api = FastAPI(lifespan=lifespan)
beside = AsyncioApp(
    FastAPI(lifespan=lifespan), beside={"/chatkit": create_app(Echo(MemoryStore()))}
)
store = create_app(Echo(Unclosable()))
quart = create_app(Echo(MemoryStore()))
quart.after_serving(after_serving)
