# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""When something was, on clocks that go on while the machine is suspended."""

from __future__ import annotations

import time
from typing import NamedTuple

__all__ = ["Moment"]

#: Counts the time that the machine is suspended; the monotonic clock of Linux stands still then.
BOOT_TIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)


class Moment(NamedTuple):
    """A moment by two clocks.  A suspension stops one, a correction moves the other: the larger age counts."""

    since_boot: float
    wall: float

    @classmethod
    def now(cls) -> Moment:
        """The present."""
        return cls(time.monotonic() if BOOT_TIME is None else time.clock_gettime(BOOT_TIME), time.time())

    def until(self, later: Moment) -> float:
        """Return how long it is from this moment to a later one, seconds."""
        return max(later.since_boot - self.since_boot, later.wall - self.wall)

    @property
    def age(self) -> float:
        """How long ago it was, seconds."""
        return self.until(Moment.now())
