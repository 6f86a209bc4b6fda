"""Has the original's own tests import this package and run on Trio: a plugin for pytest.

It is copied beside those tests, which have a package `tests` of their own, and is loaded as
`original_tests_plugin`. What the published archive lacks of them, a store and the class of a
request's context, is made up for here.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from contextvars import ContextVar
from types import ModuleType
from typing import Any

import pytest
import trio
from pydantic import BaseModel

from chatkit_trio import server
from chatkit_trio.stores import MemoryStore

_LIMIT = 6.0  # seconds; one of the tests waits for ever

_servers: ContextVar[AsyncExitStack] = ContextVar("servers")


class _Alias(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports `chatkit_trio.x` for `chatkit.x`."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] != "chatkit":
            return None
        return importlib.util.spec_from_loader(name, self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return importlib.import_module(spec.name.replace("chatkit", "chatkit_trio", 1))

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: the module has been imported."""


class RequestContext(BaseModel):
    """The context of the tests' requests."""

    user_id: str


class _Store(MemoryStore[RequestContext]):
    """In the place of the store of the tests, which has the users of one file apart too."""

    def __init__(self, path: str) -> None:
        super().__init__(owner=lambda context: context.user_id)


class _Server(server.ChatKitServer[Any]):
    """A server that is entered by its first request, for the original isn't entered at all."""

    async def process(self, *args: Any, **named: Any) -> Any:
        if not self.is_running:
            await _servers.get().enter_async_context(self)
        return await super().process(*args, **named)


def pytest_configure() -> None:
    sys.meta_path.insert(0, _Alias())
    server.ChatKitServer = _Server  # type: ignore[misc]
    for name, members in (
        ("helpers", {}),
        ("helpers.mock_store", {"SQLiteStore": _Store}),
        ("tests._types", {"RequestContext": RequestContext}),
    ):
        module = sys.modules[name] = ModuleType(name)
        module.__dict__.update(members)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    trio.run(_run, pyfuncitem.obj, {name: pyfuncitem.funcargs[name] for name in names})
    return True


async def _run(test: Any, arguments: dict[str, Any]) -> None:
    with trio.fail_after(_LIMIT):
        async with AsyncExitStack() as servers:
            _servers.set(servers)
            await test(**arguments)
