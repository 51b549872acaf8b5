# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""At a shutdown, messages with ``hand_back`` are asked to stop, and interrupted if they do not."""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from dramatiq.logging import get_logger

from .bell import Bell
from .checkpoints import expect_hand_back
from .errors import HandBack
from .table import Entry, Phase, Table

__all__ = ["HandingBack", "ShutdownSignals"]

#: With these Dramatiq's main process stops its worker processes.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class HandingBack:
    """Asks, once the worker shuts down, and interrupts each message when its time is over."""

    def __init__(self, table: Table) -> None:
        self.logger = get_logger(__name__, type(self))
        #: Whether it has begun.
        self.begun = False
        self._table = table
        self._mutex = threading.Lock()
        self._bell = Bell()
        self._ended = False

    def begin(self) -> None:
        """Ask all that runs, and what starts just now, in a thread of its own."""
        with self._mutex:
            first, self.begun = not self.begun, True
        if first:
            self._look()
            threading.Thread(target=self._run, name="dramatiq_inflight-hand-back", daemon=True).start()

    def started(self) -> None:
        """A message has started: it may be that the shutdown had begun by then."""
        if self.begun:
            self._bell.ring()

    def end(self) -> None:
        """The worker has stopped."""
        self._ended = True
        self._bell.ring()

    def _run(self) -> None:
        while not self._ended:
            self._bell.wait(self._look())

    def _look(self) -> float | None:
        """Ask and interrupt whatever is due.  Returns how long to wait, seconds; ``None``: until a message starts."""
        next_at = float("inf")
        with self._mutex:
            for entry in self._table.entries():
                if entry.policy.hand_back is None or entry.phase is not Phase.RUNNING:
                    continue
                if not entry.stopping:
                    entry.stop_by = time.monotonic() + entry.policy.hand_back
                    self.logger.info("Message %s is asked to stop: this worker shuts down.", entry.copy.message_id)
                if time.monotonic() >= entry.stop_by:
                    self._interrupt(entry)
                next_at = min(next_at, entry.stop_by)
        return None if next_at == float("inf") else next_at - time.monotonic()

    def _interrupt(self, entry: Entry) -> None:
        entry.stop_by = float("inf")
        if entry.strand is not None and entry.strand.interrupt(HandBack, lambda: expect_hand_back(entry)):
            self.logger.info("Message %s has not stopped: it is interrupted.", entry.copy.message_id)


class ShutdownSignals:
    """Hears of a shutdown as soon as the signal comes: a Dramatiq worker process looks once a second whether one has.

    It listens to nothing but the handlers of such a process, which it calls as well: elsewhere a signal may mean
    something else.

    Parameters:
      then: Called, once, in a thread of its own.
    """

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then
        # Not an event: a second signal may come in the midst of the first one's handler, and `put` bears that.
        self._heard: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._ending = False
        self._before: dict[int, Callable[[int, FrameType | None], Any]] = {}

    def attach(self) -> None:
        """Listen from now on, if this is a worker process's main thread."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if callable(handler) and getattr(handler, "__module__", None) == "dramatiq.cli":
                self._before[number] = handler
                signal.signal(number, self._hear)
        if self._before:
            threading.Thread(target=self._wait, name="dramatiq_inflight-signals", daemon=True).start()

    def detach(self) -> None:
        """Listen no more."""
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._hear:
                signal.signal(number, handler)
        self._then = _nothing
        self._heard.put(None)

    def send(self) -> None:
        """End this process in order, as Dramatiq's main process does; where it is none of those, do nothing.

        Nor where it ends already: a second signal would kill it, with all that it runs.
        """
        if signal.SIGTERM in self._before and not self._ending:
            os.kill(os.getpid(), signal.SIGTERM)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._ending = True
        self._heard.put(None)
        self._before[number](number, frame)

    def _wait(self) -> None:
        self._heard.get()
        self._then()


def _nothing() -> None:
    pass
