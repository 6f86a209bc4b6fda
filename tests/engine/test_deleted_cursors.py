"""A client that pages on behind what was deleted meanwhile gets the rest, over any store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatkit_trio.store import Store
from chatkit_trio.stores import MemoryStore, SQLiteStore
from chatkit_trio.testing import (
    ChatClient,
    RequestRefused,
    StoreWrapper,
    emit,
    say,
    scripted_server,
)
from chatkit_trio.types import ThreadItemRemovedEvent

from .parts import answered, finish, within
from .scenes import retrying

SECONDS = 30.0

MakeStore = Callable[[Path], Store[Any]]

STORES = pytest.mark.parametrize(
    "make_store",
    [
        lambda path: MemoryStore(),
        lambda path: StoreWrapper(MemoryStore()),
        lambda path: StoreWrapper(SQLiteStore(path / "chat.db")),
    ],
    ids=["memory", "wrapped", "sqlite-wrapped"],
)


@STORES
@within(SECONDS)
async def test_threads_go_on_behind_the_last_listed_one_that_was_deleted(
    make_store: MakeStore, tmp_path: Path
) -> None:
    async with scripted_server(make_store(tmp_path), *[[say("Hi")]] * 5) as server:
        client = ChatClient.of_server(server)
        ids = [(await answered(server)).thread_id or "" for _ in range(5)][::-1]
        first = await client.threads_page(limit=2)
        assert [thread.id for thread in first.data] == ids[:2]
        await client.delete(ids[1])
        rest = await client.threads_page(limit=9, after=first.after)

        assert [thread.id for thread in rest.data] == ids[2:]
        with pytest.raises(RequestRefused, match="404"):
            await client.threads_page(after="thr_never")


@STORES
@within(SECONDS)
async def test_items_go_on_behind_one_that_an_answer_has_removed(
    make_store: MakeStore, tmp_path: Path
) -> None:
    removed = ThreadItemRemovedEvent(item_id="msg_b")
    script = [emit(finish("msg_a", "A"), finish("msg_b", "B"), finish("msg_c", "C"))]
    async with scripted_server(make_store(tmp_path), script, [emit(removed)]) as server:
        client = ChatClient.of_server(server)
        thread_id = (await answered(server)).thread_id or ""
        await answered(server, "again", thread_id)
        newer = await client.items_page(thread_id, after="msg_b", order="asc")
        older = await client.items_page(thread_id, after="msg_b", order="desc")

        assert [item.id for item in newer.data][:1] == ["msg_c"]
        assert newer.data[1].type == "user_message"
        assert [item.type for item in older.data] == ["assistant_message", "user_message"]


@STORES
@within(SECONDS)
async def test_items_go_on_behind_one_that_a_retry_has_deleted(
    make_store: MakeStore, tmp_path: Path
) -> None:
    scripts = [[emit(finish("msg_a", "A"))], [emit(finish("msg_b", "B"))]]
    async with scripted_server(make_store(tmp_path), *scripts) as server:
        client = ChatClient.of_server(server)
        thread_id = (await answered(server)).thread_id or ""
        message = (await client.items_page(thread_id, order="asc")).data[0]
        async with retrying(server, thread_id, message.id) as turn:
            await turn.read()
        newer = await client.items_page(thread_id, after="msg_a", order="asc")
        older = await client.items_page(thread_id, after="msg_a", order="desc")

        assert [item.id for item in newer.data] == ["msg_b"]
        assert [item.id for item in older.data] == [message.id]
