"""The same conversations with the original and with us: the same bytes, in the same order.

Only the times differ: ours have a zone, the original's are local and naive.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import chatkit_trio.errors
import chatkit_trio.server
import chatkit_trio.types
import chatkit_trio.widgets
from chatkit_trio.server import ChatKitServer, StreamingResult
from chatkit_trio.store import AttachmentStore
from chatkit_trio.stores.memory import MemoryStore

from .scenarios import CONVERSATIONS, Scripts, body

pytest.importorskip("chatkit", reason="the extra `parity` isn't installed", exc_type=ImportError)

SDK = types.SimpleNamespace(
    types=chatkit_trio.types,
    widgets=chatkit_trio.widgets,
    server=chatkit_trio.server,
    errors=chatkit_trio.errors,
)


class CountingStore(MemoryStore[None]):
    def __init__(self) -> None:
        super().__init__()
        self._numbers = itertools.count(1)

    def new_id(self, kind: str) -> str:
        return f"{kind}_{next(self._numbers)}"

    def generate_thread_id(self, context: None) -> str:
        return self.new_id("thread")

    def generate_item_id(self, item_type: str, thread: Any, context: None) -> str:
        return self.new_id(item_type)


class Attachments(AttachmentStore[None]):
    def __init__(self, store: CountingStore) -> None:
        self._store = store

    async def create_attachment(self, input: Any, context: None) -> Any:
        return chatkit_trio.types.ImageAttachment(
            id=self._store.new_id("attachment"),
            name=input.name,
            mime_type=input.mime_type,
            preview_url="https://example.com/p",
            metadata={"secret": 1},
        )

    async def delete_attachment(self, attachment_id: str, context: None) -> None:
        pass


class OurServer(ChatKitServer[None]):
    def __init__(self) -> None:
        store = CountingStore()
        super().__init__(store, Attachments(store))
        self._scripts = Scripts(SDK, store.new_id)

    def respond(self, thread: Any, input_user_message: Any, context: None) -> Any:
        return self._scripts.respond(thread, input_user_message, context)

    def action(self, thread: Any, action: Any, sender: Any, context: None) -> Any:
        return self._scripts.action(thread, action, sender, context)

    async def sync_action(self, thread: Any, action: Any, sender: Any, context: None) -> Any:
        return await self._scripts.sync_action(thread, action, sender, context)

    async def transcribe(self, audio_input: Any, context: None) -> Any:
        return await self._scripts.transcribe(audio_input, context)


@pytest.fixture(scope="module")
def original_answers() -> dict[str, list[list[str]]]:
    script = Path(__file__).with_name("run_original.py")
    run = subprocess.run([sys.executable, script], capture_output=True, check=False)
    assert run.returncode == 0, run.stderr.decode()
    answers: dict[str, list[list[str]]] = json.loads(run.stdout)
    return answers


async def hold(requests: list[dict[str, Any]]) -> list[list[str]]:
    answers = []
    async with OurServer() as server:
        for request in requests:
            result = await server.process(body(request), None)
            if isinstance(result, StreamingResult):
                answers.append([frame.decode() async for frame in result])
            else:
                answers.append([result.json.decode()])
    return answers


def without_times(answers: list[list[str]]) -> list[list[str]]:
    return [
        [re.sub(r'"created_at":"[^"]*"', '"created_at":"…"', text) for text in answer]
        for answer in answers
    ]


@pytest.mark.parametrize("name", CONVERSATIONS)
async def test_conversation_has_the_original_bytes(
    name: str, original_answers: dict[str, list[list[str]]]
) -> None:
    ours = without_times(await hold(CONVERSATIONS[name]))

    assert ours == without_times(original_answers[name])
