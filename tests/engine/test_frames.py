"""Frames from one writer to several readers, within bounds."""

from __future__ import annotations

import contextlib

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from chatkit_trio._engine.frames import FrameLog, FrameReader, FramesLost


def log_of(*frames: bytes, max_unread: int = 100, max_kept: int = 100) -> FrameLog:
    log = FrameLog(max_unread=max_unread, max_kept=max_kept)
    for frame in frames:
        log.append(frame)
    return log


async def rest_of(reader: FrameReader) -> list[bytes]:
    frames: list[bytes] = []
    with contextlib.suppress(trio.EndOfChannel):
        while True:
            frames += await reader.receive()
    return frames


async def test_all_that_is_ready_is_received_at_once() -> None:
    reader = log_of(b"a", b"b").open_reader(0)

    assert await reader.receive() == [b"a", b"b"]


async def test_what_is_received_at_once_has_a_limit_but_for_one_frame() -> None:
    reader = log_of(b"aaaa", b"b", b"c").open_reader(0)

    assert [await reader.receive(2), await reader.receive(2)] == [[b"aaaa"], [b"b", b"c"]]


async def test_a_reader_that_comes_back_goes_on_where_it_was() -> None:
    log = log_of(b"a", b"b", b"c")
    first = log.open_reader(0)
    await first.receive(1)
    first.close()
    log.close()

    assert await rest_of(log.open_reader(first.number)) == [b"b", b"c"]


async def test_several_readers_get_every_frame(autojump_clock: trio.testing.MockClock) -> None:
    log = log_of(b"a")
    readers = [log.open_reader(0), log.open_reader(0)]
    got: list[list[bytes]] = []

    async def read(reader: FrameReader) -> None:
        got.append(await rest_of(reader))

    async with trio.open_nursery() as nursery:
        for reader in readers:
            nursery.start_soon(read, reader)
        await trio.sleep(1)
        log.append(b"b")
        log.close()

    assert got == [[b"a", b"b"], [b"a", b"b"]]


async def test_the_leading_reader_holds_the_writer_back() -> None:
    log = log_of(max_unread=2)
    reader = log.open_reader(leads=True)
    log.append(b"aa")
    full = log.has_room
    await reader.receive()

    assert (full, log.has_room) == (False, True)


async def test_a_writer_waits_no_longer_for_a_leader_that_left(
    autojump_clock: trio.testing.MockClock,
) -> None:
    log = log_of(max_unread=1)
    reader = log.open_reader(leads=True)
    log.append(b"aa")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.wait_for_room)
        await trio.sleep(1)
        reader.close()

    assert log.has_room


async def test_a_watcher_that_lags_is_told_that_frames_are_lost() -> None:
    log = log_of(b"a", max_kept=2)
    watcher = log.open_reader(0)
    for frame in (b"b", b"c"):
        log.append(frame)

    with pytest.raises(FramesLost, match="load the thread"):
        await watcher.receive()


@pytest.mark.parametrize("start", [-1, 0, 4])
def test_frames_that_are_not_kept_cannot_be_asked_for(start: int) -> None:
    log = log_of(b"a", b"b", b"c", max_kept=2)

    with pytest.raises(FramesLost):
        log.open_reader(start)


async def test_a_cancelled_receive_has_read_nothing() -> None:
    log = log_of(b"a")
    reader = log.open_reader(0)
    with trio.CancelScope() as scope:
        scope.cancel()
        await reader.receive()

    assert await reader.receive() == [b"a"]


@given(st.lists(st.one_of(st.binary(min_size=1, max_size=9), st.none()), max_size=40))
def test_what_is_kept_stays_within_its_bound_and_in_order(steps: list[bytes | None]) -> None:
    """Frames are written, and None reads one; the leading reader misses none of them."""
    log = FrameLog(max_unread=20, max_kept=20)
    reader = log.open_reader(leads=True)
    written: list[bytes] = []
    read: list[bytes] = []
    for step in steps:
        if step is not None and log.has_room:
            log.append(step)
            written.append(step)
        elif step is None and reader.number < log.next_number:
            read += trio.run(reader.receive, 1)

    assert read == written[: len(read)]
    assert log.kept_bytes <= 20 + 9 + 20


def test_a_tap_hears_each_frame_until_it_is_taken_away() -> None:
    log = FrameLog(max_unread=100, max_kept=100)
    first: list[bytes] = []
    every: list[bytes] = []

    def once(frame: bytes) -> None:
        first.append(frame)
        log.untap(once)

    log.append(b"before")
    log.tap(once)
    log.tap(every.append)
    for frame in (b"a", b"b"):
        log.append(frame)
    log.untap(once)

    assert (first, every) == ([b"a"], [b"a", b"b"])
