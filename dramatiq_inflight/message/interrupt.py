# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Raises an exception in another thread, or greenlet, as Dramatiq's own ``ShutdownNotifications`` does."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from dramatiq import Broker
from dramatiq.middleware import ShutdownNotifications, TimeLimit
from dramatiq.middleware.threading import Interrupt, is_gevent_active, raise_thread_exception

from ..threads.mutex import Mutex

__all__ = ["Strand", "disarm", "uninterrupted"]

T = TypeVar("T")


def uninterrupted(step: Callable[[], T]) -> T:
    """Run a step to its end, though an interrupt comes in the midst of it: there is no actor to interrupt any more.

    Parameters:
      step: Runs from its beginning again after each interrupt, so it has to bear that.
    """
    while True:
        try:
            return step()
        except Interrupt:
            continue


def disarm(broker: Broker, message: Any) -> None:
    """See that Dramatiq does not interrupt this thread any more for a message whose actor has ended.

    A time limit, a shutdown or an abort could otherwise hit the hooks that enqueue what follows, and lose that.
    """
    for middleware in broker.middleware:
        kind: Any = type(middleware)
        hook = _disarming(kind)
        if hook is not None:
            try:
                hook(middleware, broker, message)  # idempotent: Dramatiq calls it again
            except Exception:
                pass  # and logs what is wrong then
    if is_gevent_active():
        time.sleep(0)  # an exception that was thrown before arrives when this greenlet is resumed
    for _ in range(2):
        pass  # one that was raised before arrives at the next jump


@functools.cache
def _disarming(kind: type[Any]) -> Callable[..., object] | None:
    """The hook by which a kind of middleware stops to interrupt; not what a subclass does beside."""
    for base in kind.__mro__:
        if base in (TimeLimit, ShutdownNotifications) or base.__module__.partition(".")[0] == "dramatiq_abort":
            hook: Callable[..., object] | None = getattr(base, "after_process_message", None)
            return hook
    return None


class Strand:
    """The work of the thread, or greenlet, that made it, until it reports the end."""

    def __init__(self) -> None:
        #: Held for moments only: whoever waits for it may be about to be interrupted.
        self.mutex = Mutex()
        #: Whether the run has ended: nothing interrupts its thread any more.
        self.over = False
        self._thread = threading.get_ident()
        self._greenlet: Any = None
        self._hub: Any = None
        if is_gevent_active():
            import gevent  # type: ignore[import-untyped]  # noqa: PLC0415  it is there if it is active, and only then

            self._greenlet, self._hub = gevent.getcurrent(), gevent.get_hub()

    def end(self) -> None:
        """It is over: what comes next is not to be interrupted."""
        with self.mutex:
            self.over = True

    def interrupt(self, exception: type[Interrupt], before: Callable[[], object] = lambda: None) -> bool:
        """Raise it there, when that next runs Python code, or the greenlet has its turn; return False if it is over.

        Parameters:
          before: Called first, unless it is over.
        """
        with self.mutex:
            if self.over:
                return False
            before()
            if self._greenlet is None:
                raise_thread_exception(self._thread, exception)
            else:
                self._hub.loop.run_callback(self._throw, exception)
            return True

    def _throw(self, exception: type[Interrupt]) -> None:
        if not self.over:
            self._greenlet.throw(exception)
