# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The recovery of one broker's messages, as a worker has it, and whoever does a worker's work by hand."""

from __future__ import annotations

from collections.abc import Callable

from dramatiq import Broker, Message

from ..brokers.queues import BrokerQueues
from ..brokers.redis import batch_of
from ..config.policy import Policy
from ..config.settings import Settings
from ..store.store import Store
from .sweep import Recoverer
from .telling import Telling

__all__ = ["recovery_of"]


def recovery_of(
    store: Store,
    broker: Broker,
    settings: Settings,
    policy_of: Callable[[Message[object]], Policy],
    queues: BrokerQueues,
) -> Recoverer:
    """The recovery of a broker's messages.

    Parameters:
      store: The store of the recovering worker.
      queues: The broker's.
    """
    return Recoverer(
        store=store,
        enqueue=broker.enqueue,
        enqueue_batch=batch_of(broker),
        declared=lambda: (broker.get_declared_queues(), broker.get_declared_actors()),
        queues=queues,
        lock_ttl=settings.recovery_lock_ttl,
        policy_of=policy_of,
        tell=Telling(broker, policy_of, settings.callback),
    )
