"""Four servers in the shape of the original's samples: with the original, and moved to ours.

Both run as their users run them, under uvicorn and under Hypercorn, on the same model. The same is
said to both, and both must say the same.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from .model_server import model_server
from .moving import SAMPLES, Sample, move

pytest.importorskip("chatkit", reason="the extra `parity` isn't installed")

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
START_LIMIT = 60.0


class Talk:
    """What a client says to one server and hears from it, ids and times made equal."""

    def __init__(self, url: str, endpoint: str) -> None:
        self.url = url
        self.endpoint = endpoint
        self.heard: list[Any] = []
        self.thread_id = ""
        self.items: list[dict[str, Any]] = []
        """Whatever items came, as they are."""

    def fetch(self, path: str, body: Any = None, **headers: str) -> Any:
        """Send a request, by POST if there is a body; return what came as it is."""
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        url = path if path.startswith("http") else self.url + path
        try:
            with urllib.request.urlopen(urllib.request.Request(url, data, headers)) as answer:
                text = answer.read().decode()
                kind = answer.headers.get_content_type()
        except urllib.error.HTTPError as error:
            self.heard.append(error.code)
            return None
        if kind == "text/event-stream":
            return [
                json.loads(part[6:]) for part in text.split("\n\n") if part.startswith("data: ")
            ]
        return json.loads(text) if kind == "application/json" else text

    def ask(self, kind: str, headers: dict[str, str] | None = None, **params: Any) -> Any:
        """Send a request of the protocol; note what was heard, and return it."""
        if self.thread_id and kind != "threads.create":
            params = {"thread_id": self.thread_id, **params}
        heard = self.fetch(self.endpoint, {"type": kind, "params": params}, **headers or {})
        if isinstance(heard, list):
            for event in heard:
                if event["type"] == "thread.created":
                    self.thread_id = event["thread"]["id"]
                if "item" in event:
                    self.items.append(event["item"])
        self.heard.append(heard)
        return heard

    def say(
        self, text: str, *content: Any, tool: str | None = None, files: Any = (), **headers: str
    ) -> Any:
        """Send a message: the first one makes the thread."""
        message = {
            "content": [{"type": "input_text", "text": text}, *content],
            "attachments": list(files),
            "inference_options": {} if tool is None else {"tool_choice": {"id": tool}},
        }
        kind = "threads.add_user_message" if self.thread_id else "threads.create"
        return self.ask(kind, headers, input=message)

    def act(self, kind: str, **payload: Any) -> Any:
        """Press something in the last widget."""
        widget = [item for item in self.items if item["type"] == "widget"][-1]
        action = {"type": kind, "payload": payload, "handler": "server"}
        return self.ask("threads.custom_action", item_id=widget["id"], action=action)


def talk_to_support(talk: Talk) -> None:
    talk.say("hello")
    talk.say('call change_seat {"seat": "4A"}')
    talk.say('call change_seat {"seat": "0A"}')
    talk.say("call ask_for_meal {}")
    talk.ask("threads.get_by_id")  # before the widget changes: the original doesn't store that
    talk.act("support.set_meal", meal="vegetarian")
    talk.act("support.unknown")
    talk.heard.append(talk.fetch(f"/support/customer?thread_id={talk.thread_id}"))
    file = {"name": "a.png", "mime_type": "image/png", "size": 3}
    made = talk.fetch(talk.endpoint, {"type": "attachments.create", "params": file})
    upload = made["upload_descriptor"]["url"]
    assert talk.fetch(upload, b"PNG")["id"] == made["id"]
    assert talk.fetch(made["preview_url"]) == "PNG"
    talk.say("look at this", files=[made["id"]])
    talk.fetch(upload, b"")
    talk.ask("input.transcribe", audio_base64="AAAA", mime_type="audio/webm")


def talk_to_news(talk: Talk) -> None:
    talk.say("call get_current_article {}", **{"article-id": "parade"})
    talk.say('call show_articles {"intro": "Three good ones"}')
    talk.act("open_article", id="pies")
    talk.say("find something", tool="event_finder")
    talk.say("call show_events {}", tool="event_finder")
    talk.ask("items.list", order="asc", limit=100)  # before the widget changes, as above
    talk.act("view_event", id="fair")
    talk.say('call ask_puzzles {"input": "an easy one"}')
    tag = {"type": "input_tag", "id": "pies", "text": "Pies", "data": {}, "interactive": True}
    talk.say("what about", tag)
    talk.say("a puzzle", tool="puzzle")


def talk_to_metro(talk: Talk) -> None:
    talk.say("hello")
    talk.say("call show_lines {}")
    talk.act("line.select", id="blue")
    talk.say('call add_station {"line": "blue", "name": "Zoo"}')
    talk.say("call get_selected {}", **{"map-id": "m1"})
    talk.ask("threads.add_client_tool_output", result={"selected": ["Zoo"]})
    talk.heard.append(talk.fetch("/map"))
    talk.ask("threads.get_by_id")
    talk.ask("threads.list", limit=10)


def talk_to_cats(talk: Talk) -> None:
    talk.say('call feed_cat {"meal": "fish"}')
    talk.say('call suggest_names {"names": ["Tom", "Mimi"]}')
    talk.act("cats.name", name="Mimi")
    talk.say("draw the cat")
    talk.say("how is the cat?")
    talk.heard.append(talk.fetch(f"/cats/{talk.thread_id}"))
    first = next(item for item in talk.items if item["type"] == "user_message")
    talk.ask("threads.retry_after_item", item_id=first["id"])
    talk.ask("threads.get_by_id")


TALKS: dict[str, Callable[[Talk], None]] = {
    "support": talk_to_support,
    "news": talk_to_news,
    "metro": talk_to_metro,
    "cats": talk_to_cats,
}


def comparable(heard: Any) -> Any:
    """Return what was heard with ids in the order in which they came, and without times.

    A title may come at any time, for it is made beside the answer. Ids of images are the model's
    there, and the item's here. The original tells and stores the end of a workflow twice, and puts
    its summary into the event that began it too.
    """
    known: dict[str, str] = {}

    def plain(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            left_out = {"created_at", "summary", "id" if key == "image" else ""}
            return {k: plain(v, k) for k, v in value.items() if k not in left_out}
        if isinstance(value, list):
            plains = [plain(one, key) for one in value]
            return [one for place, one in enumerate(plains) if one not in plains[:place]]
        if key in ("id", "thread_id", "item_id", "after", "call_id") and isinstance(value, str):
            return known.setdefault(value, f"id {len(known)}")
        return re.sub(r"http://[^/]+/|atc_\w+", "/", value) if isinstance(value, str) else value

    answers = []
    for answer in heard:
        titles = ""
        if isinstance(answer, list):
            titles = [one["thread"]["title"] for one in answer if one["type"] == "thread.updated"]
            answer = [one for one in answer if one["type"] != "thread.updated"]
        answers.append((plain(answer), titles[-1:]))
    return answers


@contextmanager
def running(folder: Path, command: list[str], model: str) -> Iterator[str]:
    """Run a sample in its folder; yields its URL once it answers."""
    paths = [str(folder), str(ROOT), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "OPENAI_BASE_URL": model,
        "OPENAI_API_KEY": "none",
        "OPENAI_AGENTS_DISABLE_TRACING": "1",
    }
    log = folder / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, "--port", "0"],
            cwd=folder,
            env=env,
            stdout=output,
            stderr=output,
        )
        try:
            yield _url_told(process, log)
        finally:
            process.terminate()
            process.wait(20)


def _url_told(process: subprocess.Popen[bytes], log: Path) -> str:
    """Wait until the log says where the app is served: it has started then."""
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline and process.poll() is None:
        if told := re.search(r"(?:Serving|running) on (http://\S+)\s", log.read_text()):
            return told[1]
        time.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_a_moved_sample_says_what_the_original_says(sample: Sample, tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    for folder in (before, after):
        shutil.copytree(HERE / sample.name, folder)
        shutil.copy(HERE / "memory_store.py", folder)
    move(sample, after)
    heard = []
    with ExitStack() as stack:
        model = stack.enter_context(model_server())
        urls = [
            stack.enter_context(running(before, ["uvicorn", "app:app"], model)),
            stack.enter_context(running(after, ["chatkit_trio", "serve", "app:app"], model)),
        ]
        for url in urls:
            talk = Talk(url, sample.endpoint)
            TALKS[sample.name](talk)
            heard.append(comparable(talk.heard))

    original, ours = heard
    for theirs, mine in zip(original, ours, strict=True):
        assert mine == theirs
