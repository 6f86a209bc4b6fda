"""The table of parity promises nothing that no test shows."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "parity.md"
REFERENCE = re.compile(r"`(?P<file>\w[\w/]*\.py)::(?P<test>test_\w+)(?:\[(?P<case>[^\]]+)\])?`")


def rows() -> list[list[str]]:
    """Return the cells of the table's rows, without heads and rulers."""
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[0] != "feature"]


@cache
def functions_of(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


@cache
def strings_beside(file: str) -> set[str]:
    """Return the strings of all modules in the file's directory: cases are named there."""
    modules = sorted((ROOT / file).parent.glob("*.py"))
    nodes = (node for path in modules for node in ast.walk(ast.parse(path.read_text("utf-8"))))
    return {
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def test_the_table_covers_every_part_of_the_original():
    sections = re.findall(r"^## (.*)$", PAGE.read_text("utf-8"), re.MULTILINE)

    assert sections == [
        "Server: hooks and results",
        "Server: requests",
        "Server: events",
        "Types",
        "Store",
        "Widgets, actions, errors, icons",
        "Agents",
        "Deliberate differences",
    ]
    assert len(rows()) > 150


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_a_row_is_shown_by_a_test_that_exists(row):
    feature, here, shown_by = row
    reference = REFERENCE.fullmatch(shown_by)

    assert feature
    assert here
    assert reference, f"no test is named: {shown_by!r}"
    assert reference["test"] in functions_of(reference["file"])
    if reference["case"]:
        assert reference["case"] in strings_beside(reference["file"])
