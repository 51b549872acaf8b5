# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""How many messages a worker process ends in each queue, tracked or not: Redis is told every ten seconds, and once a
minute where nothing ends.

An end itself costs an append to a queue in memory.  A process that is killed takes the count of its last seconds along.
"""

from __future__ import annotations

import time
from collections import Counter, deque

from dramatiq import Broker
from dramatiq.errors import ConnectionClosed

from ..brokers.queues import BrokerQueues
from ..store.workers import Workers
from ..threads.service import Service

__all__ = ["Throughput"]

#: How often Redis is told, seconds.
INTERVAL = 10.0

#: How often at the least, seconds: so that somebody reports the backlogs of each minute.
AT_REST = 60.0


class Throughput(Service):
    """Counts what ends, and reports it until it is stopped.

    Parameters:
      workers: The store's workers, which take the counts.
    """

    def __init__(self, broker: Broker, queues: BrokerQueues, workers: Workers) -> None:
        super().__init__("throughput", "The report of how many messages have ended")
        self._broker = broker
        self._queues = queues
        self._workers = workers
        self._ended = deque[str]()
        self._unsaid = Counter[str]()
        self._next_at = time.monotonic()

    def count(self, queue: str) -> None:
        """Note that a message of a queue has ended; for any thread, which an interrupt may hit."""
        self._ended.append(queue)

    def run_once(self) -> float:
        """Report what has ended since the last time; once a minute, one process reports the backlogs as well."""
        declared = self._broker.get_declared_queues()
        for _ in range(len(self._ended)):
            queue = str(self._ended.popleft())
            if queue in declared:  # anybody who enqueues can make up a name
                self._unsaid[queue] += 1
        if not self._unsaid and time.monotonic() < self._next_at:
            return INTERVAL
        ended, self._unsaid = self._unsaid, Counter()
        try:
            is_first = self._workers.count(ended, {})
        except BaseException:
            self._unsaid = ended  # an answer may have been lost, so that these count twice: better than not at all
            raise
        self._next_at = time.monotonic() + AT_REST
        if is_first:
            self._report_backlogs(declared)
        return INTERVAL

    def _report_backlogs(self, declared: set[str]) -> None:
        try:
            depths = self._queues.depths(declared)
        except ConnectionClosed:
            return  # RabbitMQ is away; the next minute tells more
        if depths:
            self._workers.count({}, {queue: depth.backlog for queue, depth in depths.items()})
