"""Settings that can't be meant are refused where they are given."""

from __future__ import annotations

from math import inf, nan

import pytest
import trio
from click.testing import CliRunner

from chatkit_trio.cli import main
from chatkit_trio.server import ChatKitServer, TurnPolicy
from chatkit_trio.stores import DiskAttachmentStore, MemoryStore, SQLiteStore
from chatkit_trio.web import create_app, serve
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
    ),
)
def test_an_app_does_too(name, value):
    with pytest.raises((TypeError, ValueError, AttributeError), match=r"must be "):
        create_app(Server(MemoryStore()), **{name: value})


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
