"""What the package says of itself, and that an application in production runs without pytest.

What is in the wheel and the sdist, and that a fresh environment serves with them, is what
`.ci/check_package.py` looks at: it needs a registry.
"""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

import chatkit_trio

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = PYPROJECT["project"]

WITHOUT = """
import sys
for name in {names!r}:
    sys.modules[name] = None  # importing it is an error
"""


def run_without(names: list[str], code: str) -> subprocess.CompletedProcess[str]:
    script = WITHOUT.format(names=names) + textwrap.dedent(code)
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def names_of(requirements: list[str]) -> set[str]:
    return {Requirement(each).name for each in requirements}


def test_the_version_can_be_asked_for() -> None:
    assert Version(chatkit_trio.__version__) >= Version("0.1.0")


def test_what_runs_in_production_needs_no_pytest() -> None:
    assert names_of(PROJECT["dependencies"]) & {"pytest", "pytest-trio"} == set()
    assert names_of(PROJECT["optional-dependencies"]["testing"]) == {"pytest", "pytest-trio"}


def test_without_pytest_it_answers_also_through_the_test_client() -> None:
    run = run_without(
        ["pytest", "_pytest", "pytest_trio"],
        """
        import trio
        import chatkit_trio, chatkit_trio.cli, chatkit_trio.web
        from chatkit_trio.stores import MemoryStore
        from chatkit_trio.testing import ChatClient, explore_cancellations, say, scripted_server
        from chatkit_trio.web import create_app

        async def main():
            app = create_app(scripted_server(MemoryStore(), [say("Hello")]))
            async with ChatClient.of_app(app) as client, client.send("Hi") as turn:
                await turn.read()
            print(turn.text)

        trio.run(main)
        """,
    )

    assert (run.stdout, run.stderr) == ("Hello\n", "")


def test_without_pytest_the_store_kit_says_what_to_install() -> None:
    run = run_without(["pytest"], "from chatkit_trio.testing import StoreConformance")

    assert run.stderr.splitlines()[-1] == (
        "ImportError: StoreConformance is a set of pytest's tests: "
        "pip install 'chatkit-trio[testing]'"
    )


def test_with_pytest_and_without_pytest_trio_the_tests_of_others_run(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "def test_something_else(): pass\n\ndef test_a_chat(chatkit_client): pass\n"
    )

    run = run_without(
        ["pytest_trio"],
        f"""
        import os
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        import pytest
        pytest.main(["-q", "-p", "no:cacheprovider", "-p", "chatkit_trio._pytest_plugin",
                     {str(tmp_path)!r}])
        """,
    )

    assert "1 passed, 1 error" in run.stdout, run.stdout + run.stderr
    assert "chatkit_client needs pytest-trio: pip install 'chatkit-trio[testing]'" in run.stdout


def test_every_requirement_has_a_lower_bound() -> None:
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    requirements = [Requirement(each) for group in groups for each in group]

    assert [
        str(each)
        for each in requirements
        if each.name != PROJECT["name"]
        and not any(specifier.operator in (">=", "==") for specifier in each.specifier)
    ] == []


def test_the_readme_on_pypi_has_no_link_that_leads_nowhere() -> None:
    fancy = PYPROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    text = (ROOT / "README.md").read_text("utf-8")
    for each in fancy["substitutions"]:
        text = re.sub(each["pattern"], each["replacement"], text)
    targets = re.findall(r"\]\(([^)]+)\)", text)
    home = PROJECT["urls"]["Repository"]

    assert len(targets) > 10
    assert [target for target in targets if not re.match(r"https://|#", target)] == []
    assert f"{home}/blob/v$HFPR_VERSION/docs/tutorial/first-chat.md" in targets


def test_all_addresses_are_those_of_one_repository() -> None:
    urls = PROJECT["urls"]

    assert all(url.startswith(urls["Repository"]) for url in urls.values())
    assert {"Documentation", "Changelog", "Issues"} < urls.keys()
