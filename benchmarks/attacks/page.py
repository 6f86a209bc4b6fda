"""Answers that a prompt injection wrote, drawn by the chat page in Chromium: do they reach anybody?

The answers are those of `tests.browser.hostile`, in a server of their own. Needs Playwright,
Chromium and openssl; without them nothing is tried.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import trio

from benchmarks.attacks import Attack, Outcome, Victim, running_victim

_APP = "tests.browser.hostile:app"
_PROGRAMS = ("chromium", "openssl")


def _drawn(port: int, directory: Path, answer: str, look: Callable[[Any], int]) -> tuple[int, int]:
    """Draw an answer; return what `look` finds, and the connections to another host."""
    from playwright.sync_api import sync_playwright

    from tests.browser.recorder import Recorder, certificate

    recorder = Recorder(certificate(directory))
    rules = f"--host-resolver-rules=MAP *.test 127.0.0.1:{recorder.port}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", rules]
        )
        page = browser.new_context(ignore_https_errors=True).new_page()
        page.add_init_script("window.tried = () => { window.wasTried = true }")
        page.goto(f"http://127.0.0.1:{port}/")
        page.get_by_test_id("composer").fill(answer)
        page.get_by_test_id("send").click()
        page.get_by_text("That was all.").wait_for()
        log = page.locator(".log")
        for top in range(0, log.evaluate("(log) => log.scrollHeight"), 400):
            log.evaluate("(log, top) => log.scrollTo(0, top)", top)
        page.wait_for_load_state("networkidle")
        found = look(page) + page.evaluate("window.wasTried ? 1 : 0")
        browser.close()
    recorder.close()
    return found, recorder.connections


async def _draw(victim: Victim, answer: str, payloads: int, look: Callable[[Any], int]) -> Outcome:
    if missing := [program for program in _PROGRAMS if shutil.which(program) is None]:
        return Outcome(0, 0, f"not tried: there is no {' and no '.join(missing)}")
    directory = victim.directory / "page"
    directory.mkdir()
    async with running_victim(directory, app=_APP) as site:
        found, connections = await trio.to_thread.run_sync(
            partial(_drawn, site.port, directory, answer, look)
        )
    note = f"{found} in the document or run, {connections} connections to others"
    return Outcome(payloads, max(payloads - found - connections, 0), note)


def _unsafe(page: Any) -> int:
    from tests.browser.hostile import UNSAFE

    return len(page.evaluate(UNSAFE))


async def _links(victim: Victim) -> Outcome:
    from tests.browser.hostile import SCRIPT_URLS

    return await _draw(victim, "links", len(SCRIPT_URLS), _unsafe)


async def _markup(victim: Victim) -> Outcome:
    from tests.browser.hostile import MARKUP

    return await _draw(victim, "markup", len(MARKUP), _unsafe)


async def _images(victim: Victim) -> Outcome:
    return await _draw(victim, "images", 25, lambda page: page.locator(".items img").count())


ATTACKS = (
    Attack(what="links with script, in 11 places of an answer", fault="F24", run=_links),
    Attack(what="HTML with script, in 6 places of an answer", fault="F24", run=_markup),
    Attack(what="images of another host, by no rule", fault="F15", run=_images),
)
