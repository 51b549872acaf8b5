# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Lists that may be long: so many of them, and a word about the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from ..inspection.documents import document
from .output import Output
from .table import Cell, Column

__all__ = ["limit_option", "listing", "note_rest"]

limit_option = click.option(
    "--limit", type=click.IntRange(min=0), default=100, show_default=True, help="So many at the most; 0: all."
)


def listing(
    out: Output,
    name: str,
    found: Sequence[Any],
    limit: int,
    table: tuple[Sequence[Column], Callable[[Sequence[Any]], Sequence[Sequence[Cell]]]],
) -> None:
    """Print the first views of a list.

    Parameters:
      name: The key of the views in a document.
      limit: How many to print at the most; 0: all.
      table: The columns, and what makes rows of views.
    """
    shown = found[: limit or None]
    if out.as_json:
        out.json({"total": len(found), name: document(shown)})
        return
    columns, rows = table
    if shown:
        out.table(columns, rows(shown))
    else:
        out.note("There are none.")
    note_rest(out, found, shown)


def note_rest(out: Output, found: Sequence[Any], shown: Sequence[Any]) -> None:
    """Print how many of a list are not shown, if any is left out."""
    if len(shown) < len(found):
        out.note(f"... and {len(found) - len(shown)} more; --limit 0 shows all")
