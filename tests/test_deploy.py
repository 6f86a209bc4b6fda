"""What is in `deploy/` and on its pages, as far as it can be checked without Docker.

The files are read by the programs they are for where these are here (nginx, systemd-analyze), and
held against each other and against the command line; the servers that they name run behind nginx.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import trio
import yaml
from psycopg.conninfo import conninfo_to_dict

from chatkit_trio.cli import main
from chatkit_trio.stores.postgresql import PostgreSQLStore
from chatkit_trio.testing import ChatClient
from chatkit_trio.web._serving import Limits
from chatkit_trio.web._watchdog import C_CODE_TIMEOUT
from chatkit_trio.web._workers import EXITING
from tests.nginx import NGINX, nginx_command, running_nginx
from tests.web.sockets import ServerProcess, connected_to, running, until

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
SYSTEMD_ANALYZE = shutil.which("systemd-analyze")
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx isn't installed")
HOSTS = ["chat1", "chat2"]
LOCAL = {"Host": "localhost"}
WITHIN = 60  # seconds


def compose() -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def dockerfile() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile, and what each is given."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(), flags=re.M)
    lines = text.replace("\\\n", "").splitlines()
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines if line.strip()]


def instruction(name: str) -> str:
    (value,) = [value for each, value in dockerfile() if each == name]
    return value


def unit() -> dict[str, list[str]]:
    """Return the settings of the systemd unit, whatever section they are in."""
    settings: dict[str, list[str]] = {}
    for line in (DEPLOY / "chatkit-trio.service").read_text().replace("\\\n", "").splitlines():
        name, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            settings.setdefault(name, []).append(value)
    return settings


def options(arguments: list[str]) -> dict[str, Any]:
    """Return what the command line understands of a call of `serve`."""
    assert arguments[0] == "serve"
    parent = main.make_context("chatkit-trio", ["serve"])
    context = main.commands["serve"].make_context("serve", arguments[1:], parent=parent)
    return context.params


def longest_end(given: dict[str, Any]) -> float:
    """Return what the log says at SIGTERM at most, for workers of the app with these options."""
    server = runpy.run_path(str(DEPLOY / "app.py"))["server"]
    limits = Limits.at_most([server], signal.SIGTERM, given["drain_timeout"])
    return limits.total + C_CODE_TIMEOUT + EXITING


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


# --- The files against each other ----------------------------------------------------------------


def test_what_the_dockerfile_copies_is_there_and_is_let_through():
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    copied = [
        source for name, each in dockerfile() if name == "COPY" for source in each.split()[:-1]
    ]

    assert copied
    for source in copied:
        assert (ROOT / source).exists()
        assert f"!{source}" in ignored


def test_the_container_runs_two_workers_for_all_addresses_as_no_root():
    given = options(json.loads(instruction("CMD")))

    assert json.loads(instruction("ENTRYPOINT")) == ["chatkit-trio"]
    assert (given["target"], given["host"], given["workers"]) == ("app:app", "0.0.0.0", 2)
    assert str(given["port"]) == instruction("EXPOSE")
    assert instruction("USER") not in ("root", "0")


def test_the_services_of_compose_wait_for_services_that_can_tell():
    services = compose()["services"]
    has_health = {name for name, each in services.items() if "healthcheck" in each}
    assert instruction("HEALTHCHECK")
    has_health |= {name for name, each in services.items() if "build" in each}

    for service in services.values():
        for name, wanted in service.get("depends_on", {}).items():
            assert name in services
            if wanted["condition"] == "service_healthy":
                assert name in has_health
            else:
                assert services[name].get("restart") is None


def test_the_files_and_volumes_of_compose_are_there():
    found = compose()
    for service in found["services"].values():
        if "build" in service:
            context = DEPLOY / service["build"]["context"]
            assert (context / service["build"]["dockerfile"]).samefile(DEPLOY / "Dockerfile")
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (DEPLOY / source).is_file() if "/" in source else source in found["volumes"]


def test_the_database_that_is_made_is_the_one_that_is_asked():
    services = compose()["services"]
    made, *asking = (services[name]["environment"] for name in ("db", "migrate", *HOSTS))

    for asked in asking:
        assert asked["PGHOST"] == "db"
        assert asked["PGUSER"] == made["POSTGRES_USER"]
        assert asked["PGDATABASE"] == made["POSTGRES_DB"]
        assert asked["PGPASSWORD"] == made["POSTGRES_PASSWORD"]


def test_hosts_have_addresses_that_nothing_else_gets():
    found = compose()
    (pool,) = found["networks"]["default"]["ipam"]["config"]
    addresses = [
        ip_address(found["services"][host]["networks"]["default"]["ipv4_address"]) for host in HOSTS
    ]

    assert len(set(addresses)) == len(HOSTS)
    for address in addresses:
        assert address in ip_network(pool["subnet"])
        assert address not in ip_network(pool["ip_range"])


def test_nginx_asks_the_hosts_of_compose_and_lets_the_allowed_names_in():
    text = (DEPLOY / "nginx.conf").read_text()
    services = compose()["services"]
    given = options(json.loads(instruction("CMD")))
    hosts = re.findall(r"^    server (\S+):(\d+);", text, flags=re.M)

    assert hosts == [(host, instruction("EXPOSE")) for host in HOSTS]
    assert set(services["nginx"]["depends_on"]) == set(HOSTS)
    assert {port.split(":")[1] for port in services["nginx"]["ports"]} == {"80"}
    (names,) = re.findall(r"server_name (.*);", text)
    assert set(names.split()) == {*given["allowed_hosts"], "localhost"}


def test_nobody_is_killed_before_the_time_that_the_log_tells():
    in_container = options(json.loads(instruction("CMD")))
    in_unit = options(shlex.split(unit()["ExecStart"][0])[1:])

    for host in HOSTS:
        grace = seconds(compose()["services"][host]["stop_grace_period"])
        assert grace >= longest_end(in_container) + 5
    assert seconds(unit()["TimeoutStopSec"][0]) >= longest_end(in_unit) + 5
    assert f"out in {longest_end(in_unit):.1f} s" in (DEPLOY / "chatkit-trio.service").read_text()
    assert f"out in {longest_end(in_container):.1f} s" in (DEPLOY / "compose.yaml").read_text()


def test_the_unit_migrates_and_serves_with_the_same_program():
    (before,), (serving,) = unit()["ExecStartPre"], unit()["ExecStart"]

    assert before.split() == [serving.split()[0], "migrate"]
    assert options(shlex.split(serving)[1:])["workers"] == 2


# --- The pages that tell of them -----------------------------------------------------------------


def page(name: str) -> str:
    return (ROOT / "docs" / "how-to" / name).read_text("utf-8")


def block(name: str, language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", page(name), re.S | re.M)
    return found


def test_the_page_about_systemd_makes_what_the_unit_names():
    text, named = page("systemd.md"), unit()
    (serving,), (user,), (directory,) = (
        named[name] for name in ("ExecStart", "User", "WorkingDirectory")
    )

    assert f"--home-dir {directory} {user}\n" in text
    assert f"python3 -m venv {serving.split('/bin/')[0]}\n" in text
    assert f"cp app.py {directory}/\n" in text
    assert f"install -m 600 /dev/null {named['EnvironmentFile'][0]}\n" in text
    for name in ("TimeoutStopSec", "KillMode", "StateDirectory"):
        assert f"| `{name}={named[name][0]}` |" in text
    longest = longest_end(options(shlex.split(serving)[1:]))
    assert f"out in {longest:.1f} s" in text


def test_the_container_of_the_page_serves_for_all_addresses_and_is_not_killed_too_soon():
    lines = block("docker.md", "dockerfile").replace("\\\n", "").splitlines()
    said = {line.partition(" ")[0]: line.partition(" ")[2] for line in lines}
    given = options(json.loads(said["CMD"]))
    (seconds_until_kill,) = re.findall(r"--stop-timeout (\d+)", block_of_run())

    assert json.loads(said["ENTRYPOINT"]) == json.loads(instruction("ENTRYPOINT"))
    assert said["HEALTHCHECK"].split() == instruction("HEALTHCHECK").split()
    assert (given["host"], given["workers"]) == ("0.0.0.0", 1)
    assert str(given["port"]) == said["EXPOSE"]
    assert said["USER"] not in ("root", "0")
    assert f"-v chat-data:{said['VOLUME']} " in block_of_run()
    assert int(seconds_until_kill) >= longest_end(given) + 5


def block_of_run() -> str:
    return next(line for line in page("docker.md").splitlines() if line.startswith("docker run"))


def test_the_page_about_docker_names_the_services_of_compose():
    upgraded = re.findall(r"--no-deps -d (\w+)", page("docker.md"))

    assert upgraded == HOSTS
    assert "run --rm --build migrate" in page("docker.md")
    assert "migrate" in compose()["services"]


async def test_the_page_about_postgresql_is_followed_word_by_word(
    postgresql_server, tmp_path, monkeypatch
):
    (shown,) = re.findall(r"^```console\n(.*?)^```", page("postgresql.md"), re.S | re.M)
    steps = re.findall(r"^\$ chatkit-trio (.*)\n([^$].*\n)", shown, re.M)
    with postgresql_server.database() as url:
        place = conninfo_to_dict(url)
        environment = {
            "PGHOST": str(place["host"]),
            "PGUSER": str(place["user"]),
            "PGDATABASE": str(place["dbname"]),
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        told = [(await in_process(*arguments.split()))[1] for arguments, _output in steps]
        doctor = await in_process("doctor", "--database", "postgresql://")
        names: dict[str, Any] = {"__name__": "postgresql_page"}
        exec(block("postgresql.md", "python"), names)
        async with ChatClient.of_app(names["app"], headers=[("X-User", "Ann")]) as client:
            async with client.send("Hi") as turn:
                await turn.read()
            thread_id = turn.thread_id
        listed = await in_process("threads", "list", "postgresql://", "--json")

    assert told == [output for _arguments, output in steps]
    assert len(steps) == 2
    assert doctor[0] == 0, doctor
    assert turn.text == "Hello, Ann."
    assert [(each["id"], each["owner"]) for each in json.loads(listed[1])] == [(thread_id, "Ann")]


async def in_process(*arguments: str) -> tuple[int, str]:
    """Run a command as a user does; return its exit code and what it says."""
    command = [sys.executable, "-m", "chatkit_trio", *arguments]
    ended = await trio.run_process(command, capture_stdout=True, check=False)
    return ended.returncode, ended.stdout.decode()


# --- The files and the programs they are for ----------------------------------------------------


@pytest.mark.skipif(SYSTEMD_ANALYZE is None, reason="systemd-analyze isn't installed")
def test_systemd_understands_the_unit(tmp_path):
    text = (DEPLOY / "chatkit-trio.service").read_text()
    (tmp_path / "chat.service").write_text(
        text.replace("/srv/chat/venv/bin/chatkit-trio", sys.executable)
    )

    result = subprocess.run(
        [SYSTEMD_ANALYZE, "verify", tmp_path / "chat.service"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def deployed_nginx(directory: Path, listen: str, ports: list[int]) -> list[str]:
    """Write the configuration for servers on this machine; return nginx's command."""
    conf = (DEPLOY / "nginx.conf").read_text().replace("listen 80", f"listen {listen}")
    for host, port in zip(HOSTS, ports, strict=True):
        conf = conf.replace(f"{host}:8000", f"127.0.0.1:{port}")
    return nginx_command(directory, conf)


