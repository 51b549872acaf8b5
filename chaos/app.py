# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The application that the pods run.  Each run writes to the history, by a clock that nobody skews."""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from pathlib import Path
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import CurrentMessage, Middleware, default_middleware
from dramatiq.worker import ConsumerThread

import dramatiq_inflight
from dramatiq_inflight import InFlightTracker, MessageLost
from tests.support.history import History
from tests.support.servers import connect

#: Which boot of which pod this is.
POD = os.environ["CHAOS_POD"]


def who() -> str:
    """This process, among all of the run: its pid is one of its pod's own."""
    return f"{POD}:{os.getpid()}"


history = History(Path(os.environ["CHAOS_HISTORY"]), clock=time.monotonic, who=who)


def make_broker() -> dramatiq.Broker:
    """RabbitMQ if there is an address of one, else Redis."""
    middleware = [middleware() for middleware in default_middleware]
    if "CHAOS_RABBITMQ_URL" in os.environ:
        from dramatiq.brokers.rabbitmq import RabbitmqBroker  # noqa: PLC0415  needs pika

        return RabbitmqBroker(url=os.environ["CHAOS_RABBITMQ_URL"], middleware=middleware, confirm_delivery=True)
    # Maintenance is often, and by the clock of the worker that does it: it takes the living for dead.
    return RedisBroker(client=connect(os.environ["CHAOS_REDIS_URL"]), middleware=middleware, maintenance_chance=20_000)


broker = make_broker()


class Recorder(Middleware):
    """Notes boots, enqueues and acknowledgements."""

    def __init__(self) -> None:
        self._ran: set[int] = set()

    def after_worker_boot(self, broker: Any, worker: Any) -> None:
        history.write("boot", None)

    def before_worker_shutdown(self, broker: Any, worker: Any) -> None:
        history.write("shutdown", None)

    def before_enqueue(self, broker: Any, message: Any, delay: Any) -> None:
        history.write("enqueue", message.args[0], message.message_id, _by_consumer())

    def after_enqueue(self, broker: Any, message: Any, delay: Any) -> None:
        history.write("enqueued", message.args[0], message.message_id, _by_consumer())

    def after_process_message(self, broker: Any, message: Any, **outcome: Any) -> None:
        self._ran.add(id(message))

    def after_ack(self, broker: Any, message: Any) -> None:
        if id(message) in self._ran:
            self._ran.discard(id(message))
            history.write("acked", message.args[0], message.message_id)

    def after_nack(self, broker: Any, message: Any) -> None:
        self._ran.discard(id(message))
        reason = message.options.get("inflight", {}).get("reason")
        history.write("nacked", message.args[0], message.message_id, reason)


def _by_consumer() -> bool:
    """Return whether a delayed message moves to its queue."""
    return isinstance(threading.current_thread(), ConsumerThread)


def tell(incident: dramatiq_inflight.Incident) -> None:
    """A message was recovered here."""
    said = {"kind": incident.kind.value, "from": incident.instance, "why": incident.why, "crashes": incident.crashes}
    history.write("recovered", None, incident.message_id, said)


broker.add_middleware(CurrentMessage())
broker.add_middleware(Recorder())
#: RabbitMQ has no Redis of its own; one behind sentinels has no URL.
apart = {"client": connect(os.environ["CHAOS_REDIS_URL"])} if "CHAOS_RABBITMQ_URL" in os.environ else {}
broker.add_middleware(InFlightTracker(callback=tell, track_by_default=True, **apart))
dramatiq.set_broker(broker)


def noted(key: str, seconds: float, outcome: str = "ok") -> None:
    """Work for a while; note when it began, and how it ended."""
    message, current = CurrentMessage.get_current_message(), dramatiq_inflight.current()
    assert message is not None
    assert current is not None
    token = secrets.token_hex(4)
    said = {
        "run": current.fence,
        "generation": current.generation,
        "crashes": current.crashes,
        "drains": current.drains,
    }
    history.write("start", key, message.message_id, {"token": token, **said})
    try:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            time.sleep(min(0.05, max(0.0, deadline - time.monotonic())))
    except MessageLost:
        outcome = "interrupted"
        raise
    finally:
        history.write("end", key, message.message_id, {"token": token, "outcome": outcome})


@dramatiq.actor
def work(key: str, seconds: float) -> None:
    """Works for a while."""
    noted(key, seconds)


@dramatiq.actor(interrupt_on_loss=True)
def long(key: str, seconds: float) -> None:
    """Works for longer, and is stopped once another worker has it."""
    noted(key, seconds)


@dramatiq.actor(max_retries=100, min_backoff=100, max_backoff=500)
def failing(key: str, seconds: float, failures: int) -> None:
    """Fails so often, and then succeeds."""
    message = CurrentMessage.get_current_message()
    assert message is not None
    fails = message.options.get("retries", 0) < failures
    noted(key, seconds, "failed" if fails else "ok")
    if fails:
        raise RuntimeError("as asked for")


@dramatiq.actor
def stage(key: str, seconds: float, *results: None) -> None:
    """One of two in a pipeline."""
    noted(key, seconds)


@dramatiq.actor
def poison(key: str, seconds: float) -> None:
    """Kills its worker process."""
    noted(key, seconds, "kills")
    os.kill(os.getpid(), signal.SIGKILL)
