# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""How times, sizes and states are said."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from flask import has_request_context, request
from markupsafe import Markup

from ..inspection.history import Event
from ..operations import Done
from .payload import seen

__all__ = ["ACTIONS", "ANSWERS", "FILTERS", "LETTER_ACTIONS", "clock", "duration", "number", "span", "visible", "zone"]

#: The cookie in which the page's script says where the visitor is.
ZONE = "inflight-zone"

#: The actions on a message: the text of the button, and its meaning.
ACTIONS = {
    "requeue": (
        "Requeue",
        "Another copy of it is enqueued, and its crashes are counted anew. Earlier copies do not run any more.",
    ),
    "dead-letter": (
        "Dead-letter",
        "It is sent to the dead-letter queue, with the reason that an operator did so. It does not run again.",
    ),
    "discard": (
        "Discard",
        "No copy of it runs any more. If it is a dead letter or was set aside, it is deleted for good.",
    ),
}

#: The actions on dead letters: the text of the button, its meaning, and the result.
LETTER_ACTIONS = {
    "requeue": (
        "Requeue",
        "Each is enqueued again, begins with no retries, and leaves the dead-letter queue. That cannot be undone.",
        "requeued",
    ),
    "discard": ("Discard", "They are deleted for good. That cannot be undone.", "discarded"),
}

#: The result.
ANSWERS = {
    Done.DONE: "Done.",
    Done.ALIVE: "Nothing was done: it is running, and its worker is alive, or may be. It takes force.",
    Done.BUSY: "Nothing was done: a worker is recovering it just now. Try again.",
    Done.SETTLED: "Nothing was done: it is complete, or the broker has its retry or its dead letter.",
    Done.QUEUED: "Nothing was done: it was requeued before, and that copy is still in its queue.",
    Done.REQUEUED: "Nothing was done: it was requeued before, and that copy has run, or the broker has it.",
    Done.UNKNOWN: "Nothing was done: it is not in flight. It may be queued, or complete.",
    Done.UNREADABLE: "Nothing was enqueued: its payload cannot be decoded.",
    Done.BEGUN: "It is recorded. A worker enqueues it as soon as the broker can be reached.",
    Done.ELSEWHERE: "Nothing was done: this page cannot reach its dead-letter queue. Use the broker's own tools.",
    Done.STRANGE: "Nothing was done: this application does not declare its queue or its actor.",
}


def span(seconds: float) -> str:
    """Return how long, with as many digits as help."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min {int(seconds % 60)} s" if minutes < 10 else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def duration(seconds: float) -> str:
    """How long a message has run."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else span(seconds)


def zone() -> tzinfo:
    """The visitor's time zone, as the page's script has said by a cookie; else UTC."""
    return _zone(request.cookies.get(ZONE, "UTC")) if has_request_context() else UTC


@functools.lru_cache(maxsize=64)
def _zone(name: str) -> tzinfo:
    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return UTC  # there is no such one here


def _local(at: datetime) -> datetime:
    """Return a time where the visitor is; in UTC if it is too near to the first or the last year for that."""
    try:
        return at.astimezone(zone())
    except OverflowError:
        return at.astimezone(UTC)


def clock(at: datetime | None) -> str:
    """The time of day, where the visitor is."""
    return f"{_local(at):%H:%M:%S}" if at else ""


def day(at: datetime) -> str:
    """The date, where the visitor is."""
    return f"{_local(at):%Y-%m-%d}"


def date(at: datetime | None) -> str:
    """Date and time, where the visitor is."""
    return f"{_local(at):%Y-%m-%d %H:%M:%S %Z}" if at else ""


def utc(at: datetime) -> str:
    """Date and time."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def number(value: int) -> str:
    """With its thousands apart, by a space that does not break."""
    return f"{value:,}".replace(",", "\u202f")


def size(count: int) -> str:
    """So many bytes."""
    for unit in ("bytes", "kB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count = count // 1000
    return f"{number(count)} MB"


def state(text: str) -> str:
    """As it is said, not as it is written."""
    return text.replace("_", "-")


def visible(value: Any) -> Any:
    """Anybody's text, in which nothing is hidden; what is HTML stays as it is."""
    return seen(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def mark(event: Event) -> str:
    """Return which mark stands for it."""
    return "other" if event.kind is None else event.kind.mark


FILTERS: dict[str, Callable[..., Any]] = {
    "span": span,
    "clock": clock,
    "date": date,
    "day": day,
    "duration": duration,
    "number": number,
    "size": size,
    "state": state,
    "mark": mark,
    "utc": utc,
}
