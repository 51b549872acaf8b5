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
from dramatiq.middleware.threading import is_gevent_active

from ..errors import HandBack
from ..threads.mutex import Mutex
from ..threads.service import Service
from .checkpoints import expect_hand_back
from .in_flight import Entry, Table
from .state import Phase

__all__ = ["HandingBack", "ShutdownSignals"]

#: With these Dramatiq's main process stops its worker processes.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))

#: How long a signal waits until Redis knows of the shutdown, at the most, seconds.
HOLD = 2.0

#: Signals that come within so many seconds of the first belong to the same shutdown; a later one insists.
SAME = 2.0

#: How long a message that was interrupted may take until it is enqueued again, seconds.
ENDING = 2.0

#: How often to look whether a signal may be passed on, seconds.
LOOK = 0.01


class HandingBack(Service):
    """Asks, once the worker shuts down, and interrupts each message when its time is over."""

    def __init__(self, table: Table) -> None:
        super().__init__("hand-back", "The hand-back of messages")
        #: Whether it has begun.
        self.begun = False
        self._table = table
        self._mutex = Mutex()
        #: When the last message that was asked has had its time (``time.monotonic``).
        self._ends = float("-inf")

    @property
    def is_under_way(self) -> bool:
        """True while a message that was asked to stop has time left to do so."""
        return time.monotonic() < self._ends and any(entry.stopping for entry in self._table.entries())

    def begin(self) -> None:
        """Ask all that runs, and what starts just now, in a thread of its own."""
        with self._mutex:
            first, self.begun = not self.begun, True
        if first:
            self.run_once()
            self.start()

    def started(self) -> None:
        """A message has started: it may be that the shutdown had begun by then."""
        if self.begun:
            self.wake()

    def run_once(self) -> float | None:
        """Ask and interrupt whatever is due; return the pause in seconds, or None to wait until a message starts."""
        next_at = float("inf")
        with self._mutex:
            for entry in self._table.entries():
                if entry.policy.hand_back is None or entry.state.phase is not Phase.RUNNING:
                    continue
                if not entry.stopping:
                    entry.stop_by = time.monotonic() + entry.policy.hand_back
                    self._ends = max(self._ends, entry.stop_by + ENDING)
                    self.logger.info("Asked message %s to stop, because this worker shuts down.", entry.copy.message_id)
                if time.monotonic() >= entry.stop_by:
                    self._interrupt(entry)
                next_at = min(next_at, entry.stop_by)
        return None if next_at == float("inf") else next_at - time.monotonic()

    def _interrupt(self, entry: Entry) -> None:
        entry.stop_by = float("inf")
        if entry.strand is not None and entry.strand.interrupt(HandBack, lambda: expect_hand_back(entry)):
            self.logger.info("Message %s has not stopped. Interrupting it.", entry.copy.message_id)


class ShutdownSignals:
    """Hears the signals that stop a Dramatiq worker process, and passes each on to Dramatiq when its time has come.

    At the first signal Dramatiq stops taking messages, within a second.  At the second it ends the process at once.
    But often the second is the first once more: systemd, Heroku, supervisord (``stopasgroup``) and a terminal that is
    closed signal every process of a service, and Dramatiq's main process passes its own signal on.  So:

    * No signal is passed on before Redis knows of the shutdown, or `HOLD` is over.  This includes the first one:
      Dramatiq may have had another before `attach`.
    * A signal that comes soon after the first also waits for the messages that are handed back.

    It replaces nothing but the handlers of such a process: elsewhere a signal may mean something else.

    Parameters:
      begin: Called at the first signal, once, in a thread of its own.
      is_known: True if Redis knows of the shutdown.
      is_handing_back: True if messages are being handed back.
    """

    def __init__(
        self, begin: Callable[[], None], is_known: Callable[[], bool], is_handing_back: Callable[[], bool]
    ) -> None:
        self.logger = get_logger(__name__, type(self))
        self._begin = begin
        self._is_known = is_known
        self._is_handing_back = is_handing_back
        # Not an event: a second signal may come in the midst of the first one's handler, and `put` bears that.
        self._heard: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._first_at: float | None = None
        #: Whether a later signal insists: nothing is waited for but Redis.
        self._at_once = False
        #: Whether the next signal is the one that is passed on.
        self._passing = False
        self._detached = False
        self._before: dict[int, Callable[[int, FrameType | None], Any]] = {}
        #: A fork inherits the handlers, and not the thread that passes signals on.
        self._pid = os.getpid()

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
            threading.Thread(target=self._run, name="dramatiq_inflight-signals", daemon=True).start()

    def detach(self) -> None:
        """Listen no more, and pass nothing on: the worker has stopped."""
        self._detached = True
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._hear:
                signal.signal(number, handler)
        self._heard.put(0)

    def send(self) -> None:
        """End this process in order, as Dramatiq's main process does; where it is none of those, do nothing.

        Nor where it ends already: a second signal would kill it, with all that it runs.
        """
        if signal.SIGTERM in self._before and self._first_at is None:
            os.kill(os.getpid(), signal.SIGTERM)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._passing or os.getpid() != self._pid:
            self._passing = False
            self._before[number](number, frame)
            return
        now = time.monotonic()
        if self._first_at is None:
            self._first_at = now
        elif now - self._first_at > SAME:
            self._at_once = True
        self._heard.put(number)

    def _run(self) -> None:
        number = self._heard.get()
        if self._detached:
            return
        try:
            self._begin()
        except Exception:
            self.logger.exception("Could not announce the shutdown in Redis. The shutdown continues.")
        self._wait_until(self._is_known, HOLD)
        while not self._detached:
            self._pass_on(number)
            number = self._heard.get()
            self._wait_until(self._is_known, HOLD)
            self._wait_until(lambda: self._at_once or not self._is_handing_back())

    def _wait_until(self, condition: Callable[[], bool], longest: float = float("inf")) -> None:
        ends = time.monotonic() + longest
        while not self._detached and time.monotonic() < ends and not condition():
            time.sleep(LOOK)

    def _pass_on(self, number: int) -> None:
        """Let Dramatiq's handler have it in the main thread: it may end the process there, and only there."""
        self._passing = True
        if is_gevent_active():
            import gevent  # type: ignore[import-untyped]  # noqa: PLC0415  it is there if it is active, and only then

            # An exception of a handler in a thread's greenlet ends that; raised in the hub it gets to the main one.
            gevent.get_hub().loop.run_callback(os.kill, os.getpid(), number)
        else:
            os.kill(os.getpid(), number)
        # Two that are pending at once are one.
        self._wait_until(lambda: not self._passing)
