# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""``history``: what happened, and what happens."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta

import click

from ..inspection.documents import document
from ..inspection.history import Event, EventKind
from ..inspection.inspector import Inspector
from .failures import AWAY, away
from .output import Output, json_option
from .shapes import EVENTS, event_rows
from .source import Source
from .table import Cell
from .text import duration

__all__ = ["history"]

#: How often it is looked for new events, seconds.
PAUSE = 1.0

#: More events than are kept.
ALL = 1_000_000


@click.command(short_help="Show the history of events.")
@click.option(
    "--limit", type=click.IntRange(min=0), default=50, show_default=True, help="The last so many; 0: all that are kept."
)
@click.option("--since", type=duration, help="Only events of so long ago, or later: 90, 10m, 2h.")
@click.option(
    "--kind",
    "kinds",
    type=click.Choice([kind.value for kind in EventKind]),
    multiple=True,
    help="Only events of this kind; can be given several times.",
)
@click.option("--instance", metavar="NAME", help="Only events of this instance (pod, container or host).")
@click.option("--message", metavar="ID", help="Only events of this message.")
@click.option("--follow", "-f", is_flag=True, help="Go on with new events, until Ctrl-C.")
@json_option
@click.pass_obj
def history(
    source: Source,
    *,
    limit: int,
    since: float | None,
    kinds: Sequence[str],
    instance: str | None,
    message: str | None,
    follow: bool,
    as_json: bool,
) -> None:
    """Show what happened to workers and messages, newest first.

    With --follow the newest is the last line, and --json prints one document per line.

    Exit code 0, whether there is anything or not.
    """
    out = Output(as_json=as_json)
    inspector = source.inspector
    chosen = [EventKind(kind) for kind in kinds]
    if message is not None:
        message = source.message_id(message)
    newest = inspector.history(limit=1) if follow else []
    found = inspector.history(
        limit=limit or ALL,
        kinds=chosen,
        message_id=message,
        instance=instance,
        since=timedelta(seconds=since) if since is not None else None,
    )
    if not follow:
        if as_json:
            out.json({"events": document(found)})
        elif found:
            out.table(EVENTS, event_rows(found, short=out.terminal))
        else:
            out.note("There is nothing.")
        return
    printer = _Printer(out)
    after = newest[0].id if newest else None
    try:
        printer.print(event for event in reversed(found) if after is None or _place(event.id) <= _place(after))
        for event in _coming(out, inspector, after):
            if (
                (not chosen or event.kind in chosen)
                and message in (None, event.message_id)
                and instance in (None, event.instance)
            ):
                printer.print([event])
    except KeyboardInterrupt:
        pass  # that is how it ends


def _coming(out: Output, inspector: Inspector, after: str | None) -> Iterator[Event]:
    """All that happens, for ever; an outage is said once, and waited for."""
    gone = False
    while True:
        try:
            # All of them: with a filter, what does not match would be read again and again.
            events = inspector.history(limit=ALL, after=after)
        except AWAY as error:
            if not gone:
                out.note(f"{away(error)}; trying again")
            gone, events = True, []
        else:
            gone = False
        for event in reversed(events):
            after = event.id
            yield event
        time.sleep(PAUSE)


def _place(id: str) -> tuple[int, ...]:
    """Where an event is in the stream."""
    return tuple(int(part) for part in id.split("-"))


class _Printer:
    """Prints events one by one, as they come: what is to come decides no width."""

    def __init__(self, out: Output) -> None:
        self.out = out

    def print(self, events: Iterable[Event]) -> None:
        for event in events:
            if self.out.as_json:
                self.out.json(document(event), one_line=True)
                continue
            at, whom, actor, _, instance, text = event_rows([event])[0]
            line = [at, whom, text, actor, instance]
            gap = Cell("  ")
            self.out.line(*(piece for cell in line if cell.text for piece in (cell, gap)))
