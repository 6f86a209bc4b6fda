"""The original (openai-chatkit on FastAPI and uvicorn), as its documentation has it run.

Started by the benchmarks as a process of its own: `python -m benchmarks.original_server --help`.
It brings no store, so two are here: one in memory, and one on the SQLite tables of ours.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import chatkit.types as types
import uvicorn
from chatkit.server import ChatKitServer, StreamingResult
from chatkit.store import NotFoundError, Store
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import TypeAdapter

from benchmarks.scripted import Script, command_of

ITEM: TypeAdapter[Any] = TypeAdapter(types.ThreadItem)
MAX = 2**63 - 1


class NoAttachments(Store[Any]):
    """The part of a store that no benchmark uses."""

    async def save_attachment(self, attachment: Any, context: Any) -> None:
        raise NotImplementedError

    async def load_attachment(self, attachment_id: str, context: Any) -> Any:
        raise NotImplementedError

    async def delete_attachment(self, attachment_id: str, context: Any) -> None:
        raise NotImplementedError

    async def load_threads(self, limit: int, after: str | None, order: str, context: Any) -> Any:
        raise NotImplementedError

    async def delete_thread(self, thread_id: str, context: Any) -> None:
        raise NotImplementedError


class MemoryStore(NoAttachments):
    """Threads and items as JSON in dicts, as ours keeps them; it never waits."""

    def __init__(self) -> None:
        self.threads: dict[str, str] = {}
        self.items: dict[str, dict[str, str]] = {}

    async def load_thread(self, thread_id: str, context: Any) -> types.ThreadMetadata:
        if thread_id not in self.threads:
            raise NotFoundError(thread_id)
        return types.ThreadMetadata.model_validate_json(self.threads[thread_id])

    async def save_thread(self, thread: types.ThreadMetadata, context: Any) -> None:
        self.threads[thread.id] = thread.model_dump_json()

    async def load_thread_items(
        self, thread_id: str, after: str | None, limit: int, order: str, context: Any
    ) -> types.Page[types.ThreadItem]:
        rows = list(self.items.get(thread_id, {}).values())
        rows = rows if order == "asc" else rows[::-1]
        return types.Page(data=[ITEM.validate_json(row) for row in rows[:limit]])

    async def load_item(self, thread_id: str, item_id: str, context: Any) -> Any:
        return ITEM.validate_json(self.items[thread_id][item_id])

    async def add_thread_item(self, thread_id: str, item: Any, context: Any) -> None:
        self.items.setdefault(thread_id, {})[item.id] = item.model_dump_json()

    async def save_item(self, thread_id: str, item: Any, context: Any) -> None:
        await self.add_thread_item(thread_id, item, context)

    async def delete_thread_item(self, thread_id: str, item_id: str, context: Any) -> None:
        self.items.get(thread_id, {}).pop(item_id, None)


class SQLiteStore(NoAttachments):
    """The tables of chatkit_trio's SQLite store, one transaction a write, in a worker thread.

    Every write takes `delay` seconds more, half before it and half behind it, like a database
    behind a network. Without a delay it doesn't wait at all, not even for a thread.
    """

    def __init__(self, path: str, delay: float) -> None:
        self.delay = delay
        self.noted_at: dict[str, float] = {}
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA synchronous = NORMAL")

    async def load_thread(self, thread_id: str, context: Any) -> types.ThreadMetadata:
        rows = await self._read("SELECT data FROM threads WHERE id = ?", thread_id)
        if not rows:
            raise NotFoundError(thread_id)
        return types.ThreadMetadata.model_validate_json(rows[0][0])

    async def save_thread(self, thread: types.ThreadMetadata, context: Any) -> None:
        await self._write(
            "INSERT INTO threads (owner, id, data) VALUES ('', ?, ?)"
            " ON CONFLICT (id) DO UPDATE SET data = excluded.data",
            thread.id,
            thread.model_dump_json(),
        )

    async def load_thread_items(
        self, thread_id: str, after: str | None, limit: int, order: str, context: Any
    ) -> types.Page[types.ThreadItem]:
        rows = await self._read(
            "SELECT data FROM items WHERE thread = (SELECT seq FROM threads WHERE id = ?)"
            f" ORDER BY seq {'ASC' if order == 'asc' else 'DESC'} LIMIT ?",
            thread_id,
            limit,
        )
        return types.Page(data=[ITEM.validate_json(row[0]) for row in rows])

    async def load_item(self, thread_id: str, item_id: str, context: Any) -> Any:
        rows = await self._read("SELECT data FROM items WHERE id = ?", item_id)
        if not rows:
            raise NotFoundError(item_id)
        return ITEM.validate_json(rows[0][0])

    async def add_thread_item(self, thread_id: str, item: Any, context: Any) -> None:
        await self._insert(thread_id, item, "")
        if item.type == "sdk_hidden_context":
            self.noted_at[thread_id] = time.monotonic()

    async def save_item(self, thread_id: str, item: Any, context: Any) -> None:
        update = " ON CONFLICT (thread, id) DO UPDATE SET data = excluded.data"
        await self._insert(thread_id, item, update)

    async def delete_thread_item(self, thread_id: str, item_id: str, context: Any) -> None:
        await self._write("DELETE FROM items WHERE id = ?", item_id)

    async def _insert(self, thread_id: str, item: Any, conflict: str) -> None:
        await self._write(
            "INSERT INTO items (thread, id, data)"
            f" VALUES ((SELECT seq FROM threads WHERE id = ?), ?, ?){conflict}",
            thread_id,
            item.id,
            item.model_dump_json(),
        )

    async def _read(self, query: str, *values: Any) -> list[Any]:
        return await asyncio.to_thread(self._run, query, values)

    async def _write(self, query: str, *values: Any) -> None:
        if not self.delay:
            self._run(query, values)
            return
        await asyncio.sleep(self.delay / 2)
        await asyncio.to_thread(self._run, query, values)
        await asyncio.sleep(self.delay / 2)

    def _run(self, query: str, values: tuple[Any, ...]) -> list[Any]:
        with self._lock:
            return self._db.execute(query, values).fetchall()


class ScriptedServer(ChatKitServer[Any]):
    """The original with the scripted respond."""

    def __init__(self, store: Store[Any]) -> None:
        super().__init__(store)
        self.script = Script(types, store, asyncio.sleep)

    def respond(self, thread: Any, input_user_message: Any, context: Any) -> AsyncIterator[Any]:
        return self.script.respond(thread, input_user_message, context)


def make_app(server: ScriptedServer) -> FastAPI:
    app = FastAPI()

    @app.post("/chatkit")
    async def chatkit(request: Request) -> Response:
        body = await request.body()
        result = await server.process(body, {})
        if not isinstance(result, StreamingResult):
            return Response(content=result.json, media_type="application/json")
        deadline = deadline_in(body)
        stream = result if deadline is None else with_deadline(result, deadline)
        return StreamingResponse(stream, media_type="text/event-stream")

    @app.get("/bench")
    async def bench() -> dict[str, Any]:
        noted_at = getattr(server.store, "noted_at", {})
        return {"tasks": len(asyncio.all_tasks()), "noted_at": noted_at}

    return app


def deadline_in(body: bytes) -> float | None:
    """Return the deadline in the command of a user message; the original has no such setting."""
    content = json.loads(body).get("params", {}).get("input", {}).get("content")
    message = types.UserMessageInput.model_construct(
        content=[types.UserMessageTextContent(**part) for part in content or ()]
    )
    return command_of(message).deadline if content else None


async def with_deadline(result: StreamingResult, deadline: float) -> AsyncIterator[bytes]:
    """Give up after `deadline` seconds, as an application on asyncio would."""
    try:
        async with asyncio.timeout(deadline):
            async for frame in result:
                yield frame
    except TimeoutError:
        return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--database", default=None)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--graceful-timeout", type=float, default=1.0)
    parser.add_argument("--fast", action="store_true", help="use uvloop and httptools")
    arguments = parser.parse_args()
    make_store: Callable[[], Any] = (
        MemoryStore
        if arguments.database is None
        else lambda: SQLiteStore(arguments.database, arguments.delay)
    )
    config = uvicorn.Config(
        make_app(ScriptedServer(make_store())),
        log_level="critical",
        access_log=False,
        loop="uvloop" if arguments.fast else "asyncio",
        http="httptools" if arguments.fast else "h11",
        timeout_graceful_shutdown=int(arguments.graceful_timeout),
    )
    # Not uvicorn's own --fd: it takes the socket for a Unix one, and so leaves Nagle's delay on.
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=arguments.fd)])


if __name__ == "__main__":
    main()
