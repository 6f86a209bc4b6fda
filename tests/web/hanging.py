"""An app for `chatkit-trio serve` that won't end: what hangs is what the environment says."""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

import trio
from quart_trio import QuartTrio

from chatkit_trio.server import TurnPolicy, current_turn
from chatkit_trio.stores import SQLiteStore
from chatkit_trio.testing import StoreWrapper
from chatkit_trio.web import _serving, _watchdog, create_app

from .talker import Talker

FOR_EVER = 1000.0  # seconds
LONG = 20.0  # seconds
NEVER_STORED = ("hook", "disk", "busy", "log")
HANGS = os.environ.get("HANGS", "")

logger = logging.getLogger(__name__)


def told_to_hang(database: str | Path) -> Path:
    """Return the file that tells the server of this database to hang.

    The one who reads the answer makes it: what a server that hangs hasn't sent yet, it never sends.
    """
    return Path(f"{database}.hang")


class HangingDisk(StoreWrapper):
    """Writes hang in their thread once the answer has got going."""

    has_failed = False

    async def around(self, name, call):
        if self.has_failed and name not in ("load_thread", "load_thread_items", "ping"):
            await trio.to_thread.run_sync(time.sleep, FOR_EVER)
        return await call()


class Hanging(Talker):
    has_hung = False

    async def words(self):
        told = told_to_hang(os.environ["TALKER_DATABASE"])
        async for word in super().words():
            yield word
            if not self.has_hung and told.exists():
                self.has_hung = True
                await self._hang()

    async def respond(self, thread, input_user_message, context):
        try:
            async for event in super().respond(thread, input_user_message, context):
                yield event
        finally:
            if HANGS == "cleanup":
                with trio.CancelScope(shield=True):
                    await hang_in_cleanup()

    async def _until_journaled(self):
        """Wait until the journal has what was produced before."""
        began_at = trio.current_time()
        while trio.current_time() - self.journal_writer.lag <= began_at:  # noqa: ASYNC110
            await trio.sleep(0.02)

    async def _hang(self):
        await self._until_journaled()
        os.write(2, b"hangs now\n")  # now, and not when the log's thread comes to it
        if HANGS == "thread":
            await trio.to_thread.run_sync(block)
        elif HANGS == "nursery":
            current_turn().nursery.start_soon(hang_shielded)
        elif HANGS == "disk":
            self.store.has_failed = True
        elif HANGS == "swallow":
            while True:
                with suppress(trio.Cancelled):
                    await trio.sleep(FOR_EVER)
        elif HANGS == "busy":
            compute_for_ever()
        elif HANGS == "log":
            log_into_a_full_pipe()
        elif HANGS == "executor":
            threading.Thread(target=block, daemon=False).start()

    async def handle_stream_cancelled(self, thread, pending_items, context):
        if HANGS == "hook":
            await hang_shielded()
        await super().handle_stream_cancelled(thread, pending_items, context)


async def hang_in_cleanup():
    await trio.sleep(FOR_EVER)


async def hang_shielded():
    with trio.CancelScope(shield=True):
        await trio.sleep(FOR_EVER)


def block():
    time.sleep(FOR_EVER)


def compute_for_ever():
    while True:
        pass


def log_into_a_full_pipe():
    _reading_end, writing_end = os.pipe()
    os.dup2(writing_end, 2)
    while True:
        logger.warning("nobody reads this %s", "." * 1000)


def make_app() -> QuartTrio:
    store = SQLiteStore(os.environ["TALKER_DATABASE"])
    policy = TurnPolicy(settle_timeout=0.5, on_disconnect="finish")
    server = Hanging(
        HangingDisk(store) if HANGS == "disk" else store,
        word_size=65536 if HANGS == "reader" else 8,
        policy=policy,
    )
    server.journal_interval = 0.1
    app = create_app(server)

    @app.before_serving
    async def begin():
        if HANGS == "startup":
            logger.warning("Serving on http://127.0.0.1:0")  # as far as it gets
            await trio.to_thread.run_sync(block)

    @app.after_serving
    async def end():
        if HANGS == "after_serving":
            await hang_shielded()
        logger.warning("after_serving ran")

    @app.get("/hang")
    async def hang():
        logger.warning("the view hangs")
        await hang_shielded()

    return app


if "TALKER_DATABASE" in os.environ:
    app = make_app()
    # What has to be waited for is short. A busy machine mustn't reach the others.
    lets_go = HANGS not in {"reader", "view", "startup", *NEVER_STORED}
    ends_in_order = HANGS in {"nothing", "reader"}
    _serving.GRACE = _serving._GRACE_IN_HASTE = LONG if lets_go else 0.3
    _serving._HANGING_UP = 0.3
    _serving._AFTER_SERVING = LONG if ends_in_order else 1.0
    _serving.EXITING = LONG if ends_in_order else 0.5
    _watchdog.C_CODE_TIMEOUT = 60.0
