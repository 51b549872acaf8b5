# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""How times, sizes and states are said."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from markupsafe import Markup

from ..inspection.history import Event
from ..operations import Done
from .payload import seen

__all__ = ["ACTIONS", "ANSWERS", "FILTERS", "LETTER_ACTIONS", "clock", "span", "visible"]

#: The actions on a message: the text of the button, and its meaning.
ACTIONS = {
    "requeue": (
        "Requeue",
        "Another copy of it is enqueued, with a clean count of crashes. Every earlier copy is void.",
    ),
    "dead-letter": (
        "Dead-letter",
        "It is sent to the dead-letter queue, with the reason that an operator wished it. It does not run again.",
    ),
    "discard": (
        "Discard",
        "It is given up: no copy of it runs any more. What was set aside, or is a dead letter, is deleted for good.",
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
    Done.ALIVE: "It runs on a worker that lives, or may live: nothing was done. It takes force.",
    Done.BUSY: "Somebody recovers it just now: nothing was done. Try again.",
    Done.SETTLED: "It is complete, or its retry or its dead letter is with the broker: nothing was done.",
    Done.QUEUED: "It was requeued before, and that copy waits in its queue: nothing was done.",
    Done.REQUEUED: "It was requeued before, and that copy has run, or is with its broker: nothing was done.",
    Done.UNKNOWN: "Nothing is known of it: it may be queued, or complete. Nothing was done.",
    Done.UNREADABLE: "Its payload cannot be decoded: nothing was enqueued.",
    Done.BEGUN: "It is taken; the workers' recovery enqueues it once the broker can be reached.",
    Done.ELSEWHERE: "Its dead-letter queue cannot be reached from here: use the broker's own means. Nothing was done.",
    Done.STRANGE: "This application does not declare its queue or its actor: nothing was done.",
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


def clock(at: datetime | None) -> str:
    """The time of day."""
    return f"{at:%H:%M:%S}" if at else ""


def date(at: datetime | None) -> str:
    """Date and time."""
    return f"{at:%Y-%m-%d %H:%M:%S} UTC" if at else ""


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
    "number": number,
    "size": size,
    "state": state,
    "mark": mark,
}
