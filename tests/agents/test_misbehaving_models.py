"""Models and gateways that don't keep to the Responses API, by each of the three ways to ask them.

Whatever comes, the user sees an answer or an error, and the thread keeps what was shown.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from chatkit_trio.errors import CustomStreamError
from chatkit_trio.testing import ChatClient
from chatkit_trio.types import SDKHiddenContextItem

from . import script
from .model_endpoint import ModelEndpoint
from .ways import AgentsSDK, Native, PydanticAI, Server, Work, asked, every_way, played

HEL_LO = script.answer(*script.message("m", "Hel", "lo"))
HALF = HEL_LO[:4]
"""An answer up to its "Hel"."""


def ended_as(status: str, *events: Any, **fields: Any) -> list[Any]:
    """Return an answer whose last event is of this kind."""
    response = script.response(events, status) | fields
    last = {"type": f"response.{status}", "sequence_number": 0, "response": response}
    return [HEL_LO[0], *events, last]


def cut(*events: Any, reason: str = "max_output_tokens") -> list[Any]:
    """Return an answer that the model's own limit ends."""
    return ended_as("incomplete", *events, incomplete_details={"reason": reason})


# --- Streams that break off, or aren't any -----------------------------------------------------

RATE_LIMIT = {"code": "rate_limit_exceeded", "message": "slow down"}

