"""What importing costs, and what is said when a package is missing."""

from __future__ import annotations

import subprocess
import sys

HEAVY = '("openai", "agents", "pydantic_ai", "httpx2", "httpx")'


def output(code: str) -> str:
    """Run code in a new interpreter and return what it prints."""
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    return finished.stdout.strip()


def test_package_imports_without_any_extra() -> None:
    code = f"import sys, chatkit_trio.agents; print([m for m in {HEAVY} if m in sys.modules])"

    assert output(code) == "[]"


def test_server_imports_nothing_of_the_agents() -> None:
    code = (
        "import sys, chatkit_trio.server;"
        "print([m for m in sys.modules if m.startswith('chatkit_trio.agents')])"
    )

    assert output(code) == "[]"


def test_missing_package_is_an_error_that_names_the_extra() -> None:
    code = """
import sys
sys.modules["agents"] = None
from chatkit_trio.agents import Runner
try:
    Runner.run_streamed(None, "hi")
except ImportError as error:
    print(error)
"""

    assert "pip install 'chatkit-trio[agents]'" in output(code)
