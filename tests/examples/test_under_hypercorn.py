"""Each example as its users run it: under Hypercorn, in a process of its own."""

from __future__ import annotations

import json

import pytest
import trio

from chatkit_trio.testing import ChatClient
from chatkit_trio.testing._http import SocketTransport

from .process import ROOT, serving

EXAMPLES = sorted(
    path.stem
    for path in (ROOT / "examples").iterdir()
    if not path.name.startswith("_") and (path.is_dir() or path.suffix == ".py")
)


def test_there_are_seven_examples():
    assert EXAMPLES == [
        "ask_first",
        "cancel_lab",
        "cat_lounge",
        "langgraph_agent",
        "metro_map",
        "minimal",
        "support_desk",
        "tools_and_progress",
    ]


@pytest.mark.parametrize("name", EXAMPLES)
async def test_an_example_starts_and_answers(name, tmp_path):
    if name == "langgraph_agent":
        pytest.importorskip("langgraph", reason="the extra `langgraph` isn't installed")
    with serving(name, tmp_path) as url, trio.fail_after(30):
        async with SocketTransport(url, ()).exchange("GET", "/healthz", b"", ()) as response:
            health = json.loads(await response.body())
        async with ChatClient.at(f"{url}/chatkit").send("Hello") as turn:
            await turn.read()

    assert health["status"] == "ok"
    assert turn.error is None
    assert turn.items[0].type == "user_message"
    assert len(turn.items) > 1
