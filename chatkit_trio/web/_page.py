"""The chat page: one HTML file, its static files, and its security headers."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any
from urllib.parse import quote

from quart import Blueprint, Response
from quart_trio.wrappers import TrioResponse
from werkzeug.exceptions import MisdirectedRequest

from chatkit_trio.server import ChatKitServer
from chatkit_trio.stores._signed_attachments import SignedAttachmentStore

from ._cors import Cors
from ._hosts import HostNames
from ._middleware import Gate, refused
from ._static_files import StaticFiles

STATIC = Path(__file__).parent / "static"

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # A name that is looked up tells its owner something too: links aren't resolved in advance.
    "X-DNS-Prefetch-Control": "off",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(self)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatPage:
    """The texts of the chat page before there is a conversation, and scripts of your own."""

    name: str = "chatkit_trio"
    """The application's name, in the window's title and above the list of threads."""

    greeting: str = ""
    """The heading of an empty page; without it the page uses its default."""

    prompts: Sequence[str] = ()
    """Messages that the empty page offers to send; without any the page uses its defaults."""

    scripts: Sequence[str | PathLike[str]] = ()
    """JavaScript modules that are loaded before the page's own, such as one that registers client
    tools. They are served at `/page/`, so their names have to differ. A module may import only
    modules that are listed here too."""


def page_html(server: ChatKitServer[Any], path: str, page: ChatPage) -> str:
    """Return the page's HTML, with the address of the endpoint and what the server offers."""
    transcribes = type(server).transcribe is not ChatKitServer.transcribe
    text = (STATIC / "index.html").read_text(encoding="utf-8")
    for name, content in {
        "application-name": page.name,
        "chatkit-endpoint": path.strip("/"),
        "chatkit-attachments": _switch(server.attachment_store is not None),
        "chatkit-dictation": _switch(transcribes),
        "chatkit-greeting": page.greeting,
        "chatkit-prompts": _prompts(page.prompts),
    }.items():
        text = _with_meta(text, name, html.escape(content))
    return _with_scripts(text, (Path(script).name for script in page.scripts))


def page_blueprint(
    server: ChatKitServer[Any], path: str, page: ChatPage, allowed_hosts: HostNames = None
) -> Blueprint:
    """Return a blueprint with the page at `/`, its files at `/static/`, and scripts at `/page/`."""
    blueprint = Blueprint("page", __name__)
    text = page_html(server, path, page)
    store = server.attachment_store
    files = StaticFiles(STATIC)
    gate = Gate(allowed_hosts, Cors.of(None))

    async def check_host() -> Response | None:  # noqa: ASYNC124
        try:
            gate.check_host()
        except MisdirectedRequest as error:
            return refused(error)
        return None

    # These are async though they await nothing: Quart runs a plain function in a thread.
    async def index() -> Response:  # noqa: ASYNC124
        return TrioResponse(text, content_type="text/html; charset=utf-8")

    for script in page.scripts:
        name, code = Path(script).name, Path(script).read_bytes()
        blueprint.add_url_rule(f"/page/{name}", endpoint=_endpoint(name), view_func=_script(code))

    async def secured(response: Response) -> Response:  # noqa: ASYNC124
        response.headers.extend(SECURITY_HEADERS)
        # Asked each time, because the store knows its bucket's origin only once it is open.
        response.headers["Content-Security-Policy"] = _content_security_policy(
            store.upload_origins if isinstance(store, SignedAttachmentStore) else ()
        )
        # Browsers may keep the files but must revalidate them, so that no two versions are mixed.
        response.headers.pop("Expires", None)
        response.headers["Cache-Control"] = "no-cache"
        return response

    blueprint.before_request(check_host)
    blueprint.add_url_rule("/", view_func=index)
    blueprint.add_url_rule("/static/<path:name>", view_func=files.send)
    blueprint.after_request(secured)
    return blueprint


def _content_security_policy(upload_origins: Iterable[str]) -> str:
    elsewhere = "".join(f" {origin}" for origin in upload_origins)
    return "; ".join(
        [
            "default-src 'self'",
            # Images of other hosts are for those that the thread's rule allows, and that the user
            # asks for: js/urls.js decides. It sees our own URL where that leads to a bucket.
            f"img-src 'self' data: blob: https:{elsewhere}",
            "style-src 'self' 'unsafe-inline'",
            f"connect-src 'self'{elsewhere}",
            "font-src 'self'",
            "media-src 'self' blob:",
            "form-action 'self'",
            "object-src 'none'",
            "base-uri 'none'",
            "frame-ancestors 'self'",
        ]
    )


def _switch(is_on: bool) -> str:
    return "on" if is_on else "off"


def _prompts(prompts: Sequence[str]) -> str:
    labels = [{"label": prompt} for prompt in prompts]
    return json.dumps(labels, ensure_ascii=False) if labels else ""


def _endpoint(name: str) -> str:
    return "script " + name.replace(".", " ")  # Quart allows no dots


def _script(code: bytes) -> Callable[[], Awaitable[Response]]:
    async def script() -> Response:  # noqa: ASYNC124
        return TrioResponse(code, content_type="text/javascript; charset=utf-8")

    return script


def _with_meta(text: str, name: str, content: str) -> str:
    pattern = rf'(<meta name="{re.escape(name)}" content=")[^"]*(">)'
    text, count = re.subn(pattern, lambda match: f"{match[1]}{content}{match[2]}", text)
    if count != 1:
        raise RuntimeError(f"the page has {count} meta tags named {name} where one was expected")
    return text


def _with_scripts(text: str, names: Iterable[str]) -> str:
    """Put scripts before the page's own: modules run in the order of their tags."""
    own = '<script type="module" src="static/js/main.js"></script>'
    tags = [f'<script type="module" src="page/{quote(name)}"></script>\n    ' for name in names]
    return text.replace(own, "".join(tags) + own)
