"""What examples/cancel_lab shows: every way to cut an answer short, and what is known of it after.

On SQLite, as the example itself, whose journal knows of crashes too.
"""

from contextlib import asynccontextmanager

import pytest
import trio

from chatkit_trio.stores import SQLiteStore
from chatkit_trio.testing import ChatClient, RequestRefused
from examples.cancel_lab import CancelLab


@pytest.fixture
def lab(tmp_path):
    @asynccontextmanager
    async def open_lab():
        store = SQLiteStore(tmp_path / "lab.sqlite3")
        async with CancelLab(store) as server, ChatClient.of_server(server) as client:
            yield client

    return open_lab


async def ask(client, message, thread_id=None):
    async with client.send(message, thread_id) as turn:
        await turn.read()
    return turn


def counted_to(number):
    """Return a condition: that the turn has counted so far."""
    return lambda turn: turn.text.endswith(f" {number}")


async def read_until(turn, condition):
    await turn.wait_for(lambda _event: condition(turn))


async def report_on(client, thread_id):
    """Return what the next answer says about the previous one."""
    return (await ask(client, "What happened to your last answer?", thread_id)).text.strip()


async def test_a_stop_is_reported_and_gone_on_from(jump_clock, lab):
    async with lab() as client:
        async with client.send("Count, and I'll press stop") as turn:
            await read_until(turn, counted_to(12))
            await turn.stop()
        resumed = await ask(client, "Go on", turn.thread_id)

    assert resumed.text.startswith("You stopped me: I had got to **12**.\n\n13 14 15")
    assert resumed.text.endswith(" 400")


async def test_a_page_that_leaves_ends_the_answer(jump_clock, lab):
    async with lab() as client:
        async with client.send("Count, and stop when I leave") as turn:
            await read_until(turn, counted_to(12))
        report = await report_on(client, turn.thread_id)

    assert report == "You left, or the connection did: I had got to **12**."


async def test_an_answer_goes_on_while_the_page_reloads(jump_clock, lab):
    async with lab() as client:
        async with client.send("Count on while I reload the page") as turn:
            await read_until(turn, counted_to(12))
        await trio.sleep(1)
        async with client.watch(turn.thread_id) as reloaded:
            await reloaded.read()
        report = await report_on(client, turn.thread_id)

    assert reloaded.text.startswith("1 2 3 ")
    assert reloaded.text.endswith(" 400")
    assert report.startswith("My last answer came to its end")


@pytest.mark.parametrize(
    ("away", "outcome"),
    [(4, "My last answer came to its end"), (6, "You left, or the connection did")],
)
async def test_an_answer_waits_five_seconds(jump_clock, lab, away, outcome):
    async with lab() as client:
        async with client.send("Count, and wait 5 seconds for me") as turn:
            await read_until(turn, counted_to(12))
        await trio.sleep(away)
        if away < 5:
            async with client.watch(turn.thread_id) as back:
                await back.read()
        report = await report_on(client, turn.thread_id)

    assert report.startswith(outcome)


async def test_an_answer_ends_at_its_deadline(jump_clock, lab):
    async with lab() as client:
        turn = await ask(client, "Count for 3 seconds at most")
        report = await report_on(client, turn.thread_id)

    last = turn.text.split()[-1]
    assert 85 <= int(last) <= 90
    assert report == f"My time was up: I had got to **{last}**."


async def test_a_rival_supersedes(jump_clock, lab):
    async with lab() as client, client.send("Count, and I'll press stop") as turn:
        await read_until(turn, counted_to(12))
        rival = await ask(client, "I'm a rival, and supersede you", turn.thread_id)
        await turn.read()

    assert rival.text.startswith("Somebody spoke while I was counting: I had got to **")
    assert rival.text.endswith("It's my turn, then.")
    assert not turn.text.endswith(" 400")


async def test_a_rival_queues(jump_clock, lab):
    async with (
        lab() as client,
        client.send("Count, and I'll press stop") as turn,
        trio.open_nursery() as nursery,
    ):
        await read_until(turn, counted_to(12))
        nursery.start_soon(turn.read)
        rival = await ask(client, "I'm a rival, and queue", turn.thread_id)

    assert turn.text.endswith(" 400")
    assert rival.text == "It's my turn, then."


async def test_a_rival_is_rejected(jump_clock, lab):
    async with lab() as client, client.send("Count, and I'll press stop") as turn:
        await read_until(turn, counted_to(12))
        with pytest.raises(RequestRefused) as refusal:
            await ask(client, "I'm a rival, reject me", turn.thread_id)
        await turn.read()

    assert refusal.value.status == 409
    assert turn.text.endswith(" 400")


async def test_a_client_that_reads_nothing_has_stalled(jump_clock, lab):
    async with lab() as client:
        async with client.send("Flood me") as turn:
            await read_until(turn, lambda turn: turn.text == "1")
            await turn.server_turn.settled.wait()
        report = await report_on(client, turn.thread_id)

    assert report.startswith("You were connected, and read nothing: I had got to **")


async def test_a_restart_is_reported(jump_clock, lab):
    async with lab() as client, client.send("Count, and I'll press stop") as turn:
        await read_until(turn, counted_to(12))
        await client._transport._server.drain(0)
    async with lab() as client:
        report = await report_on(client, turn.thread_id)

    assert report == "I was restarted: I had got to **12**."
