"""The recorded protocol, replayed against our server and, without the extensions, the original."""

from __future__ import annotations

import copy
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from chatkit_trio import types
from tests.web.sockets import running

from .replay import FIXTURES, Different, Names, fixtures, replay

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "protocol.md"


async def differences(url: str, recorded: list[tuple[Path, dict[str, Any]]]) -> dict[str, str]:
    """Return what is different, by fixture."""
    found = {}
    for path, fixture in recorded:
        try:
            await trio.to_thread.run_sync(partial(replay, url, fixture))
        except Different as difference:
            found[path.stem] = str(difference)
    return found


async def test_our_server_answers_as_recorded(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "chatkit_trio", "serve", "tests.protocol.app:app"]
    async with running([*command, "--port", "0"], tmp_path, "Serving on") as server:
        found = await differences(f"http://127.0.0.1:{server.port}/chatkit", list(fixtures()))

    assert found == {}


async def test_the_original_answers_as_recorded_where_it_is_no_extension(tmp_path: Path) -> None:
    pytest.importorskip("chatkit", reason="the extra `parity` isn't installed")
    command = [sys.executable, "-m", "uvicorn", "tests.protocol.original_app:app", "--port", "0"]
    recorded = [each for each in fixtures() if not each[1]["extension"]]
    async with running(command, tmp_path, "Uvicorn running on") as server:
        found = await differences(f"http://127.0.0.1:{server.port}/chatkit", recorded)

    assert found == {}
    assert len(recorded) > 8


@pytest.mark.parametrize(
    ("recorded", "answered", "told"),
    [
        ({"a": 1}, {"a": 1, "b": 2}, "answer has ['a', 'b'], not ['a']"),
        ({"a": True}, {"a": 1}, "answer.a is 1, not True"),
        (["${x}", "${x}"], ["one", "two"], "answer[1] is 'two', not '${x}' with {'x': 'one'}"),
        ("${time}", "now", "answer is 'now', which is no time"),
        ("${x}.0", "one.1", "answer is 'one.1', not '${x}.0' with {}"),
        ([1], [1, 2], "answer has 2 entries, not 1"),
    ],
)
def test_what_is_different_is_found(recorded: Any, answered: Any, told: str) -> None:
    names = Names()
    del names.values["key"]
    with pytest.raises(Different) as caught:
        names.compare(recorded, answered, "answer")

    assert str(caught.value) == told


def test_what_is_recorded_compares_as_the_same() -> None:
    thread = "thr_" + "0" * 32
    answer = {"thread": {"id": thread, "created_at": "2026-01-02T03:04:05Z"}, "names": {thread: ""}}
    recorded = Names().named(copy.deepcopy(answer))

    Names().compare(recorded, answer, "answer")
    assert recorded == {
        "thread": {"id": "${thr_1}", "created_at": "${time}"},
        "names": {"${thr_1}": ""},
    }


def test_replaying_needs_nothing_but_python() -> None:
    """Another implementation's environment has no package of ours."""
    script = Path(__file__).with_name("replay.py")
    run = subprocess.run(
        [sys.executable, "-I", "-S", str(script), "http://127.0.0.1:9/chatkit"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.stderr.splitlines()[-1].startswith("ConnectionRefusedError")


def test_the_specification_names_each_recording() -> None:
    page = PAGE.read_text("utf-8")

    names = sorted(path.stem for path in FIXTURES.glob("*.json"))

    assert [name for name in names if f"`{name}`" not in page] == []


def test_the_specification_names_each_request_and_event() -> None:
    page = PAGE.read_text("utf-8")
    names = {
        field.default
        for each in vars(types).values()
        if isinstance(each, type) and each.__name__.endswith(("Req", "Event"))
        if (field := each.model_fields.get("type")) is not None
    }

    assert len(names) > 25
    assert sorted(name for name in names if f"`{name}`" not in page) == []
