# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The tests themselves: their names, the pages that name them, and the parts of the package that they use."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]
TESTS = sorted((ROOT / "tests").glob("*/test_*.py"))

#: A page names a test's file, and perhaps in brackets the beginnings of some of its tests.
NAMED = re.compile(r"``(?:tests/[a-z/]*)?(test_\w+)\.py``(?:\s+\(((?:``\w+``(?:, )?)+)\))?")

#: Names of Python, redis-py and pika that are names in the package as well.
OF_OTHERS = {"_exit", "_fields", "_is_owned", "_lock", "_sock"}

#: The private names that a file may use.
MAY_USE = {
    "tests/support/inside.py": {"_mutex", "_runtime"},
    "tests/message/test_state.py": {"_changing"},  # whether an interrupt has left it taken
    "tests/support/taken_out.py": {"_ended", "_is_within_our_code"},  # it takes mends out of the package
}


def names(path: Path) -> list[str]:
    """Return the names of the tests in a file."""
    tree = ast.parse(path.read_text("utf-8"))
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_names(tree: ast.AST) -> Iterator[str]:
    """Yield the private names that a module gives to functions, classes, variables and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def used(tree: ast.AST) -> Iterator[str]:
    """Yield the names that a module imports from the package, or uses of an object that is not its own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dramatiq_inflight"):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Attribute):
            if not (isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")):
                yield node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("attr", "patch", "patch.object")):
            texts = [one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
            yield from (text.rpartition(".")[2] for text in texts)


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


def test_no_test_uses_a_private_name_of_the_package() -> None:
    trees = {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text("utf-8"))
        for folder in ("dramatiq_inflight", "tests", "benchmarks", "chaos")
        for path in (ROOT / folder).rglob("*.py")
    }
    package = {path for path in trees if path.startswith("dramatiq_inflight/")}
    private = {name for path in package for name in private_names(trees[path]) if is_private(name)} - OF_OTHERS
    found = {path: private & set(used(trees[path])) for path in trees.keys() - package}
    assert {path: names for path, names in found.items() if names} == MAY_USE
