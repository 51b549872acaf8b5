# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The lives of worker processes, made of the history and of the processes that are there now."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from ..inspection.history import Event, EventKind
from ..inspection.inspector import WorkerView

__all__ = ["Life", "lives"]

#: One that joined so lately may be missing among the workers that were read a moment before.
LATELY = timedelta(seconds=5)


@dataclass
class Life:
    """One worker process, from its boot to its end."""

    worker: str
    instance: str
    pid: str
    start: datetime
    #: ``None``: it is there.
    end: datetime | None = None
    #: ``alive``, ``draining``, ``silent`` or ``dead`` as of a worker; ``left``, ``died``; ``gone``: nobody knows how.
    state: str = "gone"
    why: str = ""
    #: When all it left behind was recovered.
    cleared: datetime | None = None
    #: When it came back after it had been declared dead.
    revived: datetime | None = None

    @property
    def died(self) -> bool:
        """True if it did not leave in order, as far as anybody can tell."""
        return self.state in ("died", "dead", "silent")

    @property
    def unrecovered(self) -> bool:
        """True if it died, and what it left behind waits."""
        return self.died and self.cleared is None


def lives(events: Sequence[Event], workers: Iterable[WorkerView], since: datetime, now: datetime) -> list[Life]:
    """All lives that reach into a stretch of time, by their start.

    Parameters:
      events: Newest first, from before that stretch if there are.
    """
    found: dict[str, Life] = {}
    for event in reversed(events):
        if event.of_worker and event.worker:
            _tell(found, event, since)
    present = set()
    for worker in workers:
        present.add(worker.id)
        booted = worker.booted or since
        life = found.setdefault(worker.id, Life(worker.id, worker.instance, worker.pid, min(booted, now)))
        if life.state == "gone":
            life.state, life.why = worker.state, worker.why
        if worker.state == "silent" and life.end is None:
            life.end = now + timedelta(milliseconds=min(0, worker.expires_in_ms))
    for life in found.values():
        if life.state == "died" and life.worker not in present:
            life.cleared = life.cleared or life.end  # all of it is; the history has lost when
        if life.state == "gone" and life.end is None:
            if now - life.start < LATELY:
                life.state = "alive"
            else:
                life.end = life.start
    reaching = [
        life for life in found.values() if life.unrecovered or max(life.end or now, life.cleared or since) > since
    ]
    return sorted(reaching, key=lambda life: (life.start, life.worker))


def _tell(found: dict[str, Life], event: Event, since: datetime) -> None:
    life = found.get(event.worker)
    if life is None:
        start = event.at if event.kind is EventKind.JOINED else min(since, event.at)
        life = found[event.worker] = Life(event.worker, event.instance, event.pid, start)
    if event.kind in (EventKind.JOINED, EventKind.REVIVED):
        if life.died or event.kind is EventKind.REVIVED:
            life.end, life.state, life.why, life.cleared, life.revived = None, "gone", "", None, event.at
    elif event.kind is EventKind.LEFT:
        life.end, life.state = event.at, "left"
    elif event.kind is EventKind.DIED:
        life.end, life.state, life.why = event.at, "died", event.why
    elif event.kind is EventKind.CLEARED:
        life.cleared = event.at
        life.end = life.end or event.at
        if life.state == "gone":
            life.state = "died"
