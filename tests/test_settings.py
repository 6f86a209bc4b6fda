"""Settings that can't be meant are refused where they are given."""

from __future__ import annotations

from math import inf, nan

import pytest
import trio
from click.testing import CliRunner

from chatkit_trio.cli import main
from chatkit_trio.server import ChatKitServer, TurnPolicy
from chatkit_trio.stores import DiskAttachmentStore, MemoryStore, SQLiteStore
from chatkit_trio.web import (
    AsyncioApp,
    ChatPage,
    asgi_app,
    chatkit_blueprint,
    create_app,
    serve,
)
from chatkit_trio.web.ag_ui import ag_ui_blueprint
from chatkit_trio.web.ai_sdk import ai_sdk_blueprint
from chatkit_trio.web.uploads import uploads_blueprint


class Server(ChatKitServer):
    def respond(self, thread, input_user_message, context):
        raise NotImplementedError


NO_NUMBER = [True, "5", b"5", [5], {}]
NO_TIME = [-1, -0.001, nan, inf, -inf]
NO_COUNT = [0, -1, 1.5, 5.0, nan, inf, True, "5", None]
NO_TURN = [*NO_NUMBER, *NO_TIME]


def cases(**wrong):
    return [
        pytest.param(name, value, id=f"{name}={value!r}"[:40])
        for name, values in wrong.items()
        for value in values
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    cases(
        on_disconnect=["stop", "", "Cancel", None, *NO_TIME, True, [5]],
        return_timeout=[*NO_TURN, None],
        on_busy=["wait", "", None, 1, True],
        turn_timeout=[*NO_TURN, 0],
        idle_timeout=[*NO_TURN, 0],
        stall_timeout=[*NO_TURN, 0],
        settle_timeout=[*NO_TURN, 0, None],
        heartbeat=[*NO_TURN, 0],
        max_unread_bytes=NO_COUNT,
        max_replay_bytes=[-1, 1.5, nan, inf, True, "5", None],
    ),
)
def test_a_turn_policy_refuses_what_cannot_be_meant(name, value):
    with pytest.raises((TypeError, ValueError), match=f"^{name} must be "):
        TurnPolicy(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    cases(
        on_disconnect=["cancel", "finish", 0, 0.5, 3600],
        return_timeout=[0, 20, 0.1],
        on_busy=["supersede", "queue", "reject"],
        turn_timeout=[None, 1, 0.5],
        stall_timeout=[None, 60],
        settle_timeout=[0.001, 5],
        heartbeat=[None, 15.0],
        max_unread_bytes=[1, 10**9],
        max_replay_bytes=[0, 10**9],
    ),
)
def test_a_turn_policy_takes_what_makes_sense(name, value):
    assert getattr(TurnPolicy(**{name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "value"),
    cases(
        policy=["finish", {}, TurnPolicy],
        journal_interval=[*NO_TURN, 0, None],
        idempotency_window=[*NO_TURN, None],
    ),
)
def test_a_server_does_too(name, value):
    with pytest.raises((TypeError, ValueError), match=f"^{name} must be "):
        Server(MemoryStore(), **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    cases(
        synchronous=["normal", "OFF", None, True],
        readers=NO_COUNT,
        busy_timeout=[*NO_TURN, None],
    ),
)
def test_a_store_does_too(tmp_path, name, value):
    with pytest.raises((TypeError, ValueError), match=f"^{name} must be "):
        SQLiteStore(tmp_path / "chat.db", **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    cases(
        max_bytes=NO_COUNT,
        upload_method=["GET", "put", None],
        upload_lifetime=[*NO_TURN, 0, None],
        orphan_age=[*NO_TURN, 0, None],
    ),
)
def test_an_attachment_store_does_too(tmp_path, name, value):
    with pytest.raises((TypeError, ValueError), match=f"^{name} must be "):
        files_in(tmp_path, **{name: value})


def files_in(directory, **settings):
    return DiskAttachmentStore(
        directory,
        metadata=MemoryStore(),
        base_url="http://localhost/files",
        secret="s" * 16,
        **settings,
    )


@pytest.mark.parametrize(
    ("name", "value"),
    cases(
        max_body_bytes=NO_COUNT[:-1],  # None: what the limits of requests say
        path=["/chat?x", "/chat/<id>", None, 5],
        health_path=["/health#x", 5, "/chatkit", "/livez/"],
        liveness_path=["/<live>", "chatkit/"],
        metrics_path=["/metrics?x", 5, "/healthz"],
        context=["ada", 5, {}],
        page=["My chat", ChatPage, 1, None],
    ),
)
def test_an_app_does_too(name, value):
    with pytest.raises((TypeError, ValueError, AttributeError), match=r"must be "):
        create_app(Server(MemoryStore()), **{name: value})


@pytest.mark.parametrize(
    "serve_it",
    [asgi_app, chatkit_blueprint, uploads_blueprint, ai_sdk_blueprint, ag_ui_blueprint],
)
def test_what_makes_a_context_is_a_function_everywhere(tmp_path, serve_it):
    server = Server(MemoryStore(), files_in(tmp_path))
    with pytest.raises(TypeError, match=r"^context must be a function of the request, not 'ada'"):
        serve_it(server, context="ada")


@pytest.mark.parametrize("page", [{"name": 5}, {"greeting": None}, {"options": "dark"}], ids=str)
def test_a_page_does_too(page):
    (name,) = page
    with pytest.raises(TypeError, match=f"^{name} must be "):
        ChatPage(**page)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("options", {"theme": {"density": nan}}),
        ("options", {"onClientTool": print}),
        ("prompts", [{"label": "Hi", "icon": inf}]),
        ("prompts", [{"label": b"Hi"}]),
    ],
    ids=str,
)
def test_what_json_cannot_say_is_refused_by_its_name(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be what JSON can say: "):
        create_app(Server(MemoryStore()), page=ChatPage(**{name: value}))


@pytest.mark.parametrize(
    "typography",
    [
        "Arial",
        {"fontSources": "nice.woff2"},
        {"fontSources": ["nice.woff2"]},
        {"fontSources": [{"family": "Nice"}]},
        {"fontSources": [{"family": "Nice", "src": None}]},
    ],
    ids=str,
)
def test_a_font_without_a_source_is_refused(typography):
    page = ChatPage(options={"theme": {"typography": typography}})
    with pytest.raises(ValueError, match=r"^options must have .* theme\.typography\.fontSources"):
        create_app(Server(MemoryStore()), page=page)


def test_a_prompt_that_is_none_is_refused():
    with pytest.raises(TypeError, match=r"^prompts must be texts or mappings, and one is 3"):
        create_app(Server(MemoryStore()), page=ChatPage(prompts=["Hi", 3]))


@pytest.mark.parametrize("place", ["//chatkit", "/a//b", "/chatkit?x", "/<chat>", 5])
def test_a_path_beside_an_app_does_too(place):
    with pytest.raises(ValueError, match=r"^beside must be "):
        AsyncioApp(create_app(Server(MemoryStore())), beside={place: print})


def test_two_apps_at_one_path_are_refused():
    with pytest.raises(ValueError, match=r"^beside must be .* not several that are '/chat'"):
        AsyncioApp(print, beside={"/chat": print, "chat/": print})


@pytest.mark.parametrize(
    ("name", "value"),
    cases(idle_timeout=[*NO_TURN, 0, None], upload_timeout=[*NO_TURN, 0, None]),
)
def test_the_uploads_do_too(tmp_path, name, value):
    server = Server(MemoryStore(), files_in(tmp_path))
    with pytest.raises((TypeError, ValueError), match=f"^{name} must be "):
        uploads_blueprint(server, **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    cases(drain_timeout=NO_TURN, port=[-1, 65536, 80.0, True, "80"]),
)
async def test_serving_does_too(name, value):
    with pytest.raises((TypeError, ValueError), match=f"^{name} must be "):
        await serve(create_app(Server(MemoryStore())), **{name: value})


async def test_collecting_does_too(tmp_path):
    with trio.fail_after(5), pytest.raises(ValueError, match=r"^interval must be "):
        await files_in(tmp_path).keep_collecting(0)


@pytest.mark.parametrize(
    "options",
    [
        ["--drain-timeout", "nan"],
        ["--drain-timeout", "inf"],
        ["--drain-timeout", "-1"],
        ["--port", "70000"],
        ["--port", "-1"],
        ["--allowed-host", "http://chat.example.org"],
        ["--allowed-host", "chat.example.org:443"],
    ],
    ids=" ".join,
)
def test_the_command_line_does_too(options):
    result = CliRunner().invoke(main, ["serve", "tests.web.talker:Talker", *options])

    assert result.exit_code == 2
    assert options[0] in result.output
