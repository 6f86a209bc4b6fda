"""An app of this package behind a server that doesn't run on Trio: told once, and clearly.

Nothing here is of Trio: these functions run on whatever loop there is.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from chatkit_trio._engine.runner import not_on_trio

logger = logging.getLogger(__name__)


async def refuse_on_wrong_loop(
    scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
) -> None:
    """Fail the app's start-up with a sentence that says what to do; answer requests with it."""
    sentence = not_on_trio("This app")
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.failed", "message": sentence})
    elif scope["type"] == "http":
        # The server asked for no start-up, or its failure didn't count (uvicorn --lifespan off).
        logger.error("%s", sentence)
        error = {"error": {"code": "wrong_worker", "message": sentence}}
        headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 500, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(error).encode()})
    else:
        await send({"type": "websocket.close", "code": 1011, "reason": sentence[:120]})
