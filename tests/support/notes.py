# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Notes in the history what a judge of resumed jobs must know, and kills where a completion is not acknowledged yet."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

from dramatiq.middleware import Middleware

from dramatiq_inflight.store.replies import Saved
from dramatiq_inflight.tracker import tracker_of

from .history import History
from .inside import runtime_if_any, runtime_of

__all__ = ["Killer", "Notes"]


class Notes(Middleware):
    """Notes each save of an iteration, when a shutdown begins, and what a worker enqueues.

    A save is noted before Redis is asked (``saving``) and when it has answered (``saved``, ``fenced``): a kill between
    the two leaves open whether it came about.
    """

    def __init__(self, history: History) -> None:
        self.history = history
        self._in_worker = False

    def after_worker_boot(self, broker: Any, worker: Any) -> None:
        self._in_worker = True
        store = runtime_of(tracker_of(broker)).store
        checkpoint = store.messages.checkpoint

        def noting(message_id: str, run: int, fields: dict[str, str], origin: str = "") -> Saved:
            done = json.loads(fields["iterations"])["items"]["done"] if "iterations" in fields else None
            self.history.write("saving", message_id, message_id, [run, done])
            saved = checkpoint(message_id, run, fields, origin)
            self.history.write(saved.value, message_id, message_id, [run, done])
            return saved

        store.messages.checkpoint = noting  # type: ignore[method-assign]

    def before_worker_shutdown(self, broker: Any, worker: Any) -> None:
        self.history.write("shutting_down", None, extra=os.getpgid(0))

    def after_enqueue(self, broker: Any, message: Any, delay: int | None) -> None:
        if self._in_worker:
            self.history.write("enqueued", message.args[0] if message.args else None, message.message_id, delay)


class Killer(Middleware):
    """Kills its container when so many messages are complete, and are about to be acknowledged: each message once.

    After the tracker, in ``before_ack``: Redis knows that they are complete.  RabbitMQ and a RedisBroker on another
    Redis do not.

    Parameters:
      folder: Where it is noted which messages were there.
      threads: How many messages at once; fewer, if no more come.
    """

    def __init__(self, history: History, folder: Path, threads: int) -> None:
        self.history = history
        self.folder = folder
        self.threads = threads
        self._mutex = threading.Lock()
        self._there = 0

    def before_ack(self, broker: Any, message: Any) -> None:
        key = message.args[0] if message.args else None
        try:
            (self.folder / str(key)).touch(exist_ok=False)
        except FileExistsError:
            return
        runtime = runtime_if_any(tracker_of(broker))
        entry = runtime.table.get(message) if runtime is not None else None
        self.history.write("unacknowledged", key, message.message_id, entry is not None and entry.state.told)
        with self._mutex:
            self._there += 1
        deadline = time.monotonic() + 0.5
        while self._there < self.threads and time.monotonic() < deadline:
            time.sleep(0.005)
        os.killpg(0, signal.SIGKILL)
        time.sleep(60)  # it has come before the next statement, or soon
