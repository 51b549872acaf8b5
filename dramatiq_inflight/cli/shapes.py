# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The tables: their columns, and a row for each view."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from ..inspection.documents import Cause
from ..inspection.history import Event, EventKind
from ..inspection.inspector import Aside, DeadLetterView, DelayedView, MessageView, QueueView, Tally, WorkerView
from .table import Cell, Column
from .text import age, when

__all__ = [
    "ASIDES",
    "CAUSES",
    "DEAD_LETTERS",
    "DELAYED",
    "EVENTS",
    "MESSAGES",
    "QUEUES",
    "ROUTINE",
    "STYLES",
    "TALLIES",
    "WORKERS",
    "aside_rows",
    "cause_rows",
    "dead_letter_rows",
    "delayed_rows",
    "event_rows",
    "message_rows",
    "process",
    "queue_rows",
    "tally_rows",
    "worker_rows",
]

STYLES = {
    "alive": "green",
    "draining": "cyan",
    "silent": "yellow",
    "dead": "red",
    "recovering": "yellow",
    "requeued": "yellow",
    "dead_lettered": "red",
    "aside": "red",
    "error": "bold red",
    "warning": "yellow",
    "note": "cyan",
    "ok": "green",
}

#: The style of an event by its mark on the web page; what every deploy brings is dim.
MARK_STYLES = {
    "cleared": "green",
    "recovered": "yellow",
    "died": "red",
    "aside": "red",
    "poison": "bold red",
}

#: The events that an overview leaves out: every deploy brings them.
ROUTINE = frozenset({EventKind.JOINED, EventKind.LEFT, EventKind.DEFERRED})


def event_style(kind: EventKind | None) -> str:
    """The style of an event; one of a later version has none."""
    return "" if kind is None else "dim" if kind in ROUTINE else MARK_STYLES.get(kind.mark, "")


def process(instance: str, pid: str) -> str:
    """A process by its instance and pid: those of one host have one instance."""
    return f"{instance}/{pid}" if instance and pid else instance


TALLIES = (
    Column("QUEUE", least=8, middle=True),
    Column("ACTOR", least=8, middle=True),
    Column("RUNNING", right=True),
    Column("WAITING", right=True),
    Column("OLDEST", right=True),
)


def tally_rows(tallies: Iterable[Tally]) -> list[list[Cell]]:
    return [
        [
            Cell(tally.queue),
            Cell(tally.actor),
            Cell(str(tally.running)),
            Cell(str(tally.waiting), "yellow" if tally.waiting else ""),
            Cell(age(tally.oldest) if tally.running else ""),
        ]
        for tally in tallies
    ]


#: An id is whole: it is what one copies.
MESSAGES = (
    Column("MESSAGE"),
    Column("STATE"),
    Column("AGE", right=True),
    Column("DONE", right=True, spare=1),
    Column("ACTOR", least=10, middle=True),
    Column("QUEUE", least=8, middle=True, spare=2),
    Column("INSTANCE/PID", least=13, middle=True),
    Column("RUN", right=True, spare=3),
    Column("CRASHES", right=True, spare=1),
)


def state_of(view: MessageView) -> Cell:
    """The state, and whether it ends in the dead-letter queue."""
    if view.dead_letter:
        return Cell(f"{view.state} (dead letter)", STYLES["dead_lettered"])
    return Cell(view.state, STYLES.get(view.state, ""))


def message_rows(views: Iterable[MessageView]) -> list[list[Cell]]:
    return [
        [
            Cell(view.id),
            state_of(view),
            Cell(age(view.age) if view.started else ""),
            Cell("" if view.progress is None else f"{view.progress:.0%}"),
            Cell(view.actor),
            Cell(view.queue),
            Cell(process(view.instance, view.pid), "" if view.worker_alive else "red"),
            Cell(str(view.run)),
            Cell(str(view.crashes), "red" if view.crashes else ""),
        ]
        for view in views
    ]


QUEUES = (
    Column("QUEUE", least=8, middle=True),
    Column("DEPTH", right=True),
    Column("DELAYED", right=True),
    Column("UNACKED", right=True, spare=2),
    Column("IN FLIGHT", right=True, spare=1),
    Column("DEAD", right=True),
    Column("OLDEST", right=True),
    Column("IN/s", right=True, spare=3),
    Column("OUT/s", right=True, spare=3),
)


def queue_rows(views: Iterable[QueueView]) -> list[list[Cell]]:
    def rate(value: float | None) -> Cell:
        return Cell("" if value is None else f"{value:.1f}")

    return [
        [
            Cell(view.name),
            Cell(str(view.depth)),
            Cell(str(view.delayed)),
            Cell("" if view.unacked is None else str(view.unacked)),
            Cell(str(view.in_flight)),
            Cell(str(view.dead_letters), "red" if view.dead_letters else ""),
            Cell(age(view.oldest) if view.oldest else ""),
            rate(view.rate_in),
            rate(view.rate_out),
        ]
        for view in views
    ]


