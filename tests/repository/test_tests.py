# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The tests themselves: their names, and the pages that name them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]
TESTS = sorted((ROOT / "tests").glob("*/test_*.py"))

#: A page names a test's file, and perhaps in brackets the beginnings of some of its tests.
NAMED = re.compile(r"``(?:tests/[a-z/]*)?(test_\w+)\.py``(?:\s+\(((?:``\w+``(?:, )?)+)\))?")


def names(path: Path) -> list[str]:
    """Return the names of the tests in a file."""
    tree = ast.parse(path.read_text("utf-8"))
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]


def test_a_test_name_has_at_most_60_characters() -> None:
    found = [name for path in TESTS for name in names(path)]
    assert len(found) > 1000
    assert [name for name in found if len(name) > 60] == []


def test_a_test_that_a_page_names_exists() -> None:
    tests = {path.stem: names(path) for path in TESTS}
    named = [match for page in (ROOT / "docs").glob("*.rst") for match in NAMED.finditer(page.read_text("utf-8"))]
    assert len(named) > 30
    for file, beginnings in (match.groups() for match in named):
        assert file in tests
        for beginning in re.findall(r"\w+", beginnings or ""):
            assert [name for name in tests[file] if name.startswith(f"test_{beginning}")], beginning