@needs_nginx
def test_nginx_understands_its_configuration(tmp_path):
    command = deployed_nginx(tmp_path, "127.0.0.1:8080", [1, 2])

    result = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stderr
    assert "warn" not in result.stderr


@asynccontextmanager
async def host(directory: Path, database: dict[str, str]) -> AsyncIterator[ServerProcess]:
    """Run what a container runs, on a free port."""
    arguments = json.loads(instruction("CMD"))
    arguments[arguments.index("--host") + 1] = "127.0.0.1"
    command = [sys.executable, "-m", "chatkit_trio", *arguments, "--port", "0"]
    environment = {**database, "PYTHONPATH": f"{ROOT}{os.pathsep}{DEPLOY}"}
    async with running(command, directory, "Serving on", **environment) as server:
        yield server
        server.send_signal(signal.SIGTERM)
        await server.ended(within=WITHIN)


@needs_nginx
async def test_two_hosts_behind_nginx_are_one_server(tmp_path, postgresql_server):
    """A stop reaches the answer by whichever way it goes; another name reaches nothing."""
    said = " ".join(f"word{number}" for number in range(500))
    with postgresql_server.database() as url:
        place = conninfo_to_dict(url)
        database = {
            "PGHOST": str(place["host"]),
            "PGUSER": str(place["user"]),
            "PGDATABASE": str(place["dbname"]),
        }
        migrate = [sys.executable, "-m", "chatkit_trio", "migrate"]
        await trio.run_process(migrate, env={**os.environ, **database}, capture_stdout=True)
        for name in HOSTS:
            await trio.Path(tmp_path, name).mkdir()
        async with AsyncExitStack() as stack:
            hosts = [
                await stack.enter_async_context(host(tmp_path / name, database)) for name in HOSTS
            ]
            for each in hosts:
                probe = json.loads(instruction("HEALTHCHECK").partition("CMD ")[2])[1:]
                probe[-1] = probe[-1].replace("8000", str(each.port))
                await trio.run_process([sys.executable, *probe])
            socket = str(tmp_path / "socket")
            command = deployed_nginx(tmp_path, f"unix:{socket}", [each.port for each in hosts])
            await stack.enter_async_context(running_nginx(command))
            with trio.fail_after(WITHIN):
                await until(Path(socket).exists)
            stored = []
            for _ in range(4):
                asking = await stack.enter_async_context(connected_to(socket))
                await asking.send(LOCAL, body=message(said))
                await asking.read_until(b'"word4 "')  # a delta, and not the question
                stopping = await stack.enter_async_context(connected_to(socket))
                path = f"/chatkit/threads/{asking.thread_id}/stop"
                stopped = await stopping.answer("POST", path, headers=LOCAL)
                await asking.read_to_end()
                stored.append((stopped, await types_in(url, asking.thread_id)))
            stranger = await stack.enter_async_context(connected_to(socket))
            await stranger.send({"Host": "evil.test"}, method="GET", path="/", body=b"")
            answer_to_stranger = await stranger.stream.receive_some()
    kept = ["user_message", "assistant_message", "sdk_hidden_context"]

    assert stored == [((200, b'{"stopped": true}'), kept)] * 4, [each.log for each in hosts]
    assert answer_to_stranger == b""
    assert [each.returncode for each in hosts] == [0, 0], [each.log for each in hosts]


def message(text: str) -> bytes:
    content = [{"type": "input_text", "text": text}]
    said = {"content": content, "attachments": [], "inference_options": {}}
    return json.dumps({"type": "threads.create", "params": {"input": said}}).encode()


async def types_in(url: str, thread_id: str) -> list[str]:
    async with PostgreSQLStore[None](url) as store:
        page = await store.load_thread_items(thread_id, None, 10, "asc", None)
    return [item.type for item in page.data]
