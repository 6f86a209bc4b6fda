"""What `/metrics` shows Prometheus: turns by the reason of their end, times, refusals, requests."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import AsyncExitStack

import pytest
import trio

from chatkit_trio.limits import OwnerLimits
from chatkit_trio.metrics import Metrics
from chatkit_trio.stores import MemoryStore, SQLiteStore
from chatkit_trio.testing import fail, pause, say, scripted_server
from chatkit_trio.web import asgi_app, create_app
from tests.all_ends import ENDS, SECRET, let_end
from tests.engine.doubles import TroubledStore, fails, once
from tests.engine.scenes import sending
from tests.exposition import Exposition
from tests.test_journal import leave_two_turns_behind

from .http import CREATE, Client, client_of, thread_id_of
from .sockets import ROOT, connected
from .test_serve_workers import replaced, served

WATCHED = "tests.web.watched:app"


def shown(metrics: Metrics) -> Exposition:
    return Exposition(metrics.exposition()[0])


async def scraped(client: Client) -> Exposition:
    answer = await client.ask("GET", "/metrics")
    assert answer.status == 200
    return Exposition(answer.body)


@pytest.mark.parametrize("reason", ENDS)
async def test_a_turn_is_counted_by_the_reason_of_its_end(reason, autojump_clock):
    watching: list[Metrics] = []
    await let_end(reason, lambda server: watching.append(Metrics(server)))
    own, other = map(shown, watching)

    # What supersedes it is a turn too.
    others = {"finished": 1.0} if reason == "superseded" else {}
    assert own.positive("chatkit_turns_ended_total") == {reason: 1.0, **others}
    assert own.of("chatkit_turns_ended_total").keys() == {*ENDS, "refused"}
    turns = 1 + len(others)
    assert sum(own.of("chatkit_turns_total").values()) == turns
    assert own["chatkit_turn_seconds_count"] == turns
    assert own["chatkit_first_event_seconds_count"] == turns
    assert own["chatkit_settle_seconds_count"] == turns
    assert own["chatkit_events_total"] > 3
    assert own["chatkit_turns_live"] == 0
    if reason == "crashed":
        # By either of them, and once.
        recovered = [each.positive("chatkit_turns_recovered_total") for each in (own, other)]
        assert sorted(recovered, key=len) == [{}, {"crashed": 1.0}]
    assert SECRET not in str(own.samples)


async def test_a_live_turn_and_what_its_client_hasnt_read_are_shown(autojump_clock):
    app = create_app(
        scripted_server(MemoryStore(), [say("Hello", " again", every=1.0), pause(99)]),
        metrics_path="/metrics",
    )
    async with client_of(app) as client, client.open("POST", "/chatkit", CREATE) as response:
        await thread_id_of(response)
        await trio.sleep(5)
        told = await scraped(client)

    assert told["chatkit_turns_live"] == 1
    assert told["chatkit_unread_bytes"] >= 0
    assert told["chatkit_journal_lag_seconds"] == 0
    assert told["chatkit_first_event_seconds_sum"] == 0
    assert told["process_start_time_seconds"] > 0


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text;version=abc",
        "text/plain;version=x.y;escaping=",
        "text/plain;=;==;version==1",
        "application/openmetrics-text;version=9.9.9.9",
        "nonsense",
    ],
)
async def test_whoever_asks_for_a_format_that_isnt_one_gets_one_that_is(accept):
    app = create_app(scripted_server(MemoryStore(), []), metrics_path="/metrics")
    async with client_of(app) as client:
        answer = await client.ask("GET", "/metrics", b"", {"Accept": accept})

    assert answer.status == 200
    assert b"chatkit_turns_live 0.0" in answer.body


async def test_the_bytes_that_wait_for_a_client_are_counted(autojump_clock):
    server = scripted_server(MemoryStore(), [say("x" * 1000), pause(99)])
    metrics = Metrics(server)
    async with server:
        result = await server.process(json.dumps(CREATE), None)
        async with result:
            result.begin()
            await trio.sleep(1)
            metrics.sample()
            waiting = shown(metrics)["chatkit_unread_bytes"]
            await result.receive()
            metrics.sample()
            left = shown(metrics)["chatkit_unread_bytes"]

    assert waiting > 1000
    assert left == 0


async def test_an_answer_that_the_store_doesn_t_take_is_seen_to_wait(autojump_clock):
    store = TroubledStore(MemoryStore())
    server = scripted_server(store, [say("Hello", finish=False), pause(99)])
    metrics = Metrics(server)
    seen = []
    async with server, sending(server) as turn:
        await turn.read(6)
        store.give(fails(), "settle")
        turn.server_turn.cancel()
        for _ in range(3):
            await trio.sleep(20)
            metrics.sample()
            seen.append(shown(metrics)["chatkit_settling_oldest_seconds"])
        store.trouble.clear()
        await turn.server_turn.settled.wait()
        metrics.sample()
        told = shown(metrics)

    assert seen == [20, 40, 60]
    assert told["chatkit_settling_oldest_seconds"] == 0
    assert told["chatkit_settle_retries_total"] > 3


async def test_a_journal_that_can_t_be_written_lags(tmp_path, jump_clock, monkeypatch):
    store = SQLiteStore(tmp_path / "chat.sqlite3")
    server = scripted_server(store, [say("Hello", finish=False), pause(99)])
    metrics = Metrics(server)

    async def refuse(entries):
        raise OSError("the disk is full")

    async with server:
        result = await server.process(json.dumps(CREATE), None)
        async with result:
            result.begin()
            await trio.sleep(3)
            metrics.sample()
            well = shown(metrics)["chatkit_journal_lag_seconds"]
            monkeypatch.setattr(store.journal, "checkpoint", refuse)
            (turn,) = server.live_turns
            turn.answer.items.version += 1
            await trio.sleep(20)
            metrics.sample()
            ill = shown(metrics)["chatkit_journal_lag_seconds"]

    assert well <= 1
    assert ill >= 19


async def test_recovered_turns_are_counted_by_the_start(tmp_path):
    await leave_two_turns_behind(tmp_path / "chat.sqlite3")
    server = scripted_server(SQLiteStore(tmp_path / "chat.sqlite3"), [])
    async with client_of(create_app(server, metrics_path="/metrics")) as client:
        told = await scraped(client)

    assert told.positive("chatkit_turns_recovered_total") == {"crashed": 2.0}


async def test_refusals_are_counted_by_code_and_requests_by_route_and_status(autojump_clock):
    server = scripted_server(
        MemoryStore(), [fail(ValueError("no"))], owner_limits=OwnerLimits(requests_per_minute=3)
    )
    async with client_of(create_app(server, metrics_path="/metrics")) as client:
        await client.post(b"{")
        await client.post(CREATE)
        await client.post({"type": "threads.get_by_id", "params": {"thread_id": "thr_1"}})
        await client.post(CREATE)
        await client.ask("GET", "/nowhere/at/all")
        await client.ask("GET", "/healthz", headers={"Host": "evil.example"})
        told = await scraped(client)

    assert told.of("chatkit_refusals_total") == {"invalid_request": 1, "not_found": 1, "limit": 1}
    assert told.of("chatkit_http_requests_total") == {
        ("/chatkit", "400"): 1,
        ("/chatkit", "200"): 1,
        ("/chatkit", "404"): 1,
        ("/chatkit", "429"): 1,
        ("none", "404"): 1,
        ("/healthz", "421"): 1,
    }


async def test_the_stores_failures_and_retries_are_counted(autojump_clock):
    store = TroubledStore(MemoryStore())
    store.give(once(fails()), "add_thread_item")
    server = scripted_server(store, [say("Hello")])
    metrics = Metrics(server)
    async with server:
        result = await server.process(json.dumps(CREATE), None)
        async with result:
            async for _ in result:
                pass
    told = shown(metrics)

    assert told.positive("chatkit_store_failures_total") == {"begin_turn": 1.0}
    assert told.of("chatkit_store_seconds_count") == {"begin_turn": 1.0}
    assert told.of("chatkit_refusals_total") == {"store": 1.0}
    assert told.positive("chatkit_turns_ended_total") == {"refused": 1.0}


# --- The address -------------------------------------------------------------------------------


async def test_there_is_no_such_address_by_default_and_nobody_watches():
    server = scripted_server(MemoryStore(), [])
    async with client_of(create_app(server)) as client:
        answer = await client.ask("GET", "/metrics")

    assert answer.status == 404
    assert not server.turn_story.is_watched


async def test_prometheus_asks_by_address_and_foreign_names_are_refused():
    app = create_app(scripted_server(MemoryStore(), []), metrics_path="/metrics")
    async with client_of(app) as client:
        by_address = await client.ask("GET", "/metrics", headers={"Host": "10.0.0.7:8000"})
        rebound = await client.ask("GET", "/metrics", headers={"Host": "evil.example"})
        posted = await client.ask("POST", "/metrics")
        openly = {"Accept": "application/openmetrics-text; version=1.0.0"}
        open_metrics = await client.ask("GET", "/metrics", headers=openly)

    assert (by_address.status, rebound.status, posted.status) == (200, 421, 405)
    assert by_address.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert by_address.headers["cache-control"] == "no-store"
    assert open_metrics.headers["content-type"].startswith("application/openmetrics-text")
    assert open_metrics.body.endswith(b"# EOF\n")


async def test_a_mounted_chat_shows_its_metrics_below_its_mount(autojump_clock):
    chat = asgi_app(scripted_server(MemoryStore(), [say("Hello")]), metrics_path="/metrics")
    async with client_of(chat.inner) as client:
        await client.post(CREATE)
        told = await scraped(client)

    assert told.positive("chatkit_turns_ended_total") == {"finished": 1}


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "chatkit_trio.metrics")
    monkeypatch.delitem(sys.modules, "chatkit_trio.web._metrics_view", raising=False)

    with pytest.raises(ImportError, match=r"pip install 'chatkit-trio\[metrics\]'"):
        create_app(scripted_server(MemoryStore(), []), metrics_path="/metrics")


def test_a_directory_for_all_processes_has_to_be_one(monkeypatch):
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "/nowhere/at/all")

    with pytest.raises(ValueError, match="'/nowhere/at/all', which is no directory"):
        create_app(scripted_server(MemoryStore(), []), metrics_path="/metrics")


# --- Several workers ---------------------------------------------------------------------------


async def test_each_worker_shows_what_all_have_counted_and_who_is_gone_is_left_out(tmp_path):
    """Owners have the same names in the logs of both."""
    folder = tmp_path / "metrics"
    folder.mkdir()
    environment = {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
    options = (tmp_path / "chat.sqlite3", 2, "--log-format=json")
    with trio.fail_after(60):
        async with served(*options, target=WATCHED, **environment) as (server, workers):
            told = []
            async with AsyncExitStack() as stack:
                callers = [
                    await stack.enter_async_context(connected(server.port, worker))
                    for worker in workers
                ]
                for caller in callers:
                    await caller.answer("POST", "/chatkit", json.dumps(CREATE).encode())
                for caller in callers:
                    # A worker's own gauges are set then; the others show them from now on.
                    await caller.answer("GET", "/metrics")
                for caller in callers:
                    _, text = await caller.answer("GET", "/metrics")
                    told.append(Exposition(text))
            os.kill(workers[0], signal.SIGKILL)
            new = await replaced(server, workers[0])
            async with connected(server.port, new) as caller:
                _, text = await caller.answer("GET", "/metrics")
                told.append(Exposition(text))
            records = [json.loads(line) for line in server.log.splitlines() if line[0] == "{"]

    assert [each.positive("chatkit_turns_ended_total") for each in told] == [{"finished": 2}] * 3
    assert [each["chatkit_turns_live"] for each in told] == [0] * 3
    assert not list(folder.glob(f"gauge_live*_{workers[0]}.db"))
    ended = {r["process"]: r["owner_hash"] for r in records if r.get("event") == "turn.ended"}
    assert sorted(ended) == sorted(workers)
    assert len(set(ended.values())) == 1


async def test_workers_that_would_count_alone_are_refused(tmp_path):
    command = [sys.executable, "-m", "chatkit_trio", "serve", WATCHED, "--workers=2", "--port=0"]
    environment = {**os.environ, "TALKER_DATABASE": str(tmp_path / "chat.sqlite3")}
    environment.pop("PROMETHEUS_MULTIPROC_DIR", None)
    with trio.fail_after(60):
        run = await trio.run_process(
            command, cwd=ROOT, env=environment, check=False, capture_stderr=True
        )

    assert run.returncode == 1
    assert b"PROMETHEUS_MULTIPROC_DIR" in run.stderr
    assert b"Traceback" not in run.stderr
