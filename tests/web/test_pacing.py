"""When events go out over HTTP: the first at once, those that follow shortly together."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from weakref import ref

import pytest
import trio
from trio.testing import MockClock

from chatkit_trio._engine.frames import FrameLog, FrameReader, SendNow
from chatkit_trio._engine.ticker import Ticker
from chatkit_trio.errors import FramesLost
from chatkit_trio.server import StreamingResult, TurnPolicy
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import pause, say, scripted_server
from chatkit_trio.web import create_app
from tests.engine.parts import message_request, read_all, stream
from tests.transcript import transcript

from .http import CREATE, chunks_of, client_of

WINDOW = 0.05
SLACK = 0.005


async def paced(*script, **settings) -> list[tuple[float, int, bytes]]:
    """Return each chunk of an answer: when it came, how many events it has, its bytes."""
    server = scripted_server(MemoryStore(), [*script], policy=TurnPolicy(**settings))
    async with (
        client_of(create_app(server)) as client,
        client.open("POST", "/chatkit", CREATE) as response,
    ):
        begun = trio.current_time()
        return [
            (came - begun, chunk.count(b"data: "), chunk)
            for came, chunk in await chunks_of(response)
        ]


def words(count: int) -> list[str]:
    return [f"word{number} " for number in range(count)]


def times_of(chunks, text: bytes) -> list[float]:
    return [when for when, _, chunk in chunks if text in chunk]


async def test_events_that_follow_shortly_go_out_together(autojump_clock: MockClock) -> None:
    chunks = await paced(say(*words(100), every=0.01), flush_interval=WINDOW)

    gaps = [later[0] - earlier[0] for earlier, later in pairwise(chunks)]
    assert min(gaps[:-1]) >= WINDOW - SLACK
    for number in range(100):
        (came,) = times_of(chunks, b'"word%d "' % number)
        assert 0 <= came - 0.01 * number - 0.01 <= WINDOW + SLACK
    assert len(chunks) <= 1 / WINDOW + 3


async def test_the_first_event_after_a_pause_goes_out_at_once(autojump_clock: MockClock) -> None:
    chunks = await paced(pause(1), say(*words(5), every=1), flush_interval=WINDOW)

    for number in range(5):
        (came,) = times_of(chunks, b'"word%d "' % number)
        assert came == pytest.approx(number + 2)


async def test_the_end_waits_for_no_window(autojump_clock: MockClock) -> None:
    chunks = await paced(say(*words(5), every=0.01), flush_interval=30)

    assert chunks[-1][0] == pytest.approx(0.05)
    assert b"thread.item.done" in chunks[-1][2]


async def test_without_a_window_each_event_goes_out_at_once(autojump_clock: MockClock) -> None:
    chunks = await paced(say(*words(50), every=0.01), flush_interval=0)

    for number in range(50):
        (came,) = times_of(chunks, b'"word%d "' % number)
        assert came == pytest.approx(0.01 * (number + 1))


async def test_much_text_does_not_wait_for_the_end_of_a_window(autojump_clock: MockClock) -> None:
    """An hour of window: what may wait in memory is bounded all the same."""
    chunks = await paced(say(*words(2000)), flush_interval=3600)

    assert max(count for _, count, _ in chunks) <= 400
    assert chunks[-1][0] == pytest.approx(0)


async def test_a_client_that_may_hold_little_back_gets_it_at_once(
    autojump_clock: MockClock,
) -> None:
    """`respond` waits for the client there: it must not wait for the window's end too."""
    chunks = await paced(say(*words(50)), flush_interval=3600, max_unread_bytes=400)

    assert chunks[-1][0] == pytest.approx(0)
    assert max(len(chunk) for _, _, chunk in chunks) < 2000


async def test_a_heartbeat_comes_after_silence_and_not_after_an_event(
    autojump_clock: MockClock,
) -> None:
    chunks = await paced(
        pause(10), say("one ", "two ", every=10), pause(25), flush_interval=WINDOW, heartbeat=7
    )

    beats = [when for when, count, _ in chunks if count == 0]
    # The item begins at 10 and its text at 20; "done" follows the last text within its window.
    assert beats == pytest.approx([7, 17, 27, 37, 44, 51], abs=WINDOW + SLACK)


# --- The ticker --------------------------------------------------------------------------------


