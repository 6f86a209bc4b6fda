"""The chat page and the element in it: one HTML file, static files, and security headers."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from quart import Blueprint, Response
from quart_trio.wrappers import TrioResponse

from chatkit_trio.server import ChatKitServer
from chatkit_trio.stores._signed_attachments import SignedAttachmentStore

from ._cors import Cors
from ._hosts import HostNames, in_ascii, origin_in_ascii
from ._middleware import Gate
from ._static_files import StaticFiles

SOURCES = Path(__file__).parent / "page"
STATIC = Path(__file__).parent / "static"

_NAMES: Mapping[str, str] = json.loads((STATIC / "names.json").read_text(encoding="utf-8"))
"""The built files by the names that they are known by."""

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # A name that is looked up tells its owner something too: links aren't resolved in advance.
    "X-DNS-Prefetch-Control": "off",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(self)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatPage:
    """What the chat page says and looks like, and scripts of your own."""

    name: str = "chatkit_trio"
    """The application's name, in the window's title and above the list of threads."""

    greeting: str = ""
    """The heading of an empty page; without it the page uses its default."""

    prompts: Sequence[str | Mapping[str, Any]] = ()
    """Messages that the empty page offers to send: the words alone, or a mapping with `label`,
    `prompt` (what is sent; without it the label) and `icon`."""

    options: Mapping[str, Any] = field(default_factory=dict)
    """More options of the page's `<chatkit-trio>` element, such as `theme`, `locale`, `header`,
    `disclaimer` or the `tools` and `models` of the `composer`: see docs/reference/page.md. They
    have to be what JSON can say; functions are registered by a script."""

    frame_ancestors: Sequence[str] = ()
    """Origins, such as `https://shop.example`, whose pages may show this one in a frame; its own
    origin may always."""

    scripts: Sequence[str | PathLike[str]] = ()
    """JavaScript modules that are loaded before the page's own, such as one that registers client
    tools. They are served at `/page/`, so their names have to differ. A module may import only
    modules that are listed here too."""

    def __post_init__(self) -> None:
        """Raise `TypeError` or `ValueError` for what can't be meant."""
        for name in ("name", "greeting"):
            if not isinstance(value := getattr(self, name), str):
                raise TypeError(f"{name} must be a text, not {value!r}")
        if not isinstance(self.options, Mapping):
            raise TypeError(f"options must be a mapping, not {self.options!r}")
        # A text in place of a list would be a list of letters.
        for name in ("prompts", "frame_ancestors", "scripts"):
            value = getattr(self, name)
            if isinstance(value, str):
                raise ValueError(f"{name} must be a list, not {value!r}")
        _check_names([Path(script).name for script in self.scripts])


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1 or set("<>") & set(name):  # <name> would be a pattern
            raise ValueError(
                f"scripts must have names that differ, without < and >, and one is {name!r}"
            )


def page_html(server: ChatKitServer[Any], path: str, page: ChatPage) -> str:
    """Return the page's HTML, with the address of the endpoint and what the server offers."""
    transcribes = type(server).transcribe is not ChatKitServer.transcribe
    takes_feedback = type(server).add_feedback is not ChatKitServer.add_feedback
    text = (SOURCES / "index.html").read_text(encoding="utf-8")
    for name, content in {
        "application-name": page.name,
        "chatkit-endpoint": path.strip("/"),
        "chatkit-attachments": _switch(server.attachment_store is not None),
        "chatkit-files": _files(server),
        "chatkit-dictation": _switch(transcribes),
        "chatkit-feedback": _switch(takes_feedback),
        "chatkit-greeting": page.greeting,
        "chatkit-prompts": _prompts(page.prompts),
        "chatkit-options": _json("options", page.options) if page.options else "",
    }.items():
        text = _with_meta(text, name, html.escape(content))
    text = with_built_names(text, "static")
    return _with_scripts(text, (Path(script).name for script in page.scripts))


