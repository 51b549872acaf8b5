# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Tables that fit: whole and aligned for programs; for a terminal, cut where that harms least.

Where that is not enough, lesser columns are left out.  Each row is one line, whatever the width: a table that wraps
cannot be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .text import clean

__all__ = ["Cell", "Column", "Line", "cells", "cut", "lines", "plain"]

GAP = 2


class Cell(NamedTuple):
    """A text, which may be anybody's, and how it looks on a terminal."""

    text: str
    style: str = ""


#: Pieces with their styles.
Line = list[Cell]


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    title: str
    #: Numbers are at the right.
    right: bool = False
    #: Where there is too little room, the column with the highest number goes first; 0: it stays.
    spare: int = 0
    #: To how many cells it may be cut; 0: it is not.
    least: int = 0
    #: It is cut in the middle: the ends tell one from another.
    middle: bool = False


def cells(text: str) -> int:
    """Return how wide a text is on a terminal."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # noqa: PLC0415 - most texts need it not

    return cell_len(text)


def cut(text: str, width: int, *, middle: bool = False) -> str:
    """A text that is no wider than that."""
    if cells(text) <= width:
        return text
    if width < 1:
        return ""
    tail = ""
    if middle:
        for c in reversed(text):
            if cells(tail) + cells(c) > (width - 1) // 2:
                break
            tail = c + tail
    head = ""
    for c in text:
        if cells(head) + cells(c) > width - 1 - cells(tail):
            break
        head += c
    return f"{head}…{tail}"


def lines(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], room: int | None) -> list[Line]:
    """The lines of a table, with its titles.

    Parameters:
      room: How many cells wide it may be; ``None`` for a program, which gets it whole, and ``-`` for nothing.
    """
    empty = "-" if room is None else ""
    table = [[Cell(clean(text) or empty, style) for text, style in row] for row in rows]
    widths = [max([cells(row[i].text) for row in table], default=0) for i in range(len(columns))]
    # On a terminal, a column in which nothing is said is left out.
    shown = [i for i, width in enumerate(widths) if width or room is None or not rows]
    for i, column in enumerate(columns):
        widths[i] = max(widths[i], len(column.title))
    if room is not None:
        shown, widths = _fit(columns, shown, widths, room)
    titles = [Cell(column.title, "bold") for column in columns]
    return [_line(columns, row, shown, widths) for row in (titles, *table)]


def plain(line: Line) -> str:
    """A line without its styles."""
    return "".join(cell.text for cell in line).rstrip()


def _fit(columns: Sequence[Column], shown: list[int], widths: list[int], room: int) -> tuple[list[int], list[int]]:
    least = [min(width, column.least or width) for column, width in zip(columns, widths, strict=True)]

    def total(of: list[int]) -> int:
        return sum(of[i] for i in shown) + GAP * (len(shown) - 1)

    while total(least) > room and any(columns[i].spare for i in shown):
        shown.remove(max(shown, key=lambda i: columns[i].spare))
    widths = list(widths)
    while total(widths) > room:
        widest = max(shown, key=lambda i: widths[i] - least[i])
        if widths[widest] <= least[widest]:
            break  # the terminal cuts it
        widths[widest] -= 1
    return shown, widths


def _line(columns: Sequence[Column], row: Sequence[Cell], shown: Sequence[int], widths: Sequence[int]) -> Line:
    line: Line = []
    for i in shown:
        text = cut(row[i].text, widths[i], middle=columns[i].middle)
        space = " " * (widths[i] - cells(text))
        if line:
            line.append(Cell(" " * GAP))
        line += [Cell(space), Cell(text, row[i].style)] if columns[i].right else [Cell(text, row[i].style), Cell(space)]
    return line
