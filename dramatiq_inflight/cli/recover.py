# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""``recover``: put back now what dead workers left behind."""

from __future__ import annotations

import sys
import threading
from typing import Any

import click

from ..inspection.documents import document
from ..inspection.inspector import WorkerView
from ..operations import Operations
from ..recovery.summary import Swept
from ..store.records import DeadIncarnation
from .failures import AWAY, not_done
from .output import Output, console_of, json_option
from .source import Source
from .table import Cell, Column

__all__ = ["recover"]

#: How often the bar is moved, seconds.
PAUSE = 0.5

#: The results of a sweep, in words.
SAID = {
    "handed_back": "returned to their queues",
    "returned": "returned to their queues in all, with messages that were fetched and had not started",
    "copied": "enqueued as copies",
    "poisoned": "sent to the dead-letter queue",
    "settled": "already finished",
    "set_aside": "set aside, because they cannot be read",
    "refused": "not enqueued, because the broker refuses them; recovery tries each again",
    "left": "left for another sweep or another worker",
    "reaped": "dead worker processes removed",
}

#: The results that somebody may have to look at.
TO_LOOK_AT = ("left", "set_aside", "refused")

DEAD = (
    Column("INSTANCE", least=12, middle=True),
    Column("HOST", least=8, middle=True, spare=1),
    Column("PID", right=True, spare=2),
    Column("WORKER", least=9, middle=True, spare=3),
    Column("WHY", least=12),
)


@click.command(short_help="Recover everything that is due now.")
@click.option("--dry-run", is_flag=True, help="Only print what is due.")
@json_option
@click.pass_obj
def recover(source: Source, dry_run: bool, as_json: bool) -> None:
    """Recover now what is due, as the workers do by themselves: it asks nobody, and takes nothing from the living.

    Ctrl-C ends it between two batches; what is left is for the next sweep.

    Exit code 1: something is left, or another worker is recovering just now, or nobody can be judged yet.  With
    --dry-run: there is something.
    """
    operations = source.operations("recover")
    out = Output(as_json=as_json)
    dead, number = operations.left_to_recover()
    if dry_run:
        unjudged = _unjudged(operations, dead)
        _say_what_is_due(out, dead, number, unjudged)
        if dead or number or unjudged:
            raise not_done()
        return
    swept, stopped = _sweep(operations, number)
    unjudged = [] if swept.locked else _unjudged(operations, operations.left_to_recover()[0])
    if as_json:
        out.json({**document(swept), "stopped": stopped, "unjudged": document(unjudged)})
    else:
        _say_what_was_done(out, swept, stopped)
        _say_who_is_unjudged(out, unjudged)
    if stopped or swept.locked or swept.failed or swept.refused or swept.left or unjudged:
        raise not_done()


def _unjudged(operations: Operations, dead: list[DeadIncarnation]) -> list[WorkerView]:
    """Return the silent workers that are not declared dead: after an outage of Redis none is, until a worker beats."""
    known = {one.id for one in dead}
    return [view for view in operations.inspector.workers() if view.state == "silent" and view.id not in known]


def _say_who_is_unjudged(out: Output, unjudged: list[WorkerView]) -> None:
    if unjudged:
        number = sum(view.running for view in unjudged)
        out.prose(
            f"{len(unjudged)} worker process{'es are' if len(unjudged) != 1 else ' is'} silent, with "
            f"{_messages(number)}, and not declared dead yet: no heartbeat has arrived for so long that it may be "
            "Redis that was away. Start a worker: it waits for a moment, and recovers."
        )


def _say_what_is_due(out: Output, dead: list[DeadIncarnation], number: int, unjudged: list[WorkerView]) -> None:
    if out.as_json:
        workers = [
            {"id": one.id, "instance": one.instance, "host": one.host, "pid": one.pid, "why": one.why} for one in dead
        ]
        out.json({"messages": number, "workers": workers, "unjudged": document(unjudged)})
        return
    _say_who_is_unjudged(out, unjudged)
    if not dead and not number:
        if not unjudged:
            out.prose("There is nothing to recover.")
        return
    out.prose(f"To recover: {_messages(number)}; {len(dead)} dead worker process{'es' if len(dead) != 1 else ''}.")
    if dead:
        out.line("")
        rows = [[Cell(text) for text in (one.instance or "?", one.host, one.pid, one.id, one.why)] for one in dead]
        out.table(DEAD, rows)


def _say_what_was_done(out: Output, swept: Swept, stopped: bool) -> None:
    for name, text in SAID.items():
        number = getattr(swept, name)
        if number and not (name == "returned" and number == swept.handed_back):
            out.line(Cell(f"{number:6}  ", "bold"), Cell(text, "yellow" if name in TO_LOOK_AT else ""))
    if swept.locked:
        out.prose("Another worker is recovering just now, and does the same: nothing was done here.")
    elif swept.failed:
        out.prose(
            "Not all could be put back: the broker or Redis is away. Nothing is lost; the next sweep tries again."
        )
    elif stopped:
        out.prose("Stopped; what is left is for the next sweep.")
    elif not swept.progress and not swept.left:
        out.prose("Nothing was due.")


def _messages(number: int) -> str:
    return f"{number} message{'s' if number != 1 else ''}"


def _sweep(operations: Operations, number: int) -> tuple[Swept, bool]:
    """Recover in a thread, so that it can be watched and stopped.  Returns also whether it was stopped."""
    stop = threading.Event()
    result: list[Swept] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            result.append(operations.recover(stop.is_set))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        if sys.stderr.isatty() and number:
            _show_progress(operations, thread, number)
        else:
            thread.join()
    except KeyboardInterrupt:
        stop.set()
        thread.join()  # a second Ctrl-C ends it here and now: nothing is lost by that either
    if failure:
        raise failure[0]
    return result[0], stop.is_set()


def _show_progress(operations: Operations, thread: threading.Thread, total: int) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns: list[Any] = [TextColumn("recovering"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns, console=console_of(sys.stderr), transient=True) as progress:
        task = progress.add_task("recovering", total=total)
        while thread.is_alive():
            thread.join(PAUSE)
            try:
                left = operations.left_to_recover()[1]
            except AWAY:
                continue  # the thread says so, if it lasts
            # Others may die meanwhile.
            total = max(total, left)
            progress.update(task, total=total, completed=total - left)