async def receive_into(reader: FrameReader, ticker: Ticker, came: list[float]) -> None:
    while True:
        try:
            frames = await reader.receive_in_time(ticker, WINDOW, 15.0)
        except trio.EndOfChannel:
            return
        if frames:
            came.append(trio.current_time())


@pytest.fixture
def log() -> FrameLog:
    return FrameLog(max_unread=1_000_000, max_kept=1_000_000)


async def test_readers_whose_windows_end_shortly_after_each_other_are_woken_together(
    autojump_clock: MockClock,
) -> None:
    ticker = Ticker()
    logs = [FrameLog(max_unread=10_000, max_kept=10_000) for _ in range(100)]
    came: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ticker.run)
        for each in logs:
            nursery.start_soon(receive_into, each.open_reader(leads=True), ticker, came)
        for _ in range(100):
            await trio.sleep(0.01)
            for each in logs:
                each.append(b"data: {}\n\n")
        for each in logs:
            each.close()
        await trio.sleep(1)
        nursery.cancel_scope.cancel()

    assert 1800 <= len(came) <= 2200  # each of 100 readers, 20 times a second
    assert len(set(came)) <= 30  # together, although each has a window of its own


async def test_the_windows_of_a_server_that_is_late_grow_and_shrink_again(
    mock_clock: MockClock, log: FrameLog
) -> None:
    ticker = Ticker()
    mock_clock.rate = 0

    async def pass_time(late: float) -> None:
        for _ in range(2):  # the first one goes out, and the second one has to wait
            log.append(b"data: {}\n\n")
            await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(WINDOW * ticker.stretch + late)
        await trio.testing.wait_all_tasks_blocked()

    came: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ticker.run)
        nursery.start_soon(receive_into, log.open_reader(leads=True), ticker, came)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(20):
            await pass_time(0.1)
        assert ticker.stretch == 4
        for _ in range(200):
            await pass_time(0)
        assert ticker.stretch == 1
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("frames_a_step", "longest"), [(1, WINDOW), (10, 4 * WINDOW)], ids=["readable", "unreadable"]
)
async def test_a_busy_server_holds_back_longer_what_comes_faster_than_anybody_reads(
    mock_clock: MockClock, log: FrameLog, frames_a_step: int, longest: float
) -> None:
    """Busy is less than late: who can read along isn't made to wait for it."""
    ticker = Ticker()
    mock_clock.rate = 0
    came: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ticker.run)
        nursery.start_soon(receive_into, log.open_reader(leads=True), ticker, came)
        for _ in range(200):
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(frames_a_step):
                log.append(b"data: {}\n\n")
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(0.0105)  # so the timer, due every 0.05 s, is 2.5 ms late
        nursery.cancel_scope.cancel()

    gaps = [later - earlier for earlier, later in pairwise(came[len(came) // 2 :])]
    assert max(gaps) == pytest.approx(longest, abs=0.011)


async def test_a_reader_that_has_left_is_not_kept_by_its_timers(
    autojump_clock: MockClock, log: FrameLog
) -> None:
    """Each has the frames of a turn; its next heartbeat may be an hour away."""
    ticker = Ticker()
    left: list[ref[FrameReader]] = []

    async def read_a_little() -> None:
        reader = log.open_reader(leads=True)
        left.append(ref(reader))
        with trio.move_on_after(1):
            await reader.receive_in_time(ticker, WINDOW, 3600.0)
        log.append(b"data: {}\n\n")
        await reader.receive_in_time(ticker, WINDOW, 3600.0)
        log.append(b"data: {}\n\n")
        with trio.move_on_after(0.001):
            await reader.receive_in_time(ticker, WINDOW, 3600.0)
        reader.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ticker.run)
        async with trio.open_nursery() as readers:
            readers.start_soon(read_a_little)
        gc.collect()
        assert [each() for each in left] == [None]
        nursery.cancel_scope.cancel()


# --- What is sent in the moment that it is due ---------------------------------------------------


class SendingNow:
    """Takes frames that are due; says whether they have all left."""

    def __init__(self, *, leaves_all: bool = True) -> None:
        self.came: list[tuple[float, int]] = []
        self._leaves_all = leaves_all

    def __call__(self, frames: list[bytes]) -> bool:
        self.came.append((trio.current_time(), len(frames)))
        return self._leaves_all


@dataclass
class Reading:
    """A task that reads by `receive_in_time`, and what it was returned."""

    log: FrameLog
    send_now: SendingNow
    window: float = WINDOW
    heartbeat: float = 15.0

    def __post_init__(self) -> None:
        self.returned: list[tuple[float, int]] = []
        self.reader = self.log.open_reader(leads=True)

    async def run(self, ticker: Ticker) -> None:
        with suppress(trio.EndOfChannel):
            while True:
                frames = await self.reader.receive_in_time(
                    ticker, self.window, self.heartbeat, self.send_now
                )
                self.returned.append((trio.current_time(), len(frames)))


@asynccontextmanager
async def reading(log: FrameLog, send_now: SendingNow, **settings: float) -> AsyncIterator[Reading]:
    task, ticker = Reading(log, send_now, **settings), Ticker()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ticker.run)
        nursery.start_soon(task.run, ticker)
        await trio.testing.wait_all_tasks_blocked()
        yield task
        nursery.cancel_scope.cancel()


def write(log: FrameLog, count: int = 1) -> None:
    for _ in range(count):
        log.append(b"data: {}\n\n")


async def test_frames_are_sent_in_the_moment_that_they_are_due(
    autojump_clock: MockClock, log: FrameLog
) -> None:
    async with reading(log, SendingNow()) as task:
        began = trio.current_time()
        for _ in range(10):
            write(log)
            await trio.sleep(0.015)
        await trio.sleep(1)

    times = [when - began for when, _ in task.send_now.came]
    assert times == pytest.approx([0, WINDOW, 2 * WINDOW, 3 * WINDOW], abs=SLACK)
    assert [count for _, count in task.send_now.came] == [1, 3, 3, 3]
    assert task.returned == []


async def test_what_comes_in_one_moment_after_a_pause_is_sent_together(
    autojump_clock: MockClock, log: FrameLog
) -> None:
    async with reading(log, SendingNow()) as task:
        began = trio.current_time()
        for _ in range(3):
            write(log, 3)
            await trio.sleep(1)

    assert task.send_now.came == [(began, 3), (began + 1, 3), (began + 2, 3)]
    assert task.returned == []


async def test_a_reader_goes_on_when_its_frames_have_not_all_left(
    autojump_clock: MockClock, log: FrameLog
) -> None:
    async with reading(log, SendingNow(leaves_all=False)) as task:
        began = trio.current_time()
        write(log)
        await trio.testing.wait_all_tasks_blocked()

    assert task.send_now.came == [(began, 1)]
    assert task.returned == [(began, 0)]


async def test_the_end_goes_out_with_what_waits_before_it(
    autojump_clock: MockClock, log: FrameLog
) -> None:
    async with reading(log, SendingNow()) as task:
        began = trio.current_time()
        write(log)
        await trio.sleep(0.01)
        write(log, 2)
        log.close()
        await trio.sleep(1)

    assert task.send_now.came == [(began, 1)]
    assert task.returned == [(began + 0.01, 2)]


async def test_silence_counts_from_what_was_sent_last(
    autojump_clock: MockClock, log: FrameLog
) -> None:
    async with reading(log, SendingNow(), heartbeat=7.0) as task:
        began = trio.current_time()
        await trio.sleep(5)
        write(log)
        await trio.sleep(8)

    assert task.returned == [(began + 12, 0)]


async def test_what_is_written_while_a_reader_sends_is_not_sent_beside_it(
    autojump_clock: MockClock, log: FrameLog
) -> None:
    send_now, ticker, reader = SendingNow(), Ticker(), log.open_reader(leads=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ticker.run)
        with trio.move_on_after(1):
            await reader.receive_in_time(ticker, WINDOW, 15.0, send_now)
        write(log, 2)
        assert len(await reader.receive_in_time(ticker, WINDOW, 15.0, send_now)) == 2
        write(log, 2)
        await trio.sleep(1)
        assert send_now.came == []
        assert len(await reader.receive_in_time(ticker, WINDOW, 15.0, send_now)) == 2
        nursery.cancel_scope.cancel()


async def test_without_a_window_a_busy_writer_is_still_waited_for(
    autojump_clock: MockClock, log: FrameLog
) -> None:
    async with reading(log, SendingNow(), window=0.0) as task:
        write(log, 5)
        await trio.testing.wait_all_tasks_blocked()

    assert task.send_now.came == []
    assert [count for _, count in task.returned] == [5]


async def test_a_reader_that_was_left_behind_is_told_so(autojump_clock: MockClock) -> None:
    log = FrameLog(max_unread=1_000_000, max_kept=100)
    send_now, ticker, watcher = SendingNow(), Ticker(), log.open_reader()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ticker.run)
        nursery.start_soon(write_later, log)
        with pytest.raises(FramesLost):
            await watcher.receive_in_time(ticker, WINDOW, 15.0, send_now)
        nursery.cancel_scope.cancel()
    assert send_now.came == []


