# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The handle that actor code sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NoReturn, TypeVar

from ..store.records import moment
from .in_flight import Entry, entry_here

__all__ = ["Current", "current"]

T = TypeVar("T")


@dataclass(frozen=True)
class Current:
    """The message that is running, as the tracker knows it."""

    message_id: str
    #: Which start of the message this is, as long as Redis has its record: 1 is the first one.  0 while Redis is away.
    run: int
    #: Grows at every start of the message, through retries, replays and a loss of Redis's data: a fencing token for a
    #: database of your own, as ``effects.fence`` uses it.  It is the time of the start, milliseconds of
    #: Redis's clock.  0 if the start could not be recorded, because Redis was away.
    fence: int
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

    _entry: Entry = field(repr=False, compare=False)

    def checkpoint(self, value: Any, *, progress: float | None = None, note: str = "") -> bool:
        """Keep how far this run has come: a next run finds it as `last_checkpoint`.  One round trip, and atomic.

        It outlasts crashes, shutdowns and retries, and is gone once the message is complete.  Where that never
        happens, it is kept for 30 days.

        Parameters:
          value: Anything that JSON can hold, up to 64 KiB: where to go on, not what came out.
          progress: For people: how much is done, from 0 to 1.
          note: For people: what is being done; 200 characters of it are kept.

        Returns:
          Whether it is kept. If not, Redis cannot be reached, and the one before counts.

        Raises:
          CheckpointError: It cannot be kept.
          MessageLost: Another run has the message, and this one changes nothing any more: stop.
        """
        kept: bool = self._entry.progress.checkpoints.save(self._entry, value, progress, note)
        return kept

    @property
    def stopping(self) -> bool:
        """True if the worker shuts down, and the message, which has ``hand_back``, is to stop: see `hand_back`."""
        return self._entry.stopping

    def hand_back(self) -> NoReturn:
        """Stop here, and have the message enqueued again at once, neither as a failure nor as a retry.

        Raises:
          HandBack: Always; let it through.
        """
        self._entry.progress.checkpoints.hand_back(self._entry)
        raise AssertionError("not reached")

    @property
    def last_checkpoint(self) -> Any:
        """The last checkpoint of this run, or else of an earlier one; ``None`` if there is none.

        Redis is asked once in a run.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        return self._entry.progress.checkpoints.load(self._entry)

    def iterate(
        self,
        items: Iterable[T] | Callable[[Any], Iterable[T]],
        *,
        key: Callable[[T], Any] | None = None,
        every: float = 5.0,
        name: str = "items",
    ) -> Iterator[T]:
        """Go through items, and on from where an earlier run was cut off.

        An item is done when the next one is asked for.  The next run does the items since the last save again, so each
        item has to allow for that.

        Parameters:
          items: The same items in the same order at every run; or a function that is given the key of the last item
            that was done (``None`` at first), and returns those after it: a query by primary key, say.
          key: A function that returns the JSON-able key of an item.
          every: How long to go on without saving, seconds; 0: save after each item.
          name: Where a message goes through several things: of each.

        Raises:
          CheckpointError: A key is not JSON-able, or this run has gone through an iteration of that name already.
          HandBack: The worker shuts down, and the message has ``hand_back``: the place is kept.
          MessageLost: Another run has the message.
          redis.RedisError: Redis cannot be reached at the first item.
        """
        found: Iterator[T] = self._entry.progress.checkpoints.iterate(self._entry, items, key, every, name)
        return found

    @property
    def recovered(self) -> bool:
        """True if an earlier run of the message was cut off by the death of its worker."""
        return self.crashes > 0 or self.drains > 0 or self.generation > 1


def current() -> Current | None:
    """Return the handle of the message that runs here; ``None`` outside of a tracked message.

    A task, or a thread that takes over the context, has it as long as the actor runs.
    """
    entry = entry_here()
    if entry is None:
        return None
    return Current(
        message_id=entry.copy.message_id,
        run=entry.numbers.run,
        fence=entry.numbers.started_ms,
        generation=entry.numbers.generation,
        crashes=entry.numbers.crashes,
        drains=entry.numbers.drains,
        started=moment(entry.numbers.started_ms),
        first_started=moment(entry.numbers.first_ms or entry.numbers.started_ms),
        _entry=entry,
    )
