# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Messages that run, and do not move: neither a checkpoint nor an end for longer than ``stall_timeout``."""

from __future__ import annotations

import time

from ..store.store import Store
from ..threads.service import Service
from .in_flight import Entry, Table
from .state import Phase

__all__ = ["Stalls"]

#: How often to look, at the most and at the least, seconds.
SHORTEST, LONGEST = 0.05, 5.0


class Stalls(Service):
    """Reports messages with a ``stall_timeout`` that do not move."""

    def __init__(self, store: Store, table: Table) -> None:
        super().__init__("stalls", "The search for stalled messages")
        self._store = store
        self._table = table
        self._told: dict[int, float] = {}

    def run_once(self) -> float | None:
        """Report the messages that have stalled.

        Returns: how long to pause, seconds; None to pause until a message starts that is not to stall.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        due: list[float] = []
        entries = [entry for entry in self._table.entries() if entry.policy.stall_timeout is not None]
        self._told = {id(entry): self._told[id(entry)] for entry in entries if id(entry) in self._told}
        for entry in entries:
            timeout = entry.policy.stall_timeout or 0.0
            if entry.state.phase is not Phase.RUNNING or entry.state.lost:
                continue
            still = time.monotonic() - entry.progress.moved_at
            if still < timeout:
                due.append(timeout - still)
            elif self._told.get(id(entry)) != entry.progress.moved_at:
                self._stalled(entry, still)
        return min(max(min(due), SHORTEST), LONGEST) if due else (LONGEST if entries else None)

    def _stalled(self, entry: Entry, still: float) -> None:
        message_id, actor = entry.copy.message_id, entry.copy.actor
        with entry.mutex:
            if (
                entry.state.phase is not Phase.RUNNING
                or entry.state.told
                or time.monotonic() - entry.progress.moved_at < still
            ):
                return  # it has moved meanwhile, or ended
            if not self._store.messages.stall(message_id, entry.numbers.run, still=still, origin=entry.copy.origin):
                return  # the heartbeat looks into it: it is lost, or ours by a run that is not known yet
        self._told[id(entry)] = entry.progress.moved_at
        self.logger.warning(
            "Message %s (actor %r) has run for %.1f seconds without a checkpoint.",
            *(message_id, actor, still),
        )
