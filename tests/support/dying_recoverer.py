# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A recoverer that is killed at one step: ``python -m tests.support.dying_recoverer before:claim``."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

from dramatiq_inflight import InFlightTracker
from dramatiq_inflight.worker import WorkerProcess

from . import app


def die() -> None:
    app.history.write("recoverer killed", None)
    os.kill(os.getpid(), signal.SIGKILL)


def deadly(when: str, method: Any) -> Any:
    """The method, and death before it, after it, at its second call, or within a batch that it was given."""
    calls = []

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        if method.__name__ == "return_to_broker" and not args[-1]:
            return method(*args, **kwargs)  # it only says that it begins
        if when == "before" or (when == "between" and len(calls) > 1):
            die()
        if when == "within":
            method(args[0][:1])
            die()
        result = method(*args, **kwargs)
        if when == "after":
            die()
        return result

    return wrapped


def main() -> None:
    when, step = sys.argv[1].split(":")
    tracker = next(m for m in app.broker.middleware if isinstance(m, InFlightTracker))
    runtime = WorkerProcess(tracker.policies, app.broker, 8)
    runtime.register()
    owner: Any
    if step in ("copy_of", "enqueue", "enqueue_batch"):
        owner = runtime.recovery
    elif step in ("give_back", "_requeue"):
        owner = runtime.recovery.queues
    else:
        owner = runtime.store.workers if step == "forget" else runtime.store.recovery
    setattr(owner, step, deadly(when, getattr(owner, step)))
    while True:  # until the step is reached
        runtime.store.workers.heartbeat()
        runtime.recovery.sweep()
        time.sleep(0.02)


if __name__ == "__main__":
    main()
