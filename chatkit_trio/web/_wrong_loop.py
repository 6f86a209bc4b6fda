"""An app of this package behind a server that doesn't run on Trio: told once, and clearly.

Nothing here is of Trio: these functions run on whatever loop there is.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from chatkit_trio._engine.runner import not_on_trio

from ._middleware import Refusal, send_refusal

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
        await send_refusal(Refusal(500, "wrong_worker", sentence), send)
    else:
        await send({"type": "websocket.close", "code": 1011, "reason": sentence[:120]})
