"""A FastAPI app with a chat in it, as users write it; served in children by Hypercorn and `serve`.

The environment says where the database is.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, HTTPException
from fastapi.middleware.cors import CORSMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request

from chatkit_trio.server import TurnPolicy
from chatkit_trio.stores import SQLiteStore
from chatkit_trio.testing import SlowStore
from chatkit_trio.web import asgi_app

from .talker import SLOW, Talker


def user_of(request: Request) -> str:
    """Return who asks, as a FastAPI app knows it."""
    if "banned" in request.headers:
        raise HTTPException(402, "Pay first", headers={"X-Why": "unpaid"})
    visits = request.session.get("visits", 0)
    return f"{request.headers.get('user', 'nobody')} {visits} {request.state.name}"


if "TALKER_DATABASE" in os.environ:
    server = Talker(
        SlowStore(SQLiteStore(os.environ["TALKER_DATABASE"]), SLOW, reads=0),
        word_size=int(os.environ.get("TALKER_WORD_SIZE", "8")),
        policy=TurnPolicy(stall_timeout=1.0),
    )
    chat = asgi_app(server, context=user_of)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, str]]:
        async with chat.lifespan(app):
            yield {"name": "state"}
        Path(os.environ["TALKER_DATABASE"]).with_suffix(".left").touch()

    app = FastAPI(lifespan=lifespan)
    app.add_middleware(SessionMiddleware, secret_key="not secret")
    app.add_middleware(CORSMiddleware, allow_origins=["https://shop.example"])

    @app.get("/pid")
    def pid() -> int:
        return os.getpid()

    app.mount("/", chat)

    unstarted = FastAPI()
    unstarted.mount("/", asgi_app(server))
