# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Tables that the code declares: ``python -m docs.tables`` writes them into the pages, between two comments.

So the pages can be read in the repository as well, and a declaration is the one place to edit.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from pathlib import Path

from dramatiq_inflight.config.declaration import Section
from dramatiq_inflight.config.settings import SETTINGS
from dramatiq_inflight.doctor.examination import SECTIONS
from dramatiq_inflight.doctor.findings import Code
from dramatiq_inflight.inspection.history import EventKind

__all__ = ["PAGES", "updated", "write"]

FOLDER = Path(__file__).parent

#: The pages that have such tables.
PAGES = ("doctor", "metrics", "settings")

#: A place for a table: which one, and what is there now.
PLACE = re.compile(
    r"(?P<begin>^\.\. begin (?P<table>\w+)(?: (?P<part>.+))?\n)[\s\S]*?(?P<end>^\.\. end$)", re.MULTILINE
)

HEAD = """.. list-table::
   :header-rows: 1
   :widths: 38 20 42
   :class: stacks settings

   * - argument, environment
     - default
     - meaning
"""


def fill(text: str) -> str:
    """Wrap a text into lines."""
    return textwrap.fill(text, 116, break_on_hyphens=False, break_long_words=False)


def settings(section: str) -> str:
    """The settings of a section."""
    rows = []
    for one in SETTINGS.values():
        if one.section is not Section(section):
            continue
        name = f"``{one.name}``" + " *" * one.is_option
        first = f"| {name}\n       | ``{one.variable}``" if one.variable else name
        meaning = textwrap.indent(fill(one.meaning), " " * 7).strip()
        rows.append(f"   * - {first}\n     - {one.shown_default}\n     - {meaning}\n")
    return HEAD + "".join(rows)


def events(whose: str) -> str:
    """The events of ``workers``, or of ``messages``."""
    kinds = [kind for kind in EventKind if kind.of_worker == (whose == "workers")]
    return "".join(f"``{kind.value}``\n{textwrap.indent(fill(str(kind.__doc__)), '    ')}\n" for kind in kinds)


def findings(section: str) -> str:
    """Return the rows of a section of the doctor's findings."""
    return "\n".join(
        f"``{code.name}``: {' or '.join(code.severities)}\n"
        f"{textwrap.indent(fill(code.consequence), '    ')}\n\n"
        f"{textwrap.indent(fill(f'*Remedy:* {code.remedy}'), '    ')}\n"
        for module in SECTIONS[section]
        for code in vars(module).values()
        if isinstance(code, Code)
    )


TABLES: dict[str, Callable[[str], str]] = {"events": events, "findings": findings, "settings": settings}


def updated(page: str) -> str:
    """The text of a page with its tables as the code declares them."""

    def table(place: re.Match[str]) -> str:
        return f"{place['begin']}\n{TABLES[place['table']](place['part'])}\n{place['end']}"

    return PLACE.sub(table, (FOLDER / f"{page}.rst").read_text("utf-8"))


def write() -> None:
    """Write the tables into the pages."""
    for page in PAGES:
        (FOLDER / f"{page}.rst").write_text(updated(page), "utf-8")


if __name__ == "__main__":
    write()
