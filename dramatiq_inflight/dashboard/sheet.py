# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""All that a list has, as comma-separated values: ``?format=csv``."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import fields
from datetime import datetime
from typing import Any

from flask import Response, request

from .payload import seen

__all__ = ["as_csv", "is_wanted"]

#: Where a spreadsheet takes a text for a formula: at its beginning, and after a semicolon, a tab or a line break,
#: since some spreadsheets separate cells by these, and heed no quotes then.  Some take wide signs as well.
FORMULA = re.compile(
    r"""\A(?=[\t\n])|(?:\A|(?<=[;\t\n]))(?=(?:[^\S\t\n]|")*[=+\-@\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}"""
    r"""\N{FULLWIDTH HYPHEN-MINUS}\N{FULLWIDTH COMMERCIAL AT}])"""
)

#: So many rows are sent at once.
AT_ONCE = 500


def is_wanted() -> bool:
    """Return True if the visitor has asked for it."""
    return request.args.get("format") == "csv"


def as_csv(name: str, view: type[Any], found: Iterable[Any]) -> Response:
    """Return an answer with a line for each view, and its fields as columns; times are UTC, in ISO 8601.

    Parameters:
      name: Of the file.
      view: The class of the views.
    """
    # A traceback has many lines.
    names = [field.name for field in fields(view) if field.name != "traceback"]
    names += ["text"] * hasattr(view, "text")  # of an event: what happened, in a few words
    answer = Response(_lines(names, found), content_type="text/csv; charset=utf-8")
    answer.headers["Content-Disposition"] = f"attachment; filename={name}.csv"
    return answer


def _lines(names: list[str], found: Iterable[Any]) -> Iterator[str]:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(names)
    for number, one in enumerate(found, 1):
        writer.writerow([_cell(getattr(one, name)) for name in names])
        if number % AT_ONCE == 0:
            yield text.getvalue()
            text.seek(0)
            text.truncate()
    yield text.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if not isinstance(value, str):
        return getattr(value, "value", value)
    return FORMULA.sub("'", seen(value))