async def test_a_reader_that_has_left_keeps_nothing_of_who_has_sent(
    autojump_clock: MockClock, log: FrameLog
) -> None:
    """What sends holds the reader, and so the frames of a turn, until garbage is collected."""
    reader, send_now = log.open_reader(leads=True), SendingNow()
    kept = ref(send_now)
    write(log)
    await reader.receive_in_time(Ticker(), WINDOW, 15.0, send_now)
    del send_now
    assert kept() is not None

    reader.close()
    assert kept() is None


async def write_later(log: FrameLog) -> None:
    await trio.testing.wait_all_tasks_blocked()
    write(log, 50)


# --- Several tasks that read one answer ----------------------------------------------------------


async def read_for(
    seconds: float, reader: FrameReader, ticker: Ticker, window: float, told: list[bytes | str]
) -> None:
    with trio.move_on_after(seconds):
        try:
            while True:
                told += await reader.receive_in_time(ticker, window, 15.0) or ["heartbeat"]
        except trio.EndOfChannel:
            told.append("end")


@pytest.mark.parametrize("window", [0.0, WINDOW])
async def test_a_task_that_gives_up_takes_no_other_one_along(
    window: float, autojump_clock: MockClock, log: FrameLog
) -> None:
    ticker, reader = Ticker(), log.open_reader(leads=True)
    told: list[bytes | str] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ticker.run)
        async with trio.open_nursery() as reading:
            reading.start_soon(read_for, 0.5, reader, ticker, window, [])
            reading.start_soon(read_for, 100, reader, ticker, window, told)
            await trio.sleep(1)
            log.append(b"data: 1\n\n")
            await trio.sleep(20)
            log.append(b"data: 2\n\n")
            log.close()
        nursery.cancel_scope.cancel()

    assert told == [b"data: 1\n\n", "heartbeat", b"data: 2\n\n", "end"]


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("window", [0.0, WINDOW])
async def test_two_tasks_share_the_frames_until_the_end(
    window: float, frames: int, autojump_clock: MockClock, log: FrameLog
) -> None:
    """The one that comes too late for some waits on: it is neither the end nor a heartbeat."""
    ticker, reader = Ticker(), log.open_reader(leads=True)
    told: list[list[bytes | str]] = [[], []]
    written: list[bytes] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ticker.run)
        async with trio.open_nursery() as reading:
            for each in told:
                reading.start_soon(read_for, 100, reader, ticker, window, each)
            for number in range(20):
                await trio.sleep(0.02)
                for part in range(frames):
                    written.append(b"data: %d.%d\n\n" % (number, part))
                    log.append(written[-1])
            await trio.sleep(1)
            log.close()
        nursery.cancel_scope.cancel()

    assert [each[-1] for each in told] == ["end", "end"]
    assert {frame for each in told for frame in each[:-1]} == set(written)
    assert sum(map(len, told)) == len(written) + 2


# --- Code of an app that sends --------------------------------------------------------------------


async def test_an_error_of_who_sends_is_raised_where_it_reads_and_nowhere_else(
    autojump_clock: MockClock,
) -> None:
    """It is called by the timer of all streams of a server."""

    def fail(frames: list[bytes]) -> bool:
        raise ValueError("socket gone")

    script = [say(*words(10), every=0.2)]
    async with scripted_server(MemoryStore(), script, script) as server:
        one, other = [await stream(server, message_request()) for _ in range(2)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_all, other)
            async with one:
                with pytest.raises(ValueError, match="socket gone"):
                    await receive_for_ever(one, fail)
        assert (await transcript(server.store, one.turn.thread_id))[-1] == "note: disconnected"
        whole = ["user: hi", "assistant: " + "".join(words(10))]
        assert await transcript(server.store, other.turn.thread_id) == whole


async def receive_for_ever(result: StreamingResult, send_now: SendNow) -> None:
    while True:
        await result.receive_in_time(send_now)
