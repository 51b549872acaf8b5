# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The gate that every message of this process passes, so that one of them can have the process to itself.

A message that may be convicted by one more death of its worker runs alone, for then that death proves something.  It
waits for those inside to end; later messages wait behind it.  First come, first served: nobody is overtaken, and every
wait has an end.  A message that waits too long to be alone runs in company.  A message that is alone for too long,
while others wait, gets company.  A crash then does not dead-letter it.  Both limits grow with each crash.

Where the processes of a container die together, it has the container to itself: see `container`.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ..threads.bell import Bell
from ..threads.mutex import Mutex
from .container import Siblings

__all__ = ["Gate", "Pass"]

#: How long to wait before one who is alone is asked again to accept company, when Redis could not be told, seconds.
RETRY = 1.0

#: An interrupt (a shutdown, an abort) reaches a waiting thread no later than this, seconds.
LONGEST_PAUSE = 1.0

#: The thread of a message that has ended while Redis could not be told.
NOBODY = 0

#: How often to look whether the processes beside this one let us in, seconds.
LOOK = 0.05


@dataclass(eq=False, slots=True)
class Pass:
    """A message's place in the queue, and what it is let in as."""

    thread: int
    #: Whether it is to be alone.
    alone: bool = False
    #: How long it waits for that, and how long the others then wait for it, seconds.
    timeout: float = 0.0
    #: Tells Redis that it gets company; False: that failed, and has to be tried again.
    give_way: Callable[[], bool] = bool
    #: Until when to wait for being alone, and then until when to be left alone (``time.monotonic``).
    until: float = 0.0
    #: Rings when something has changed.
    bell: Bell = field(default_factory=Bell)
    timer: threading.Timer | None = None


