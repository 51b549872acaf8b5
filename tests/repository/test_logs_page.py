# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""docs/logs.rst has every line that the package can log, each under its level, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import pytest
from docutils import nodes
from docutils.core import publish_doctree

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]

#: The section of the page for each way to log; one is there where there are lines for it.
SECTIONS = {
    "critical": "CRITICAL",
    "debug": "DEBUG",
    "info": "INFO",
    "warning": "WARNING",
    "error": "ERROR",
    "exception": "ERROR, with a traceback",
    "warn": "Warnings of Python",  # warnings.warn
}

#: Other ways, which nobody here is to take: the page and this test would have to learn them.
STRANGE = {"fatal", "log"}

#: The placeholders of logging: %s, %.1f, %(name)r, ...
VALUE = re.compile(r"%(?:\(\w+\))?[#0\- +]*(?:\d+|\*)?(?:\.(?:\d+|\*))?[diouxXeEfFgGcrsa]")


class Line(NamedTuple):
    """One that can be logged."""

    section: str
    #: The constant parts, around what is put in.
    parts: tuple[str, ...]
    where: str

    def fits(self, text: str) -> bool:
        """Return whether a text is this line with something put in."""
        return re.fullmatch(".*?".join(map(re.escape, self.parts)), text, re.DOTALL) is not None


class NotLiteral(Exception):
    """A line's text cannot be read off the source."""


def lines_of(source: str, where: str) -> Iterator[Line]:
    """All that a module can log.

    Raises:
      NotLiteral: One of them cannot be told.
    """
    tree = ast.parse(source)
    called: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _is_way_to_log(node.func):
            called.add(node.func)
            name = cast("ast.Attribute", node.func).attr
            at = f"{where}:{node.lineno}"
            if name in STRANGE or not node.args:
                raise NotLiteral(f"{at}: log by one of {', '.join(SECTIONS)}, with a text")
            for template in _texts(node.args[0], at):
                yield Line(SECTIONS[name], template, at)
    for node in ast.walk(tree):
        if _is_way_to_log(node) and node not in called:
            raise NotLiteral(
                f"{where}:{getattr(node, 'lineno', '?')}: call the logger here, so that its lines are seen"
            )


def _is_way_to_log(node: ast.AST) -> bool:
    """Whether it is ``logger.info``, ``self.logger.error``, ``get_logger(...).warning``, ``warnings.warn``, ..."""
    if not isinstance(node, ast.Attribute) or node.attr not in SECTIONS.keys() | STRANGE:
        return False
    whose = node.value
    if isinstance(whose, ast.Call):
        whose = whose.func
    name = whose.attr if isinstance(whose, ast.Attribute) else whose.id if isinstance(whose, ast.Name) else ""
    return name == "warnings" if node.attr == "warn" else "log" in name.lower()


def _texts(node: ast.expr, at: str) -> list[tuple[str, ...]]:
    """The texts that an expression can be, each as its constant parts."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [tuple(part.replace("%%", "%") for part in VALUE.split(node.value))]
    if isinstance(node, ast.JoinedStr):
        texts: list[tuple[str, ...]] = [("",)]
        for value in node.values:
            texts = _joined(texts, [("", "")] if isinstance(value, ast.FormattedValue) else _texts(value, at))
        return texts
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _joined(_texts(node.left, at), _texts(node.right, at))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
        return _texts(node.left, at)
    if isinstance(node, ast.IfExp):
        return _texts(node.body, at) + _texts(node.orelse, at)
    raise NotLiteral(f"{at}: log a literal text")


def _joined(left: list[tuple[str, ...]], right: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    return [(*a[:-1], a[-1] + b[0], *b[1:]) for a in left for b in right]


def of_the_package() -> list[Line]:
    """All that the package can log."""
    package = ROOT / "dramatiq_inflight"
    files = sorted(package.rglob("*.py"))
    return [line for file in files for line in lines_of(file.read_text("utf-8"), str(file.relative_to(ROOT)))]


def on_the_page(text: str) -> list[tuple[str, str]]:
    """The lines on the page, with their section: each is a paragraph of its own, and all of it a literal."""
    page = publish_doctree(text, settings_overrides={"report_level": 2, "halt_level": 2})
    found = []
    for paragraph in page.findall(nodes.paragraph):
        if len(paragraph) == 1 and isinstance(paragraph[0], nodes.literal):
            titles = [title for title in _titles_above(paragraph) if title in SECTIONS.values()]
            assert titles, f"under no level: {paragraph.astext()}"
            found.append((titles[0], " ".join(paragraph.astext().split())))
    return found


def _titles_above(node: nodes.Node) -> Iterator[str]:
    while (node := node.parent) is not None:
        if isinstance(node, nodes.section):
            yield node[0].astext()


@pytest.fixture(scope="module")
def page() -> list[tuple[str, str]]:
    return on_the_page((ROOT / "docs" / "logs.rst").read_text("utf-8"))


@pytest.fixture(scope="module")
def lines() -> list[Line]:
    return of_the_package()


def test_every_line_is_on_the_page_under_its_level(page: list[tuple[str, str]], lines: list[Line]) -> None:
    assert len(lines) > 50
    assert [
        f"{line.where}, {line.section}: {' ... '.join(line.parts)}"
        for line in lines
        if not any(section == line.section and line.fits(text) for section, text in page)
    ] == []


def test_every_line_on_the_page_can_be_logged(page: list[tuple[str, str]], lines: list[Line]) -> None:
    assert [
        f"{section}: {text}"
        for section, text in page
        if not any(line.section == section and line.fits(text) for line in lines)
    ] == []


def test_no_line_is_on_the_page_twice(page: list[tuple[str, str]]) -> None:
    assert len(set(page)) == len(page)


@pytest.mark.parametrize(
    ("source", "section", "text"),
    [
        ('logger.info("A %s b %.1f %%.", x, y)', "INFO", "A thing b 3 %."),
        ('self.logger.error("one " "two %(n)s")', "ERROR", "one two 3"),
        ('get_logger(__name__, cls).warning(f"a {x} b" + "c")', "WARNING", "a 1 bc"),
        ('log.exception("left" if x else "right")', "ERROR, with a traceback", "right"),
        ('warnings.warn(f"{x:g} s", RuntimeWarning)', "Warnings of Python", "3 s"),
        ('logger.debug("%s: %s" % (a, b))', "DEBUG", "a: b"),
    ],
)
def test_what_is_logged_is_read_off_the_source(source: str, section: str, text: str) -> None:
    lines = list(lines_of(source, "here"))
    assert [line.section for line in lines if line.fits(text)] == [section]
    assert not any(line.fits("other text") for line in lines)


@pytest.mark.parametrize(
    "source", ["logger.info(text)", "say = self.logger.info", 'logger.log(20, "a")', "logger.info()"]
)
def test_what_cannot_be_read_is_refused(source: str) -> None:
    with pytest.raises(NotLiteral):
        list(lines_of(source, "here"))


def test_other_calls_are_no_lines() -> None:
    assert list(lines_of('error("a"); self.error("b"); parser.error("c"); warning("d", "e")', "here")) == []
