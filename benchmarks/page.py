"""How smooth the page stays while a long answer streams into it, in Chromium.

    python -m benchmarks.page [--only list] [--seconds 15]

Each text comes at 100 pieces a second. What is told is of the last four seconds, when the text is
longest: the time between frames, the longest task, and how much of a core the page used. The last
row streams a short answer into a thread of 500 items. `--weight` measures instead when the composer
can be used, over slow networks, with an empty and with a filled cache.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from .page_app import TEXTS

ROOT = Path(__file__).parent.parent
LAST = 4.0  # seconds that are measured
MESSAGES = 250  # questions of the long thread, each with an answer

RECORD = """(seconds) => new Promise((resolve) => {
  const frames = [];
  const tasks = [];
  const observer = new PerformanceObserver((list) => {
    for (const { duration } of list.getEntries()) tasks.push(duration);
  });
  observer.observe({ entryTypes: ["longtask"] });
  const begun = performance.now();
  let before = begun;
  const frame = (now) => {
    frames.push(now - before);
    before = now;
    if (now - begun < seconds * 1000) return requestAnimationFrame(frame);
    observer.disconnect();
    frames.sort((a, b) => a - b);
    const at = (part) => frames[Math.min(frames.length - 1, Math.floor(frames.length * part))];
    resolve({ median: at(0.5), p95: at(0.95), most: frames.at(-1), task: Math.max(0, ...tasks) });
  };
  requestAnimationFrame(frame);
})"""

# Milliseconds of waiting, thousands of bits a second.
NETWORKS = {"slow 3G": (400, 400), "fast 3G": (150, 1600), "4G": (60, 9000)}


@contextmanager
def served() -> Iterator[str]:
    command = [sys.executable, "-m", "chatkit_trio", "serve", "benchmarks.page_app:app"]
    with subprocess.Popen(
        [*command, "--port", "0"], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as server:
        try:
            assert server.stdout is not None
            found = re.search(r"http://\S+", server.stdout.readline())
            assert found is not None
            yield found[0]
        finally:
            server.terminate()


def send(page: Page, text: str) -> None:
    page.get_by_test_id("composer").fill(text)
    page.get_by_test_id("composer").press("Enter")


def measured(page: Page, name: str, seconds: float) -> dict[str, float]:
    """Stream a text into the page, and tell how its last seconds went."""
    cdp = page.context.new_cdp_session(page)
    cdp.send("Performance.enable")
    send(page, f"{name} {seconds}")
    page.wait_for_timeout((seconds - LAST - 0.5) * 1000)
    before = busy(cdp)
    told: dict[str, float] = page.evaluate(RECORD, LAST)
    spent = busy(cdp) - before
    page.get_by_test_id("stop").wait_for(state="hidden", timeout=60_000)
    return told | {"core": 100 * spent / LAST}


def busy(cdp: Any) -> float:
    """Return the seconds that the page's main thread has been busy for."""
    metrics = cdp.send("Performance.getMetrics")["metrics"]
    return next(each["value"] for each in metrics if each["name"] == "TaskDuration")


def fill_thread(page: Page) -> None:
    """Write a thread of 500 items past the page, and show it."""
    thread = page.evaluate(
        """async (count) => {
          const post = async (type, params) => (await (await fetch("/chatkit", { method: "POST",
            headers: { "Content-Type": "application/json" },
            body: JSON.stringify({ type, params }) })).text());
          const input = { content: [{ type: "input_text", text: "short" }], attachments: [],
            inference_options: {} };
          const begun = await post("threads.create", { input });
          const thread_id = begun.match(/"id":"(thr_[^"]*)"/)[1];
          for (let n = 1; n < count; n += 1) {
            await post("threads.add_user_message", { thread_id, input });
          }
          return thread_id;
        }""",
        MESSAGES,
    )
    page.evaluate("(id) => document.querySelector('chatkit-trio').setThreadId(id)", thread)
    messages = page.get_by_test_id("message-assistant")
    while messages.count() < MESSAGES:
        page.get_by_role("button", name="Show earlier messages").click()
        page.wait_for_timeout(150)
    page.keyboard.press("End")


def smoothness(browser: Browser, url: str, only: str | None, seconds: float) -> None:
    print(f"{'text':<10} {'frame median':>12} {'p95':>6} {'most':>6} {'task':>6} {'core':>6}")
    for name in [*TEXTS, "500 items"]:
        if only not in (None, name) or name == "short":
            continue
        page = browser.new_context(viewport={"width": 1000, "height": 800}).new_page()
        page.goto(url)
        page.get_by_test_id("composer").wait_for()
        if name == "500 items":
            fill_thread(page)
        told = measured(page, "short" if name == "500 items" else name, seconds)
        page.context.close()
        print(
            f"{name:<10} {told['median']:>9.0f} ms {told['p95']:>6.0f} {told['most']:>6.0f}"
            f" {told['task']:>6.0f} {told['core']:>4.0f} %"
        )


def weight(browser: Browser, url: str) -> None:
    print(f"{'network':<10} {'first visit':>12} {'second':>8}")
    for name, (latency, kilobits) in NETWORKS.items():
        page = browser.new_context().new_page()
        cdp = page.context.new_cdp_session(page)
        rate = kilobits * 1000 / 8
        conditions = {"offline": False, "latency": latency, "downloadThroughput": rate}
        cdp.send("Network.emulateNetworkConditions", conditions | {"uploadThroughput": rate})
        visits = []
        for _ in range(2):
            begun = time.perf_counter()
            page.goto(url, wait_until="commit")
            page.get_by_test_id("composer").wait_for()
            visits.append(time.perf_counter() - begun)
        page.context.close()
        print(f"{name:<10} {visits[0]:>10.2f} s {visits[1]:>6.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=[*TEXTS, "500 items"])
    parser.add_argument("--seconds", type=float, default=15.0, help="how long a text takes")
    parser.add_argument("--weight", action="store_true")
    given = parser.parse_args()
    with served() as url, sync_playwright() as playwright:
        path = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        if given.weight:
            weight(browser, url)
        else:
            smoothness(browser, url, given.only, given.seconds)
        browser.close()


if __name__ == "__main__":
    main()
