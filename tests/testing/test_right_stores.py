"""Stores that keep the contract in another way than the bundled ones: the kit lets them pass."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio

from chatkit_trio.store import Store
from chatkit_trio.stores import MemoryStore, SQLiteStore
from chatkit_trio.testing import FaultyStore, SlowStore, StoreConformance, StoreWrapper
from chatkit_trio.types import (
    AssistantMessageItem,
    HiddenContextItem,
    ImageAttachment,
    Page,
    SDKHiddenContextItem,
    ThreadMetadata,
)

T = TypeVar("T")


class RightKit(StoreConformance):
    __test__ = False

    def context(self) -> str:
        return "ann"

    def other_context(self) -> str:
        return "bob"


class TestStoreWithLatency(RightKit):
    __test__ = True

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[Store[str]]:
        yield SlowStore(MemoryStore(owner=str), 0.0002, answer_seconds=0.0002)


class MyThread(ThreadMetadata):
    row: int = 7


class MyHiddenContext(HiddenContextItem):
    row: int = 7


class MyNote(SDKHiddenContextItem):
    row: int = 7


class MyAnswer(AssistantMessageItem):
    row: int = 7


class MyImage(ImageAttachment):
    row: int = 7


class MyPage(Page[Any]):
    total: int = 7


OWN_CLASSES = {
    ThreadMetadata: MyThread,
    HiddenContextItem: MyHiddenContext,
    SDKHiddenContextItem: MyNote,
    AssistantMessageItem: MyAnswer,
    ImageAttachment: MyImage,
}


def as_own_class(value: Any) -> Any:
    if isinstance(value, Page):
        data = [as_own_class(one) for one in value.data]
        return MyPage(data=data, has_more=value.has_more, after=value.after)
    own: Any = OWN_CLASSES.get(type(value))
    return value if own is None else own(**dict(value))


class OwnClassesStore(StoreWrapper[str]):
    """Returns objects of classes of its own, which have more fields."""

    async def around(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        answer: T = as_own_class(await call())
        return answer


class TestStoreWithOwnClasses(RightKit):
    __test__ = True

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[Store[str]]:
        yield OwnClassesStore(MemoryStore(owner=str))


class TestDoublesAroundSQLite(RightKit):
    """A wrapper passes on all of the contract, the journal too."""

    __test__ = True
    persistent = True

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "chat.db"

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[Store[str]]:
        store = FaultyStore(SlowStore(SQLiteStore[str](self.path, owner=str), 0))
        store.disarm()
        async with store:
            yield store


class UncertainStore(StoreWrapper[str]):
    """Is told of a cancellation when its write has happened, as over a network."""

    async def around(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        answer = await call()
        await trio.lowlevel.checkpoint()
        return answer


class TestStoreWithUncertainCancellation(RightKit):
    __test__ = True
    exact_cancellation = False

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[Store[str]]:
        yield UncertainStore(MemoryStore(owner=str))
