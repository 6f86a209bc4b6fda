"""The talker beside an app on asyncio, as `chatkit-trio serve` is given it."""

from __future__ import annotations

from fastapi import FastAPI

from chatkit_trio.web import AsyncioApp

from .talker import app

both = AsyncioApp(FastAPI(), beside={"/chatkit": app})
