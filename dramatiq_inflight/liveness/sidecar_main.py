# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The heartbeat's own process: beats for one worker process as long as that lives, and says when it has died.

C code that holds the GIL starves every thread of a worker, the heartbeat's too.  It cannot starve another process.
This is that process's program; `sidecar` starts it.  It holds no copy of the application: it is a fresh
Python that imports redis-py and a few modules of this package.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import redis

from ..store.cause import PROCESS
from ..store.connection import Address
from ..store.scripts import Scripts
from ..store.store import Store
from ..store.workers import DIED
from .causes import Causes
from .pidfd import Process, Watched
from .subscription import CannotSubscribe, Subscriptions

__all__ = ["BYE", "READY", "Attendant", "Task", "main"]

#: The word of a worker that ends in order, and the answer once the beats come.
BYE, READY = b"bye", b"ready\n"

#: How long to wait before what has failed is tried again, seconds: a beat, and a subscription.
RETRY, SUBSCRIBE_AGAIN = 1.0, 0.2

#: How long a connection may take to open, and how often to look whether Redis still sees the subscription, seconds.
#: There is one beat for each try to open one: the worker's patience is longer.
CONNECT, LOOK_FOR_US = 1.0, 1.0

#: How often to look for the worker where no descriptor tells of its end, seconds.
LOOK = 0.5

#: How long to try to tell of the worker's death while Redis is away, seconds.
LAST_WORDS = 15.0


@dataclass(frozen=True)
class Task:
    """The attendant's task; it comes by its standard input, and holds the password."""

    address: bytes
    namespace: str
    #: The worker's incarnation, and its process: ``None`` where that cannot be told from others.
    incarnation: str
    process: Process | None
    parent: int
    interval: float
    ttl: float
    #: How long the worker may have no connection, seconds; 0: its heartbeat alone decides.
    connection_timeout: float
    health_file: Path | None


class Attendant:
    """Beats, is subscribed beside the worker, and sees it die."""

    def __init__(self, task: Task) -> None:
        self.task = task
        address: Address = pickle.loads(task.address)
        self.store = Store(
            Scripts(address.connect(), task.namespace, task.incarnation, heartbeat_ttl=task.ttl, fence_ttl=task.ttl)
        )
        self._ready = False
        self._watched = Watched(task.process) if task.process is not None else None
        self._causes = Causes()

    def run(self) -> None:
        """Until the worker has gone, or says that it goes."""
        if self.task.connection_timeout:
            threading.Thread(target=self._be_present, name="presence", daemon=True).start()
        next_beat = 0.0
        while not self._is_orphaned():
            if time.monotonic() >= next_beat:
                self._causes.keep([self._watched] if self._watched is not None else [])
                next_beat = time.monotonic() + (self.task.interval if self._beat() else RETRY)
            if self._wait(next_beat - time.monotonic()):
                return
        self._tell()

    def _beat(self) -> bool:
        try:
            if self.store.workers.heartbeat_on_behalf() and self.task.health_file is not None:
                self.task.health_file.touch()
        except (redis.RedisError, OSError):
            return False
        if not self._ready:
            self._ready = True
            _say_ready()
        return True

    def _be_present(self) -> None:
        """Be subscribed to the worker's channel: C code that holds the GIL keeps the worker itself from coming back."""
        subscriptions = Subscriptions(self.store)
        channel = self.store.keys.channel(self.store.me)
        patience = min(self.task.connection_timeout, self.task.ttl / 2)
        while True:
            subscription = None
            try:
                subscription = subscriptions.open(channel, CONNECT)
                if not self.store.workers.enter(patience=patience, anew=True, on_behalf=True):
                    raise CannotSubscribe("Redis does not see the subscription")
                while self.store.workers.look([self.store.me])[self.store.me]:
                    ends = time.monotonic() + LOOK_FOR_US
                    while (left := ends - time.monotonic()) > 0:
                        subscription.wait(left)
            except CannotSubscribe:
                time.sleep(self.task.interval)
            except redis.RedisError:
                self._beat()
            except BaseException:
                traceback.print_exc()
                os._exit(1)  # it is started again
            if subscription is not None:
                subscription.close()
            time.sleep(SUBSCRIBE_AGAIN)

    def _is_orphaned(self) -> bool:
        if self._watched is not None and (self._watched.fd is not None or self._watched.gone):
            return self._watched.is_gone()
        return os.getppid() != self.task.parent

    def _wait(self, seconds: float) -> bool:
        """Wait for the next beat or for the worker's end.  Return True if the worker ends in order."""
        poll = select.poll()
        poll.register(0, select.POLLIN)
        if self._watched is not None and self._watched.fd is not None:
            poll.register(self._watched.fd, select.POLLIN)
        else:
            seconds = min(seconds, LOOK)
        if 0 not in [fd for fd, _ in poll.poll(max(seconds, 0) * 1000)]:
            return False
        if os.read(0, len(BYE)):
            return True
        # The other end was closed: the worker has died, and this is the first that we see of it; or it ends in order.
        ends = time.monotonic() + LOOK
        while not self._is_orphaned() and time.monotonic() < ends:
            time.sleep(0.001)
        return not self._is_orphaned()

    def _tell(self) -> None:
        """The worker has died: prove it, and wake some who are to recover what it left behind."""
        (cause,) = self._causes.of([self._watched]) if self._watched is not None else [PROCESS]
        ends = time.monotonic() + LAST_WORDS
        while time.monotonic() < ends:
            try:
                dead = self.store.workers.incarnation(self.task.incarnation)
                if self.store.workers.mark_dead(dead, cause):
                    self.store.workers.tell_some(DIED)
                return
            except redis.RedisError:
                time.sleep(RETRY)


def _say_ready() -> None:
    """From now on the worker may promise that questions are answered soon."""
    try:
        os.write(1, READY)
    except OSError:
        pass  # it has died already


def main() -> None:
    """Read the task, and run; signals to the worker's group are not for us, who end with the worker."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    task = pickle.load(sys.stdin.buffer)
    Attendant(task).run()
    os._exit(0)  # whatever the other thread is waiting for
