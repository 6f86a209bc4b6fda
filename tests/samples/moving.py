"""How a sample is moved from the original to this package, as docs/how-to/migrate.md says.

Imports, asyncio and the runner change, and nothing else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Sample:
    """A server in the shape of one of the original's samples."""

    name: str
    endpoint: str
    context: str
    """What `context=` of `asgi_app` is."""


SAMPLES = [
    Sample("support", "/support/chatkit", 'lambda request: {"request": request}'),
    Sample(
        "news",
        "/chatkit",
        "lambda request: RequestContext("
        'request=request, article_id=request.headers.get("article-id"))',
    ),
    Sample(
        "metro",
        "/chatkit",
        'lambda request: RequestContext(request=request, map_id=request.headers.get("map-id"))',
    ),
    Sample("cats", "/chatkit", 'lambda request: {"request": request}'),
]

_IMPORTS = [
    (r"^from chatkit\.", "from chatkit_trio."),
    (r"^(from agents import .*)\bRunner, ", r"from chatkit_trio.agents import Runner\n\1"),
]
_ASYNCIO = [
    (r"^import asyncio\n", "from chatkit_trio.server import current_turn\n"),
    (
        r"^( +)\w+ = asyncio\.create_task\((.+?)\((.*)\)\)$",
        r"\1current_turn().nursery.start_soon(\2, \3)",
    ),
    (r"^ +await (title|updating_title)\n", ""),
]


def move(sample: Sample, folder: Path) -> None:
    """Move the sample that is in this folder."""
    for file in folder.glob("*.py"):
        text = file.read_text("utf-8")
        for pattern, moved in [*_IMPORTS, *_ASYNCIO, *_runner(sample)]:
            text = re.sub(pattern, moved, text, flags=re.MULTILINE)
        if file.name == "app.py":
            text += '\n\napp.mount("/", chat)\n'
        file.write_text(text, "utf-8")


def _runner(sample: Sample) -> list[tuple[str, str]]:
    """Return what takes the place of the app and of its route for the chat."""
    chat = f'asgi_app(server, path="{sample.endpoint}", context={sample.context})'
    return [
        (r"^from chatkit_trio\.server import ChatKitServer, StreamingResult$", _SERVER),
        (
            r"^app = FastAPI\((.*)\)$",
            rf"chat = {chat}\napp = FastAPI(\1, lifespan=chat.lifespan)",
        ),
        (rf'^@app\.post\("{sample.endpoint}"\)\n(?:.+\n)+', ""),
    ]


_SERVER = "from chatkit_trio.server import ChatKitServer\nfrom chatkit_trio.web import asgi_app"
