# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The application that the tests' workers run.  All of it is set by environment variables."""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import dramatiq
from dramatiq.middleware import CurrentMessage, Middleware, default_middleware
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

import dramatiq_inflight
from dramatiq_inflight import HandBack, InFlightTracker, MessageLost
from tests.support.brokers import make_broker
from tests.support.deaths import is_watched
from tests.support.history import History
from tests.support.hooked import beside
from tests.support.notes import Killer, Notes
from tests.support.servers import connect

history = History(Path(os.environ["TEST_HISTORY"]))
NAMESPACE = os.environ["TEST_BROKER_NAMESPACE"]

#: Other tests' messages are in other queues, where they share a broker that has no namespaces.
QUEUE = os.environ.get("TEST_QUEUE", "default")


if os.environ.get("TEST_ENCODER") == "pickle":
    dramatiq.set_encoder(dramatiq.PickleEncoder())

broker = make_broker(os.environ, [middleware() for middleware in default_middleware])
actor = functools.partial(dramatiq.actor, queue_name=QUEUE)


class Recorder(Middleware):
    """Notes boots and dead letters."""

    def after_worker_boot(self, broker: Any, worker: Any) -> None:
        history.write("boot", None, extra=os.getpgid(0))

    def after_worker_shutdown(self, broker: Any, worker: Any) -> None:
        history.write("shutdown", None, extra=os.getpgid(0))

    def after_nack(self, broker: Any, message: Any) -> None:
        history.write("nacked", _key(message), message.message_id)


def _acked(broker: Any, message: Any) -> None:
    """Note an acknowledgement, also of a copy that does not run."""
    if not message.queue_name.endswith(".DQ"):
        history.write("acked", _key(message), message.message_id)


def _key(message: Any) -> Any:
    return message.args[0] if message.args else None


backend = RedisBackend(client=connect(os.environ["TEST_BROKER_URL"]), namespace=NAMESPACE + "-results")
broker.add_middleware(Results(backend=backend))
broker.add_middleware(CurrentMessage())
broker.add_middleware(Recorder())
if os.environ.get("TEST_PROMETHEUS"):
    from dramatiq.middleware.prometheus import Prometheus  # it wants its folder and port when it is imported

    broker.add_middleware(Prometheus())
if os.environ.get("TEST_NOTES"):
    broker.add_middleware(Notes(history))
tracker_url = os.environ.get("TEST_TRACKER_URL")  # one that `connect` knows, and redis-py does not
tracker = InFlightTracker(**({"client": connect(tracker_url)} if tracker_url else {}))
beside(tracker, "after_ack", _acked)
broker.add_middleware(tracker)
if os.environ.get("TEST_KILL_UNACKNOWLEDGED"):
    threads = int(os.environ["TEST_KILL_UNACKNOWLEDGED"])
    broker.add_middleware(Killer(history, Path(os.environ["TEST_KILLED"]), threads))
dramatiq.set_broker(broker)


def _message_id() -> str:
    message = CurrentMessage.get_current_message()
    assert message is not None
    return message.message_id


def _noted(key: Any, seconds: float) -> None:
    message_id = _message_id()
    current = dramatiq_inflight.current()
    history.write("start", key, message_id, current and [current.run, current.generation, current.crashes])
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(min(0.02, max(0.0, deadline - time.monotonic())))
    history.write("end", key, message_id)


@actor(track_inflight=True, max_recoveries=None)
def work(key: Any, seconds: float) -> None:
    """Works for a while."""
    _noted(key, seconds)


@actor(track_inflight=True, store_results=True, max_retries=0)
def with_result(key: Any, seconds: float) -> str:
    """Works for a while, and has a result."""
    _noted(key, seconds)
    return f"result of {key}"


@actor(track_inflight=True, store_results=True)
def self_killing(key: Any) -> None:
    """Kills its worker."""
    history.write("start", key, _message_id())
    os.killpg(0, signal.SIGKILL)


@actor(track_inflight=True)
def killer(key: Any, seconds: float) -> None:
    """Kills its worker after a while."""
    _noted(key, seconds)
    os.killpg(0, signal.SIGKILL)


