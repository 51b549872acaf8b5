# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""``status``: all at a glance."""

from __future__ import annotations

import click

from ..inspection.documents import document, glance, worker_states
from ..inspection.history import Event
from ..inspection.inspector import Inspector, Overview
from ..inspection.views import WAITING_SHOWN
from .output import Output, json_option
from .shapes import EVENTS, ROUTINE, STYLES, TALLIES, WORKERS, event_rows, tally_rows, worker_rows
from .source import Source
from .table import Cell
from .text import age, when

__all__ = ["counts", "notable", "status"]

#: How many of the last events are looked at for notable ones, and how many of those are shown.
LOOKED_AT, SHOWN = 500, 5

#: How many of the workers that do not live are shown.
LOST_SHOWN = 10


@click.command(short_help="Show all at a glance.")
@json_option
@click.pass_obj
def status(source: Source, as_json: bool) -> None:
    """Show all at a glance: workers, what is in flight, what is set aside, what happened last.

    Exit code 0, whatever there is to see: "doctor" judges.
    """
    out = Output(as_json=as_json)
    inspector = source.inspector
    overview = inspector.overview()
    events = notable(inspector, SHOWN)
    if as_json:
        out.json(document(glance(overview, inspector.namespace, events)))
        return
    out.fields(
        [
            ("namespace", Cell(inspector.namespace)),
            ("time", Cell(f"{when(overview.at)} UTC")),
        ]
    )
    for name, pieces in counts(overview):
        out.line(Cell(f"{name:9}  ", "bold"), *pieces)
    if overview.tallies:
        out.line("")
        out.table(TALLIES, tally_rows(overview.tallies))
        if overview.waiting > WAITING_SHOWN:
            out.line(f"Of those that wait, the first {WAITING_SHOWN} are counted here.")
    lost = [worker for worker in overview.workers if not worker.is_alive]
    if lost:
        out.line("")
        out.table(WORKERS, worker_rows(lost[:LOST_SHOWN], overview.at))
        if len(lost) > LOST_SHOWN:
            out.line(f'... and {len(lost) - LOST_SHOWN} more: see "workers"')
    if events:
        out.line("")
        out.table(EVENTS, event_rows(events, short=out.terminal))


def notable(inspector: Inspector, limit: int) -> list[Event]:
    """The last notable events, newest first."""
    events = inspector.history(limit=LOOKED_AT)
    return [event for event in events if event.kind not in ROUTINE][:limit]


def counts(overview: Overview) -> list[tuple[str, list[Cell]]]:
    """The numbers that come first, in pieces."""
    workers: list[Cell] = []
    for state, number in worker_states(overview.workers).items():
        if number or state in ("alive", "dead"):
            gap = [Cell(", ")] if workers else []
            workers += [*gap, Cell(f"{number} {state}", STYLES[state] if number else "dim")]
    flight = [Cell(f"{overview.running} running, "), Cell(f"{overview.waiting} waiting")]
    if overview.running:
        flight.append(Cell(f", oldest {age(overview.oldest)}"))
    aside = Cell(str(overview.aside), STYLES["aside"] if overview.aside else "dim")
    return [("workers", workers), ("in flight", flight), ("set aside", [aside])]
