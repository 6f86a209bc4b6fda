"""The tests of the page's pure modules, by node's own runner."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

NODE = shutil.which("node")
FILES = sorted((Path(__file__).parent / "js").glob("*.test.mjs"))

if NODE is None and "CHATKIT_TRIO_NEEDS_NODE" in os.environ:
    raise RuntimeError("node is missing")

pytestmark = pytest.mark.skipif(NODE is None, reason="there is no node on the PATH to test with")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name.partition(".")[0])
def test_a_module_of_the_page(file: Path) -> None:
    # The page's modules are modules by the tag that loads them; node has to be told.
    command = [NODE, "--no-warnings", "--experimental-default-type=module", "--test", str(file)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)

    assert run.returncode == 0, run.stdout
    assert "# pass 0" not in run.stdout


PAGE = Path(__file__).parents[2] / "chatkit_trio" / "web" / "page"


@pytest.mark.skipif(
    not (PAGE / "node_modules" / "esbuild").is_dir()
    and "CHATKIT_TRIO_NEEDS_NODE" not in os.environ,
    reason="esbuild isn't installed: npm install --prefix chatkit_trio/web/page",
)
def test_what_the_server_sends_is_what_the_sources_make() -> None:
    command = [NODE, str(PAGE / "build.mjs"), "--check"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)

    assert run.returncode == 0, run.stderr


def test_a_chat_is_light_until_it_has_formulas_colours_or_widgets() -> None:
    names = json.loads((PAGE.parent / "static" / "names.json").read_text("utf-8"))
    first = ["page.js", "page.css", "element.js", "favicon.svg"]
    files = [PAGE.parent / "static" / f"{names[name]}.gz" for name in first]
    files += (PAGE.parent / "static").glob("markdown-*.js.gz")
    page = gzip.compress((PAGE / "index.html").read_bytes())

    assert len(files) == 5
    assert len(page) + sum(file.stat().st_size for file in files) < 100_000
