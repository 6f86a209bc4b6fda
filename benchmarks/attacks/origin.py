"""Pages of other sites, rebound and forged hosts, and the truth of the health check."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Awaitable, Callable, Iterable
from contextlib import closing
from itertools import product
from pathlib import Path

import trio

from benchmarks.attacks import Attack, Outcome, Victim
from benchmarks.measuring import message

LIST = {"type": "threads.list", "params": {}}
STRANGE_HOSTS = [
    "evil.test",
    "evil.test:{port}",
    "localhost.evil.test",
    "127.0.0.1.evil.test:{port}",
    "evil.test.",
    "10.0.0.7:{port}",
    "0.0.0.0:{port}",
    "[::]:{port}",
    "[fe80::1]:{port}",
    "2130706433:{port}",
    "127.1:{port}",
    "0x7f.0.0.1",
    "localhost@evil.test",
    "localhost,evil.test",
    "localhost..",
    "a" * 70 + ".localhost",
    "localhost:{port}:{port}",
    "xn--localhost-.test",
]
FOREIGN_ORIGINS = [
    "http://evil.test",
    "https://evil.test",
    "http://localhost",
    "http://localhost:1",
    "http://127.0.0.1.evil.test:{port}",
    "https://127.0.0.1",
    "null",
    "file://",
    "http://",
]
_AT_ONCE = 200
_ANSWERED_WITHIN = 3.5  # seconds; the health check's own limit is 2


def _thread_count(victim: Victim) -> int:
    with closing(sqlite3.connect(victim.database)) as connection:
        count: int = connection.execute("SELECT count(*) FROM threads").fetchone()[0]
        return count


def _named(texts: Iterable[str], victim: Victim) -> list[str]:
    return [text.replace("{port}", str(victim.port)) for text in texts]


async def cross_site_posts(victim: Victim) -> Outcome:
    """Plain posts of pages of other sites, with all that browsers say and leave out."""
    before, held, tried, wrong = _thread_count(victim), 0, 0, []
    sites = [None, "cross-site", "same-site", "same-origin", "none"]
    types = ["text/plain", "application/json", "application/x-www-form-urlencoded"]
    for origin, site, kind in product(_named(FOREIGN_ORIGINS, victim), sites, types):
        headers = [
            ("host", f"127.0.0.1:{victim.port}"),
            ("origin", origin),
            ("content-type", kind),
            *([("sec-fetch-site", site)] if site is not None else []),
        ]
        for body in (message(None), LIST):
            tried += 1
            status, _ = await victim.ask("POST", "/chatkit", body, headers)
            if status == 403:
                held += 1
            else:
                wrong.append(f"{status} for {origin}, {site}")
    if _thread_count(victim) != before:
        return Outcome(tried, 0, "a thread was stored")
    return Outcome(tried, held, "; ".join(wrong[:3]))


async def own_page(victim: Victim) -> Outcome:
    """The chat's own page, under each of its names, isn't taken for a stranger."""
    held, hosts = (
        0,
        [f"127.0.0.1:{victim.port}", f"localhost:{victim.port}", f"[::1]:{victim.port}"],
    )
    for host in hosts:
        headers = [("host", host), ("origin", f"http://{host}"), ("sec-fetch-site", "same-origin")]
        status, _ = await victim.ask("POST", "/chatkit", LIST, headers)
        held += status == 200
    return Outcome(len(hosts), held)


async def rebound_page(victim: Victim) -> Outcome:
    """Everything a page can ask for whose name was made to lead to this server."""
    before, wrong, tried = _thread_count(victim), [], 0
    asked = [
        ("POST", "/chatkit", message(None)),
        ("POST", "/chatkit", LIST),
        ("OPTIONS", "/chatkit", None),
        ("GET", "/chatkit/threads/thr_1/turn", None),
        ("POST", "/chatkit/threads/thr_1/stop", None),
        ("GET", "/", None),
        ("GET", "/chatkit-trio.js", None),
        ("POST", "/attachments", None),
        ("PUT", "/attachments/atc_1", None),
        ("GET", "/attachments/atc_1", None),
        ("GET", "/healthz", None),
        ("GET", "/livez", None),
    ]
    extras = [[], [("x-forwarded-host", "localhost")], [("forwarded", "host=localhost")]]
    for (method, path, body), extra in product(asked, extras):
        host = f"evil.test:{victim.port}"
        headers = [
            ("host", host),
            ("origin", f"http://{host}"),
            ("sec-fetch-site", "same-origin"),
            *extra,
        ]
        tried += 1
        status, _ = await victim.ask(method, path, body, headers)
        if status != 421:
            wrong.append(f"{status} for {method} {path}")
    if _thread_count(victim) != before:
        return Outcome(tried, 0, "a thread was stored")
    return Outcome(tried, tried - len(wrong), "; ".join(wrong[:3]))


async def forged_hosts(victim: Victim) -> Outcome:
    """Hosts that are nearly those of loopback, or no hosts at all."""
    wrong, tried = [], 0
    for host, path in product(_named(STRANGE_HOSTS, victim), ["/", "/chatkit"]):
        tried += 1
        method, body = ("GET", None) if path == "/" else ("POST", LIST)
        status, _ = await victim.ask(method, path, body, [("host", host)])
        if status not in (400, 421):
            wrong.append(f"{status} for {host}")
    return Outcome(tried, tried - len(wrong), "; ".join(wrong[:3]))


def _removed(database: Path) -> None:
    database.unlink()


def _moved(database: Path) -> None:
    database.rename(database.with_name("moved.db"))


def _replaced(database: Path) -> None:
    copy = database.with_name("copy.db")
    shutil.copy(database, copy)
    os.replace(copy, database)


def _log_removed(database: Path) -> None:
    database.with_name(f"{database.name}-wal").unlink()


def health_after(happens: Callable[[Path], None]) -> Callable[[Victim], Awaitable[Outcome]]:
    """Return an attack that does something to the database's file under a running server."""

    async def attack(victim: Victim) -> Outcome:
        before, _ = await victim.ask("GET", "/healthz")
        happens(victim.database)
        after, _ = await victim.ask("GET", "/healthz")
        lives, _ = await victim.ask("GET", "/livez")
        found = (before, after, lives)
        return Outcome(1, int(found == (200, 503, 200)), f"before, after, livez: {found}")

    return attack


