# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Which messages a worker process ends in each queue, tracked or not: how many, how many of them failed, and how long
they ran.  Redis is told every ten seconds, and once a minute where nothing ends.

A message costs two looks at the clock and an append to a queue in memory.  A process that is killed takes the count of
its last seconds along.
"""

from __future__ import annotations

import threading
import time
from collections import deque

from dramatiq import Broker
from dramatiq.errors import ConnectionClosed
from dramatiq.middleware import Shutdown

from ..brokers.queues import BrokerQueues
from ..errors import AlreadyDone, HandBack, MessageLost, TryAgain
from ..store.workers import Ended, Workers
from ..threads.service import Service

__all__ = ["Throughput"]

#: How often Redis is told, seconds.
INTERVAL = 10.0

#: How often at the least, seconds: so that somebody reports the backlogs of each minute.
AT_REST = 60.0

#: A run that ends with one of these goes on, here or elsewhere, or is done: it has not failed.
NO_FAILURES = (AlreadyDone, HandBack, MessageLost, Shutdown, TryAgain)


class _Run(threading.local):
    """The message that a thread runs."""

    #: When it began (``time.monotonic``); 0: none has.
    began = 0.0


class Throughput(Service):
    """The service that counts the runs that end, and reports the counts until it is stopped.

    Parameters:
      workers: The store's workers, which take the counts.
    """

    def __init__(self, broker: Broker, queues: BrokerQueues, workers: Workers) -> None:
        super().__init__("throughput", "The report of how many messages have ended")
        self._broker = broker
        self._queues = queues
        self._workers = workers
        self._run = _Run()
        self._ended = deque[tuple[str, bool, float]]()
        self._unsaid: dict[str, Ended] = {}
        self._next_at = time.monotonic()

    def begin(self) -> None:
        """Note that a message begins to run in this thread."""
        self._run.began = time.monotonic()

    def skip(self) -> None:
        """Note that the message of this thread does not run."""
        self._run.began = 0.0

    def count(self, queue: str, exception: BaseException | None) -> None:
        """Note that the message of this thread has ended; for any thread, which an interrupt may hit.

        Parameters:
          queue: The message's.
          exception: With which it ended.
        """
        began, self._run.began = self._run.began, 0.0
        has_failed = exception is not None and not isinstance(exception, NO_FAILURES)
        self._ended.append((queue, has_failed, time.monotonic() - began if began else 0.0))

    def run_once(self) -> float:
        """Report what has ended since the last time; once a minute, one process reports the backlogs as well."""
        declared = self._broker.get_declared_queues()
        for _ in range(len(self._ended)):
            queue, has_failed, seconds = self._ended.popleft()
            if (queue := str(queue)) in declared:  # anybody who enqueues can make up a name
                tally = self._unsaid.get(queue) or self._unsaid.setdefault(queue, Ended())
                tally.ended += 1
                tally.failed += has_failed
                tally.seconds += seconds
        if not self._unsaid and time.monotonic() < self._next_at:
            return INTERVAL
        ended, self._unsaid = self._unsaid, {}
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
