"""No package with a known vulnerability: not installed here, and not allowed by our bounds."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]

_spec = importlib.util.spec_from_file_location("advisories", ROOT / ".ci" / "check_advisories.py")
check = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(check)


def test_no_installed_package_has_a_known_vulnerability():
    assert list(check.findings(check.installed(), check.advisories())) == []


def test_a_vulnerable_version_is_found_and_the_first_good_one_is_not():
    rows = [{"package": "h11", "below": "0.16.0", "id": "CVE-2025-43859", "what": "chunks"}]

    assert list(check.findings({"h11": "0.16.0"}, rows)) == []
    assert list(check.findings({"h11": "0.14.0"}, rows)) == [
        "h11 0.14.0 is vulnerable: CVE-2025-43859, chunks. Take 0.16.0 or newer."
    ]


@pytest.mark.parametrize("row", check.advisories(), ids=lambda row: row["id"])
def test_a_row_is_whole(row):
    assert sorted(row) == ["below", "id", "package", "what"]
    assert row["package"] == check.plain(row["package"])
    assert str(Version(row["below"])) == row["below"]


def test_the_bounds_of_our_dependencies_leave_vulnerable_versions_out():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    testing = project["optional-dependencies"]["testing"]
    bounds = {
        check.plain(requirement.name): Version(each.version)
        for requirement in map(Requirement, [*project["dependencies"], *testing])
        for each in requirement.specifier
        if each.operator == ">="
    }
    allowed = {
        f"{row['package']} < {row['below']} ({row['id']})"
        for row in check.advisories()
        if row["package"] in bounds and bounds[row["package"]] < Version(row["below"])
    }

    assert allowed == set()
