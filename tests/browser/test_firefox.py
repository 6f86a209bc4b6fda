"""The page in Firefox, by a walk that tests/browser/firefox.mjs takes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from .kept_site import Site, site
from .test_element import Host, host

__all__ = ["host", "site"]

ROOT = Path(__file__).parents[2]
NODE = shutil.which("node")
FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
DRIVER = ROOT / "tests" / "clients" / "node_modules" / "puppeteer-core"
IS_THERE = NODE is not None and FIREFOX is not None and DRIVER.is_dir()

if not IS_THERE and "CHATKIT_TRIO_NEEDS_NODE" in os.environ:
    raise RuntimeError("Firefox, node or puppeteer-core is missing")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not IS_THERE, reason="Firefox, node or puppeteer-core isn't there"),
]


def test_the_page_works_in_firefox(site: Site, host: Host, tmp_path: Path) -> None:
    if site.process is None:
        site.start()
    host.body = f'<chatkit-trio url="{host.chat}/chatkit"></chatkit-trio>'
    script = str(ROOT / "tests" / "browser" / "firefox.mjs")
    run = subprocess.run(
        [str(NODE), script, str(FIREFOX), site.url, host.origin],
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
        env=os.environ | {"HOME": str(tmp_path)},
    )

    assert run.returncode == 0, run.stdout + run.stderr
    assert len(run.stdout.splitlines()) == 7
