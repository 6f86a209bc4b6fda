"""The published clients of the AI SDK and AG-UI, in node, and a server in a process of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from chatkit_trio.stores import SQLiteStore
from chatkit_trio.types import AssistantMessageItem, SDKHiddenContextItem, UserMessageItem

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NODE = shutil.which("node")

AI_SDKS = ["5", "6", "7"]
AG_UIS = ["@ag-ui/client", "ag-ui-client-0"]

is_there = NODE is not None and (HERE / "node_modules").exists()
if not is_there and "CHATKIT_TRIO_NEEDS_NODE" in os.environ:
    raise RuntimeError("node, or `npm install` in tests/clients, is missing")

pytestmark = pytest.mark.skipif(
    not is_there,
    reason="it takes node and `npm install --no-package-lock` in tests/clients",
)

Play = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("oracle") / "oracle.sqlite3"


@pytest.fixture(scope="module")
def url(database: Path) -> Iterator[str]:
    """The URL of a server in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ORACLE_DATABASE": str(database)}
    command = ["-m", "hypercorn", "--worker-class", "trio", "--bind", "127.0.0.1:0"]
    log = database.with_name("server.log")
    with (
        log.open("w") as output,
        subprocess.Popen(
            [sys.executable, *command, "tests.clients.server:app"],
            cwd=database.parent,
            env=environment,
            stderr=output,
        ) as process,
    ):
        try:
            end = time.monotonic() + 60
            while (found := re.search(r"http://\S+", log.read_text())) is None:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.05)
            yield found[0]
        finally:
            process.terminate()