async def health_under_hung_writes(victim: Victim) -> Outcome:
    """Many probes while another process keeps the database locked, and once it is free."""
    statuses: list[int] = []

    async def probe() -> None:
        with trio.move_on_after(_ANSWERED_WITHIN):
            status, _ = await victim.ask("GET", "/healthz")
            statuses.append(status)

    with closing(sqlite3.connect(victim.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with trio.open_nursery() as nursery:
            for _ in range(_AT_ONCE):
                nursery.start_soon(probe)
        lives, _ = await victim.ask("GET", "/livez")
        other.execute("ROLLBACK")
    await trio.sleep(1.5)  # the probe that waits for the lock has given up or got it
    well, _ = await victim.ask("GET", "/healthz")
    held = statuses.count(503) + (lives == 200) + (well == 200)
    return Outcome(_AT_ONCE + 2, held, f"livez {lives}, afterwards {well}")


async def flood_of_probes(victim: Victim) -> Outcome:
    """Probes as fast as they go: a bystander mustn't feel that each one writes."""
    held = 0

    async def probe() -> None:
        nonlocal held
        for _ in range(20):
            status, _ = await victim.ask("GET", "/healthz")
            held += status == 200

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(probe)
    return Outcome(400, held)


ATTACKS: tuple[Attack, ...] = (
    Attack(what="plain posts of pages of other sites", fault="F7", run=cross_site_posts),
    Attack(what="the own page, under each of its names", fault="F7", run=own_page),
    Attack(what="a page whose name was rebound", fault="F7", run=rebound_page),
    Attack(what="forged hosts", fault="F7", run=forged_hosts),
    Attack(what="health while writes hang", fault="F21", run=health_under_hung_writes),
    Attack(what="400 health probes, 20 at once", fault="F21", run=flood_of_probes),
    *(
        Attack(
            what=f"health when the database was {words}",
            fault="F21",
            run=health_after(happens),
            has_bystander=False,
        )
        for happens, words in {
            _removed: "removed",
            _moved: "moved",
            _replaced: "replaced by a copy",
            _log_removed: "robbed of its log",
        }.items()
    ),
)
