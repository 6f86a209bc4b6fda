"""The map of the house, held against the imports: lower layers never import higher ones."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "chatkit_trio"

LAYERS = [
    {
        "_settings",
        "_model",
        "icons",
        "actions",
        "errors",
        "_foreign_text",
        "_http_errors",
        "limits",
        "_json_scan",
        "_search",
        "_activity",
        "_widget_rendering",
        "_widget_templates",
        "widgets",
        "types",
    },
    {"_reading_stores", "observe", "store"},
    {
        "_engine.drafts",
        "_engine.endings",
        "_engine.foreign",
        "_engine.overrides",
        "_engine.input_limits",
        "_engine.items",
        "_engine.keeping",
        "_engine.leftovers",
        "_engine.messages",
        "_engine.naming",
        "_engine.policy",
        "_engine.story",
        "_engine.streaming",
        "_engine.text_deltas",
        "_engine.thread_state",
        "_engine.widget_diff",
        "_engine.wire",
        "_engine.wrong_loop",
    },
    {
        "_engine.answering",
        "_engine.ending",
        "_engine.finding",
        "_engine.frames",
        "_engine.groups",
        "_engine.handover",
        "_engine.hooks",
        "_engine.journal",
        "_engine.live",
        "_engine.loading",
        "_engine.node",
        "_engine.opening",
        "_engine.owner_limits",
        "_engine.pace",
        "_engine.pages",
        "_engine.reading",
        "_engine.remote",
        "_engine.repeats",
        "_engine.replay",
        "_engine.requests",
        "_engine.runner",
        "_engine.settling",
        "_engine.storing",
        "_engine.task_tree",
        "_engine.ticker",
        "_engine.turn",
        "_engine.writing",
        "server",
    },
    {
        "stores",
        "agents",
        "web",
        "testing",
        "_pytest_plugin",
        "demo",
        "logs",
        "metrics",
        "tracing",
        "recording",
        "cli",
        "__main__",
    },
]

NEVER_WAIT = {0, 2}
"""The layers that don't import trio: the vocabulary, and the engine's rules."""

OUTSIDE = {
    "quart",
    "quart_trio",
    "hypercorn",
    "openai",
    "agents",
    "click",
    "sqlite3",
    "psycopg",
    "psycopg_pool",
    "botocore",
    "prometheus_client",
    "opentelemetry",
}
"""What only the edges may import."""


def layer_of(module: str) -> int:
    top, _, rest = module.partition(".")
    room = f"{top}.{rest}" if top == "_engine" else top
    return next(number for number, names in enumerate(LAYERS) if room in names)


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if name not in ("__init__", "_engine.__init__"):
            yield name, path


def imports(path: Path) -> Iterator[str]:
    """Yield what a module imports, our own names as `chatkit_trio.x`."""
    package = ["chatkit_trio", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1]
            target = [*base, *(node.module.split(".") if node.module else [])]
            names = [""] if node.module else [alias.name for alias in node.names]
            yield from (".".join([*target, name]).rstrip(".") for name in names)


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=str)
def test_module_imports_nothing_above_its_layer(name: str, path: Path) -> None:
    layer = layer_of(name)

    for imported in imports(path):
        top, _, rest = imported.partition(".")
        if top == "chatkit_trio" and rest:
            assert layer_of(rest) <= layer, f"{name} imports {imported}"
        if top == "trio":
            assert layer not in NEVER_WAIT or name == "_widget_templates", f"{name} imports trio"
        if top in OUTSIDE:
            assert layer == len(LAYERS) - 1, f"{name} imports {imported}"
        assert top != "chatkit", f"{name} imports the original"


def test_no_module_imports_itself_by_a_detour() -> None:
    """Imports under TYPE_CHECKING count: Python doesn't see those loops, a reader does."""
    arrows = {
        name.removesuffix(".__init__"): {
            target.removeprefix("chatkit_trio.")
            for target in imports(path)
            if target.startswith("chatkit_trio.")
        }
        for name, path in modules()
    }
    while arrows:
        below = {target for targets in arrows.values() for target in targets}
        loose = {name for name in arrows if name not in below or not arrows[name] & arrows.keys()}
        assert loose, f"these modules import each other: {sorted(arrows)}"
        arrows = {name: targets for name, targets in arrows.items() if name not in loose}


def test_importing_the_server_imports_no_edge() -> None:
    script = "import sys, chatkit_trio.server; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)

    loaded = {name.split(".")[0] for name in run.stdout.split()}

    assert loaded & (OUTSIDE - {"sqlite3"} | {"jinja2", "jsonschema"}) == set()
