"""A model behind a real socket: what it answers follows from what the user has written.

`call feed_cat {"meal": "fish"}` makes it call that function; `draw` makes it draw; anything else it
repeats. It titles whatever it is asked to title.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from threading import Thread
from typing import Any

from tests.agents import script

_ids = (f"msg_{number}" for number in count())


def answer(body: dict[str, Any]) -> list[script.Json]:
    """Return the events of the answer to a request of the Responses API."""
    items, model_id = body["input"], next(_ids)
    if isinstance(items, str):
        items = [{"role": "user", "content": items}]
    if "title" in str(body.get("instructions")):
        return script.message(model_id, "a title")
    if items[-1].get("type") == "function_call_output":
        return script.message(model_id, "The tool says: ", str(items[-1]["output"]))
    text = _text(items[-1])
    names = {tool.get("name") for tool in body.get("tools", ())}
    called = re.search(r"call (\w+) (\{.*\})", text)
    if called and called[1] in names:
        return script.call(called[1], called[2], call_id=model_id)
    if "draw" in text:
        return script.image(model_id, "cHJldmlldw==", result="cGljdHVyZQ==")
    return script.message(model_id, "You said: ", text)


def _text(item: dict[str, Any]) -> str:
    content = item.get("content") or ""
    if isinstance(content, str):
        return content
    return str(content[-1].get("text") or content[-1]["type"])


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        sent = self.rfile.read(int(self.headers["content-length"]))
        if self.path.endswith("/audio/transcriptions"):
            self._send("application/json", json.dumps({"text": "What was said"}))
            return
        body = json.loads(sent)
        events = answer(body)
        if body.get("stream"):
            frames = (
                f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in script.answer(*events)
            )
            self._send("text/event-stream", "".join(frames))
        else:
            self._send("application/json", json.dumps(script.response(events)))

    def _send(self, kind: str, text: str) -> None:
        data = text.encode()
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@contextmanager
def model_server() -> Iterator[str]:
    """Run the model; yields its base URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
