"""The page's built files, held in memory.

They are a few hundred kilobytes. Sent from memory they need no worker thread, so the page comes
even when user code has taken all of them.
"""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from quart import Response, request
from quart_trio.wrappers import TrioResponse
from werkzeug.exceptions import NotFound

_ENCODINGS = {"br": ".br", "gzip": ".gz"}
"""What is looked for beside a file, the smallest first."""

_FOR_EVER = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    mime_type: str
    etag: str
    compressed: Mapping[str, bytes] = field(default_factory=dict)


class StaticFiles:
    """The files of a directory that page/build.mjs has filled, read when this is made."""

    def __init__(self, directory: Path) -> None:
        self._files = {
            path.name: _read(path)
            for path in directory.iterdir()
            if path.suffix not in (*_ENCODINGS.values(), ".json")
        }

    async def send(self, name: str) -> Response:
        """Answer with a file, or with 304 if the client has it already."""
        file = self._files.get(name)
        if file is None:
            raise NotFound("There is no such file.")
        encoding = _accepted(file)
        content = file.compressed[encoding] if encoding else file.content
        response = TrioResponse(content, mimetype=file.mime_type)
        if encoding:
            response.headers["Content-Encoding"] = encoding
        if file.compressed:
            response.vary.add("Accept-Encoding")
        # The name tells what is in it.
        response.headers["Cache-Control"] = _FOR_EVER
        # Pages of other origins may load what is public anyway: the chat's element.
        response.headers["Access-Control-Allow-Origin"] = "*"
        response.set_etag(f"{file.etag}-{encoding}" if encoding else file.etag)
        await response.make_conditional(request)
        return response


def _accepted(file: _File) -> str | None:
    wanted = request.accept_encodings
    return next((each for each in file.compressed if wanted.quality(each) > 0), None)


def _read(path: Path) -> _File:
    content = path.read_bytes()
    mime_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    beside = {name: path.with_name(path.name + ending) for name, ending in _ENCODINGS.items()}
    return _File(
        content,
        mime_type,
        hashlib.sha256(content).hexdigest()[:32],
        {name: each.read_bytes() for name, each in beside.items() if each.is_file()},
    )
