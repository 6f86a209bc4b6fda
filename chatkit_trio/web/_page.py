"""The chat page: one HTML file, its static files, and the headers that keep it harmless."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from quart import Blueprint, Response
from quart_trio.wrappers import TrioResponse

from chatkit_trio.server import ChatKitServer

STATIC = Path(__file__).parent / "static"

SECURITY_HEADERS = {
    "Content-Security-Policy": "; ".join(
        [
            "default-src 'self'",
            "img-src 'self' data: blob: https:",
            "style-src 'self' 'unsafe-inline'",
            "connect-src 'self'",
            "object-src 'none'",
            "base-uri 'none'",
            "frame-ancestors 'self'",
        ]
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(self)",
}


def page_html(server: ChatKitServer[Any], path: str) -> str:
    """Return the page, told where its endpoint is and what the server offers."""
    transcribes = type(server).transcribe is not ChatKitServer.transcribe
    html = (STATIC / "index.html").read_text(encoding="utf-8")
    html = _with_meta(html, "chatkit-endpoint", path.strip("/"))
    html = _with_meta(html, "chatkit-attachments", _switch(server.attachment_store is not None))
    return _with_meta(html, "chatkit-dictation", _switch(transcribes))


def page_blueprint(server: ChatKitServer[Any], path: str) -> Blueprint:
    """Return a blueprint with the page at `/` and its files at `/static/`."""
    blueprint = Blueprint("page", __name__, static_folder=str(STATIC), static_url_path="/static")
    html = page_html(server, path)

    # Both are async though they await nothing: Quart gives a plain function a thread.
    async def index() -> Response:  # noqa: ASYNC124
        return TrioResponse(html, content_type="text/html; charset=utf-8")

    async def secured(response: Response) -> Response:  # noqa: ASYNC124
        response.headers.extend(SECURITY_HEADERS)
        # Kept, but asked about each time: the files of two versions must not be mixed.
        response.headers.pop("Expires", None)
        response.headers["Cache-Control"] = "no-cache"
        return response

    blueprint.add_url_rule("/", view_func=index)
    blueprint.after_request(secured)
    return blueprint


def _switch(is_on: bool) -> str:
    return "on" if is_on else "off"


def _with_meta(html: str, name: str, content: str) -> str:
    pattern = rf'(<meta name="{re.escape(name)}" content=")[^"]*(">)'
    html, count = re.subn(pattern, lambda match: f"{match[1]}{content}{match[2]}", html)
    if count != 1:
        raise RuntimeError(f"the page has {count} meta tags named {name} where one was expected")
    return html