class Gate:
    """The messages inside, by thread (or greenlet): Dramatiq runs one message at a time in each.

    Parameters:
      siblings: The worker processes that die together with this one.
      one_thread: True if the worker has one thread.
    """

    def __init__(self, siblings: Siblings | None = None, *, one_thread: bool = False) -> None:
        self._siblings = siblings
        #: Whether any message is alone without asking for it, but for a visitor.
        self._always_alone = one_thread and siblings is None
        #: Guards all that follows.  No condition: an interrupt that hits a thread while it takes it must not leave it
        #: taken.
        self.lock = Mutex()
        #: The threads of the messages that are inside.
        self.inside: set[int] = set()
        #: The messages that wait, first come, first served.
        self.queue: deque[Pass] = deque()
        self._alone: Pass | None = None
        self._closing = False

    def enter(self) -> bool:
        """Go in; wait while another is alone, or was here first and is to be.  A message that is inside stays there.

        Returns: True if it is inside; False if it would have to wait, and the worker is shutting down.
        """
        me = threading.get_ident()
        with self.lock:
            if me in self.inside or (not self.queue and self._alone is None and self._go_in(me)):
                return True
        self._wait(Pass(me))
        with self.lock:
            return me in self.inside

    def is_alone(self) -> bool:
        """True if the message of this thread has the process to itself."""
        if self._alone is not None and self._alone.thread == threading.get_ident():
            return True
        return self._always_alone and not self.has_visitor

    def enter_alone(self, timeout: float, give_way: Callable[[], bool]) -> bool | None:
        """Go in alone, coming from inside; wait until everybody else has left.

        Parameters:
          timeout: How long to wait at the most, and how long the others then wait before they ask to come in; seconds.
          give_way: Called, by a thread that waits, before another is let in.  It returns False to be asked again.

        Returns: whether it is alone; ``None`` if the worker is shutting down, and it is not inside.
        """
        this = Pass(threading.get_ident(), True, timeout, give_way, time.monotonic() + timeout)
        self._wait(this)
        with self.lock:
            return self._alone is this if this.thread in self.inside else None

    def visit(self) -> bool:
        """Go in beside the messages, without waiting; nobody begins to be alone until the visitor leaves.

        A message that has been alone for long enough gets company.

        Returns: whether the visitor is inside; False if a message is alone.
        """
        me = threading.get_ident()
        with self.lock:
            alone = self._alone
            if alone is None:
                return self._go_in(me)
            if time.monotonic() < alone.until:
                return False
        self._ask_for_company(alone)
        with self.lock:
            return self._alone is None and self._go_in(me)

    @property
    def has_visitor(self) -> bool:
        """True if more than the messages of one thread are inside."""
        with self.lock:
            return len(self.inside) > 1

    def leave(self, *, told: bool = True) -> None:
        """The message of this thread has ended.

        Parameters:
          told: False: Redis does not know it yet.  If it was alone, nobody is let in before Redis knows that it is not.
        """
        me = threading.get_ident()
        with self.lock:
            if told or self._alone is None or self._alone.thread != me:
                self._out(me)
                return
            self.inside.discard(me)
            self._alone.thread, self._alone.until = NOBODY, 0.0
            self._tell_all()

    def expel(self, thread: int) -> None:
        """The message of that thread has ended, and Dramatiq has not said so."""
        with self.lock:
            self._out(thread)

    def close(self) -> None:
        """The worker is shutting down: nobody begins to run alone any more, and nobody waits."""
        with self.lock:
            self._closing = True
            self._tell_all()

    def end(self) -> None:
        """The worker has stopped."""
        with self.lock:
            if self._siblings is not None:
                self._siblings.close()
                self._siblings = None

    def _go_in(self, thread: int) -> bool:
        if self._siblings is not None and not self._siblings.go_in():
            return False
        self.inside.add(thread)
        return True

    def _out(self, thread: int) -> None:
        was_inside = thread in self.inside
        self.inside.discard(thread)
        for leaked in [other for other in self.queue if other.thread == thread]:
            self.queue.remove(leaked)  # an interrupt may hit anywhere
        if self._alone is not None and self._alone.thread == thread:
            self._let_in()
        elif self._siblings is not None and was_inside and not self.inside:
            self._siblings.go_out()
        self._tell_all()

    def _tell_all(self) -> None:
        for waiting in self.queue:
            waiting.bell.ring()

    def _wait(self, this: Pass) -> None:
        try:
            with self.lock:
                self._out(this.thread)
                self.queue.append(this)
            self._wait_in_queue(this)
        finally:
            with self.lock:
                if this.alone and self._alone is not this:
                    self._give_up(this)
                if this in self.queue:
                    self.queue.remove(this)
                self._tell_all()

    def _wait_in_queue(self, this: Pass) -> None:
        while True:
            with self.lock:
                if this.alone and self._closing:
                    return
                if self._may_enter(this) and (self._be_alone(this) if this.alone else self._go_in(this.thread)):
                    return
                if self._closing:
                    return
                if this.alone and time.monotonic() >= this.until:
                    self._give_up(this)
                    this.alone = False
                    continue
                pause = self._pause(this)
            if isinstance(pause, Pass):
                self._ask_for_company(pause)
            else:
                this.bell.wait(pause)

    def _may_enter(self, this: Pass) -> bool:
        if self._alone is not None:
            return False
        if this.alone:
            return self.queue[0] is this and not self.inside
        before = itertools.takewhile(lambda other: other is not this, self.queue)
        return not any(other.alone for other in before)

    def _be_alone(self, this: Pass) -> bool:
        if self._siblings is not None and not self._siblings.be_alone():
            return False
        self.inside.add(this.thread)
        self._alone, this.until = this, time.monotonic() + this.timeout
        if self._siblings is not None:
            # Nobody here may be waiting, but there: company comes when the time is up.
            this.timer = threading.Timer(this.timeout, self._time_is_up, (this,))
            this.timer.daemon = True
            this.timer.start()
        return True

    def _time_is_up(self, this: Pass) -> None:
        while self._alone is this:
            self._ask_for_company(this)
            time.sleep(RETRY)

    def _ask_for_company(self, alone: Pass) -> None:
        if alone.give_way():
            with self.lock:
                if self._alone is alone:
                    self._let_in()
                    self._tell_all()

    def _give_up(self, this: Pass) -> None:
        """It is not to be alone any more: who was before it in the queue may still be."""
        if self._alone is None and self.queue and self.queue[0] is this:
            self._let_siblings_in()

    def _let_in(self) -> None:
        if self._alone is not None and self._alone.timer is not None:
            self._alone.timer.cancel()
        self._alone = None
        self._let_siblings_in()

    def _let_siblings_in(self) -> None:
        if self._siblings is not None:
            self._siblings.give_up(inside=bool(self.inside))

    def _pause(self, this: Pass) -> Pass | float:
        """Return the one who has been alone for long enough and is to be asked; or for how long to wait, seconds."""
        now = time.monotonic()
        ends = [now + (LONGEST_PAUSE if self._siblings is None else LOOK)]
        if this.alone:
            ends.append(this.until)
        if self._alone is not None:
            if now >= self._alone.until:
                self._alone.until = now + RETRY  # nobody else asks meanwhile
                return self._alone
            ends.append(self._alone.until)
        return min(ends) - now
