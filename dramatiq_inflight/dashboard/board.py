# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The data of the pages, read once for all visitors who look at the same time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from dramatiq.errors import ConnectionClosed

from ..inspection.inspector import Inspector, MessageView, MinuteView, Overview, QueueView, WorkerView
from .background import InBackground
from .shared import Shared
from .tail import Tail

__all__ = ["Board", "Instance"]

#: States of worker processes, the worst first.
STATES = ("dead", "silent", "draining", "alive")


@dataclass(frozen=True)
class Instance:
    """A pod, container or host, with its worker processes."""

    name: str
    workers: list[WorkerView]

    @property
    def state(self) -> str:
        """The worst of its processes' states."""
        return min((worker.state for worker in self.workers), key=STATES.index)

    @property
    def has_trouble(self) -> bool:
        """True if one of its processes is dead or silent."""
        return any(not worker.is_alive for worker in self.workers)

    @property
    def running(self) -> int:
        """How many messages its processes run."""
        return sum(worker.running for worker in self.workers)


class Board:
    """An inspector, and the readings that are shared."""

    def __init__(self, inspector: Inspector) -> None:
        self.inspector = inspector
        self.tail = Tail(inspector)
        self._overview = Shared(inspector.overview)
        self._messages: Shared[list[MessageView]] = Shared(inspector.messages)
        self._queues = Shared(lambda: inspector.queues(self.overview()), seconds=2)
        self._count = Shared(inspector.count_dead_letters, seconds=5)
        self.letters = InBackground(inspector.index_dead_letters())
        self.delayed = InBackground(inspector.index_delayed())
        self._minutes: dict[str | None, Shared[list[MinuteView]]] = {}
        self._longest: dict[str, int] = {}

    def overview(self) -> Overview:
        """All at a glance."""
        overview = self._overview.get()
        # For how long a heartbeat is believed at first is not written down: it is the longest that was seen.
        self._longest = {
            worker.id: max(worker.expires_in_ms, self._longest.get(worker.id, 0)) for worker in overview.workers
        }
        return overview

    def messages(self) -> list[MessageView]:
        """All that are in flight, oldest first; not to be changed."""
        return self._messages.get()

    def queues(self) -> list[QueueView] | None:
        """The queues, by name; not to be changed.  None if they cannot be seen from here.

        Raises:
          ConnectionClosed: RabbitMQ cannot be reached.
        """
        return self._queues.get()

    def minutes(self, queue: str | None = None) -> list[MinuteView]:
        """The minutes of the last hour.

        Parameters:
          queue: Only this, which is to be one of the application's; None: all.
        """
        read = partial(self.inspector.minutes, queue)
        return self._minutes.setdefault(queue, Shared(read, seconds=5)).get()

    def count_dead_letters(self) -> int | None:
        """Return how many dead letters there are; None if they cannot be seen from here, or RabbitMQ is away."""
        try:
            return self._count.get()
        except ConnectionClosed:
            return None

    def refresh(self) -> None:
        """Show what was done just now at the next look."""
        for one in (self._overview, self._messages, self._queues, self._count, self.tail, self.letters, self.delayed):
            one.refresh()

    def whole_id(self, beginning: str) -> str:
        """Return the id that begins so, if nothing is known of that itself, and only one begins so."""
        inspector = self.inspector
        if inspector.message(beginning) is None and not self.tail.of_message(beginning):
            known = inspector.ids(beginning)
            if len(known) == 1:
                return known[0]
        return beginning

    def left(self, worker: WorkerView) -> float:
        """Return how much of a worker's heartbeat is left, in percent of the longest that was seen."""
        longest = max(self._longest.values(), default=0)
        return round(100 * max(0, worker.expires_in_ms) / longest, 1) if longest > 0 else 0.0

    @staticmethod
    def instances(overview: Overview) -> list[Instance]:
        """The worker processes by instance: those with trouble first, then by name."""
        grouped: dict[str, list[WorkerView]] = {}
        for worker in overview.workers:
            grouped.setdefault(worker.instance, []).append(worker)
        instances = [Instance(name, workers) for name, workers in grouped.items()]
        instances.sort(key=lambda one: (not one.has_trouble, one.name))
        return instances