def played(script: str, client: str, url: str, scenario: str) -> dict[str, Any]:
    """Play a scenario, and return what the client has seen."""
    run = subprocess.run(
        [NODE, str(HERE / script), client, url, scenario],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.fixture(params=AI_SDKS)
def ai_sdk(request, url) -> Play:
    return lambda scenario: played("ai_sdk.mjs", request.param, url, scenario)


@pytest.fixture(params=AG_UIS)
def ag_ui(request, url) -> Play:
    return lambda scenario: played("ag_ui.mjs", request.param, url, scenario)


def stored(database: Path, thread_id: str) -> list[Any]:
    """Return the items of a thread, once its answer is settled."""

    async def load() -> list[Any]:
        async with SQLiteStore(database, owner=lambda user: user) as store:
            with trio.fail_after(20):
                while True:
                    page = await store.load_thread_items(thread_id, None, 100, "asc", "ada")
                    if isinstance(page.data[-1], SDKHiddenContextItem):
                        return page.data
                    await trio.sleep(0.05)

    return trio.run(load)


def check_cut_answer(items: list[Any], text: str, reason: str) -> None:
    """Check the promise: the message, the partial answer and its note, each once."""
    message, answer, note = items
    assert isinstance(message, UserMessageItem)
    assert isinstance(answer, AssistantMessageItem)
    assert answer.content[0].text == text
    assert isinstance(note, SDKHiddenContextItem)
    assert note.ending.reason == reason
    assert note.ending.item_ids == [answer.id]


def roles_and_parts(messages: list[dict[str, Any]]) -> list[tuple[str, list[Any]]]:
    """Return what a page shows of the AI SDK's messages: who says what."""
    return [(each["role"], [_shown(part) for part in each["parts"]]) for each in messages]


def _shown(part: dict[str, Any]) -> Any:
    if "toolCallId" in part:
        return part["type"], part["state"], part.get("output")
    return part.get("text", part["type"])


def said(messages: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    """Return who says what in AG-UI's messages."""
    return [
        (each["role"], [call["function"] for call in each.get("toolCalls", ())] or each["content"])
        for each in messages
    ]


EVERYTHING = [
    "step-start",
    "I wonder",
    "data-workflow",
    "Seen it",
    "source-url",
    "source-document",
    "data-annotation",
    "data-widget",
    "data-workflow",
    "data-task",
    "file",
]


# --- The AI SDK --------------------------------------------------------------------------------


def test_ai_sdk_shows_each_kind_of_item_as_a_reload_does(ai_sdk):
    seen = ai_sdk("everything")
    history = seen["history"]

    assert seen["errors"] == []
    assert roles_and_parts(seen["messages"]) == [
        ("user", ["everything"]),
        ("assistant", EVERYTHING),
    ]
    assert roles_and_parts(history["messages"]) == roles_and_parts(seen["messages"])
    live, reloaded = seen["messages"][1], history["messages"][1]
    assert live["id"] == reloaded["id"]
    without_ids = [{**part, "id": ""} for part in live["parts"]]
    assert [{**part, "id": ""} for part in reloaded["parts"]] == without_ids
    thought = live["parts"][1]
    assert (thought["type"], thought["providerMetadata"]) == (
        "reasoning",
        {"chatkit": {"title": "Musing"}},
    )
    widget = live["parts"][7]["data"]["widget"]
    assert widget["children"][0]["value"] == "Hello"


def test_ai_sdk_is_told_of_a_call_in_the_middle_of_a_text(ai_sdk):
    seen = ai_sdk("late")

    assert seen["errors"] == []
    assert roles_and_parts(seen["messages"])[1] == (
        "assistant",
        [
            "step-start",
            "Seen ",
            ("tool-look", "output-available", "Porto"),
            "step-start",
            "it",
            "source-url",
            "source-url",
        ],
    )


def test_ai_sdk_is_told_title_progress_notices_and_effects_aside(ai_sdk):
    seen = ai_sdk("everything")
    aside = {part["type"]: part["data"] for part in seen["data"] if part.get("transient")}

    assert aside["data-thread"]["title"] == seen["history"]["title"] == "All there is"
    assert aside["data-progress_update"] == {"text": "Looking around"}
    assert aside["data-notice"] == {"level": "info", "message": "Mind the gap"}
    assert aside["data-client_effect"] == {"name": "confetti", "data": {"pieces": 3}}


def test_ai_sdk_has_several_turns_and_answers_again(ai_sdk):
    seen = ai_sdk("turns")
    turns = [
        ("user", ["one"]),
        ("assistant", ["step-start", "You said one"]),
        ("user", ["two"]),
        ("assistant", ["step-start", "You said two"]),
    ]

    assert seen["errors"] == []
    assert roles_and_parts(seen["before"]) == turns
    assert roles_and_parts(seen["messages"]) == turns
    assert roles_and_parts(seen["history"]["messages"]) == turns
    # Answered anew, and the third message deleted: the answer to the second isn't the first one.
    assert seen["history"]["messages"][3]["metadata"] != seen["before"][3]["metadata"]


def test_ai_sdk_answers_a_client_tool_and_gets_the_rest_in_the_same_message(ai_sdk):
    seen = ai_sdk("tool")
    output = 'get_place {"exact":true}'
    shown = [
        ("user", ["tool"]),
        (
            "assistant",
            [
                "step-start",
                "Let me see. ",
                ("tool-get_place", "output-available", output),
                "step-start",
                f"So it is {output}",
            ],
        ),
    ]

    assert seen["errors"] == []
    assert len(seen["finishes"]) == 2
    assert roles_and_parts(seen["messages"]) == shown
    assert roles_and_parts(seen["history"]["messages"]) == shown
    assert seen["history"]["messages"][1]["id"] == seen["messages"][1]["id"]


def test_ai_sdk_answers_questions_as_a_tool(ai_sdk):
    seen = ai_sdk("questions")

    assert seen["asked"]["type"] == "tool-structured_input"
    assert seen["asked"]["input"]["inputs"][0]["question"] == "Which colour?"
    assert seen["messages"][1]["parts"][-1]["text"] == "So it is red"
    kept = seen["history"]["messages"][1]["parts"][1]["output"]
    assert kept == {
        "status": "answered",
        "answers": {"colour": {"values": ["red"], "skipped": False}},
    }


def test_ai_sdks_stop_keeps_the_answer_and_a_note(ai_sdk, database):
    seen = ai_sdk("closed")

    assert roles_and_parts(seen["messages"])[1] == ("assistant", ["step-start", "half "])
    thread_id = seen["messages"][1]["metadata"]["chatkit"]["thread_id"]
    check_cut_answer(stored(database, thread_id), "half ", "disconnected")


def test_ai_sdk_is_told_of_a_stop_from_elsewhere(ai_sdk, database):
    seen = ai_sdk("stopped")

    assert seen["answer"] == {"stopped": True}
    assert (seen["status"], seen["errors"]) == ("ready", [])
    assert seen["messages"][1]["metadata"]["chatkit"]["ending"] == {"reason": "stopped"}
    ending = seen["history"]["messages"][1]["metadata"]["chatkit"]["ending"]
    assert (ending["reason"], ending["can_continue"]) == ("stopped", True)
    check_cut_answer(stored(database, seen["history"]["thread_id"]), "half ", "stopped")


def test_ai_sdk_resumes_a_live_answer_without_saying_anything_twice(ai_sdk):
    seen = ai_sdk("resumed")
    whole = [("user", ["half"]), ("assistant", ["step-start", "half whole"])]

    assert seen["page"]["live"] is True
    assert roles_and_parts(seen["page"]["messages"]) == whole[:1]
    # Resumed while it is live; resumed again when it is over, which finds nothing (204).
    assert roles_and_parts(seen["messages"]) == whole
    assert (seen["status"], seen["errors"]) == ("ready", [])
    assert seen["messages"][1]["id"] == seen["first"][1]
    assert roles_and_parts(seen["history"]["messages"]) == whole
    assert "ending" not in seen["history"]["messages"][1]["metadata"]["chatkit"]


def test_ai_sdk_is_told_an_error_behind_what_was_said(ai_sdk, database):
    seen = ai_sdk("failed")

    assert (seen["status"], seen["errors"]) == ("error", ["I am tired."])
    assert roles_and_parts(seen["messages"])[1] == ("assistant", ["step-start", "so far"])
    assert seen["messages"][1]["metadata"]["chatkit"]["ending"] == {"reason": "failed"}
    check_cut_answer(stored(database, seen["history"]["thread_id"]), "so far", "failed")


def test_ai_sdk_learns_nothing_of_a_bug(ai_sdk):
    seen = ai_sdk("bug")

    assert seen["errors"] == ["Something went wrong, and the answer couldn't be finished."]


def test_ai_sdk_is_told_of_refusals_before_the_stream(ai_sdk):
    codes = [json.loads(error)["error"]["code"] for error in ai_sdk("refused")["errors"]]

    assert codes == ["forbidden", "invalid_request", "conflict"]


# --- AG-UI -------------------------------------------------------------------------------------


def test_ag_ui_shows_each_kind_of_item_as_a_reload_does(ag_ui):
    seen = ag_ui("everything")

    assert seen["errors"] == []
    assert [each.get("activityType", each["role"]) for each in seen["messages"]] == [
        "user",
        "reasoning",
        "workflow",
        "assistant",
        "widget",
        "workflow",
        "task",
        "generated_image",
    ]
    assert said(seen["history"]) == said(seen["messages"])
    ids, kept = ([each["id"] for each in seen[name]] for name in ("messages", "history"))
    assert kept[1:] == ids[1:]
    names = {event["name"]: event["value"] for event in seen["events"] if "name" in event}
    assert names["chatkit.thread"]["title"] == "All there is"
    assert names["chatkit.progress_update"] == {"text": "Looking around"}
    assert names["chatkit.notice"] == {"level": "info", "message": "Mind the gap"}
    assert names["chatkit.client_effect"] == {"name": "confetti", "data": {"pieces": 3}}


def test_ag_ui_is_told_of_sources_that_come_late(ag_ui):
    seen = ag_ui("late")

    def messages(name):
        return [each for each in seen[name] if each["role"] == "assistant" and "content" in each]

    assert seen["errors"] == []
    (message,) = messages("messages")
    assert message["content"] == "Seen it"
    assert messages("history") == [message]


def test_ag_ui_has_sources_and_titles_as_metadata(url):
    _, thought, _, message, *_ = played("ag_ui.mjs", "@ag-ui/client", url, "everything")["messages"]

    assert thought["metadata"] == {"chatkit": {"title": "Musing"}}
    sources = [each["source"]["type"] for each in message["metadata"]["chatkit"]["annotations"]]
    assert sources == ["url", "file", "entity"]


def test_ag_ui_has_several_turns_and_answers_again(ag_ui):
    seen = ag_ui("turns")

    assert seen["errors"] == []
    assert said(seen["history"]) == [
        ("user", "one"),
        ("assistant", "You said one"),
        ("user", "two"),
        ("assistant", "You said two"),
        ("user", "three"),
        ("assistant", "You said three"),
    ]
    assert [each["id"] for each in seen["history"]][:4] == [
        each["id"] for each in seen["messages"]
    ][:4]


def test_ag_ui_answers_a_client_tool(ag_ui):
    seen = ag_ui("tool")
    shown = [
        ("user", "tool"),
        ("assistant", "Let me see. "),
        ("assistant", [{"name": "get_place", "arguments": '{"exact":true}'}]),
        ("tool", "Porto"),
        ("assistant", "So it is Porto"),
    ]

    assert seen["errors"] == []
    assert said(seen["messages"]) == shown
    assert said(seen["history"]) == shown


def test_ag_ui_is_told_which_calls_wait(url):
    seen = played("ag_ui.mjs", "@ag-ui/client", url, "tool")

    assert [pending for _, pending in seen["outcomes"]] == [["call_1"], [], []]


def test_ag_ui_answers_questions_as_a_tool(ag_ui):
    seen = ag_ui("questions")

    assert seen["errors"] == []
    assert said(seen["messages"])[-1] == ("assistant", "So it is red")
    output = json.loads(seen["history"][2]["content"])
    assert output["answers"] == {"colour": {"values": ["red"], "skipped": False}}


def thread_of(seen: dict[str, Any]) -> str:
    """Return the id of the thread that a new chat has got."""
    values = [event["value"] for event in seen["events"] if event.get("name") == "chatkit.thread"]
    return values[0]["id"]


def test_ag_uis_abort_keeps_the_answer_and_a_note(ag_ui, database):
    seen = ag_ui("closed")

    assert said(seen["messages"])[1] == ("assistant", "half ")
    check_cut_answer(stored(database, thread_of(seen)), "half ", "disconnected")


def test_ag_ui_is_told_of_a_stop_from_elsewhere(ag_ui, database):
    seen = ag_ui("stopped")
    endings = [event["value"] for event in seen["events"] if event.get("name") == "chatkit.ending"]

    assert seen["answer"] == {"stopped": True}
    assert seen["errors"] == []
    assert endings == [{"reason": "stopped"}]
    assert seen["history"][1]["metadata"]["chatkit"]["ending"]["reason"] == "stopped"
    check_cut_answer(stored(database, thread_of(seen)), "half ", "stopped")


def test_ag_uis_run_ends_as_cancelled_by_a_stop(url):
    seen = played("ag_ui.mjs", "@ag-ui/client", url, "stopped")

    assert [outcome for outcome, _ in seen["outcomes"]] == ["cancelled", "success"]


def test_ag_ui_connects_to_a_live_answer_without_saying_anything_twice(ag_ui):
    seen = ag_ui("resumed")
    whole = [("user", "half"), ("assistant", "half whole")]

    assert said(seen["messages"]) == whole
    assert said(seen["history"]) == whole
    assert [code for code, _ in seen["errors"]] == ["abort"]  # the client's own


def test_ag_ui_is_told_an_error_behind_what_was_said(ag_ui, database):
    seen = ag_ui("failed")

    assert seen["errors"] == [["failed", "I am tired."]]
    assert said(seen["messages"])[1] == ("assistant", "so far")
    check_cut_answer(stored(database, thread_of(seen)), "so far", "failed")


def test_ag_ui_learns_nothing_of_a_bug(ag_ui):
    error = ["failed", "Something went wrong, and the answer couldn't be finished."]

    assert ag_ui("bug")["errors"] == [error]


def test_ag_ui_is_told_of_refusals_before_the_stream(ag_ui):
    assert [status for status, _ in ag_ui("refused")["errors"]] == [403, 400, 409]


def test_ag_ui_connects_to_a_chat_that_is_new(ag_ui):
    seen = ag_ui("fresh")

    assert (seen["messages"], seen["errors"]) == ([], [])
