"""A class that overrides what nothing here calls is told so when it is made."""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import AsyncIterator
from typing import Any

import pytest

from chatkit_trio.server import ChatKitServer, stream_text
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import ChatClient
from chatkit_trio.types import ThreadMetadata, ThreadStreamEvent


def _insides_of_the_original() -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        server = importlib.import_module("chatkit.server").ChatKitServer
    names = vars(server).items()
    return [
        name for name, value in names if name[:2] != "__" and name[0] == "_" and callable(value)
    ]


def test_insides_of_the_original_cant_be_overridden() -> None:
    pytest.importorskip(
        "chatkit", reason="the extra `parity` isn't installed", exc_type=ImportError
    )
    names = _insides_of_the_original()
    assert "_process_events" in names
    for name in names:
        with pytest.raises(TypeError, match=rf"Shop\.{name}\(\) would never be called"):
            type("Shop", (ChatKitServer,), {name: lambda self: None})


def test_a_class_that_inherits_one_from_elsewhere_is_told_too() -> None:
    class Mixin:
        async def _process_streaming_impl(self, request: Any, context: Any) -> None:
            raise PermissionError

    with pytest.raises(TypeError, match=r"_process_streaming_impl\(\) would never be called"):
        type("Shop", (Mixin, ChatKitServer), {})


def test_a_method_of_ones_own_is_ones_own() -> None:
    class Shop(ChatKitServer[None]):
        def _process(self) -> None: ...

    assert inspect.isabstract(Shop)


def test_a_process_without_options_is_refused() -> None:
    async def process(self: Any, request: bytes, context: None) -> Any: ...

    with pytest.raises(TypeError, match=r"Shop\.process\(\) takes no can_return, idempotency_key"):
        type("Shop", (ChatKitServer,), {"process": process})


async def test_a_process_with_options_is_called() -> None:
    seen: list[bytes] = []

    class Shop(ChatKitServer[None]):
        async def process(self, request: Any, context: Any, **options: Any) -> Any:
            seen.append(bytes(request))
            return await super().process(request, context, **options)

        def respond(self, thread: ThreadMetadata, *_: Any) -> AsyncIterator[ThreadStreamEvent]:
            return stream_text(thread, ["Hi"])

    class Late(Shop):
        """Has the `process` of its base."""

    async with (
        Late(MemoryStore()) as server,
        ChatClient.of_server(server).send("hello") as turn,
    ):
        await turn.read()

    assert turn.text == "Hi"
    assert len(seen) == 1
