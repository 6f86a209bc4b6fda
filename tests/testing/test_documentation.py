"""The page on testing cancellation, run as it stands; the reference names all there is."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import chatkit_trio.testing
from chatkit_trio.testing import JumpClock
from tests.agents.threads import new_context

DOCS = Path(__file__).parent.parent.parent / "docs"


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    """Return what the examples of the page define."""
    text = (DOCS / "how-to" / "test-cancellation.md").read_text("utf-8")
    module = ModuleType("test_cancellation_page")
    sys.modules[module.__name__] = module
    exec("\n\n".join(re.findall(r"^```python\n(.*?)^```", text, re.S | re.M)), vars(module))
    return vars(module)


def test_the_explorations_of_the_page_pass(page: dict[str, Any]) -> None:
    page["test_an_answer_cut_short_anywhere_is_kept"]()
    page["test_a_cut_answer_ends_between_numbers"]()


@pytest.mark.parametrize(
    "name", ["test_stopping_keeps_what_was_said", "test_an_answer_outlives_a_write_that_fails"]
)
async def test_the_situations_of_the_page_are_as_it_says(
    name: str, page: dict[str, Any], jump_clock: JumpClock, caplog: pytest.LogCaptureFixture
) -> None:
    await page[name](jump_clock)


async def test_the_run_that_the_page_makes_up_is_read(
    page: dict[str, Any], jump_clock: JumpClock
) -> None:
    context = await new_context()
    stream = page["stream_agent_response"](context, page["MadeUpRun"]())

    events = [event async for event in stream]

    assert [event.update.delta for event in events if event.type == "thread.item.updated"] == [
        "Hello ",
        "there",
    ]


def test_the_reference_names_everything_public() -> None:
    text = (DOCS / "reference" / "testing.md").read_text("utf-8")
    names = set(chatkit_trio.testing.__all__)

    assert {name for name in names if not re.search(rf"\b{name}\b", text)} == set()
