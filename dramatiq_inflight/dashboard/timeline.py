# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The last hours as swim lanes: where each bar and each mark goes, in percent of the width.

Percentages let one drawing fit a phone and a desk without scaling its text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ..inspection.history import Event, EventKind
from ..inspection.inspector import WorkerView
from .lives import Life, lives
from .tail import TROUBLE
from .words import clock, zone

__all__ = ["HOURS", "Bar", "Lane", "Mark", "Timeline", "draw"]

#: Where on the drawing a time is.
Scale = Callable[[datetime], float]

#: The stretches to choose from, and the minutes between ticks.
HOURS = {1: 10, 6: 60, 24: 240}

#: So many lanes are drawn, and so many rows of bars in each; half of them where there are many lanes.
LANES = 24
ROWS = 6

#: Marks nearer to each other than this, in percent, are drawn as one.
NEAR = 2.0


@dataclass(frozen=True)
class Bar:
    """A life, or the time in which what it left behind was not recovered."""

    x: float
    width: float
    row: int
    #: ``life``, or ``unrecovered``.
    kind: str
    #: How it ended, for the mark at its end.
    state: str
    title: str
    #: Whether the mark at its end falls into the drawing.
    ends: bool


@dataclass
class Mark:
    """The events of one instance's messages at about one time."""

    x: float
    recovered: int = 0
    poison: int = 0
    cleared: int = 0
    revived: int = 0
    lines: list[str] = field(default_factory=list)

    @property
    def shapes(self) -> list[tuple[str, int]]:
        """Return the kinds to draw side by side, with the number of each; an ordinary clearing only by itself."""
        numbers = {"poison": self.poison, "recovered": self.recovered, "joined": self.revived}
        return [(kind, number) for kind, number in numbers.items() if number] or [("cleared", 1)]

    @property
    def title(self) -> str:
        """The first events, a line for each."""
        more = len(self.lines) - 8
        return "\n".join([*self.lines[:8], *([f"and {more} more"] if more > 0 else [])])


@dataclass
class Lane:
    """One instance."""

    name: str
    lives: list[Life] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    rows: int = 1
    #: How many processes have no row of their own.
    merged: int = 0
    deaths: int = 0
    recovered: int = 0
    poison: int = 0
    revived: int = 0
    trouble: bool = False

    @property
    def summary(self) -> str:
        """In words, for those who cannot see it."""
        said = [f"{self.deaths} died"] if self.deaths else []
        said += [f"{self.revived} revived"] if self.revived else []
        said += [f"{self.recovered} messages recovered"] if self.recovered else []
        said += [f"{self.poison} dead-lettered"] if self.poison else []
        return f"{self.name or 'unknown'}: {', '.join(said) or 'nothing happened'}"


@dataclass(frozen=True)
class Timeline:
    """All of it."""

    hours: int
    lanes: list[Lane]
    #: How many instances there are.
    instances: int
    #: Where the ticks are, and what time that is.
    ticks: list[tuple[float, str]]


def draw(events: Sequence[Event], workers: Iterable[WorkerView], now: datetime, hours: int) -> Timeline:
    """Lay it out.

    Parameters:
      events: Newest first.
    """
    since = now - timedelta(hours=hours)

    def x(at: datetime) -> float:
        return round(100 * min(1.0, max(0.0, (at - since) / (now - since))), 2)

    lanes: dict[str, Lane] = {}
    for life in lives(events, workers, since, now):
        lane = lanes.setdefault(life.instance, Lane(life.instance))
        lane.lives.append(life)
        lane.deaths += life.died and (life.end or now) >= since
        lane.trouble = lane.trouble or life.unrecovered
    for event in events:
        if event.at < since:
            break
        _mark(lanes, event, x)
    chosen = sorted(lanes.values(), key=lambda lane: lane.name)
    if len(chosen) > LANES:
        chosen.sort(key=lambda lane: (not lane.trouble, -lane.deaths - lane.poison, -lane.recovered, lane.name))
        chosen = chosen[:LANES]
    rows = ROWS if len(chosen) <= LANES // 2 else ROWS // 2
    for lane in chosen:
        # Where there are more than rows, those that died are to be seen.
        crowded = len(lane.lives) > rows
        for life in sorted(lane.lives, key=lambda life: not life.died) if crowded else lane.lives:
            _add(lane, life, rows, x, (since, now))
    return Timeline(hours, chosen, len(lanes), _ticks(since, now, hours, x))


def _add(lane: Lane, life: Life, rows: int, x: Scale, stretch: tuple[datetime, datetime]) -> None:
    since, now = stretch
    start, end = x(life.start), x(life.end or now)
    taken = {bar.row for bar in lane.bars if bar.x < end and start < bar.x + bar.width}
    free = [row for row in range(rows) if row not in taken]
    if not free:
        lane.merged += 1
        return
    row = free[0]
    lane.rows = max(lane.rows, row + 1)
    title = f"{life.instance or 'unknown'}, process {life.pid or '?'}, from {clock(life.start)}"
    ending = f": {life.state}" + (f" {clock(life.end)}" if life.end else "") + (f", {life.why}" if life.why else "")
    if life.revived:
        ending += f"; revived {clock(life.revived)}, after it had been declared dead"
    ends = life.end is not None and life.end >= since
    lane.bars.append(Bar(start, max(0.3, round(end - start, 2)), row, "life", life.state, title + ending, ends))
    if life.died:
        cleared = life.cleared or now
        waited = f"its messages were recovered {clock(life.cleared)}" if life.cleared else "not recovered yet"
        width = max(0.0, round(x(cleared) - end, 2))
        if width > 0:
            lane.bars.append(Bar(end, width, row, "unrecovered", life.state, f"{title}: {waited}", False))


def _mark(lanes: dict[str, Lane], event: Event, x: Scale) -> None:
    recovered = event.kind is EventKind.RECOVERED
    poison = event.kind in TROUBLE
    cleared = event.kind is EventKind.CLEARED
    revived = event.kind is EventKind.REVIVED
    if not (recovered or poison or cleared or revived) or not event.instance:
        return  # what nobody knows the instance of has no lane
    lane = lanes.setdefault(event.instance, Lane(event.instance))
    at = x(event.at)
    mark = lane.marks[-1] if lane.marks else None
    if mark is None or mark.x - at > NEAR:
        mark = Mark(at)
        lane.marks.append(mark)
    mark.recovered += recovered
    mark.poison += event.kind is EventKind.POISON or event.kind is EventKind.CONDEMNED
    mark.cleared += cleared
    mark.revived += revived
    lane.revived += revived
    lane.recovered += recovered
    lane.poison += event.kind is EventKind.POISON or event.kind is EventKind.CONDEMNED
    mark.lines.append(f"{clock(event.at)} {event.actor} {event.text}".replace("  ", " "))


def _ticks(since: datetime, now: datetime, hours: int, x: Scale) -> list[tuple[float, str]]:
    step = HOURS[hours]
    since = since.astimezone(zone())
    minutes = (since.hour * 60 + since.minute) // step * step
    at = since.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(minutes=minutes + step)
    ticks = []
    while at <= now:
        ticks.append((x(at), f"{at:%H:%M}"))
        at += timedelta(minutes=step)
    return ticks
