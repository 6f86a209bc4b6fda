"""How long the tests of this folder wait for what they expect."""

from __future__ import annotations

from contextlib import suppress

with suppress(ImportError):
    from playwright.sync_api import expect

    # What is expected comes as soon as it can: on a busy machine that may take long.
    expect.set_options(timeout=20_000)
