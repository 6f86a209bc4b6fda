"""What it costs that many processes share a database.

    python -m benchmarks.cluster_cost                  all three tables, some 3 minutes
    python -m benchmarks.cluster_cost --rows 10000 --rounds 1 --events 200

Round trips are counted by a proxy before the database. Speed is that of Hypercorn with one worker
and with four, in turns, on one database, without nginx; the process that reads the streams needs a
part of the same processors. Pages are those of a thread with few items and of one with very many.
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import trio

from benchmarks.cluster_parts import System, running_system
from benchmarks.counting_client import request
from benchmarks.measuring import cpu_time, print_conditions, print_table
from chatkit_trio.server import ChatKitServer, stream_text
from chatkit_trio.store import Opening, Settlement
from chatkit_trio.stores.postgresql import PostgreSQLStore
from chatkit_trio.testing import ChatClient
from chatkit_trio.types import (
    AssistantMessageContent,
    AssistantMessageItem,
    ThreadMetadata,
)
from tests.postgresql_proxy import Proxy
from tests.postgresql_server import Server, running_server

NOW = datetime.now(UTC)
STREAMS = 24
PAGE = 20
LOADS = 300
LEASE = 15.0
READ_AT_ONCE = 65536  # bytes


# --- Round trips -------------------------------------------------------------------------------


class Talker(ChatKitServer[None]):
    """Answers with as many words as the message says."""

    def respond(self, thread: Any, input_user_message: Any, context: None) -> Any:
        return stream_text(thread, self._words(int(input_user_message.content[0].text)))

    async def _words(self, count: int) -> AsyncIterator[str]:
        for number in range(count):
            yield f"{number} "


async def trips(database: Server) -> list[list[Any]]:
    """Count the round trips of single calls, and of whole turns."""
    rows: list[list[Any]] = []
    with database.database() as url, Proxy(database.socket) as proxy:

        async def count(operation: Callable[[int], Awaitable[object]]) -> int:
            """Return the fewest of several: a heartbeat may fall into one."""
            counted = []
            for number in range(8):
                before = proxy.trips
                await operation(number)
                counted.append(proxy.trips - before)
            return min(counted)

        # Nothing of its own accord but the heartbeat and, twice a second, the journal.
        async with PostgreSQLStore[None](proxy.url(url)) as store:
            assert store.coordination is not None
            coordination = store.coordination
            await store.save_thread(ThreadMetadata(id="thr_1", created_at=NOW), None)

            async def add(number: int) -> None:
                await store.add_thread_item("thr_1", item(f"plain_{number}", "thr_1"), None)

            async def begin(number: int) -> None:
                thread = ThreadMetadata(id=f"thr_b{number}", created_at=NOW)
                first = (item("message", thread.id),)
                opening = Opening(thread.id, f"turn_{number}", new_thread=thread, new_items=first)
                await coordination.begin(opening, None)
                begun.append((thread.id, f"turn_{number}"))

            rows.append(["a write, such as an item", await count(add)])
            begun: list[tuple[str, str]] = []
            rows.append(["admission: first writes and record", await count(begin)])
            for thread_id, turn_id in begun:
                await store.settle(Settlement(thread_id, turn_id), None)
        for words in (10, 10_000):
            async with Talker(PostgreSQLStore[None](proxy.url(url))) as server:
                client = ChatClient.of_server(server)

                async def turn(number: int, words: int = words, client: Any = client) -> None:
                    async with client.send(str(words)) as answer:
                        await answer.read()

                rows.append([f"a whole turn of {words:,} events", await count(turn)])
    return rows


def item(item_id: str, thread_id: str) -> AssistantMessageItem:
    return AssistantMessageItem(
        id=item_id,
        thread_id=thread_id,
        created_at=NOW,
        content=[AssistantMessageContent(text="A sentence of an answer, not very long.")],
    )


# --- Events a second ---------------------------------------------------------------------------


async def speeds(database: Server, events: int, rounds: int) -> list[list[Any]]:
    """Compare one worker with four, in turns."""
    rows: list[list[Any]] = []
    with database.database() as url:
        async with workers(database, url, 1) as one, workers(database, url, 4) as four:
            for name, pause, share in (
                ("never awaits", None, 3.0), ("a checkpoint an event", 0, 1.0),
                ("10 ms an event", 0.01, 0.25),
            ):  # fmt: skip
                found: dict[int, list[tuple[float, float, float]]] = {1: [], 4: []}
                for _ in range(rounds):
                    for count, system in ((1, one), (4, four)):
                        many = STREAMS if pause != 0.01 else 8 * STREAMS
                        run = await speed(system, many, round(events * share), pause)
                        found[count].append(run)
                single, many_workers = (
                    [statistics.median(values) for values in zip(*found[count], strict=True)]
                    for count in (1, 4)
                )
                ratios = [b[0] / a[0] for a, b in zip(found[1], found[4], strict=True)]
                rows.append(
                    [
                        name,
                        f"{single[0]:,.0f}",
                        f"{many_workers[0]:,.0f}",
                        f"{statistics.median(ratios):.2f}",
                        f"{single[1]:.2f}",
                        f"{many_workers[1]:.2f}",
                        f"{single[0] / single[1]:,.0f}",
                        f"{many_workers[0] / many_workers[1]:,.0f}",
                        f"{many_workers[2]:.2f}",
                    ]
                )
    return rows


SPEED_HEAD = (
    "respond", "1 worker, events/s", "4 workers, events/s", "ratio", "processors that 1 had",
    "that 4 had", "1 worker, events per CPU second", "4 workers", "processors of the reader",
)  # fmt: skip


@asynccontextmanager
async def workers(database: Server, url: str, count: int) -> AsyncIterator[System]:
    with tempfile.TemporaryDirectory(prefix="cluster-") as folder:
        async with running_system(
            "workers", database, url, Path(folder), LEASE, workers=count, has_nginx=False
        ) as system:
            yield system


async def speed(
    system: System, streams: int, events: int, pause: float | None
) -> tuple[float, float, float]:
    """Return events a second, and the processors that the workers and this process had."""
    command: dict[str, object] = {"label": "x", "pieces": events, "parts": 1, "pause": pause}
    used, own = cpu_of(system), time.process_time()
    begun = time.perf_counter()
    sent = request("/chatkit", command, "connection: close")
    answers = await trio.to_thread.run_sync(read_all, system.port, sent, streams)
    seconds = time.perf_counter() - begun
    had, own = cpu_of(system) - used, time.process_time() - own
    counted = sum(answer.count(b"thread.item.updated") for answer in answers)
    assert counted == streams * events, f"{counted} of {streams * events} events have come"
    return counted / seconds, had / seconds, own / seconds


def read_all(port: int, sent: bytes, count: int) -> list[bytes]:
    """Send a request on so many connections; return what comes on each until it is closed.

    It needs as little of the workers' processors as it can: it only looks at a socket where much
    has come, and at nothing in it.
    """
    answers: list[list[bytes]] = []
    with selectors.DefaultSelector() as selector:
        for _ in range(count):
            connection = socket.create_connection(("127.0.0.1", port))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, READ_AT_ONCE)
            connection.sendall(sent)
            answers.append([])
            selector.register(connection, selectors.EVENT_READ, answers[-1])
        while selector.get_map():
            for key, _ in selector.select():
                assert isinstance(key.fileobj, socket.socket)
                chunk = key.fileobj.recv(4 * READ_AT_ONCE)
                key.data.append(chunk)
                if not chunk:
                    selector.unregister(key.fileobj)
                    key.fileobj.close()
    return [b"".join(answer) for answer in answers]


def cpu_of(system: System) -> float:
    """Return the seconds of processor time that the nodes have used."""
    return sum(map(cpu_time, system.nodes()))


# --- Pages -------------------------------------------------------------------------------------


async def pages(database: Server, rows: int) -> list[list[Any]]:
    """Measure a page of a thread with 100 items, and of one with so many."""
    table: list[list[Any]] = []
    with database.database() as url:
        async with PostgreSQLStore[None](url) as store:
            for thread_id in ("thr_small", "thr_large"):
                await store.save_thread(ThreadMetadata(id=thread_id, created_at=NOW), None)
            fill(url, 1, 100)
            fill(url, 2, rows)
            for thread_id, count in (("thr_small", 100), ("thr_large", rows)):
                for order in ("asc", "desc"):
                    last = f"i{count - 30 if order == 'asc' else 30}"
                    took = [
                        await page(store, thread_id, after, order)
                        for after in (None, f"i{count // 2}", last)
                    ]
                    table.append([f"{count:,}", order, *(f"{ms:.2f}" for ms in took)])
    return table


PAGE_HEAD = ("items of the thread", "order", "first page, ms", "in the middle", "at the end")


def fill(url: str, thread: int, rows: int) -> None:
    text = item("ID", "thr").model_dump_json()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO chatkit_trio.items (thread, id, data)"
            " SELECT %s, 'i' || n, replace(%s, 'ID', 'i' || n) FROM generate_series(1, %s) AS n",
            (thread, text, rows),
        )
        connection.execute("ANALYZE chatkit_trio.items")


async def page(
    store: PostgreSQLStore[None], thread_id: str, after: str | None, order: str
) -> float:
    """Return the median of many loads, in milliseconds."""
    costs = []
    for _ in range(LOADS):
        start = time.perf_counter()
        found = await store.load_thread_items(thread_id, after, PAGE, order, None)
        costs.append(time.perf_counter() - start)
        assert len(found.data) == PAGE
    return statistics.median(costs) * 1000


# --- The tables --------------------------------------------------------------------------------


async def measure(events: int, rounds: int, rows: int) -> dict[str, list[list[Any]]]:
    with running_server() as database:
        return {
            "trips": await trips(database),
            "speeds": await speeds(database, events, rounds),
            "pages": await pages(database, rows),
        }


HEADS = {
    "trips": ("what", "round trips"),
    "speeds": SPEED_HEAD,
    "pages": PAGE_HEAD,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true", help="print the rows for a program")
    arguments = parser.parse_args()
    tables = trio.run(measure, arguments.events, arguments.rounds, arguments.rows)
    if arguments.json:
        print(json.dumps(tables))
        return
    print_conditions()
    for name, rows in tables.items():
        print_table(HEADS[name], rows)
        print()


if __name__ == "__main__":
    main()