@cache
def built_files() -> StaticFiles:
    """Return the built files, which are read once."""
    return StaticFiles(STATIC)


def with_built_names(text: str, folder: str) -> str:
    """Return a page with its files in `folder` by the names under which they were built."""
    for name, built in _NAMES.items():
        text = text.replace(f"{folder}/{name}", f"{folder}/{built}")
    return text


def page_blueprint(
    server: ChatKitServer[Any], path: str, page: ChatPage, allowed_hosts: HostNames = None
) -> Blueprint:
    """Return a blueprint with the page at `/` and what it loads.

    Its files are at `/static/`, scripts of the app's own at `/page/`, and the element for pages of
    one's own at `/chatkit-trio.js`, with a wrapper for React at `/chatkit-trio-react.js`.
    """
    blueprint = Blueprint("page", __name__)
    text = page_html(server, path, page)
    store = server.attachment_store
    gate = Gate(allowed_hosts, Cors.of(None))
    ancestors = _ancestors(page.frame_ancestors)
    fonts = _font_sources(page.options)
    inline = _script_hashes(text)

    # These are async though they await nothing: Quart runs a plain function in a thread.
    async def index() -> Response:  # noqa: ASYNC124
        return TrioResponse(text, content_type="text/html; charset=utf-8")

    blueprint.add_url_rule(
        "/chatkit-trio.js", endpoint="element", view_func=_script(_ELEMENT, is_public=True)
    )
    blueprint.add_url_rule(
        "/chatkit-trio-react.js", endpoint="react", view_func=_script(_REACT, is_public=True)
    )
    for number, script in enumerate(map(Path, page.scripts)):
        view = _script(script.read_bytes())
        # Not by its name: Quart allows no dots in that of an endpoint.
        blueprint.add_url_rule(f"/page/{script.name}", endpoint=f"script {number}", view_func=view)

    async def secured(response: Response) -> Response:  # noqa: ASYNC124
        response.headers.extend(SECURITY_HEADERS)
        # Asked each time, because the store knows its bucket's origin only once it is open.
        response.headers["Content-Security-Policy"] = _content_security_policy(
            store.upload_origins if isinstance(store, SignedAttachmentStore) else (),
            fonts,
            inline,
            ancestors,
        )
        # Browsers may keep the rest but must revalidate it, so that no two versions are mixed.
        response.headers.pop("Expires", None)
        response.headers.setdefault("Cache-Control", "no-cache")
        return response

    blueprint.before_request(gate.refuse_unknown_host)
    blueprint.add_url_rule("/", view_func=index)
    blueprint.add_url_rule("/static/<path:name>", view_func=built_files().send)
    blueprint.after_request(secured)
    return blueprint


_ELEMENT = f'import "./static/{_NAMES["element.js"]}";\n'.encode()
_REACT = (SOURCES / "react.js").read_bytes()

_ORIGIN = re.compile(r"https?://[^/?#;,\s*]+|\*")


def _ancestors(origins: Sequence[str]) -> str:
    allowed = ["'self'"]
    for given in origins:
        origin = origin_in_ascii(given)
        if not _ORIGIN.fullmatch(origin):
            raise ValueError(
                "frame_ancestors has to be a list of origins such as https://shop.example,"
                f" not {given!r}"
            )
        allowed.append(origin)
    return " ".join(allowed)


def _script_hashes(text: str) -> str:
    """Return the sources that allow the scripts which stand in the page itself."""
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(each.encode()).digest()) for each in scripts]
    return " ".join(f"'sha256-{digest.decode()}'" for digest in digests)


