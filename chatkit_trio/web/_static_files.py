"""The page's files, held in memory.

They are a few hundred kilobytes. Sent from memory they need no worker thread, so the page comes
even when user code has taken all of them.
"""

from __future__ import annotations

import hashlib
import mimetypes
from dataclasses import dataclass
from pathlib import Path

from quart import Response, request
from quart_trio.wrappers import TrioResponse
from werkzeug.exceptions import NotFound


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    mime_type: str
    etag: str


class StaticFiles:
    """The files of a directory, read when this is made."""

    def __init__(self, directory: Path) -> None:
        self._files = {
            path.relative_to(directory).as_posix(): _read(path)
            for path in directory.rglob("*")
            if path.is_file()
        }

    async def send(self, name: str) -> Response:
        """Answer with a file, or with 304 if the client has it already."""
        file = self._files.get(name)
        if file is None:
            raise NotFound("There is no such file.")
        response = TrioResponse(file.content, mimetype=file.mime_type)
        response.set_etag(file.etag)
        await response.make_conditional(request)
        return response


def _read(path: Path) -> _File:
    content = path.read_bytes()
    mime_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return _File(content, mime_type, hashlib.sha256(content).hexdigest()[:32])
