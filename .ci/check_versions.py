"""Run a short part of the tests with the lowest versions that we allow, and on other Pythons.

    python .ci/check_versions.py [--lowest]

Each run has an environment of its own, made by uv: the lowest version of everything that
`pyproject.toml` names on the oldest Python, then the newest on each other Python of the classifiers
that is installed here. One that isn't installed is told of and left out; none is downloaded. With
`--lowest` it is the first of these alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = "testing,openai,agents,pydantic-ai,langgraph,postgres,s3"
FOR_TESTS = ("fastapi", "hypothesis", "packaging", "pytest-xdist", "pyyaml")
"""What the tests below need besides; their bounds are those of the extras."""

TESTS = [
    "test_stream.py",
    "test_wire.py",
    "test_types.py",
    "test_widgets.py",
    "agents/test_how_to.py",
    "agents/test_agents_sdk.py",
    "agents/test_pydantic_ai.py",
    "agents/test_approval_pydantic_ai.py",
    "examples/test_langgraph_agent.py",
    "web/test_endpoint.py",
    "web/test_uploads.py",
    "cli/test_threads.py",
    "stores/test_sqlite_writes.py",
    "stores/test_postgresql_servers.py",
]
"""A file or two of each edge: what a version of somebody else's package could break."""


def pythons() -> list[str]:
    """Return the versions of Python that the classifiers name, the oldest first."""
    prefix = "Programming Language :: Python :: 3."
    minors = [each.removeprefix(prefix) for each in PROJECT["classifiers"]]
    return [f"3.{minor}" for minor in sorted(int(each) for each in minors if each.isdigit())]


def requirements() -> list[str]:
    """Return what is installed: the package with its extras, and what its tests need."""
    extras = PROJECT["optional-dependencies"]
    bounds = [each for extra in ("parity", "dev") for each in extras[extra]]
    return [
        f"chatkit-trio[{EXTRAS}] @ {ROOT.as_uri()}",
        *(each for each in bounds if each.partition(">=")[0] in FOR_TESTS),
    ]


def uv(*arguments: str) -> subprocess.CompletedProcess[str]:
    # pyenv's commands find only the versions that are asked for.
    known = subprocess.run(
        "pyenv versions --bare", shell=True, capture_output=True, text=True, check=False
    )
    environment = os.environ | {"UV_PYTHON_DOWNLOADS": "never"}
    if known.stdout:
        environment["PYENV_VERSION"] = ":".join(known.stdout.split())
    environment.pop("VIRTUAL_ENV", None)
    command = [sys.executable, "-m", "uv", "-q", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def passes(version: str, resolution: str, directory: Path) -> bool | None:
    """Run the tests on that Python; None if it isn't installed."""
    python = directory / version / "bin" / "python"
    if uv("venv", "-p", version, str(directory / version)).returncode != 0:
        print(f"Python {version}: not installed here, left out")
        return None
    began = time.monotonic()
    made = uv("pip", "install", "-p", str(python), "--resolution", resolution, *requirements())
    if made.returncode != 0:
        print(f"Python {version}, {resolution}: can't be installed\n{made.stderr}")
        return False
    # What PostgreSQL does depends on psycopg, hardly on Python: the lowest versions try it.
    left_out = "not cut_anywhere" + (" and not postgresql" if resolution == "highest" else "")
    tests = ["-q", "-n", "auto", "-p", "no:cacheprovider", "-k", left_out]
    run = subprocess.run(
        [python, "-m", "pytest", *tests, *(f"tests/{each}" for each in TESTS)],
        cwd=ROOT,
        check=False,
    )
    result = "passed" if run.returncode == 0 else "FAILED"
    took = time.monotonic() - began
    print(f"Python {version}, {resolution}: {result} ({took:.0f} s)", flush=True)
    return run.returncode == 0


def main() -> int:
    oldest, *others = pythons()
    if "--lowest" in sys.argv:
        others = []
    with tempfile.TemporaryDirectory() as directory:
        results = [passes(oldest, "lowest-direct", Path(directory))]
        results += [passes(each, "highest", Path(directory)) for each in others]
    return 0 if results[0] and False not in results else 1


if __name__ == "__main__":
    sys.exit(main())