ASIDES = (
    Column("MESSAGE"),
    Column("STATE"),
    Column("SINCE (UTC)"),
    Column("ACTOR", least=10, middle=True),
    Column("QUEUE", least=8, middle=True, spare=2),
    Column("BYTES", right=True, spare=1),
    Column("REASON", least=20),
)


def aside_rows(views: Iterable[Aside], states: Iterable[str]) -> list[list[Cell]]:
    return [
        [
            Cell(view.id),
            Cell(state, STYLES.get(state, "")),
            Cell(when(view.at)),
            Cell(view.actor),
            Cell(view.queue),
            Cell(str(view.size)),
            Cell(view.reason, "red"),
        ]
        for view, state in zip(views, states, strict=True)
    ]


CAUSES = (
    Column("LETTERS", right=True),
    Column("ACTOR", least=10, middle=True),
    Column("CAUSE", least=24),
)


def cause_rows(causes: Iterable[Cause]) -> list[list[Cell]]:
    """The rows of numbers, causes and actors."""
    return [[Cell(str(one.number)), Cell(one.actor), Cell(one.cause, "red")] for one in causes]


DELAYED = (
    Column("MESSAGE"),
    Column("DUE IN", right=True),
    Column("ATTEMPT", right=True),
    Column("ACTOR", least=10, middle=True),
    Column("QUEUE", least=8, middle=True, spare=2),
    Column("LAST FAILURE", least=20),
)


def delayed_rows(views: Iterable[DelayedView], now: datetime) -> list[list[Cell]]:
    return [
        [
            Cell(view.id),
            Cell(age((view.at - now).total_seconds()) if view.at else ""),
            Cell(str(view.attempt), "yellow" if view.attempt > 1 else ""),
            Cell(view.actor),
            Cell(view.queue),
            Cell(view.reason, "red"),
        ]
        for view in views
    ]


DEAD_LETTERS = (
    Column("MESSAGE"),
    Column("DEAD FOR", right=True),
    Column("ACTOR", least=10, middle=True),
    Column("QUEUE", least=8, middle=True, spare=2),
    Column("REASON", least=24),
)


def dead_letter_rows(views: Iterable[DeadLetterView], now: datetime) -> list[list[Cell]]:
    return [
        [
            Cell(view.id),
            Cell(age((now - view.at).total_seconds()) if view.at else ""),
            Cell(view.actor),
            Cell(view.queue),
            Cell(view.reason, "red"),
        ]
        for view in views
    ]


WORKERS = (
    Column("INSTANCE/PID", least=16, middle=True),
    Column("STATE"),
    Column("RUNNING", right=True),
    Column("HEARTBEAT", right=True, spare=1),
    Column("UP", right=True, spare=2),
    Column("HOST", least=8, middle=True, spare=4),
    Column("QUEUES", least=16, spare=5),
    Column("WORKER", spare=6),
    Column("WHY", least=12),
)


def worker_rows(views: Iterable[WorkerView], now: datetime) -> list[list[Cell]]:
    return [
        [
            Cell(process(view.instance, view.pid) or "?"),
            Cell(view.state, STYLES.get(view.state, "")),
            Cell(str(view.running)),
            Cell(_heartbeat(view)),
            Cell(age((now - view.booted).total_seconds()) if view.booted else ""),
            Cell(view.host),
            Cell(",".join(queue for queue in view.queues if not queue.endswith(".DQ"))),
            Cell(view.id),
            Cell(view.why),
        ]
        for view in views
    ]


def _heartbeat(view: WorkerView) -> str:
    """Return how long it is still believed to live, or for how long it has not been."""
    seconds = view.expires_in_ms / 1000
    if view.state == "dead":
        return ""
    return f"{age(seconds)} left" if seconds >= 0 else f"{age(-seconds)} late"


EVENTS = (
    Column("UTC"),
    Column("WORKER OR MESSAGE"),
    Column("ACTOR", least=8, middle=True, spare=1),
    Column("QUEUE", least=8, middle=True, spare=3),
    Column("INSTANCE/PID", least=13, middle=True, spare=2),
    Column("EVENT", least=23),
)

#: The same in a picture, where no id is copied.
BRIEF_EVENTS = (
    Column("UTC"),
    Column("WORKER OR MESSAGE", least=17, middle=True),
    Column("ACTOR", least=8, middle=True, spare=1),
    Column("INSTANCE/PID", least=13, middle=True, spare=2),
    Column("EVENT", least=36),
)


def event_rows(events: Sequence[Event], *, brief: bool = False, short: bool = False) -> list[list[Cell]]:
    """A row for each event.

    Parameters:
      brief: For `BRIEF_EVENTS`.
      short: Times without the year, and without the day where that is the same for all.
    """
    rows = []
    day = brief or (short and len({when(event.at)[:10] for event in events}) == 1)
    for event in events:
        at = when(event.at)
        who = process(event.instance, event.pid) or event.worker
        cells = [
            Cell(at[11:] if day else at[5:] if short else at, "dim"),
            Cell(who if event.of_worker else event.message_id),
            Cell(event.actor),
            Cell(event.queue),
            Cell("" if event.of_worker else who),
            Cell(event.text, event_style(event.kind)),
        ]
        if brief:
            del cells[3]
        rows.append(cells)
    return rows
