# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The recovery of one broker's messages, as a worker has it, and whoever does a worker's work by hand."""

from __future__ import annotations

from collections.abc import Callable

from dramatiq import Broker, Message
from dramatiq.brokers.redis import RedisBroker

from ..brokers.rabbitmq import RabbitmqQueues
from ..brokers.redis import RedisQueues
from ..config.policy import Policy
from ..config.settings import Settings
from ..store.registry import Registry
from .sweep import Recovery
from .telling import Telling

__all__ = ["custody", "recovery_of"]


def recovery_of(
    registry: Registry,
    broker: Broker,
    settings: Settings,
    policy_of: Callable[[Message[object]], Policy],
    *,
    queues: RedisQueues | None = None,
    shared: bool,
) -> Recovery:
    """The recovery of a broker's messages.

    Parameters:
      registry: Of whoever recovers.
      queues: Of a RedisBroker.
      shared: Whether the broker is on the tracker's own Redis.
    """
    return Recovery(
        registry=registry,
        enqueue=broker.enqueue,
        declared=lambda: (broker.get_declared_queues(), broker.get_declared_actors()),
        queues=queues if shared else None,
        lock_ttl=settings.recovery_lock_ttl,
        custody=custody(broker),
        asks=queues,
        counts=RabbitmqQueues.of(broker),
        policy_of=policy_of,
        tell=Telling(broker, policy_of, settings.callback),
    )


def custody(broker: Broker) -> str:
    """Who keeps a broker's messages, so that it can be told from another one with queues of the same names.

    Not its address: workers may reach one broker by several.  Empty where nothing can be told.
    """
    if isinstance(broker, RedisBroker):
        return f"a RedisBroker, namespace {broker.namespace!r}"
    parameters = getattr(broker, "parameters", None)  # a RabbitmqBroker's, of one node or several
    first = parameters[0] if isinstance(parameters, list) and parameters else parameters
    vhost = getattr(first, "virtual_host", None)
    return f"RabbitMQ, virtual host {vhost!r}" if vhost is not None else ""
