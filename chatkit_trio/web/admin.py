"""`/admin`: what a server does now, with the nurseries and tasks of every live turn.

Most people need only `create_app(server, admin_token=...)`. docs/how-to/observe.md shows the page.
"""

from __future__ import annotations

import hmac
import html
import json
from typing import Any

import trio
from quart import Blueprint, Response, request
from quart_trio.wrappers import TrioResponse
from werkzeug.datastructures import WWWAuthenticate
from werkzeug.exceptions import BadRequest, NotFound, Unauthorized

from chatkit_trio._settings import own_path
from chatkit_trio.server import ChatKitServer

from ._admin_desk import Desk, Order
from ._cors import Cors
from ._hosts import HostNames
from ._middleware import Gate, add_view, json_response
from ._page import SECURITY_HEADERS, SOURCES, built_files, with_built_names

__all__ = ["admin_blueprint"]

_SHORTEST_TOKEN = 16  # characters

_SECURITY_HEADERS = {
    **SECURITY_HEADERS,
    "Content-Security-Policy": "; ".join(
        [
            "default-src 'none'",
            "img-src 'self'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    ),
}


def admin_blueprint(
    server: ChatKitServer[Any],
    *,
    token: str,
    path: str = "/admin",
    allowed_hosts: HostNames = None,
    name: str = "chatkit_admin",
) -> Blueprint:
    """Return a Quart-Trio blueprint with a page that shows what a server does now.

        app.register_blueprint(admin_blueprint(server, token=os.environ["ADMIN_TOKEN"]))

    The page is at `path`. It shows the live turns of all nodes that share the server's store, with
    their nurseries and tasks, what each task waits for and since when; it can stop turns; and it
    shows how the last ones ended, and how stores and journal fare. It shows no texts of users or
    models. The other nodes need this blueprint too.

    Whoever has `token` sees all that and may stop every turn: it is a secret of at least 16
    characters. The page asks for it and keeps it until its tab is closed; a program sends it as
    `Authorization: Bearer TOKEN`. Raises `ValueError` for another token or path. `allowed_hosts`
    and `name` are as for `chatkit_blueprint`. While the app serves, each step of each task costs
    a microsecond more.
    """
    check_token(token)
    if (place := own_path(path)) is None:
        raise ValueError(f"path must be a path of its own such as '/admin', not {path!r}")
    blueprint = Blueprint(name, __name__)
    gate = Gate(allowed_hosts, Cors.of(None))
    desk = Desk(server)
    admin = _Admin(desk, token)

    async def page() -> Response:  # noqa: ASYNC124 (a plain one gets a thread)
        return TrioResponse(text, content_type="text/html; charset=utf-8")

    async def secured(response: Response) -> Response:  # noqa: ASYNC124
        response.headers.extend(_SECURITY_HEADERS)
        response.headers.setdefault("Cache-Control", "no-cache")
        return response

    text = _page_html(place.rpartition("/")[2])
    blueprint.before_request(gate.refuse_unknown_host)
    blueprint.after_request(secured)
    blueprint.add_url_rule(place, view_func=page)
    blueprint.add_url_rule(f"{place}/files/<path:name>", view_func=built_files().send)
    blueprint.add_url_rule(f"{place}/", endpoint="slash", view_func=_without_slash)
    for view in (admin.state, admin.nodes, admin.tree, admin.tasks):
        add_view(blueprint, gate, [f"{place}/{view.__name__}"], "GET", view)
    add_view(blueprint, gate, [f"{place}/stop"], "POST", admin.stop)

    async def start() -> None:  # noqa: ASYNC124
        desk.start()

    async def stop() -> None:  # noqa: ASYNC124
        desk.stop()

    blueprint.before_app_serving(start)
    blueprint.after_app_serving(stop)
    return blueprint


def check_token(token: str) -> None:
    """Raise `ValueError` if this is no token that keeps strangers out."""
    if not isinstance(token, str) or len(token) < _SHORTEST_TOKEN:
        raise ValueError(f"the token of /admin has to have {_SHORTEST_TOKEN} characters or more")
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise ValueError("the token of /admin has to be of ASCII characters without spaces")


class _Admin:
    """The views that the page asks; each needs the token."""

    def __init__(self, desk: Desk, token: str) -> None:
        self._desk = desk
        self._token = token.encode()

    async def state(self) -> Response:
        """Answer with how this node's server stands; it needs no store for that."""
        self._check_token()
        return _json(json.loads(await self._desk.tell(Order(do="state"))))

    async def nodes(self) -> Response:
        """Answer with how the servers of the other nodes stand; null for a node that is silent."""
        self._check_token()
        told: dict[str, list[Any] | None] = {}

        async def ask(node: str) -> None:
            told[node] = await self._ask_node(node, Order(do="state"))

        others = await self._others()
        async with trio.open_nursery() as nursery:
            for node in others:
                nursery.start_soon(ask, node)
        return _json([{"node": node, "states": told[node]} for node in sorted(others)])

    async def tree(self) -> Response:
        """Answer with the tasks of a turn."""
        return await self._about_turn("tree")

    async def stop(self) -> Response:
        """Stop a turn; its answer so far is kept."""
        return await self._about_turn("stop")

    async def tasks(self) -> Response:
        """Answer with all tasks of a process."""
        self._check_token()
        return _json(await self._ask(Order(do="tasks")))

    async def _about_turn(self, do: Any) -> Response:
        self._check_token()
        turn_id = request.args.get("turn")
        if not turn_id:
            raise BadRequest("Say which turn it is about: ?turn=ID.")
        answer = await self._ask(Order(do=do, turn_id=turn_id))
        if answer is None:
            raise NotFound("There is no such turn; it may have ended.")
        return _json(answer)

    async def _ask(self, order: Order) -> Any:
        """Ask the node that the request names; without a name it is this one."""
        node = request.args.get("node", "")
        if not node:
            return json.loads(await self._desk.tell(order))
        if node not in await self._others():
            raise NotFound("There is no such node; it may have ended.")
        answers = await self._ask_node(node, order)
        if answers is None:
            raise NotFound("That node doesn't answer.")
        return next((answer for answer in answers if answer is not None), None)

    async def _others(self) -> list[str]:
        node = self._desk.node
        return [] if node is None else await node.others()

    async def _ask_node(self, node: str, order: Order) -> list[Any] | None:
        assert self._desk.node is not None
        told = await self._desk.node.hear_from(node, order.model_dump_json())
        return None if told is None else [json.loads(each) for each in told]

    def _check_token(self) -> None:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.encode(), self._token):
            return
        raise Unauthorized(
            "This needs the token of /admin, as Authorization: Bearer TOKEN.",
            www_authenticate=WWWAuthenticate("bearer"),
        )


def _json(value: Any) -> Response:
    return json_response(json.dumps(value).encode())


def _page_html(place: str) -> str:
    """Return the page, with addresses relative to its own: the app may be mounted anywhere."""
    text = (SOURCES / "admin.html").read_text("utf-8")
    return with_built_names(text.replace("{{place}}", html.escape(place)), "files")


async def _without_slash() -> Response:  # noqa: ASYNC124
    # Relative, because the app may be mounted anywhere.
    last = request.path.rstrip("/").rpartition("/")[2]
    return TrioResponse(status=308, headers={"Location": f"../{last}"})
