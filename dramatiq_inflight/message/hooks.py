# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The broker's hooks in a worker: the tracker comes first, and copies that do not run are kept from other middleware.

Dramatiq calls the hooks of its middleware in the order in which they were added.  A tracker that comes last records a
start when time limits, shutdowns and aborts can interrupt it already.  And other middleware hears of copies that never
run: an admin page shows *skipped* for a task that completes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

from dramatiq import Broker, Middleware
from dramatiq.common import q_name
from dramatiq.middleware import Interrupt, MiddlewareError
from dramatiq.worker import ConsumerThread

from ..delivery import is_own_enqueue, mark_of
from ..errors import AlreadyDone, MessageSkipped, PoisonMessage
from .in_flight import Entry, Table, entry_here
from .interrupt import disarm, uninterrupted
from .state import Phase

__all__ = ["Hooks"]

#: The hooks as middleware inherits them, which do nothing: most of it inherits most of them.
NOTHING = dict(vars(Middleware))


class Hooks:
    """Stands in for a broker's ``emit_before`` and ``emit_after``.

    Parameters:
      tracker: The middleware that comes first.
      table: The copies in this process.
      defer: Called with a copy that was interrupted: puts it off, unless it has begun or was refused.  False: it has
        begun, or is not tracked.
    """

    def __init__(self, broker: Broker, tracker: Middleware, table: Table, defer: Callable[[Any], bool]) -> None:
        self._broker = broker
        self._tracker = tracker
        self._table = table
        self._defer = defer
        self._before = broker.emit_before
        self._after = broker.emit_after

    def attach(self) -> None:
        """Stand in from now on."""
        self._broker.emit_before = self.before  # type: ignore[method-assign]
        self._broker.emit_after = self.after  # type: ignore[method-assign]

    def detach(self) -> None:
        """Leave the broker as it was."""
        self._broker.emit_before = self._before  # type: ignore[method-assign]
        self._broker.emit_after = self._after  # type: ignore[method-assign]

    def before(self, signal: str, *args: Any, **kwargs: Any) -> None:
        """As `dramatiq.Broker.emit_before`."""
        if signal == "process_message":
            self._begins(*args)
        elif self._concerns_others(signal, args):
            self._before(signal, *args, **kwargs)
        else:
            self._emit(f"before_{signal}", [self._tracker], *args, **kwargs)

    def after(self, signal: str, *args: Any, **kwargs: Any) -> None:
        """As `dramatiq.Broker.emit_after`."""
        if not self._concerns_others(signal, args):
            self._emit(f"after_{signal}", [self._tracker], *args, **kwargs)
        elif signal in ("process_message", "skip_message"):
            self._ended(f"after_{signal}", args[0], **kwargs)
        else:
            self._after(signal, *args, **kwargs)

    def _begins(self, message: Any) -> None:
        """Call the hooks before an actor: first the tracker's, which an interrupt cannot keep from its decision."""
        hook = "before_process_message"
        while True:
            try:
                self._emit(hook, [self._tracker], message)
                break
            except Interrupt:
                entry = self._table.get(message)
                if entry is not None and entry.has_run:
                    raise  # it runs already, and is to stop
            except PoisonMessage:
                for middleware in self._others():  # which hear of the dead letter, and are prepared for it
                    try:
                        self._emit(hook, [middleware], message)
                    except (Interrupt, MiddlewareError):
                        pass  # the verdict stands
                uninterrupted(lambda: disarm(self._broker, message))
                raise
        self._emit(hook, self._others(), message)

    def _ended(self, hook: str, message: Any, **outcome: Any) -> None:
        """Call the hooks behind an actor: all of them, so that what follows from the message is enqueued."""
        exception = outcome.get("exception")
        failed = exception is not None
        if isinstance(exception, AlreadyDone):
            self._broker.logger.info(
                "An earlier run of message %s committed its effect. It is acknowledged without running again.",
                message.message_id,
            )
            outcome, exception = {"result": exception.result}, None
            message.stuff_exception(None)
        refused = isinstance(exception, Interrupt) and self._defer(message)
        entry = self._table.get(message)
        if refused:  # there is nothing to be retried
            hook, outcome, exception = "after_skip_message", {}, None
            if entry is None or entry.state.phase is not Phase.POISONED:
                return self._emit(hook, [self._tracker], message)
        if entry is None:
            return self._emit(hook, [self._tracker, *reversed(self._others())], message, **outcome)
        if isinstance(exception, Interrupt) and entry.has_run and entry.state.phase is Phase.ENDED:
            return None  # it came when the hooks had been called: the message has succeeded
        uninterrupted(lambda: self._disarm(entry, message))
        uninterrupted(lambda: self._emit(hook, [self._tracker], message, **outcome))
        whole = True
        for middleware in reversed(self._others()):
            try:
                self._emit(hook, [middleware], message, **outcome)
            except Interrupt:
                if not failed:
                    raise  # Dramatiq makes a failure of it, and calls the hooks again
                self._broker.logger.critical(
                    "%s of %r was interrupted. Calling the other hooks.", hook, middleware, exc_info=True
                )
                whole = False
        if whole and entry.state.phase is Phase.ENDING:
            entry.follow()
        return None

    def _disarm(self, entry: Entry, message: Any) -> None:
        if entry.strand is not None:
            entry.strand.end()
        disarm(self._broker, message)

    def _others(self) -> list[Middleware]:
        return [middleware for middleware in self._broker.middleware if middleware is not self._tracker]

    def _concerns_others(self, signal: str, args: tuple[Any, ...]) -> bool:
        """False for a copy that does not run: another one of the same message has run, is running, or will."""
        if signal == "enqueue":
            # An enqueue of ours; a retry is enqueued with the mark of its message as yet.
            ours = is_own_enqueue.get() or isinstance(threading.current_thread(), ConsumerThread)
            return not ours or "deferrals" not in mark_of(args[0])
        if signal == "delay_message":
            return "deferrals" not in mark_of(args[0])
        if signal in ("ack", "nack") and args[0].queue_name != q_name(args[0].queue_name):
            return "deferrals" not in mark_of(args[0])  # moved from the delay queue to its queue
        if signal in ("skip_message", "ack", "nack"):
            entry = entry_here(self._broker)
            return entry is None or entry.has_run
        return True

    def _emit(self, hook: str, to: Iterable[Middleware], *args: Any, **kwargs: Any) -> None:
        nothing = NOTHING[hook]
        for middleware in to:
            try:
                # Looked up each time, for it may be set, or replaced, at any time.  To bind it takes longer.
                if getattr(type(middleware), hook, None) is not nothing or hook in middleware.__dict__:
                    getattr(middleware, hook)(self._broker, *args, **kwargs)
            except Exception as error:
                if hook.startswith("before_") and isinstance(error, MiddlewareError):
                    raise
                if not isinstance(error, MessageSkipped):  # ours: what it was about to enqueue does not follow
                    self._broker.logger.critical("Unexpected failure in %s of %r.", hook, middleware, exc_info=True)