BROKEN: dict[str, tuple[list[Any], list[str]]] = {
    "ends in the middle of the text": (HALF, ["assistant: Hel", "note: failed"]),
    "ends without its last event": (HEL_LO[:-1], ["assistant: Hello", "note: failed"]),
    "is HTML": ([b"<html>\n<body>Sign in</body></html>\n\n"], []),
    "is empty": ([], []),
    "has broken JSON": ([*HALF, b'data: {"type": "resp\n\n'], ["assistant: Hel", "note: failed"]),
    "has a list": ([*HALF, b"data: [1, 2]\n\n"], ["assistant: Hel", "note: failed"]),
    "has null": ([*HALF, b"data: null\n\n"], ["assistant: Hel", "note: failed"]),
    "has an object of something else": (
        [*HALF, b'data: {"choices": []}\n\n'],
        ["assistant: Hel", "note: failed"],
    ),
    "reports a rate limit": (
        [*HALF, {"type": "error", "sequence_number": 0, "param": None, **RATE_LIMIT}],
        ["assistant: Hel", "note: failed"],
    ),
    "reports a rate limit as an object": (
        [*HALF, {"type": "error", "error": RATE_LIMIT}],
        ["assistant: Hel", "note: failed"],
    ),
    "fails": (
        [*HALF, ended_as("failed", error=RATE_LIMIT)[-1]],
        ["assistant: Hel", "note: failed"],
    ),
    "fails without saying why": (
        [*HALF, ended_as("failed", error=None)[-1]],
        ["assistant: Hel", "note: failed"],
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
@every_way
async def test_a_broken_stream_is_an_error_and_what_was_shown_is_kept(
    way: type[Server], kind: str
) -> None:
    steps, kept = BROKEN[kind]

    turn, said, _endpoint = await played(way, steps)

    assert said == ["user: hi", *kept]
    assert turn.error is not None
    assert turn.error.allow_retry


@every_way
async def test_no_tool_is_called_if_the_stream_broke_off_behind_the_call(
    way: type[Server],
) -> None:
    called: list[str] = []
    half = script.answer(*script.call("work", '{"what": "x"}'))[:-1]

    turn, said, endpoint = await played(way, half, tools={"work": noting(called)})

    assert called == []
    assert len(endpoint.requests) == 1
    assert turn.error is not None
    assert said == ["user: hi"]


async def test_the_error_of_a_stream_that_is_none_says_what_came(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await played(Native, [b"<html>\n\n"], content_type="text/html; charset=utf-8")

    assert "(text/html; charset=utf-8) broke off" in caplog.text


async def test_a_stream_that_stays_open_behind_its_last_event_ends_the_answer(
    autojump_clock: Any,
) -> None:
    import trio

    turn, said, _endpoint = await played(Native, [*HEL_LO, trio.sleep_forever])

    assert said == ["user: hi", "assistant: Hello"]
    assert turn.error is None


# --- Answers that the model's own limit cuts ---------------------------------------------------


def noting(called: list[str]) -> Work:
    async def work(what: str) -> str:
        called.append(what)
        return "done"

    return work


CUT_CALL = script.call_item("work", '{"what": "x"}') | {"status": "incomplete"}
TEXT_DONE = script.message("m", "Hel")
TEXT_OPEN = script.message("m", "Hel")[:3]


@pytest.mark.parametrize("text", [TEXT_DONE, TEXT_OPEN])
@pytest.mark.parametrize("reason", ["max_output_tokens", "content_filter"])
@every_way
async def test_a_cut_answer_is_marked_for_the_user_and_for_the_model(
    way: type[Server], reason: str, text: list[Any]
) -> None:
    endpoint = ModelEndpoint(cut(*text, reason=reason), HEL_LO)
    async with way(endpoint) as server:
        turn = await asked(server)
        ending = await ChatClient.of_server(server).last_ending(turn.thread_id or "")
        page = await server.store.load_thread_items(turn.thread_id or "", None, 9, "asc", None)
        again = await asked(server, "go on", turn.thread_id)

    [_user, message, note] = page.data
    assert message.content[0].text == "Hel"
    assert isinstance(note, SDKHiddenContextItem)
    assert "incomplete" in note.content
    assert ending is not None
    assert (ending.reason, ending.item_ids, ending.can_continue) == (
        "incomplete",
        [message.id],
        True,
    )
    assert turn.server_turn.end_reason == "incomplete"
    assert turn.error is not None
    assert "incomplete" in (turn.error.message or "")
    assert again.error is None
    assert way is PydanticAI or note.content in json.dumps(endpoint.requests[-1])


@pytest.mark.parametrize(
    "calls",
    [
        [script.item_added(CUT_CALL), script.item_done(CUT_CALL)],
        script.call("work", '{"what": "x"}'),
        [*script.call("work", '{"what": "a"}', "call_a"), *script.call("work", "{}", "call_b")],
        [*TEXT_DONE, *script.call("work", '{"what": "x"}')],
    ],
)
@every_way
async def test_a_call_that_the_limit_has_cut_is_not_made(
    way: type[Server], calls: list[Any]
) -> None:
    called: list[str] = []

    turn, said, endpoint = await played(way, cut(*calls), tools={"work": noting(called)})

    assert called == []
    assert len(endpoint.requests) == 1
    assert said == [
        "user: hi",
        *(["assistant: Hel"] if len(calls) == 7 else []),
        "note: incomplete",
    ]
    assert turn.server_turn.end_reason == "incomplete"


async def test_a_call_marked_as_cut_in_an_answer_that_is_called_complete_is_not_made() -> None:
    called: list[str] = []
    answer = script.answer(script.item_added(CUT_CALL), script.item_done(CUT_CALL))

    turn, said, _endpoint = await played(Native, answer, tools={"work": noting(called)})

    assert called == []
    assert said == ["user: hi", "note: incomplete"]
    assert turn.server_turn.end_reason == "incomplete"


async def test_an_answer_called_complete_with_the_status_incomplete_is_marked() -> None:
    answer = [*HEL_LO[:-1], HEL_LO[-1] | {"response": script.response(HEL_LO, "incomplete")}]

    _turn, said, _endpoint = await played(Native, answer)

    assert said == ["user: hi", "assistant: Hello", "note: incomplete"]


@every_way
async def test_an_answer_cut_after_a_tool_has_run_keeps_both(way: type[Server]) -> None:
    called: list[str] = []
    call = script.answer(*script.call("work", '{"what": "x"}'))

    turn, said, endpoint = await played(way, call, cut(*TEXT_DONE), tools={"work": noting(called)})

    assert len(called) == 1
    assert said == ["user: hi", "assistant: Hel", "note: incomplete"]
    assert endpoint.refused == []
    assert turn.server_turn.end_reason == "incomplete"


async def test_code_behind_the_answer_runs_and_can_ask_whether_it_is_complete() -> None:
    class Asks(Native):
        async def respond(self, thread: Any, input_user_message: Any, context: Any) -> Any:
            async for event in super().respond(thread, input_user_message, context):
                yield event
            thread.title = f"incomplete: {self.run.is_incomplete}"

    turn, _said, _endpoint = await played(Asks, cut(*TEXT_DONE))

    assert turn.thread is not None
    assert turn.thread.title == "incomplete: True"


async def test_an_answer_that_the_app_has_completed_itself_is_complete() -> None:
    class GoesOn(Native):
        async def respond(self, thread: Any, input_user_message: Any, context: Any) -> Any:
            for _ in range(2):
                async for event in super().respond(thread, input_user_message, context):
                    yield event

    turn, said, _endpoint = await played(GoesOn, cut(*TEXT_DONE), HEL_LO)

    assert said == ["user: hi", "assistant: Hel", "assistant: Hello"]
    assert turn.server_turn.end_reason == "finished"


# --- Items and their ids -----------------------------------------------------------------------


def other_ids(events: list[Any], ids: Any) -> list[Any]:
    """Return the events, each with an id of its own for the item that it is about."""
    changed = json.loads(json.dumps(events))
    for number, event in enumerate(changed):
        if "item_id" in event:
            event["item_id"] = ids(number)
        if "id" in event.get("item", {}):
            event["item"]["id"] = ids(number)
    return changed


def at(output_index: int, events: list[Any]) -> list[Any]:
    return [event | {"output_index": output_index} for event in events]


IDS: dict[str, Any] = {
    "each its own": lambda number: f"id_{number}",
    "all the same": lambda number: "fake",
    "empty": lambda number: "",
}


@pytest.mark.parametrize("ids", IDS)
@every_way
async def test_an_answer_is_one_message_whatever_the_ids_of_its_events(
    way: type[Server], ids: str
) -> None:
    events = at(0, script.message("m", *"Hello there"))

    turn, said, _endpoint = await played(way, script.answer(*other_ids(events, IDS[ids])))

    assert said == ["user: hi", "assistant: Hello there"]
    assert [item.type for item in turn.items] == ["user_message", "assistant_message"]


@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("way", [Native, AgentsSDK])
async def test_items_that_stream_at_once_are_told_apart_by_their_index(
    way: type[Server], ids: str
) -> None:
    one, two = at(0, script.message("a", "o", "ne")), at(1, script.message("b", "t", "wo"))
    events = [event for pair in zip(one, two, strict=True) for event in pair]

    _turn, said, _endpoint = await played(way, script.answer(*other_ids(events, IDS[ids])))

    assert said == ["user: hi", "assistant: one", "assistant: two"]


async def test_items_of_one_index_are_told_apart_by_their_ids() -> None:
    one, two = script.message("a", "o", "ne"), script.message("b", "t", "wo")
    events = [event for pair in zip(one, two, strict=True) for event in pair]

    _turn, said, _endpoint = await played(Native, script.answer(*events))

    assert said == ["user: hi", "assistant: one", "assistant: two"]


@pytest.mark.parametrize("ids", IDS)
async def test_thoughts_and_images_are_told_by_their_index_too(ids: str) -> None:
    events = [
        *at(0, script.reasoning("r", ("H", "m"), ("So",))),
        *at(1, script.image("i", "p", "q", result="x")),
        *at(2, script.message("m", "Hi")),
    ]

    turn, said, _endpoint = await played(Native, script.answer(*other_ids(events, IDS[ids])))

    assert said == [
        "user: hi",
        "workflow: None none, None none",
        "generated_image",
        "assistant: Hi",
    ]
    assert turn.error is None


# --- Ends that providers leave out -------------------------------------------------------------

MESSAGE = script.message("m", "Hel", "lo")

SPARSE: dict[str, list[Any]] = {
    "no item.done": MESSAGE[:-1],
    "no item.done and no text.done": MESSAGE[:-2],
    "no item.added": MESSAGE[1:],
    "no item.added and no part.added": MESSAGE[2:],
    "only deltas": MESSAGE[2:4],
    "only the item": MESSAGE[-1:],
    "only text.done": MESSAGE[4:5],
    "an empty item at the end": [*MESSAGE[:-1], script.item_done(script.message_item("m"))],
    "an item of empty text at the end": [
        *MESSAGE[:-1],
        script.item_done(script.message_item("m", script.text_part(""))),
    ],
    "text.done behind the item": [*MESSAGE[:4], MESSAGE[5], MESSAGE[4]],
}


@pytest.mark.parametrize("kind", SPARSE)
@pytest.mark.parametrize("way", [Native, AgentsSDK])
async def test_a_message_with_parts_of_its_events_is_one_message_that_ends(
    way: type[Server], kind: str
) -> None:
    last = script.answer(*MESSAGE)[-1]

    turn, said, _endpoint = await played(way, [HEL_LO[0], *SPARSE[kind], last])

    assert said == ["user: hi", "assistant: Hello"]
    assert [event.type for event in turn.events].count("thread.item.done") == 2
    assert turn.error is None


@pytest.mark.parametrize("way", [Native, AgentsSDK])
async def test_an_answer_that_comes_whole_with_the_last_event_is_shown(way: type[Server]) -> None:
    [first, *_, last] = script.answer(*script.reasoning("r", ("Hm",)), *MESSAGE)

    turn, said, _endpoint = await played(way, [first, last])

    assert said == ["user: hi", "workflow: None none", "assistant: Hello"]
    assert turn.error is None


async def test_calls_that_come_only_with_the_last_event_are_made() -> None:
    called: list[str] = []
    [first, *_, last] = script.answer(*script.call("work", '{"what": "x"}'))

    _turn, said, endpoint = await played(
        Native, [first, last], HEL_LO, tools={"work": noting(called)}
    )

    assert len(called) == 1
    assert endpoint.refused == []
    assert said == ["user: hi", "assistant: Hello"]


def last_with(*events: Any, **fields: Any) -> Any:
    """Return the last event of an answer of which these are the items."""
    last = script.answer(*events)[-1]
    return last | {"response": last["response"] | fields}


IMAGE = script.image("i", "p", result="x")
THINKS = at(0, script.reasoning("r", ("Hm",)))
SAYS = at(1, MESSAGE)
DRAWS = at(0, script.image("i", "p", result="x"))

LATE: dict[str, tuple[list[Any], list[str]]] = {
    "the message": ([*THINKS, last_with(*THINKS, *SAYS)], ["workflow", "Hello"]),
    "the text of a message that has begun": ([SAYS[0], last_with(*THINKS, *SAYS)], ["Hello"]),
    "the text of a part that has begun": ([*SAYS[:2], last_with(*THINKS, *SAYS)], ["Hello"]),
    "the text of a message with another id and index": (
        [MESSAGE[0], last_with(*THINKS, *other_ids(SAYS, lambda number: "other"))],
        ["Hello"],
    ),
    "one of two messages": (
        [*at(0, script.message("a", "One")), last_with(*script.message("a", "One"), *SAYS)],
        ["One", "Hello"],
    ),
    "the image": (
        [*at(0, MESSAGE), last_with(*at(0, MESSAGE), *at(1, IMAGE))],
        ["Hello", "generated_image"],
    ),
    "the end of an image": (
        [*DRAWS[:1], *SAYS, last_with(*DRAWS, *SAYS)],
        ["generated_image", "Hello"],
    ),
}


@pytest.mark.parametrize("kind", LATE)
@pytest.mark.parametrize("way", [Native, AgentsSDK])
async def test_what_only_the_last_event_has_is_shown(way: type[Server], kind: str) -> None:
    events, shown = LATE[kind]

    turn, said, _endpoint = await played(way, [HEL_LO[0], *events])

    assert [line.removeprefix("assistant: ").partition(":")[0] for line in said] == ["user", *shown]
    assert turn.error is None


@pytest.mark.parametrize("ids", IDS)
@pytest.mark.parametrize("way", [Native, AgentsSDK])
async def test_what_has_streamed_is_not_shown_again_at_the_end(way: type[Server], ids: str) -> None:
    streamed = [*at(0, IMAGE), *at(0, THINKS), *at(0, script.message("a", "One")), *at(0, MESSAGE)]

    turn, said, _endpoint = await played(
        way, [HEL_LO[0], *other_ids([*streamed, last_with(*streamed)], IDS[ids])]
    )

    assert [line.partition(":")[0] for line in said] == [
        "user",
        "generated_image",
        "workflow",
        "assistant",
        "assistant",
    ]
    assert turn.error is None


TWICE: dict[str, list[Any]] = {
    "the end of a message": [*THINKS, *SAYS, SAYS[-1], last_with(*THINKS, *SAYS)],
    "the end of reasoning": [*THINKS, THINKS[-1], *SAYS, last_with(*THINKS, *SAYS)],
    "the end of the reasoning behind the message": [
        *THINKS,
        *SAYS,
        THINKS[-1],
        last_with(*THINKS, *SAYS),
    ],
    "the last event": [*[*THINKS, *SAYS], *[last_with(*THINKS, *SAYS)] * 2],
    "a last event that is all there is": [last_with(*THINKS, *SAYS)] * 2,
}


@pytest.mark.parametrize("kind", TWICE)
@pytest.mark.parametrize("way", [Native, AgentsSDK])
async def test_what_is_told_twice_is_shown_once(way: type[Server], kind: str) -> None:
    turn, said, _endpoint = await played(way, [HEL_LO[0], *TWICE[kind]])

    assert said == ["user: hi", "workflow: None none", "assistant: Hello"]
    assert turn.error is None


async def test_an_image_that_ends_twice_is_shown_once() -> None:
    events = [*at(0, IMAGE), at(0, IMAGE)[-1], *SAYS]

    _turn, said, _endpoint = await played(Native, script.answer(*events))

    assert said == ["user: hi", "generated_image", "assistant: Hello"]


CALL = at(1, script.call("work", '{"what": "x"}'))

ODD_CALLS: dict[str, list[Any]] = {
    "ends twice": [*CALL, CALL[-1], last_with(*CALL)],
    "ends twice, with other ids": [
        *other_ids([*CALL, CALL[-1]], lambda number: f"id_{number}"),
        last_with(*CALL),
    ],
    "is written in another way in the last event": [
        *CALL,
        last_with(script.item_done(script.call_item("work", '{ "what":"x" }', "call_1"))),
    ],
    "is only in the last event, behind a message": [
        *at(0, MESSAGE),
        last_with(*at(0, MESSAGE), *CALL),
    ],
    "is only in the last event, which lacks the message": [*at(0, MESSAGE), last_with(*CALL)],
    "is only in the last event, behind reasoning": [*THINKS, last_with(*THINKS, *CALL)],
    "has its reasoning only in the last event": [*CALL, last_with(*THINKS, *CALL)],
}


@pytest.mark.parametrize("kind", ODD_CALLS)
async def test_a_call_is_made_once_and_its_answer_is_taken(kind: str) -> None:
    called: list[str] = []

    turn, said, endpoint = await played(
        Native, [HEL_LO[0], *ODD_CALLS[kind]], HEL_LO, tools={"work": noting(called)}
    )

    assert len(called) == 1
    assert endpoint.refused == []
    assert said[-1] == "assistant: Hello"
    assert turn.error is None
    if "reasoning" in kind:
        sent = [item["type"] for item in endpoint.requests[-1]["input"]]
        assert sent == ["message", "reasoning", "function_call", "function_call_output"]


async def test_a_call_that_only_the_last_event_tells_is_cut_is_not_made() -> None:
    called: list[str] = []
    last = last_with(script.item_done(CUT_CALL))

    turn, said, _endpoint = await played(
        Native, [HEL_LO[0], *MESSAGE, last], tools={"work": noting(called)}
    )

    assert called == []
    assert said == ["user: hi", "assistant: Hello", "note: incomplete"]
    assert turn.server_turn.end_reason == "incomplete"


def left_out(event: Any, name: str) -> Any:
    return {key: value for key, value in event.items() if key != name}


ITEM = {"output_index": 0, "sequence_number": 0}

HOLES: dict[str, list[Any]] = {
    "no ids and no places": [
        *(left_out(left_out(event, "item_id"), "output_index") for event in MESSAGE),
        HEL_LO[-1],
    ],
    "an item that is null": [
        {"type": "response.output_item.added", "item": None, **ITEM},
        *MESSAGE,
        {"type": "response.output_item.done", "item": None, **ITEM},
        HEL_LO[-1],
    ],
    "an item that is left out": [
        {"type": "response.output_item.added", **ITEM},
        *MESSAGE,
        {"type": "response.output_item.done", **ITEM},
        HEL_LO[-1],
    ],
    "a part that is null": [MESSAGE[0], MESSAGE[1] | {"part": None}, *MESSAGE[2:], HEL_LO[-1]],
    "a part that is left out": [MESSAGE[0], left_out(MESSAGE[1], "part"), *MESSAGE[2:], HEL_LO[-1]],
    "a content that is text": [
        *MESSAGE[:5],
        script.item_done(script.message_item("m") | {"content": "Hello"}),
        HEL_LO[-1],
    ],
    "a last event with an output of null": [*MESSAGE, last_with(*MESSAGE, output=None)],
    "a last event with an item of null": [*MESSAGE, last_with(*MESSAGE, output=[None])],
}


@pytest.mark.parametrize("kind", HOLES)
async def test_what_a_provider_leaves_out_costs_no_answer(kind: str) -> None:
    turn, said, _endpoint = await played(Native, [HEL_LO[0], *HOLES[kind]])

    assert said == ["user: hi", "assistant: Hello"]
    assert turn.error is None


@pytest.mark.parametrize("response", [None, {}, {"id": "x"}])
@pytest.mark.parametrize("events", [MESSAGE, MESSAGE[:4]])
async def test_a_last_event_may_tell_nothing_of_the_response(
    events: list[Any], response: Any
) -> None:
    turn, said, _endpoint = await played(
        Native,
        [HEL_LO[0], *events, {"type": "response.completed", "response": response}],
    )

    assert said == ["user: hi", "assistant: Hello"]
    assert turn.error is None


@pytest.mark.parametrize("way", [Native, AgentsSDK])
async def test_a_message_without_words_leaves_no_item(way: type[Server]) -> None:
    empty = [
        script.item_added(script.message_item("e", status="in_progress")),
        script.item_done(script.message_item("e")),
    ]

    turn, said, _endpoint = await played(way, script.answer(*empty, *at(1, MESSAGE)))

    assert said == ["user: hi", "assistant: Hello"]
    assert [item.type for item in turn.items] == ["user_message", "assistant_message"]


# --- Citations ---------------------------------------------------------------------------------

URL = "https://docs.example.org/a?b=c"
PAGE = {"type": "url_citation", "url": URL, "title": "A page", "start_index": 0, "end_index": 5}


def without(*names: str) -> dict[str, Any]:
    return {name: value for name, value in PAGE.items() if name not in names}


CITATIONS: dict[str, tuple[dict[str, Any], tuple[str, int | None]]] = {
    "whole": (PAGE, ("A page", 5)),
    "no title": (without("title"), ("docs.example.org", 5)),
    "title null": ({**PAGE, "title": None}, ("docs.example.org", 5)),
    "title empty": ({**PAGE, "title": ""}, ("docs.example.org", 5)),
    "no positions": (without("start_index", "end_index"), ("A page", None)),
    "positions null": ({**PAGE, "start_index": None, "end_index": None}, ("A page", None)),
    "positions as text": ({**PAGE, "start_index": "0", "end_index": "5"}, ("A page", 5)),
    "neither": (without("title", "start_index", "end_index"), ("docs.example.org", None)),
    "as in chat completions": (
        {"type": "url_citation", "url_citation": without("type")},
        ("A page", 5),
    ),
}


@pytest.mark.parametrize("kind", CITATIONS)
@pytest.mark.parametrize("way", [Native, AgentsSDK])
async def test_a_citation_without_half_of_its_fields_is_shown(way: type[Server], kind: str) -> None:
    citation, shown = CITATIONS[kind]
    events = [
        *MESSAGE[:4],
        script.annotation_added("m", 0, citation),
        script.text_done("m", "Hello"),
        script.item_done(script.message_item("m", script.text_part("Hello", [citation]))),
    ]

    turn, said, _endpoint = await played(way, script.answer(*events))

    assert said == ["user: hi", "assistant: Hello"]
    assert turn.error is None
    [annotation] = turn.items[-1].content[0].annotations  # type: ignore[union-attr]
    assert annotation.source.url == URL  # type: ignore[union-attr]
    assert (annotation.source.title, annotation.index) == shown


async def test_a_citation_without_a_source_is_left_out_and_the_text_stays() -> None:
    events = [
        *MESSAGE[:4],
        script.annotation_added("m", 0, without("url")),
        script.annotation_added("m", 1, {"type": "file_citation", "file_id": "f", "index": 1}),
        *MESSAGE[4:],
    ]

    turn, said, _endpoint = await played(Native, script.answer(*events))

    assert said == ["user: hi", "assistant: Hello"]
    assert turn.error is None


async def test_citations_that_only_streamed_are_kept() -> None:
    events = [*MESSAGE[:4], script.annotation_added("m", 0, PAGE), *MESSAGE[4:]]

    turn, _said, _endpoint = await played(Native, script.answer(*events))

    [annotation] = turn.items[-1].content[0].annotations  # type: ignore[union-attr]
    assert annotation.source.title == "A page"


# --- Thoughts ----------------------------------------------------------------------------------


def raw_item(*texts: str) -> dict[str, Any]:
    content = [{"type": "reasoning_text", "text": text} for text in texts]
    return {"type": "reasoning", "id": "r", "summary": [], "content": content}


def raw(kind: str, index: int = 0, **fields: Any) -> dict[str, Any]:
    return {
        "type": f"response.reasoning_text.{kind}",
        "item_id": "r",
        "output_index": 0,
        "content_index": index,
        "sequence_number": 0,
        **fields,
    }


ADDED = script.item_added(script.reasoning_item("r"))

THOUGHTS: dict[str, tuple[list[Any], list[str]]] = {
    "only in the summary of the item": (
        [ADDED, script.item_done(script.reasoning_item("r", "Hm", "So"))],
        ["Hm", "So"],
    ),
    "only in the content of the item": ([ADDED, script.item_done(raw_item("Hm"))], ["Hm"]),
    "in an item that never began": ([script.item_done(raw_item("Hm"))], ["Hm"]),
    "raw": (
        [
            ADDED,
            raw("delta", delta="H"),
            raw("delta", delta="m"),
            raw("done", text="Hm"),
            script.item_done(raw_item("Hm")),
        ],
        ["Hm"],
    ),
    "raw, only in done": ([ADDED, raw("done", text="Hm"), script.item_done(raw_item())], ["Hm"]),
    "raw, without done": (
        [ADDED, raw("delta", delta="H"), raw("delta", delta="m"), script.item_done(raw_item())],
        ["Hm"],
    ),
    "raw that streams, and a summary at the end": (
        [ADDED, raw("delta", delta="Hm"), script.item_done(script.reasoning_item("r", "So"))],
        ["Hm"],
    ),
    "raw and a summary of it at the end": (
        [ADDED, script.item_done(raw_item("Hm") | script.reasoning_item("r", "So"))],
        ["So"],
    ),
    "two of which the second never ends": (
        [
            ADDED,
            script.thought_delta("r", "Hm"),
            script.thought_done("r", "Hm"),
            script.thought_delta("r", "So", 1),
            script.item_done(script.reasoning_item("r")),
        ],
        ["Hm", "So"],
    ),
    "without the event that begins them": (
        script.reasoning("r", ("H", "m"))[1:],
        ["Hm"],
    ),
}


@pytest.mark.parametrize("kind", THOUGHTS)
@pytest.mark.parametrize("way", [Native, AgentsSDK])
async def test_thoughts_are_shown_and_stored_in_whichever_form_they_come(
    way: type[Server], kind: str
) -> None:
    events, thoughts = THOUGHTS[kind]

    turn, said, _endpoint = await played(way, script.answer(*events, *at(1, MESSAGE)))

    assert [line.partition(":")[0] for line in said] == ["user", "workflow", "assistant"]
    assert [task.content for task in turn.items[1].workflow.tasks] == thoughts  # type: ignore[union-attr]


# --- Images and thoughts: live, and after a reload ---------------------------------------------

THOUGHT = script.reasoning("r", ("Hm",))
FAILED_IMAGE = [
    script.item_added(script.image_item("i", None)),
    script.item_done(script.image_item("i", None) | {"status": "failed"}),
]


def interleaved(*runs: list[Any]) -> list[Any]:
    """Return the events of items that all begin before the first one ends."""
    runs_at = [at(index, run) for index, run in enumerate(runs)]
    begun = [run[0] for run in runs_at]
    return [*begun, *(event for run in reversed(runs_at) for event in run[1:])]


ORDERS: dict[str, tuple[list[Any], list[str]]] = {
    "thought, image, text": (
        [*at(0, THOUGHT), *at(1, IMAGE), *at(2, MESSAGE)],
        ["workflow", "generated_image", "assistant_message"],
    ),
    "image, thought, text": (
        [*at(0, IMAGE), *at(1, THOUGHT), *at(2, MESSAGE)],
        ["generated_image", "workflow", "assistant_message"],
    ),
    "thought, image, thought, image": (
        [*at(0, THOUGHT), *at(1, IMAGE), *at(2, THOUGHT), *at(3, IMAGE), *at(4, MESSAGE)],
        [*["workflow", "generated_image"] * 2, "assistant_message"],
    ),
    "an image that ends behind the text": (
        interleaved(IMAGE, MESSAGE),
        ["generated_image", "assistant_message"],
    ),
    "a text that ends behind the image": (
        interleaved(MESSAGE, IMAGE),
        ["assistant_message", "generated_image"],
    ),
    "a thought that ends behind the image": (
        [*interleaved(THOUGHT, IMAGE), *at(2, MESSAGE)],
        ["workflow", "generated_image", "workflow", "assistant_message"],
    ),
    "an image that fails, and text": (
        interleaved(FAILED_IMAGE, MESSAGE),
        ["assistant_message"],
    ),
    "an image that never ends": (
        [*at(0, IMAGE[:2]), *at(1, MESSAGE)],
        ["generated_image", "assistant_message"],
    ),
    "an image that nothing announces": (
        [*at(0, IMAGE[-1:]), *at(1, MESSAGE)],
        ["generated_image", "assistant_message"],
    ),
}


@pytest.mark.parametrize("kind", ORDERS)
@pytest.mark.parametrize("way", [Native, AgentsSDK])
async def test_a_reload_shows_items_in_the_order_of_the_live_page(
    way: type[Server], kind: str
) -> None:
    events, kinds = ORDERS[kind]
    endpoint = ModelEndpoint(script.answer(*events))
    async with way(endpoint) as server:
        turn = await asked(server)
        reloaded = await ChatClient.of_server(server).items(turn.thread_id or "")

    assert [item.id for item in turn.items] == [item.id for item in reloaded]
    assert [item.type for item in turn.items] == ["user_message", *kinds]


# --- Tools that are called at once -------------------------------------------------------------


def fails(error: Exception) -> Work:
    async def work(what: str) -> str:
        raise error

    return work


TWO_CALLS = script.answer(
    *at(0, script.call("good", '{"what": "x"}', "call_a")),
    *at(1, script.call("bad", '{"what": "x"}', "call_b")),
)


@pytest.mark.parametrize("way", [Native, AgentsSDK])
@pytest.mark.parametrize(
    "error", [ValueError("a secret"), ExceptionGroup("several", [ValueError("a secret")])]
)
async def test_one_of_two_tools_may_fail_and_the_model_gets_both_outputs(
    way: type[Server], error: Exception
) -> None:
    called: list[str] = []
    tools = {"good": noting(called), "bad": fails(error)}

    turn, said, endpoint = await played(way, TWO_CALLS, HEL_LO, tools=tools)

    assert len(called) == 1
    assert endpoint.refused == []
    assert len(endpoint.requests) == 2
    assert said == ["user: hi", "assistant: Hello"]
    assert turn.error is None


OUT_OF_STOCK = CustomStreamError("Out of stock")


@pytest.mark.parametrize("error", [OUT_OF_STOCK, ExceptionGroup("one", [OUT_OF_STOCK])])
async def test_a_stream_error_of_one_of_two_tools_ends_the_answer_as_itself(
    error: Exception,
) -> None:
    tools = {"good": noting([]), "bad": fails(error)}

    turn, said, _endpoint = await played(Native, TWO_CALLS, HEL_LO, tools=tools)

    assert turn.error is not None
    assert turn.error.message == "Out of stock"
    assert said == ["user: hi"]
