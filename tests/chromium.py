"""Debian's Chromium, for the tests that look at what a reader sees."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

# The headless shell has the same engine without windows and menus, and is quicker.
PATH = shutil.which("chromium-headless-shell") or shutil.which("chromium")

needs_chromium = pytest.mark.skipif(
    PATH is None, reason="there is no chromium on the PATH to test with"
)


@contextmanager
def running_chromium(*args: str) -> Iterator[Any]:
    """Run Chromium with these arguments; skips where Playwright isn't installed."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PATH, args=["--no-sandbox", *args])
        yield browser
        browser.close()