def _font_sources(options: Mapping[str, Any]) -> list[str]:
    """Return the sources, as a policy names them, of the fonts of the page's theme."""
    theme = options.get("theme")
    typography = theme.get("typography") if isinstance(theme, Mapping) else None
    fonts = typography.get("fontSources") if isinstance(typography, Mapping) else typography
    if fonts is None:
        return []
    if not isinstance(fonts, list | tuple) or not all(map(_is_font, fonts)):
        raise ValueError(
            "options must have a list of fonts in theme.typography.fontSources, each with its URL"
            " as `src`"
        )
    return sorted({source for font in fonts if (source := _font_source(font["src"]))})


def _is_font(value: object) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("src"), str)


def _font_source(url: str) -> str:
    """Return where a font comes from, or "" if that is the page's own origin."""
    parts = urlsplit(url)
    if parts.scheme == "data":
        return "data:"
    host = in_ascii(parts.netloc)
    if parts.netloc and not _ORIGIN.fullmatch(f"https://{host}"):
        raise ValueError(f"options must have fonts of hosts that can be, and one is {url!r}")
    # Without a scheme it comes by the page's own.
    return f"{parts.scheme}://{host}" if host and parts.scheme else host


def _content_security_policy(
    upload_origins: Iterable[str], fonts: Iterable[str], inline: str, ancestors: str
) -> str:
    elsewhere = "".join(f" {origin}" for origin in upload_origins)
    return "; ".join(
        [
            "default-src 'self'",
            f"script-src 'self' {inline}",
            # Images of other hosts are for those that the thread's rule allows, and that the user
            # asks for: js/urls.js decides. It sees our own URL where that leads to a bucket.
            f"img-src 'self' data: blob: https:{elsewhere}",
            "style-src 'self' 'unsafe-inline'",
            f"connect-src 'self'{elsewhere}",
            f"font-src 'self'{''.join(f' {origin}' for origin in fonts)}",
            "media-src 'self' blob:",
            "form-action 'self'",
            "object-src 'none'",
            "base-uri 'none'",
            f"frame-ancestors {ancestors}",
        ]
    )


def _switch(is_on: bool) -> str:
    return "on" if is_on else "off"


def _files(server: ChatKitServer[Any]) -> str:
    """Return what files a message may have, so that the page needn't send others to be told so."""
    rules: dict[str, Any] = {"maxCount": server.limits.attachments}
    if isinstance(server.attachment_store, SignedAttachmentStore):
        store = server.attachment_store
        rules |= {"maxBytes": store.max_bytes, "accept": list(store.accept)}
    return json.dumps(rules)


def _prompts(prompts: Sequence[str | Mapping[str, Any]]) -> str:
    for each in prompts:
        if not isinstance(each, str | Mapping):
            raise TypeError(f"prompts must be texts or mappings, and one is {each!r}")
    offered = [{"label": each} if isinstance(each, str) else dict(each) for each in prompts]
    return _json("prompts", offered) if offered else ""


def _json(name: str, value: object) -> str:
    try:
        # NaN would be no JSON: the page couldn't read any of it.
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be what JSON can say: {error}") from error


def _script(code: bytes, *, is_public: bool = False) -> Callable[[], Awaitable[Response]]:
    async def script() -> Response:  # noqa: ASYNC124
        response = TrioResponse(code, content_type="text/javascript; charset=utf-8")
        if is_public:
            response.headers["Access-Control-Allow-Origin"] = "*"
        return response

    return script


def _with_meta(text: str, name: str, content: str) -> str:
    pattern = rf'(<meta name="{re.escape(name)}" content=")[^"]*(">)'
    text, count = re.subn(pattern, lambda match: f"{match[1]}{content}{match[2]}", text)
    if count != 1:
        raise RuntimeError(f"the page has {count} meta tags named {name} where one was expected")
    return text


def _with_scripts(text: str, names: Iterable[str]) -> str:
    """Put scripts before the page's own: modules run in the order of their tags."""
    own = f'<script type="module" src="static/{_NAMES["page.js"]}"></script>'
    tags = [f'<script type="module" src="page/{quote(name)}"></script>\n    ' for name in names]
    return text.replace(own, "".join(tags) + own)
