# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""How texts, times and durations are written and read.

Text from Redis may be anybody's: an actor's name can hold the escape sequence that clears a terminal.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

import click

__all__ = ["age", "clean", "duration", "when"]

#: The longest duration that is taken, seconds: ten years.
LONGEST = 10 * 365 * 24 * 3600.0

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 24 * 3600}


def clean(text: str) -> str:
    """A text without anything that does something to a terminal; what was there is shown as Python writes it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def when(at: datetime | None) -> str:
    """A time for people, UTC; it is sorted as text."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if at is not None else ""


def age(seconds: float) -> str:
    """A duration in at most six characters or so: 7s, 2m03s, 3h04m, 2d05h."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 24 * 3600:
        return f"{whole // 3600}h{whole // 60 % 60:02}m"
    return f"{whole // 86400}d{whole // 3600 % 24:02}h"


def duration(value: str) -> float:
    """A duration, as 90, 10m, 2h or 1h30m, in seconds: a type of options."""
    text = value.strip().lower()
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    # A number without a unit stands alone: 1h30 might be minutes or seconds.
    whole = "".join(number + unit for number, unit in parts) == text
    if not parts or not whole or (len(parts) > 1 and any(not unit for _, unit in parts)):
        raise click.BadParameter(f"{text!r} is no duration; it must be seconds, or such as 10m, 2h, 1h30m, 3d.")
    seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    if seconds > LONGEST:
        raise click.BadParameter(f"{text!r} is too long; it must be at most ten years (3650d).")
    return seconds
