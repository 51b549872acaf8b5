# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The handle that actor code sees."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from .records import moment
from .table import current_entry

__all__ = ["Current", "current"]


@dataclass(frozen=True)
class Current:
    """What the tracker knows of the message that is running."""

    message_id: str
    #: Grows at every start of the message: a fencing token for side effects that must not repeat.  0 while Redis is
    #: away and the start could not be recorded.
    run: int
    #: 1, and one more with every copy that recovery has enqueued.
    generation: int
    #: How often the message was running when its worker died.
    crashes: int
    #: How often it was cut off by the shutdown of its worker.
    drains: int
    #: When this run started, by Redis's clock; ``None`` while Redis is away.
    started: datetime | None
    #: When the first of its runs started, as far as the record goes back.
    first_started: datetime | None

    @property
    def recovered(self) -> bool:
        """Whether an earlier run of the message was cut off by the death of its worker."""
        return self.crashes > 0 or self.drains > 0 or self.generation > 1


def current() -> Current | None:
    """The handle of the message that this thread runs; ``None`` outside of a tracked message."""
    entry = current_entry.get()
    if entry is None:
        return None
    return Current(
        message_id=entry.copy.message_id,
        run=entry.run,
        generation=entry.generation,
        crashes=entry.crashes,
        drains=entry.drains,
        started=moment(entry.started_ms),
        first_started=moment(entry.first_ms or entry.started_ms),
    )
