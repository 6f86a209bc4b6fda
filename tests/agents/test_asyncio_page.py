"""What docs/how-to/asyncio.md shows, run as it stands."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from chatkit_trio._engine import wrong_loop
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import ChatClient, JumpClock

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "asyncio.md"
TEXT = PAGE.read_text("utf-8")


@pytest.fixture
def page() -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "asyncio_page"}
    blocks = re.findall(r"^```python\n(.*?)^```", TEXT, re.S | re.M)
    exec("\n\n".join(blocks), names)
    return names


async def test_the_call(page: dict[str, Any]) -> None:
    assert await page["answer"]("Bern") == "It rains in Bern."


async def test_the_iteration(page: dict[str, Any], jump_clock: JumpClock) -> None:
    server = page["Speaker"](MemoryStore())
    async with server, ChatClient.of_server(server).send("hi") as turn:
        await turn.read()

    assert turn.text == "It rains in Bern. "


async def test_the_store(page: dict[str, Any]) -> None:
    events: list[str] = []

    @asynccontextmanager
    async def create_pool(dsn: str) -> AsyncIterator[str]:
        events.append(f"opened {dsn}")
        yield dsn
        events.append("closed")

    class OfPool:
        def __init__(self, pool: str) -> None:
            self.pool = pool

        async def load_thread(self, thread_id: str, context: None) -> str:
            return f"{thread_id} of {self.pool}"

    async with page["store_of"]("db", create_pool, OfPool) as store:
        loaded = await store.load_thread("thr_1", context=None)

    assert loaded == "thr_1 of db"
    assert events == ["opened db", "closed"]


async def test_the_names_of_trio_in_the_table_are_there() -> None:
    await trio.lowlevel.checkpoint()
    rows = [line for line in TEXT.splitlines() if line.startswith("| ")]
    names = {name for row in rows for name in re.findall(r"\btrio\.(\w+)", row)}

    assert len(names) > 8
    assert [name for name in names if not hasattr(trio, name)] == []


def test_the_hint_leads_to_the_table() -> None:
    (named,) = re.findall(r"docs/\S+\.md", wrong_loop._TABLE)

    assert (ROOT / named).samefile(PAGE)
    assert "| with asyncio | here |" in TEXT
