"""An example in a process of its own, as its users run it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]


@contextmanager
def serving(name: str, directory: Path) -> Iterator[str]:
    """Run an example on a free port, with its files in a directory, and give its URL."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("OPENAI_API_KEY", None)
    command = ["-m", "hypercorn", "--worker-class", "trio", "--bind", "127.0.0.1:0"]
    with subprocess.Popen(
        [sys.executable, *command, f"examples.{name}:app"],
        cwd=directory,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            lines = iter(process.stderr.readline, "")
            yield next(found[0] for line in lines if (found := re.search(r"http://\S+", line)))
        finally:
            process.terminate()
            process.communicate()