@actor(track_inflight=True)
def ending(key: Any, how: str) -> None:
    """Ends its own process once another one watches it: by a signal, with an exit code, or for want of memory."""
    history.write("start", key, _message_id())
    while not is_watched(os.getpid()):
        time.sleep(0.05)
    kind, _, number = how.partition(" ")
    if kind == "signal":
        os.kill(os.getpid(), int(number))
        time.sleep(60)
    elif kind == "exit":
        os._exit(int(number))
    else:
        hoard = []
        while True:
            hoard.append(b"x" * 2**23)


@actor
def untracked(key: Any, seconds: float) -> None:
    """Works for a while, and is not tracked."""
    _noted(key, seconds)


@actor(track_inflight=True, max_recoveries=None, max_retries=3, min_backoff=50, max_backoff=100)
def failing(key: Any, failures: int, seconds: float) -> None:
    """Fails so often, and then succeeds."""
    message = CurrentMessage.get_current_message()
    assert message is not None
    _noted(key, seconds)
    if message.options.get("retries", 0) < failures:
        raise RuntimeError("as asked for")
    history.write("success", key, message.message_id)


@actor(track_inflight=True, max_recoveries=None)
def gated(key: Any, gate: str) -> None:
    """Works until a file is there; `{}` in its name stands for what the worker's environment says."""
    current = dramatiq_inflight.current()
    seen = current and {"run": current.run, "crashes": current.crashes, "drains": current.drains}
    history.write("start", key, _message_id(), seen)
    gate = gate.format(os.environ.get("TEST_GATE_SUFFIX", ""))
    while not Path(gate).exists():
        time.sleep(0.01)
    history.write("end", key, _message_id())


@actor(track_inflight=True, max_recoveries=None, store_results=True)
def starving(key: Any, seconds: float, gate: str) -> str:
    """Its first run holds the GIL, as C code may, for so long or until it is fed; a later one waits at its gate."""
    current = dramatiq_inflight.current()
    run = current.run if current is not None else 0
    history.write("start", key, _message_id(), run)
    if run <= 1:
        ends, libc, interval = time.monotonic() + seconds, ctypes.PyDLL(None), sys.getswitchinterval()
        sys.setswitchinterval(seconds)
        while time.monotonic() < ends and libc.access(f"{gate}.fed".encode(), os.F_OK):
            libc.usleep(10_000)
        sys.setswitchinterval(interval)
    while run > 1 and not Path(gate).exists():
        time.sleep(0.01)
    history.write("end", key, _message_id(), run)
    return f"of run {run}"


@actor(track_inflight=True, max_recoveries=None, interrupt_on_loss=True, max_retries=3, min_backoff=50)
def interruptible(key: Any, gate: str) -> None:
    """Works until a file is there, or it is interrupted: another worker has it, or its worker shuts down."""
    current = dramatiq_inflight.current()
    run = current.run if current is not None else 0
    history.write("start", key, _message_id(), run)
    try:
        while not Path(gate).exists():
            time.sleep(0.01)
    except (MessageLost, HandBack):
        history.write("interrupted", key, _message_id(), run)
        raise
    history.write("end", key, _message_id(), run)


@actor(track_inflight=True, max_recoveries=None, max_retries=0)
def gated_failing(key: Any, gate: str) -> None:
    """Works until a file is there, and fails."""
    gated.fn(key, gate)
    raise RuntimeError("as asked for")


@actor(track_inflight=True, max_recoveries=None)
def stepwise(key: Any, steps: int, seconds: float, every: float, gate: str) -> None:
    """Goes through so many steps, and on from where an earlier run was cut off; the last one waits for a file."""
    job = dramatiq_inflight.current()
    assert job is not None
    history.write("start", key, job.message_id, [job.run, job.crashes, job.drains])
    for step in job.iterate(range(steps), every=every):
        history.write("begun", key, job.message_id, [job.run, step])
        time.sleep(seconds)
        while step == steps - 1 and not Path(gate).exists():
            if job.stopping:
                job.hand_back()
            time.sleep(0.01)
        history.write("done", key, job.message_id, [job.run, step])
    history.write("end", key, job.message_id, job.run)
