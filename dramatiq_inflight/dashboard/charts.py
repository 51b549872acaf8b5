# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The last hour by the minute: how many messages ended, failed and were recovered, and how long they ran.

A minute is one wide in a drawing that is stretched to the page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from ..inspection.history import Event, EventKind
from ..inspection.inspector import MinuteView
from .words import clock, duration, number

__all__ = ["HEIGHT", "Bar", "Chart", "draw"]

#: How high a drawing is.
HEIGHT = 56

#: How much of the drawing a minute with anything in it has at the least, or nobody would see it.
LEAST = 2.0


@dataclass(frozen=True)
class Bar:
    """One minute in which there was something."""

    x: int
    height: float
    title: str


@dataclass(frozen=True)
class Chart:
    """One number by the minute."""

    name: str
    #: Which colour it has.
    kind: str
    #: All of it, and the highest minute.
    summary: str
    bars: list[Bar]


def draw(minutes: Sequence[MinuteView], events: Iterable[Event], queue: str | None = None) -> list[Chart]:
    """Draw all charts.

    Parameters:
      minutes: The oldest first.
      events: Newest first.
      queue: Whose messages; None: all.
    """
    since = minutes[0].at
    recovered: Counter[datetime] = Counter()
    dead: Counter[datetime] = Counter()
    for event in events:
        if event.at < since:
            break
        if queue in (None, event.queue):
            minute = event.at.replace(second=0, microsecond=0)
            recovered[minute] += event.kind is EventKind.RECOVERED
            dead[minute] += event.kind is EventKind.DEAD_LETTERED
    ended = sum(minute.ended for minute in minutes)
    took = {minute.at: minute.duration or 0.0 for minute in minutes}
    mean = sum(took[minute.at] * minute.ended for minute in minutes) / ended if ended else 0.0
    return [
        _counted("Ended", "ended", {minute.at: minute.ended for minute in minutes}),
        _counted("Failed", "failed", {minute.at: minute.failed for minute in minutes}),
        Chart(
            "Mean duration",
            "duration",
            f"{duration(mean)}, peak {duration(max(took.values()))}" if ended else "none",
            _bars(took, duration),
        ),
        _counted("Recovered", "recovered", {minute.at: recovered[minute.at] for minute in minutes}),
        _counted("Dead-lettered", "poison", {minute.at: dead[minute.at] for minute in minutes}),
    ]


def _counted(name: str, kind: str, values: Mapping[datetime, int]) -> Chart:
    total = sum(values.values())
    summary = f"{number(total)}, peak {number(max(values.values()))}" if total else "none"
    return Chart(name, kind, summary, _bars(values, lambda value: number(int(value))))


def _bars(values: Mapping[datetime, float], say: Callable[[float], str]) -> list[Bar]:
    most = max(values.values())
    return [
        Bar(x, round(max(LEAST, HEIGHT * value / most), 1), f"{clock(minute)[:5]}: {say(value)}")
        for x, (minute, value) in enumerate(values.items())
        if value > 0
    ]
