"""chatkit_trio on Quart-Trio and Hypercorn, answering as scripted.

Started by the benchmarks as a process of its own: `python -m benchmarks.trio_server --help`.
"""

from __future__ import annotations

import argparse
import dataclasses
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import hypercorn.trio
import trio

import chatkit_trio.types as types
from benchmarks.scripted import Script, bare_frames, command_of
from chatkit_trio.server import ChatKitServer, TurnPolicy
from chatkit_trio.store import Settlement, Store
from chatkit_trio.stores.memory import MemoryStore
from chatkit_trio.stores.sqlite import SQLiteStore
from chatkit_trio.web import create_app
from chatkit_trio.web._connections import ServerConfig
from chatkit_trio.web._garbage import fewer_collections, keep_out_what_is_loaded


class SlowSQLiteStore(SQLiteStore[Any]):
    """The SQLite store; every write takes `delay` seconds more, half before and half behind it."""

    def __init__(self, path: str, delay: float) -> None:
        super().__init__(path)
        self.noted_at: dict[str, float] = {}
        write = self._database.write

        async def slow_write(transaction: Callable[[Any], Any], *, owner: str = "") -> Any:
            await trio.sleep(delay / 2)
            result = await write(transaction, owner=owner)
            await trio.sleep(delay / 2)
            return result

        if not delay:
            return
        # The journal writes through the same database, so its writes are slow too.
        self._database.write = slow_write  # type: ignore[method-assign]

    async def settle(self, settlement: Settlement, context: Any) -> None:
        await super().settle(settlement, context)
        if any(item.type == "sdk_hidden_context" for item in settlement.new_items):
            self.noted_at[settlement.thread_id] = time.monotonic()


class ScriptedServer(ChatKitServer[Any]):
    """Ours with the scripted respond."""

    def __init__(self, store: Store[Any], policy: TurnPolicy) -> None:
        super().__init__(store, policy=policy)
        self.script = Script(types, store, sleep)

    def respond(self, thread: Any, input_user_message: Any, context: Any) -> AsyncIterator[Any]:
        return self.script.respond(thread, input_user_message, context)

    def get_turn_policy(self, request: Any, context: Any) -> TurnPolicy:
        message = getattr(request.params, "input", None)
        deadline = command_of(message).deadline if message is not None else None
        return dataclasses.replace(self.policy, turn_timeout=deadline)


async def sleep(seconds: float) -> None:
    # What asyncio.sleep(0) is to the original, a checkpoint is to us.
    if seconds:
        await trio.sleep(seconds)
    else:
        await trio.lowlevel.checkpoint()


def make_app(server: ScriptedServer) -> Any:
    app = create_app(server, context=lambda _: None)

    @app.get("/bench")
    async def bench() -> dict[str, Any]:
        noted_at = getattr(server.store, "noted_at", {})
        tasks = trio.lowlevel.current_statistics().tasks_living
        return {"tasks": tasks, "turns": len(server.live_turns), "noted_at": noted_at}

    @app.before_serving
    async def keep_out() -> None:
        keep_out_what_is_loaded()

    quart = app.asgi_app

    async def with_floor(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/bare":
            await bare(receive, send, server.policy.flush_interval)
        else:
            await quart(scope, receive, send)

    app.asgi_app = with_floor
    return app


async def bare(receive: Any, send: Any, window: float) -> None:
    """Answer as an ASGI app that does nothing but to send the frames."""
    body, is_whole = b"", False
    while not is_whole:
        message = await receive()
        body += message.get("body", b"")
        is_whole = not message.get("more_body", False)
    headers = [(b"content-type", b"text/event-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    async with aclosing(bare_frames(body, sleep, window)) as frames:
        async for chunk in frames:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def serve(app: Any, config: ServerConfig) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:

        async def signalled() -> None:
            async for _ in signals:
                return

        with fewer_collections():  # as chatkit_trio.web.serve() does
            await hypercorn.trio.serve(app, config, shutdown_trigger=signalled, mode="asgi")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--database", default=None)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--graceful-timeout", type=float, default=1.0)
    parser.add_argument("--stall-timeout", type=float, default=60.0)
    parser.add_argument("--on-disconnect", choices=["cancel", "finish"], default="cancel")
    parser.add_argument("--no-journal", action="store_true")
    arguments = parser.parse_args()
    store: Store[Any] = (
        MemoryStore()
        if arguments.database is None
        else SlowSQLiteStore(arguments.database, arguments.delay)
    )
    if arguments.no_journal:
        store.journal = None
    policy = TurnPolicy(
        stall_timeout=arguments.stall_timeout, on_disconnect=arguments.on_disconnect
    )
    config = ServerConfig()
    config.bind = [f"fd://{arguments.fd}"]
    config.errorlog = None
    config.graceful_timeout = arguments.graceful_timeout
    trio.run(serve, make_app(ScriptedServer(store, policy)), config)


if __name__ == "__main__":
    main()
