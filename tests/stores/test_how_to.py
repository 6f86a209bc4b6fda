"""The examples of docs/how-to/stores.md run, and the kit in it passes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "stores.md"


def examples() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("number", [0, 1])
def test_the_stores_in_the_first_examples_can_be_made(number: int) -> None:
    exec(examples()[number], {})


def test_the_kit_as_shown_passes_in_a_project_without_any_settings(
    tmp_path: Path,
) -> None:
    (tmp_path / "test_my_store.py").write_text(examples()[2])
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "test_my_store.py"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert re.search(r"\d+ passed, \d+ skipped", run.stdout), run.stdout
    assert run.returncode == 0
