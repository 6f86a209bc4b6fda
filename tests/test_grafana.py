"""The dashboard and the alert rules, held against what `/metrics` really prints.

The expressions are read by a parser of the language, and each name, label and known value in them
has to be in a real exposition. Where Debian's package prometheus is installed, a real Prometheus
asks a real server for its metrics and answers what the panels ask. Grafana doesn't run here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import trio
import yaml

from chatkit_trio.stores import MemoryStore, SQLiteStore
from chatkit_trio.testing import EVERY_REASON, say, scripted_server
from chatkit_trio.web import create_app

from .agents import script
from .agents.model_endpoint import ModelEndpoint
from .agents.ways import Native
from .engine.doubles import TroubledStore, fails, once
from .exposition import Exposition
from .test_journal import leave_two_turns_behind
from .web.http import CREATE, client_of
from .web.sockets import calling, running, served_by_cli

PROMTOOL, PROMETHEUS = shutil.which("promtool"), shutil.which("prometheus")
FOLDER = Path(__file__).parent.parent / "deploy" / "grafana"
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text("utf-8"))
ALERTS = yaml.safe_load((FOLDER / "alerts.yaml").read_text("utf-8"))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
OF_SCRAPES = {"job", "instance"}
VARIABLES = {"$__rate_interval": "5m", "$__range": "1h", "$job": ".*", "$instance": ".*"}
SUFFIXES = re.compile("_(bucket|count|sum)$")


@pytest.fixture(scope="module")
def exposed(tmp_path_factory) -> dict[str, dict[str, set[str]]]:
    """The values of each label, by the name of the sample, in scrapes of servers at work."""
    return trio.run(scrape_all, tmp_path_factory.mktemp("scraped"))


async def scrape_all(folder: Path) -> dict[str, dict[str, set[str]]]:
    async def look_up(arguments: str) -> str:
        return "rain"

    last = script.answer(*script.message("msg_1", "It rains"))
    last[-1]["response"]["usage"] = {"input_tokens": 7, "output_tokens": 5}
    model = ModelEndpoint(script.answer(*script.call("look_up", '{"what": "x"}')), last)
    await leave_two_turns_behind(folder / "chat.sqlite3")
    troubled = TroubledStore(MemoryStore())
    troubled.give(once(fails()), "add_thread_item")
    servers = [
        Native(model, {"look_up": look_up}),
        scripted_server(SQLiteStore(folder / "chat.sqlite3"), [say("Hello")]),
        scripted_server(troubled, [say("Hello")]),
    ]
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for server in servers:
        async with client_of(create_app(server, metrics_path="/metrics")) as client:
            await client.post(CREATE)
            await client.post(b"{")
            answer = await client.ask("GET", "/metrics")
        for sample in Exposition(answer.body).samples:
            labels = found[sample.name]
            for name, value in sample.labels.items():
                labels[name].add(value)
    return found


def parsed(expression: str) -> promql.Expr:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression
    return promql.parse(expression)


def nodes(expression: Any) -> Iterator[Any]:
    """Yield an expression and all that it is made of."""
    yield expression
    for name in ("expr", "lhs", "rhs", "param", "vector_selector", "selector"):
        with suppress(AttributeError):
            if (part := getattr(expression, name)) is not None:
                yield from nodes(part)
    for part in getattr(expression, "args", None) or ():
        yield from nodes(part)


def selectors(expression: Any) -> list[Any]:
    return [node for node in nodes(expression) if isinstance(node, promql.VectorSelector)]


EXPRESSIONS = {
    **{
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in PANELS
        for target in panel["targets"]
    },
    **{rule["alert"]: rule["expr"] for rule in RULES},
}

each_expression = pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=EXPRESSIONS)


@each_expression
def test_each_name_and_label_is_in_the_exposition(expression, exposed):
    used = selectors(parsed(expression))
    assert used
    for selector in used:
        if selector.name == "up":  # Prometheus' own
            continue
        assert selector.name in exposed
        for matcher in selector.matchers.matchers:
            assert matcher.name in {*exposed[selector.name], *OF_SCRAPES}
            if matcher.name in ("reason", "kind"):
                known = exposed[selector.name][matcher.name] | {str(r) for r in EVERY_REASON}
                assert set(matcher.value.split("|")) <= known


@each_expression
def test_each_sum_is_by_labels_that_there_are(expression, exposed):
    for node in nodes(parsed(expression)):
        if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            names = {selector.name for selector in selectors(node)}
            labels = {label for name in names for label in exposed[name]} | OF_SCRAPES
            assert set(node.modifier.labels) <= labels


@each_expression
def test_each_rate_is_of_a_counter_and_each_quantile_by_le(expression):
    for node in nodes(parsed(expression)):
        if not isinstance(node, promql.Call):
            continue
        names = {selector.name for selector in selectors(node)}
        match node.func.name:
            case "rate" | "increase":
                assert all(name.endswith("_total") or SUFFIXES.search(name) for name in names)
            case "histogram_quantile":
                (inner,) = [each for each in nodes(node) if isinstance(each, promql.AggregateExpr)]
                assert "le" in inner.modifier.labels
                assert all(name.endswith("_bucket") for name in names)


def test_each_metric_is_on_the_dashboard(exposed):
    shown = {
        SUFFIXES.sub("", selector.name)
        for panel in PANELS
        for target in panel["targets"]
        for selector in selectors(parsed(target["expr"]))
    }
    ours = {SUFFIXES.sub("", name) for name in exposed if name.startswith("chatkit_")}
    assert shown == {name for name in ours if not name.endswith("_created")}


def test_the_dashboards_panels_lie_beside_each_other_and_have_ids_of_their_own():
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    covered = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]

    assert len(ids) == len(set(ids))
    assert len(covered) == len(set(covered))
    assert max(x for x, _ in covered) < 24
    assert all(panel["description"] for panel in PANELS)


def test_the_dashboards_variables_ask_for_what_there_is(exposed):
    queries = [
        variable["definition"]
        for variable in DASHBOARD["templating"]["list"]
        if variable["type"] == "query"
    ]

    for query in queries:
        selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", query).groups()
        (used,) = selectors(parsed(selector))
        assert used.name in exposed
        assert label in OF_SCRAPES


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_each_alert_is_as_prometheus_reads_it_and_says_what_to_do(rule):
    assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"].keys() == {"summary", "description"}
    for text in rule["annotations"].values():
        for label in re.findall(r"\$labels\.(\w+)", text):
            assert label in {*OF_SCRAPES, "operation"}


needs_prometheus = pytest.mark.skipif(
    None in (PROMTOOL, PROMETHEUS), reason="Debian's package prometheus isn't installed"
)
if None in (PROMTOOL, PROMETHEUS) and "CHATKIT_TRIO_NEEDS_PROMETHEUS" in os.environ:
    raise RuntimeError("prometheus is missing")


@needs_prometheus
def test_prometheus_reads_the_alerts_and_they_fire_when_they_should():
    for check in (["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]):
        run = subprocess.run([str(PROMTOOL), *check], cwd=FOLDER, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout + run.stderr


def test_alerts_have_names_of_their_own():
    names = [rule["alert"] for rule in RULES]
    assert len(names) == len(set(names))


# --- A real Prometheus ---------------------------------------------------------------------------

QUIET = re.compile("fail|retries|recovered|refusals|call|token")
"""What a server that fares well and calls no model has nothing to tell of."""


WAS_BUSY = "rate(chatkit_store_seconds_count[10s]) > 0"
"""Of series that begin with the first turn: two scrapes have seen turns."""


def asked(url: str, expression: str) -> list[Any]:
    """Return what Prometheus answers to an expression now."""
    for name, value in {**VARIABLES, "$__rate_interval": "10s", "$__range": "10s"}.items():
        expression = expression.replace(name, value)
    query = urllib.parse.urlencode({"query": expression})
    with urllib.request.urlopen(f"{url}/api/v1/query?{query}") as answer:
        told = json.load(answer)
    assert told["status"] == "success"
    return told["data"]["result"]


@needs_prometheus
async def test_a_real_prometheus_has_an_answer_for_every_panel(tmp_path):
    alerts = {rule["alert"] for rule in RULES}
    panels = EXPRESSIONS.keys() - alerts
    silent = {title for title in panels if not QUIET.search(EXPRESSIONS[title])}
    folder = tmp_path / "prometheus"
    folder.mkdir()
    async with served_by_cli(tmp_path / "chat.sqlite3", target="tests.web.watched:app") as server:
        targets = [{"targets": [f"127.0.0.1:{server.port}"]}]
        settings = {
            "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"},
            "scrape_configs": [{"job_name": "chat", "static_configs": targets}],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(settings))
        command = [
            str(PROMETHEUS),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            "--web.listen-address=127.0.0.1:0",
        ]
        listens = '"Listening on" address='
        async with running(command, folder, listens) as prometheus:
            await prometheus.logs("ready to receive web requests")
            ask = partial(trio.to_thread.run_sync, asked, f"http://127.0.0.1:{prometheus.port}")
            with trio.move_on_after(60):
                while not await ask("chatkit_turns_ended_total"):  # noqa: ASYNC110
                    await trio.sleep(0.1)
                while not await ask(WAS_BUSY):
                    async with calling(server.port) as caller:
                        await caller.read_to_end()
                # Behind a scrape that came too late, a gauge has no value until the next.
                while silent := {title for title in silent if not await ask(EXPRESSIONS[title])}:  # noqa: ASYNC110
                    await trio.sleep(0.1)
            answered = {title for title, each in EXPRESSIONS.items() if await ask(each)}

    assert silent == set()
    assert answered & alerts == set()
