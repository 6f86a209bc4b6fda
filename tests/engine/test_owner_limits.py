"""What an owner may use at once and a minute; who is refused has left nothing in the store."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from chatkit_trio._engine import owner_limits
from chatkit_trio._engine.owner_limits import LocalUsage, Owners
from chatkit_trio.errors import LimitError, TooLargeError
from chatkit_trio.limits import OwnerLimits, Rate
from chatkit_trio.server import ChatKitServer, StreamingResult, TurnPolicy
from chatkit_trio.store import AttachmentStore
from chatkit_trio.stores import MemoryStore, SQLiteStore
from chatkit_trio.testing import ScriptedRespond, ScriptedServer, pause, say, scripted_server
from chatkit_trio.types import AttachmentCreateParams, FileAttachment

LONG = [pause(1000), say("Hello")]
SHORT = [say("Hello")]
LIST = '{"type": "threads.list", "params": {}}'
FOREVER = TurnPolicy(on_disconnect="finish")


def message(thread_id: str | None = None, text: str = "hi") -> str:
    params: dict[str, Any] = {
        "input": {
            "content": [{"type": "input_text", "text": text}],
            "attachments": [],
            "inference_options": {},
        }
    }
    if thread_id is not None:
        params["thread_id"] = thread_id
    kind = "threads.create" if thread_id is None else "threads.add_user_message"
    return json.dumps({"type": kind, "params": params})


def limited(
    *scripts: list[Any], policy: TurnPolicy | None = None, owner: Any = None, **limits: int
) -> ScriptedServer:
    store = MemoryStore(owner=owner or str)
    return scripted_server(
        store, *(scripts or [SHORT]), policy=policy, owner_limits=OwnerLimits(**limits)
    )


async def begin(
    server: ChatKitServer[Any], body: str, owner: str = "ann", key: str | None = None
) -> StreamingResult:
    """Send a request and read its first frame, so that its turn has begun."""
    result = await server.process(body, owner, idempotency_key=key)
    assert isinstance(result, StreamingResult)
    await result.__aenter__()
    await result.receive(1)
    return result


async def finish(result: StreamingResult) -> None:
    async for _ in result:
        pass


async def refusal(server: ChatKitServer[Any], body: str, owner: str = "ann", **more: Any) -> Any:
    """Return how a request is refused: which limit, and in how many seconds to come again."""
    with pytest.raises(LimitError) as caught:
        await server.process(body, owner, **more)
    return caught.value.limit, round(caught.value.retry_after, 3)


async def threads_of(server: ChatKitServer[Any], owner: str) -> list[str]:
    page = await server.store.load_threads(100, None, "asc", owner)
    return [thread.id for thread in page.data]


# --- Live turns ----------------------------------------------------------------------------------


async def test_one_turn_more_than_allowed_is_refused_and_leaves_nothing(autojump_clock):
    async with limited(LONG, LONG, live_turns=2) as server:
        first, second = await begin(server, message()), await begin(server, message())
        refused = await refusal(server, message(), idempotency_key="k")
        kept = await threads_of(server, "ann")
        record = await server.store.find_request("k", 600, "ann")
        await first.aclose()
        await second.aclose()

    assert refused == ("live_turns", 5.0)
    assert len(kept) == 2
    assert record is None


async def test_another_owner_is_not_held_up(autojump_clock):
    async with limited(LONG, SHORT, live_turns=1) as server:
        first = await begin(server, message())
        await finish(await begin(server, message(), "ben"))
        await first.aclose()
        threads = await threads_of(server, "ben")

    assert len(threads) == 1


@pytest.mark.parametrize("end", ["finished", "stopped", "disconnected", "failed"])
async def test_a_turn_that_has_ended_makes_room(autojump_clock, end):
    async with limited(SHORT if end in ("finished", "failed") else LONG, live_turns=1) as server:
        if end == "failed":
            server.script = None  # calling it fails
        result = await begin(server, message())
        if end == "stopped":
            await server.stop((await threads_of(server, "ann"))[0])
        if end == "disconnected":
            await result.aclose()
        else:
            await finish(result)
        again = await server.process(message(), "ann")

    assert isinstance(again, StreamingResult)


async def test_room_is_made_when_the_turn_is_settled_and_not_before(autojump_clock):
    async with limited(LONG, live_turns=1) as server:
        result = await begin(server, message())
        turn = result.turn
        turn.cancel()
        before = await refusal(server, message())
        await turn.settled.wait()
        after = await server.process(message(), "ann")

    assert before[0] == "live_turns"
    assert isinstance(after, StreamingResult)


async def test_superseding_ones_own_turn_is_not_counted_twice(autojump_clock):
    async with limited(LONG, LONG, SHORT, live_turns=1) as server:
        first = await begin(server, message())
        (thread_id,) = await threads_of(server, "ann")
        second = await begin(server, message(thread_id))
        third = await begin(server, message(thread_id))
        await finish(third)
        items = await server.store.load_thread_items(thread_id, None, 100, "asc", "ann")

    assert first.turn.end_reason == second.turn.end_reason == "superseded"
    assert [item.type for item in items.data].count("user_message") == 3


async def test_a_flood_of_messages_on_one_thread_is_counted(autojump_clock):
    async with limited(LONG, LONG, LONG, live_turns=2) as server:
        first = await begin(server, message())
        (thread_id,) = await threads_of(server, "ann")
        accepted = [await server.process(message(thread_id), "ann") for _ in range(2)]
        refused = await refusal(server, message(thread_id))
        for result in accepted:
            await result.aclose()
        await first.aclose()

    assert refused[0] == "live_turns"


async def test_a_message_that_queues_is_counted_beside_the_turn_it_waits_for(autojump_clock):
    policy = TurnPolicy(on_busy="queue")
    async with limited(LONG, policy=policy, live_turns=1) as server:
        first = await begin(server, message())
        (thread_id,) = await threads_of(server, "ann")
        refused = await refusal(server, message(thread_id))
        await first.aclose()

    assert refused[0] == "live_turns"


async def test_many_requests_at_one_instant_get_no_more_turns_than_allowed(autojump_clock):
    outcomes: list[str] = []

    async def send() -> None:
        try:
            result = await server.process(message(), "ann")
        except LimitError:
            outcomes.append("refused")
            return
        outcomes.append("accepted")
        await trio.sleep(1)
        async with result:
            await result.receive(1)
            await trio.sleep(1)

    async with limited(LONG, LONG, LONG, live_turns=3) as server, trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(send)

    assert (outcomes.count("accepted"), outcomes.count("refused")) == (3, 47)


async def test_a_stream_that_nobody_has_opened_makes_room_after_a_while(autojump_clock):
    async with limited(SHORT, live_turns=1) as server:
        await server.process(message(), "ann")
        before = await refusal(server, message())
        await trio.sleep(owner_limits.SLOT_LIFETIME)
        after = await server.process(message(), "ann")

    assert before[0] == "live_turns"
    assert isinstance(after, StreamingResult)


async def test_a_stream_that_was_closed_unread_makes_room_at_once(autojump_clock):
    async with limited(SHORT, live_turns=1) as server:
        result = await server.process(message(), "ann")
        assert isinstance(result, StreamingResult)
        await result.aclose()
        again = await server.process(message(), "ann")

    assert isinstance(again, StreamingResult)


async def test_a_request_that_does_not_fit_its_thread_takes_no_room(autojump_clock):
    async with limited(SHORT, live_turns=1) as server:
        for _ in range(3):
            with pytest.raises(Exception, match="no thread"):
                await server.process(message("thr_none"), "ann")
        again = await server.process(message(), "ann")

    assert isinstance(again, StreamingResult)


@pytest.mark.parametrize("key", ["k", None])
async def test_stop_is_never_refused(autojump_clock, key):
    async with limited(LONG, live_turns=1, requests_per_minute=1) as server:
        result = await begin(server, message(), key=key)
        (thread_id,) = await threads_of(server, "ann")
        await refusal(server, LIST)
        assert await server.stop(thread_id)
        await result.aclose()

    assert result.turn.end_reason == "stopped"


# --- Requests that are sent twice ----------------------------------------------------------------


async def test_a_repeat_reads_its_live_turn_though_no_turn_more_is_allowed(autojump_clock):
    script = [say("Hello"), pause(10), say("World")]
    async with limited(script, live_turns=1, text_bytes_per_minute=1) as server:
        body = message()
        first = await begin(server, body, key="k")
        repeat = await begin(server, body, key="k")
        assert repeat.turn is first.turn
        await finish(first)
        await finish(repeat)
        threads = await threads_of(server, "ann")

    assert len(threads) == 1


async def test_a_repeat_of_a_turn_that_has_ended_is_answered_at_the_limit(autojump_clock):
    async with limited(SHORT, LONG, live_turns=1) as server:
        body = message()
        await finish(await begin(server, body, key="k"))
        other = await begin(server, message())
        repeat = await begin(server, body, key="k")
        frames = [frame async for frame in repeat]
        await other.aclose()

    assert any(b"Hello" in frame for frame in frames)


async def test_a_repeat_takes_no_room_from_new_turns(autojump_clock):
    async with limited([say("Hello"), pause(10)], SHORT, live_turns=2) as server:
        body = message()
        first = await begin(server, body, key="k")
        repeat = await begin(server, body, key="k")
        await finish(await begin(server, message()))
        await finish(first)
        await finish(repeat)
        threads = await threads_of(server, "ann")

    assert len(threads) == 2


async def test_a_key_of_a_request_that_was_never_carried_out_is_no_way_around(autojump_clock):
    async with limited(LONG, LONG, live_turns=1) as server:
        unread = await server.process(message(), "ann", idempotency_key="k")
        assert isinstance(unread, StreamingResult)
        await unread.aclose()
        first = await begin(server, message())
        refused = await refusal(server, message(), idempotency_key="k")
        await first.aclose()

    assert refused[0] == "live_turns"


async def test_a_refused_request_can_be_sent_again_with_its_key(autojump_clock):
    async with limited(LONG, SHORT, live_turns=1) as server:
        first = await begin(server, message())
        await refusal(server, message(), idempotency_key="k")
        await first.aclose()
        again = await begin(server, message(), key="k")
        frames = [frame async for frame in again]

    assert any(b"Hello" in frame for frame in frames)


async def test_the_answer_of_a_repeat_that_does_not_stream_costs_nothing(autojump_clock):
    rename = {"type": "threads.update", "params": {"thread_id": "", "title": "x"}}
    async with limited(SHORT, text_bytes_per_minute=200) as server:
        await finish(await begin(server, message()))
        await trio.sleep(60)
        (thread_id,) = await threads_of(server, "ann")
        rename["params"]["thread_id"] = thread_id  # type: ignore[index]
        body = json.dumps(rename).ljust(190)
        first = await server.process(body, "ann", idempotency_key="k")
        again = await server.process(body, "ann", idempotency_key="k")
        refused = await refusal(server, body, idempotency_key="other")

    assert first.json == again.json  # type: ignore[union-attr]
    assert refused[0] == "text_bytes_per_minute"


# --- Rates ---------------------------------------------------------------------------------------


async def test_requests_a_minute_come_back_evenly(autojump_clock):
    async with limited(requests_per_minute=6) as server:
        for _ in range(6):
            await server.process(LIST, "ann")
        refused = await refusal(server, LIST)
        await trio.sleep(refused[1])
        await server.process(LIST, "ann")
        again = await refusal(server, LIST)
        await server.process(LIST, "ben")

    assert refused == again == ("requests_per_minute", 10.0)


async def test_a_request_that_is_none_is_counted_too(autojump_clock):
    async with limited(requests_per_minute=2) as server:
        for _ in range(2):
            with pytest.raises(Exception, match="not a ChatKit request"):
                await server.process("{}", "ann")
        refused = await refusal(server, "{}")

    assert refused[0] == "requests_per_minute"


async def test_text_is_counted_in_bytes_and_reading_costs_none(autojump_clock):
    body = message(text="ä" * 100)
    size = len(body.encode())
    async with limited(SHORT, SHORT, SHORT, text_bytes_per_minute=size * 2) as server:
        for _ in range(2):
            await finish(await begin(server, body))
        refused = await refusal(server, body)
        await server.process(LIST, "ann")
        threads = await threads_of(server, "ann")
        await trio.sleep(30)
        await finish(await begin(server, body))

    assert refused == ("text_bytes_per_minute", 30.0)
    assert len(threads) == 2


async def test_a_message_longer_than_a_minutes_text_is_paid_for_later(autojump_clock):
    body = message(text="x" * 1000)
    async with limited(SHORT, SHORT, text_bytes_per_minute=len(body) // 2) as server:
        await finish(await begin(server, body))
        refused = await refusal(server, message())
        await trio.sleep(120)
        await finish(await begin(server, body))

    assert refused[1] > 60


async def test_a_message_to_a_thread_that_is_not_there_costs_no_text(autojump_clock):
    async with limited(SHORT, text_bytes_per_minute=300) as server:
        for _ in range(5):
            with pytest.raises(Exception, match="no thread"):
                await server.process(message("thr_none"), "ann")
        await finish(await begin(server, message()))
        threads = await threads_of(server, "ann")

    assert len(threads) == 1


class ElsewhereAttachments(AttachmentStore[str]):
    """Clients upload past the server; files over 5,000 bytes are refused."""

    def bytes_past_server(self, input: AttachmentCreateParams) -> int:
        return input.size if input.size <= 5_000 else 0

    async def create_attachment(
        self, input: AttachmentCreateParams, context: str
    ) -> FileAttachment:
        await trio.lowlevel.checkpoint()
        if input.size > 5_000:
            raise TooLargeError("a file may have 5000 bytes")
        attachment_id = self.generate_attachment_id(input.mime_type, context)
        return FileAttachment(id=attachment_id, name=input.name, mime_type=input.mime_type)

    async def delete_attachment(self, attachment_id: str, context: str) -> None:
        raise AssertionError("nothing is deleted here")


def file(size: int) -> str:
    params = {"name": "a.txt", "size": size, "mime_type": "text/plain"}
    return json.dumps({"type": "attachments.create", "params": params})


def limited_elsewhere(**limits: int) -> ScriptedServer:
    return ScriptedServer(
        MemoryStore(owner=str),
        ScriptedRespond(SHORT),
        attachment_store=ElsewhereAttachments(),
        owner_limits=OwnerLimits(**limits),
    )


async def test_a_file_that_goes_past_the_server_is_counted_when_its_url_is_given(autojump_clock):
    async with limited_elsewhere(upload_bytes_per_hour=6_000) as server:
        await server.process(file(4_000), "ann", idempotency_key="k")
        refused = await refusal(server, file(4_000))
        await server.process(file(4_000), "ann", idempotency_key="k")  # a repeat costs nothing
        await server.process(file(2_000), "ann")
        await server.process(file(4_000), "ben")
        await trio.sleep(2400)
        await server.process(file(4_000), "ann")

    assert refused == ("upload_bytes_per_hour", 1200.0)


async def test_a_file_that_is_refused_costs_none_of_the_bytes_it_was_declared_to_have(
    autojump_clock,
):
    async with limited_elsewhere(upload_bytes_per_hour=6_000) as server:
        with pytest.raises(TooLargeError):
            await server.process(file(10**12), "ann")
        await server.process(file(5_000), "ann")
        await server.process(file(1_000), "ann")
        refused = await refusal(server, file(1))
        await server.process(file(0), "ann")

    assert refused[0] == "upload_bytes_per_hour"


async def test_owners_who_have_all_of_a_rate_again_are_forgotten(autojump_clock):
    usage, rate = LocalUsage(), Rate(10, 60)
    for number in range(1000):
        await usage.spend(f"owner {number}", "requests_per_minute", 5, rate)
    await trio.sleep(30)
    await usage.spend("another", "requests_per_minute", 1, rate)

    assert list(usage._full_at["requests_per_minute"]) == ["another"]


async def test_no_more_owners_are_remembered_than_there_is_room_for(autojump_clock, monkeypatch):
    monkeypatch.setattr(owner_limits, "MAX_OWNERS", 10)
    usage = LocalUsage()
    for number in range(1000):
        await usage.spend(f"owner {number}", "requests_per_minute", 5, Rate(10, 60))

    assert len(usage._full_at["requests_per_minute"]) == 10


async def test_owners_without_slots_are_forgotten(autojump_clock):
    owners = Owners(OwnerLimits(live_turns=1))
    for number in range(10):
        slot = await owners.take_slot(f"owner {number}", "live_turns")
        assert slot is not None
        slot.keep()
        slot.free()
        slot.free()

    assert isinstance(owners.usage, LocalUsage)
    assert not owners.usage._slots


# --- Who the owner is ----------------------------------------------------------------------------


async def test_without_limits_nobody_is_asked_who_the_owner_is(tmp_path):
    class Server(ScriptedServer):
        def get_owner(self, context):
            raise AssertionError("nobody needs to know")

    async with Server(MemoryStore(), lambda *args: None) as server:
        answer = await server.process(LIST, None)

    assert b"data" in answer.json  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", [MemoryStore, SQLiteStore])
async def test_the_owner_is_who_owns_the_threads_in_the_store(tmp_path, kind):
    arguments = [tmp_path / "chat.db"] if kind is SQLiteStore else []
    store = kind(*arguments, owner=lambda context: context["user"])
    server = scripted_server(store, SHORT, owner_limits=OwnerLimits(requests_per_minute=1))
    async with server:
        await server.process(LIST, {"user": "ann"})
        refused = await refusal(server, LIST, {"user": "ann"})  # type: ignore[arg-type]
        await server.process(LIST, {"user": "ben"})

    assert server.get_owner({"user": "ann"}) == "ann"
    assert refused[0] == "requests_per_minute"


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "5"])
def test_a_limit_that_is_none_is_refused(limit):
    with pytest.raises(ValueError, match="live_turns must be a whole number"):
        OwnerLimits(live_turns=limit)
