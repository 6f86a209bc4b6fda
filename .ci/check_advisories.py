"""Fail if a version is installed that `advisories.toml` knows to be vulnerable.

    python .ci/check_advisories.py

It asks nobody. Where the network lets you, `pip-audit` knows more.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import distributions
from pathlib import Path

from packaging.version import Version

ADVISORIES = Path(__file__).with_name("advisories.toml")


def advisories() -> list[dict[str, str]]:
    """Return the rows of the list."""
    rows: list[dict[str, str]] = tomllib.loads(ADVISORIES.read_text("utf-8"))["advisory"]
    return rows


def installed() -> dict[str, str]:
    """Return the version of each installed package, by its plain name."""
    return {plain(found.metadata["Name"]): found.version for found in distributions()}


def plain(name: str) -> str:
    """Return a package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def findings(versions: Mapping[str, str], rows: Iterable[Mapping[str, str]]) -> Iterator[str]:
    """Yield a line for each advisory that one of these versions is under."""
    for row in rows:
        version = versions.get(row["package"])
        if version is not None and Version(version) < Version(row["below"]):
            yield (
                f"{row['package']} {version} is vulnerable: {row['id']}, {row['what']}."
                f" Take {row['below']} or newer."
            )


def main() -> int:
    rows, versions = advisories(), installed()
    found = list(findings(versions, rows))
    for line in found:
        print(line)
    known = {row["package"] for row in rows} & versions.keys()
    print(f"{len(found)} known vulnerabilities in {len(known)} packages of {len(versions)}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
