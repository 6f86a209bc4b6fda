"""Keeping the crash journal: one checkpoint for all live turns, and the settling of dead ones."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Any

import trio

from chatkit_trio.store import Journal, JournalEntry, Settlement, default_generate_id
from chatkit_trio.types import SDKHiddenContextItem

from .items import ENDING_NOTES, CancelReason, kept_items
from .live import LiveTurns

logger = logging.getLogger(__name__)

RECOVERY_INTERVAL = 10.0
"""How often, in seconds, turns of other processes that have died are looked for."""


async def keep_journal(journal: Journal[Any], live_turns: LiveTurns[Any], interval: float) -> None:
    """Write down what live turns have produced, every `interval` seconds, until cancelled.

    One transaction for all turns: the cost doesn't grow with the number of events.
    """
    while True:
        await trio.sleep(interval)
        entries = [entry for turn in live_turns if (entry := turn.journal_entry()) is not None]
        if not entries:
            continue
        try:
            await journal.checkpoint(entries)
        except Exception:
            logger.exception("the journal couldn't be written; it is tried again")
            for turn in live_turns:
                turn.forget_checkpoint()


async def keep_recovering(journal: Journal[Any]) -> None:
    """Settle, every now and then, turns that another process left behind, until cancelled."""
    while True:
        await trio.sleep(RECOVERY_INTERVAL)
        try:
            await recover(journal)
        except Exception:
            logger.exception("looking for abandoned turns failed; it is tried again")


async def recover(journal: Journal[Any]) -> int:
    """Settle every abandoned turn, with reason `crashed`, and return how many there were."""
    settled = 0
    for entry in await journal.abandoned():
        try:
            await journal.settle_abandoned(_crash_settlement(entry))
            settled += 1
        except Exception:
            # One that can't be settled mustn't keep the server, or the others, from starting.
            logger.exception(
                "turn %s of thread %s can't be settled", entry.turn_id, entry.thread_id
            )
    if settled:
        logger.warning("settled %d turns that a crash had cut short", settled)
    return settled


def _crash_settlement(entry: JournalEntry) -> Settlement:
    note = SDKHiddenContextItem(
        id=default_generate_id("sdk_hidden_context"),
        thread_id=entry.thread_id,
        created_at=datetime.now(UTC),
        content=ENDING_NOTES[CancelReason.CRASHED],
    )
    return Settlement(
        thread_id=entry.thread_id,
        turn_id=entry.turn_id,
        new_items=(*kept_items(entry.items), note),
    )
