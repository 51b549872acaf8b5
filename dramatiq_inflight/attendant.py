# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The heartbeat's own process: beats for one worker process as long as that lives, and says when it has died.

C code that holds the GIL starves every thread of a worker, the heartbeat's too.  It cannot starve another process.
This is that process's program; `heartbeat_process` starts it.  It holds no copy of the application: it is a fresh
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

from .connection import Address
from .evidence import GONE, Process, Watched
from .registry import Registry
from .words import ASKED, DIED, listening_times

__all__ = ["BYE", "READY", "Attendant", "Task", "main"]

#: What the worker says when it ends in order, and what it is told once the beats come.
BYE, READY = b"bye", b"ready\n"

#: How long to wait before what has failed is tried again, seconds: a beat, and listening.
RETRY, LISTEN_AGAIN = 1.0, 0.2

#: How often to look for the worker where no descriptor tells of its end, seconds.
LOOK = 0.5

#: How long to try to tell of the worker's death while Redis is away, seconds.
LAST_WORDS = 15.0


@dataclass(frozen=True)
class Task:
    """What the attendant is to know; it comes by its standard input, and holds the password."""

    address: bytes
    namespace: str
    #: The worker's incarnation, and its process: ``None`` where that cannot be told from others.
    incarnation: str
    process: Process | None
    parent: int
    interval: float
    ttl: float
    #: How long an answer may take, seconds.
    patience: float
    health_file: Path | None


class Attendant:
    """Beats, answers, and sees the worker die."""

    def __init__(self, task: Task) -> None:
        self.task = task
        address: Address = pickle.loads(task.address)
        self._wait_for_word, bound = listening_times(task.patience)
        self._patient = address.connect(bound, waits=True)
        self._beats = False
        self.registry = Registry(
            address.connect(), task.namespace, task.incarnation, heartbeat_ttl=task.ttl, fence_ttl=task.ttl
        )
        self._watched = Watched(task.process) if task.process is not None else None

    def run(self) -> None:
        """Until the worker has gone, or says that it goes."""
        threading.Thread(target=self._answer, name="answer", daemon=True).start()
        next_beat = 0.0
        while not self._is_orphaned():
            if time.monotonic() >= next_beat:
                next_beat = time.monotonic() + (self.task.interval if self._beat() else RETRY)
            if self._wait(next_beat - time.monotonic()):
                return
        self._tell()

    def _beat(self) -> bool:
        try:
            if self.registry.attest() and self.task.health_file is not None:
                self.task.health_file.touch()
            self._beats = True
        except (redis.RedisError, OSError):
            return False
        return True

    def _answer(self) -> None:
        ready = False
        while True:
            try:
                word = self.registry.heard(self._patient, self._wait_for_word, by_process=True)
                if self._beats and not ready:
                    ready = True
                    _say_ready()
                if word == ASKED and not self._is_orphaned():
                    self.registry.attest()
            except redis.RedisError:
                time.sleep(LISTEN_AGAIN)
            except BaseException:
                traceback.print_exc()
                os._exit(1)  # no answers that are waited for would look like a death; it is started again

    def _is_orphaned(self) -> bool:
        if self._watched is not None and (self._watched.fd is not None or self._watched.gone):
            return self._watched.is_gone()
        return os.getppid() != self.task.parent

    def _wait(self, seconds: float) -> bool:
        """Wait for the next beat, or for something to happen to the worker.  Returns whether it ends in order."""
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
        ends = time.monotonic() + LAST_WORDS
        while time.monotonic() < ends:
            try:
                dead = self.registry.incarnation(self.task.incarnation)
                if self.registry.prove(dead, GONE):
                    self.registry.tell_some(DIED)
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
