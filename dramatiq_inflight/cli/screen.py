# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The picture that ``watch`` draws: it fits any terminal, and has the most of what there is most of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..inspection.history import Event
from ..inspection.inspector import MessageView, Overview
from .shapes import BRIEF_EVENTS, MESSAGES, TALLIES, WORKERS, event_rows, message_rows, tally_rows, worker_rows
from .status import counts
from .table import Cell, Column, Line, cells, cut, lines
from .text import clean, when

__all__ = ["Seen", "draw", "share"]

#: Worst first.
ORDER = {"dead": 0, "silent": 1, "draining": 2, "alive": 3}

#: The last lines: one that is empty, and the help.
FOOT = 2


@dataclass(frozen=True)
class Seen:
    """The data that is drawn."""

    namespace: str
    overview: Overview
    #: The oldest of those that run.
    messages: list[MessageView]
    #: Newest first.
    events: list[Event]


@dataclass(frozen=True)
class _Section:
    columns: Sequence[Column]
    rows: list[list[Cell]]
    #: How many there are, with those that are not among the rows.
    total: int


def draw(seen: Seen, width: int, height: int, *, help: str, trouble: str = "") -> list[Line]:
    """The lines of a picture of that size.

    Parameters:
      help: The keys that can be pressed.
      trouble: Why the picture is old; empty if it is not.
    """
    overview = seen.overview
    right = f"{when(overview.at)} UTC"
    left = cut(f"dramatiq_inflight  {clean(seen.namespace)}", max(0, width - len(right) - 2))
    head = [[Cell(left, "bold"), Cell(" " * (width - cells(left) - len(right))), Cell(right, "dim")]]
    head += [[Cell(f"{name:9}  ", "bold"), *pieces] for name, pieces in counts(overview)]
    foot: Line = [Cell(cut(clean(trouble), width), "bold red")] if trouble else [Cell(cut(help, width), "dim")]
    sections = [section for section in _sections(seen) if section.rows]
    # Each section has an empty line and the titles; those that have no room for a row are left out.
    room = height - len(head) - FOOT
    while sections and room < 3 * len(sections):
        sections.pop()
    picture = head
    heights = share([len(section.rows) for section in sections], room - 2 * len(sections))
    for section, rows in zip(sections, heights, strict=True):
        picture += [[], *_drawn(section, rows, width)]
    picture = picture[: max(0, height - 1)]
    picture += [[] for _ in range(height - 1 - len(picture))]
    return [*picture, foot]


def share(wants: Sequence[int], room: int) -> list[int]:
    """Return how many lines each gets: a line each in turn, until all have what they want or there is no room."""
    got = [0] * len(wants)
    while room > 0 and got != list(wants):
        for i, wanted in enumerate(wants):
            if got[i] < wanted and room > 0:
                got[i] += 1
                room -= 1
    return got


def _sections(seen: Seen) -> list[_Section]:
    overview = seen.overview
    workers = sorted(overview.workers, key=lambda worker: (ORDER[worker.state], -worker.running, worker.instance))
    tallies = sorted(overview.tallies, key=lambda tally: (-tally.running - tally.waiting, tally.queue, tally.actor))
    return [
        _Section(TALLIES, tally_rows(tallies), len(tallies)),
        _Section(MESSAGES, message_rows(seen.messages), max(overview.running, len(seen.messages))),
        _Section(WORKERS, worker_rows(workers[:100], overview.at), len(workers)),
        _Section(BRIEF_EVENTS, event_rows(seen.events, brief=True), len(seen.events)),
    ]


def _drawn(section: _Section, rows: int, width: int) -> list[Line]:
    """The section, whose last line says how many are missing, if any is, and there is room to say so."""
    left_out = section.total - rows
    of_events = section.columns is BRIEF_EVENTS
    if left_out > 0 and rows > 1 and not of_events:
        rows -= 1
        last: list[Line] = [[Cell(f"... and {left_out + 1} more", "dim")]]
    else:
        last = []
    return [*lines(section.columns, section.rows[:rows], width), *last]
