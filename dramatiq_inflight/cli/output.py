# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Where it all goes: colours and cut tables to a terminal, plain aligned text elsewhere, or JSON."""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ..store.errors import masked
from .table import Cell, Column, Line, lines, plain
from .text import clean

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

__all__ = ["LogHandler", "Output", "block", "console_of", "json_option", "styled"]

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs; times are ISO 8601, UTC.")


def console_of(file: Any) -> Console:
    """A console that takes no text for markup, and writes no colour where that is not wanted."""
    from rich.console import Console  # noqa: PLC0415 - scripts do without

    return Console(
        file=file,
        force_terminal=file.isatty(),
        color_system=None if os.environ.get("NO_COLOR") else "auto",
        markup=False,
        highlight=False,
        emoji=False,
    )


def styled(line: Line) -> Text:
    """A line as the terminal gets it."""
    from rich.text import Text  # noqa: PLC0415 - as above

    return Text.assemble(*((cell.text, cell.style) for cell in line), no_wrap=True, overflow="ignore", end="")


def block(of: Sequence[Line]) -> Text:
    """Lines of which none becomes two."""
    from rich.text import Text  # noqa: PLC0415 - as above

    text = Text("\n", end="").join([styled(line) for line in of])
    text.no_wrap, text.overflow = True, "crop"
    return text


class LogHandler(logging.Handler):
    """A handler that prints each log record in one line on standard error, if the application has set up no logging."""

    def emit(self, record: logging.LogRecord) -> None:
        print(clean(masked(record.getMessage())), file=sys.stderr)  # where a progress bar is, it makes room for this


class Output:
    """Prints what a command has found."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self.terminal = not as_json and sys.stdout.isatty()

    @functools.cached_property
    def console(self) -> Console:
        """The terminal."""
        return console_of(sys.stdout)

    @property
    def room(self) -> int | None:
        """How wide a table may be."""
        return self.console.width if self.terminal else None

    def json(self, document: Any, *, one_line: bool = False) -> None:
        """Print a document.  It is in ASCII, so nothing in it does anything to a terminal."""
        click.echo(json.dumps(document, indent=None if one_line else 2))

    def line(self, *pieces: Cell | str) -> None:
        """Print a line of pieces that may be anybody's texts."""
        self.print([Cell(clean(p.text), p.style) if isinstance(p, Cell) else Cell(clean(p)) for p in pieces])

    def print(self, line: Line) -> None:
        """Print a line that is clean."""
        if self.terminal:
            self.console.print(styled(line), soft_wrap=True)
        else:
            click.echo(plain(line))

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> None:
        """Print a table."""
        for line in lines(columns, rows, self.room):
            if self.terminal:
                self.console.print(styled(line), overflow="crop", no_wrap=True)
            else:
                self.print(line)

    def fields(self, pairs: Sequence[tuple[str, Cell]]) -> None:
        """Print names and values, one below the other."""
        width = max(len(name) for name, _ in pairs)
        for name, value in pairs:
            self.line(Cell(f"{name:{width}}  ", "bold"), value)

    def prose(self, text: str, *, indent: int = 0) -> None:
        """Print sentences; a terminal gets them in lines of whole words."""
        whole = " " * indent + clean(text)
        lines = textwrap.wrap(whole, self.room, subsequent_indent=" " * indent) if self.room else [whole]
        for line in lines:
            self.line(line)

    def note(self, text: str) -> None:
        """Say something beside the output, on standard error."""
        click.echo(clean(text), err=True)
