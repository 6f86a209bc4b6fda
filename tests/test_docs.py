"""The examples of the README and of some pages, run as they stand."""

from __future__ import annotations

import math
import os
import re
import shlex
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from chatkit_trio.cli import main
from chatkit_trio.metrics import Metrics
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import (
    ChatClient,
    JumpClock,
    say,
    scripted_server,
)

from .web.http import CREATE, client_of

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def python_of(page: str) -> str:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text("utf-8"), re.S | re.M)
    return "\n\n".join(blocks)


@pytest.fixture
def in_tmp_path(tmp_path: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(tmp_path)
    yield
    os.chdir(before)


def names_of(page: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "documentation"}
    exec(compile(python_of(page), page, "exec"), names)
    return names


@pytest.fixture
def readmes_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Write each block of the README to the file that its first line names, as a reader does."""
    page = (ROOT / "README.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(?=# (\w+)\.py)(.*?)^```", page, re.S | re.M)
    for name, block in blocks:
        (tmp_path / f"{name}.py").write_text(block, "utf-8")
        sys.modules.pop(name, None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name, _ in blocks:
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("readmes_files")
async def test_the_readmes_server_answers_over_http(
    jump_clock: JumpClock,
) -> None:
    app = import_module("app").app
    async with ChatClient.of_app(app) as client, client.send("Good morning to you") as turn:
        await turn.read()

    assert turn.text == "Good morning to you "


@pytest.mark.usefixtures("readmes_files")
def test_the_readmes_test_passes() -> None:
    import_module("test_app").test_my_answer_survives_being_cut_anywhere()


@pytest.mark.usefixtures("in_tmp_path")
async def test_the_server_for_other_clients_answers_both(jump_clock: JumpClock) -> None:
    app = names_of("docs/how-to/other-clients.md")["app"]
    parts = [{"type": "text", "text": "Hi"}]
    asked = {"id": "c", "message": {"id": "m", "role": "user", "parts": parts}}
    message = {"id": "n", "role": "user", "content": "Hi"}
    run = {"threadId": "c", "runId": "r", "messages": [message]}
    async with client_of(app) as client:
        chat = await client.ask("POST", "/api/chat", asked)
        agent = await client.ask("POST", "/ag-ui", run)

    assert b'"delta":"You said: "' in chat.body
    assert b'"delta":"You said: "' in agent.body


def test_the_agent_of_the_documentation_is_the_one_that_is_tested() -> None:
    page = (ROOT / "docs" / "how-to" / "other-clients.md").read_text("utf-8")
    (agent,) = re.findall(r"^```js\n(class .*?)^```", page, re.S | re.M)

    assert agent in (ROOT / "tests" / "clients" / "ag_ui.mjs").read_text("utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    prose = re.sub(r"^```.*?^```|`[^`]*`", "", page.read_text("utf-8"), flags=re.S | re.M)
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", prose)

    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_every_row_of_the_threat_model_names_a_test_that_is_there() -> None:
    page = (ROOT / "docs" / "security.md").read_text("utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and "| who |" not in line]
    missing = []
    for row in rows:
        named = re.findall(r"`((?:tests|benchmarks)/[\w/]+\.py)(?:::(\w+))?`", row.split("|")[-2])
        assert named, f"no test: {row}"
        missing += [
            f"{path}::{name}"
            for path, name in named
            if not (ROOT / path).exists() or f"def {name}" not in (ROOT / path).read_text("utf-8")
        ]

    assert len(rows) > 20
    assert missing == []


async def test_the_observer_of_the_reference_sees_a_slow_answer(jump_clock: JumpClock) -> None:
    names = names_of("docs/reference/observe.md")
    server = names["server"]
    async with server, ChatClient.of_server(server) as client, client.send("Hi") as turn:
        await turn.read()

    assert names["slow"] == [(turn.thread_id, "finished")]


def recorded(directory: str) -> list[bytes]:
    return [path.read_bytes() for path in Path(directory).iterdir()]


@pytest.mark.usefixtures("in_tmp_path")
async def test_the_app_of_the_page_about_watching_shows_its_metrics_and_records(
    jump_clock: JumpClock,
) -> None:
    names = names_of("docs/how-to/observe.md")
    async with client_of(names["app"]) as client:
        answer = await client.ask("GET", "/metrics")
        await client.ask("POST", "/chatkit", CREATE)
    names["recorder"].flush(20)

    assert b'chatkit_turns_ended_total{reason="finished"} 0.0' in answer.body
    (recording,) = recorded("recordings")
    assert recording.endswith(b',"missing":0}\n')


def test_every_metric_is_on_the_page_about_watching() -> None:
    page = (ROOT / "docs/how-to/observe.md").read_text("utf-8")
    rows = re.findall(r"^\| `(chatkit_\w+)` \| (\w+)", page, re.M)
    metrics = list(Metrics(scripted_server(MemoryStore(), [say("Hi")])).registry.collect())
    suffix = {"counter": "_total", "gauge": "", "histogram": ""}

    assert dict(rows) == {f"{metric.name}{suffix[metric.type]}": metric.type for metric in metrics}


def shown_commands(page: Path) -> list[list[str]]:
    """Return the arguments of each call of `chatkit-trio` that a page shows."""
    text = page.read_text("utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.S | re.M)
    shown = [block for language, block in blocks if language in ("", "sh", "console")]
    lines = "\n".join(shown).replace("\\\n", "").splitlines()
    commands = [
        shlex.split(line, comments=True)
        for line in lines
        if "chatkit-trio " in line and "-u chatkit-trio" not in line  # that is systemd's name
    ]
    return [
        words[words.index("chatkit-trio") + 1 :] for words in commands if "chatkit-trio" in words
    ]


def test_commands_are_found_in_the_pages() -> None:
    page = ROOT / "docs/how-to/stored-data.md"

    assert ["migrate", "postgresql://chat@db/chat"] in shown_commands(page)
    assert sum(len(shown_commands(each)) for each in PAGES) > 15


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_command_line_knows_what_a_page_writes(page: Path) -> None:
    for arguments in shown_commands(page):
        words = [each for each in arguments if each not in (">", "|")]
        result = CliRunner().invoke(main, [*words, "--help"])

        assert result.exit_code == 0, (arguments, result.output)


def rows_of(page: str) -> list[list[str]]:
    """Return the cells of all rows of all tables of a page."""
    lines = (ROOT / page).read_text("utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines if "|" in line]


MEASURED = "docs/explanation/measurements.md"
ENDS = {
    "socket closed (stop button, closed tab)": "socket closed",
    "connection reset": "connection reset (RST)",
    "client stops reading": "client stops reading",
    "SIGTERM of the server": "SIGTERM of the server",
    "deadline": "deadline",
}
"""Ways in which a stream was cut: in the README, and in the page of measurements."""


def kept(end: str, system: str) -> set[str]:
    """Return how often answer and note were kept, with each store whose writes wait."""
    rows = [row for row in rows_of(MEASURED) if row[:1] == [end] and row[2] == system]
    waiting = [row for row in rows if row[1] != "0 ms"]
    assert len(waiting) == 2
    return {cell.removesuffix(" / 100") for row in waiting for cell in row[3:5]}


def test_the_readme_says_what_was_kept_in_the_measurement() -> None:
    told = {
        row[0]: [{cell.removesuffix(" kept")} for cell in row[1:]]
        for row in rows_of("README.md")
        if row[0] in ENDS
    }

    assert told == {
        name: [kept(end, "original"), kept(end, "chatkit_trio")] for name, end in ENDS.items()
    }


def test_the_readmes_figures_of_speed_are_those_that_were_measured() -> None:
    rows = [row for row in rows_of(MEASURED) if len(row) == 7 and row[1] == "events/s"]
    paced = [row for row in rows_of(MEASURED) if "events/s a stream" in row[0]]
    ahead = [float(row[4]) for row in rows]
    cpu = [float(row[3]) / float(row[2]) for row in paced if row[1] == "CPU µs/event"]
    delays = {row[0]: float(row[3]) for row in paced if row[1] == "delay of an event, p99, ms"}
    alone = max(delay for name, delay in delays.items() if ", 1 stream" in name)
    among = max(delay for name, delay in delays.items() if ", 100 streams" in name)
    (lost,) = [row[-1] for row in rows_of(MEASURED) if len(row) == 8 and row[-1].endswith(" ms")]
    readme = " ".join((ROOT / "README.md").read_text("utf-8").split())

    assert f"{min(ahead):.1f} to {max(ahead):.1f} times the events a second" in readme
    assert f"{min(cpu):.1f} to {max(cpu):.1f} times the original's CPU" in readme
    assert f"waits for up to {alone:.0f} ms ({among / 1000:.2f} s at the 99th percentile" in readme
    assert f"had been sent more than {math.ceil(float(lost[:-3]) / 10) / 100} s before" in readme


@pytest.mark.parametrize("page", ["examples/README.md", "docs/how-to/examples.md"])
def test_every_example_is_on_the_pages_that_list_them(page: str) -> None:
    listed = {
        re.sub(r"\W", "", re.split(r"\]\(", cell)[0]) for row in rows_of(page) for cell in row
    }
    examples = {path.stem for path in (ROOT / "examples").iterdir() if path.stem[0] != "_"}

    assert {each for each in examples - {"README"} if each not in listed} == set()
