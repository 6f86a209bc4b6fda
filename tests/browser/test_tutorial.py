"""The tutorial, followed word by word: its files, its commands, and what it says one sees."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright isn't installed")
expect = sync_api.expect

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial" / "first-chat.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(python|sh)\n(.*?)^```", PAGE, re.S | re.M)

STOP_AT = """(text) => {
  const chat = document.querySelector("chatkit-trio").shadowRoot;
  const answers = () => chat.querySelectorAll("[data-testid=message-assistant]");
  const before = answers().length;
  const look = (_, observer) => {
    const said = [...answers()].slice(before).at(-1)?.querySelector("p")?.textContent;
    const stop = chat.querySelector("[data-testid=stop]");
    if (!stop || !said?.startsWith(text)) return;
    observer.disconnect();
    stop.click();
  };
  new MutationObserver(look).observe(chat, { childList: true, subtree: true, characterData: true });
}"""
"""JavaScript: presses stop when the next answer has come so far. Who looks from outside may come
too late, for an answer takes two seconds."""


class Reader:
    """Does what the page says, in an empty directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.blocks = iter(BLOCKS)
        self.environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "PYTEST_ADDOPTS": "-p no:cacheprovider",
        }

    def write(self) -> None:
        """Write the next block where its first line says."""
        language, code = next(self.blocks)
        place, text = code.split("\n", 1)
        assert language == "python"
        name, _, where = place.removeprefix("# ").partition(", ")
        file = self.directory / name
        before, last_line, _ = file.read_text().rpartition("\napp = ") if where else ("", "", "")
        kept = file.read_text().removeprefix(before) if where else ""
        parts = {
            "": ["", text],
            "before the last line": [before, f"\n\n{text}\n", kept],
            "the last line": [before, last_line and "\n", text],
        }
        file.write_text("".join(parts[where]))

    def command(self) -> str:
        """Return the next command."""
        language, command = next(self.blocks)
        assert language == "sh"
        return command.strip()

    def run(self) -> str:
        done = subprocess.run(
            self.command(),
            shell=True,
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=180,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def test_it_can_be_followed_word_by_word(browser, tmp_path):
    reader = Reader(tmp_path)
    assert reader.command() == "pip install 'chatkit-trio[testing]'"  # .ci/check_package.py does
    reader.write()
    log = tmp_path / "terminal"
    with log.open("w") as terminal:
        # PORT as the only thing that the page doesn't say: 8000 may be taken here.
        server = subprocess.Popen(
            f"exec {reader.command()}",
            shell=True,
            cwd=tmp_path,
            env=reader.environment | {"PORT": "0"},
            stdout=terminal,
            stderr=terminal,
        )
    context = browser.new_context()
    context.set_default_timeout(30_000)
    page = context.new_page()

    def terminal_says(pattern: str) -> re.Match[str]:
        for _ in range(600):
            if found := re.search(pattern, log.read_text()):
                return found
            page.wait_for_timeout(50)
        raise AssertionError(f"the terminal never says {pattern}:\n{log.read_text()}")

    def say(text: str, *, stop_at: str | None = None) -> None:
        page.get_by_test_id("composer").fill(text)
        if stop_at is not None:
            page.evaluate(STOP_AT, stop_at)
        page.get_by_test_id("send").click()

    def answer():
        return page.get_by_test_id("message-assistant").last.locator("p")

    def answer_says(text: str) -> None:
        expect(answer()).to_have_text(re.compile(f"^{text}"), timeout=30_000)

    stopped = page.get_by_test_id("end-mark")
    try:
        page.goto(terminal_says(r"http://\S+")[0])
        say("Count!", stop_at="1 2 3 4 5 6 7")
        answer_says("1 2 3 4 5 6 7")
        expect(stopped).to_have_count(1, timeout=30_000)
        page.reload()
        answer_says("1 2 3 4 5 6 7")
        last = int(answer().inner_text().split()[-1])
        say("Go on", stop_at=f"{last + 1} {last + 2} ")
        answer_says(f"{last + 1} {last + 2} ")
        expect(stopped).to_have_count(2, timeout=30_000)

        reader.write()
        reader.write()
        terminal_says(r"restarting: app\.py")
        say("And on", stop_at="")
        terminal_says(re.escape(re.search(r"`(the model reads: [^`]+)`", PAGE)[1]))
        expect(stopped).to_have_count(3, timeout=30_000)

        reader.write()
        reader.write()
        terminal_says(r"(?s)the model reads.*restarting: app\.py")
        page.get_by_test_id("new-thread").click()
        say("A title, please")
        titled = page.get_by_test_id("thread-item").filter(has_text="A title, please")
        expect(titled).to_be_visible(timeout=30_000)
    finally:
        context.close()
        server.send_signal(signal.SIGINT)
        server.wait(60)

    reader.write()
    assert "1 passed" in reader.run()
    assert list(reader.blocks) == []
