# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The loop of every thread that a worker keeps until it stops."""

from __future__ import annotations

import threading

import redis
from dramatiq.logging import get_logger

from .bell import Bell

__all__ = ["RETRY", "Service"]

#: How long to pause after an error, seconds.
RETRY = 1.0


class Service(threading.Thread):
    """A daemon thread that does one task again and again until `stop`, and survives every error.

    A subclass has `run_once`.  A process that an actor forks has no such thread, and may still call `stop`.

    Parameters:
      name: The thread's name, behind the name of the package.
      task: The subject of the log line that reports an unexpected error.
      bell: Wakes this thread; a bell of its own if others do not ring it.
    """

    def __init__(self, name: str, task: str, bell: Bell | None = None) -> None:
        super().__init__(name=f"dramatiq_inflight-{name}", daemon=True)
        self.logger = get_logger(type(self).__module__, type(self))
        #: True from the call of `stop` on.
        self.stopping = False
        self._task = task
        self._bell = bell or Bell()

    def run_once(self) -> float | None:
        """Do the task once.

        Returns: how long to pause before the next time, seconds; None to pause until `wake`.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        raise NotImplementedError

    def failed(self, error: Exception) -> float | None:
        """Log an error of `run_once`, and return how long to pause, seconds."""
        if not isinstance(error, redis.RedisError):  # Connectivity logs the first one of these
            self.logger.exception("%s failed for an unexpected reason and will be tried again.", self._task)
        return RETRY

    def once(self) -> float | None:
        """Do the task once, in the calling thread, and survive every error.  Returns as `run_once` does."""
        try:
            return self.run_once()
        except Exception as error:
            return self.failed(error)

    def run(self) -> None:
        """Do the task until `stop` is called."""
        while True:
            self._bell.clear()
            if self.stopping:  # read after the bell was cleared: `stop` rings it later
                return
            self.pause(self.once())

    def pause(self, seconds: float | None) -> None:
        """Pause, in this thread, until the time is over or `wake` is called."""
        self._bell.wait(seconds)

    def wake(self) -> None:
        """End the present pause, or skip the next one."""
        self._bell.ring()

    def stop(self, within: float = 5.0) -> None:
        """Stop after the present `run_once`; return when the thread has ended, or after so many seconds."""
        self.stopping = True
        self.wake()
        if self.is_alive():
            self.join(timeout=within)
