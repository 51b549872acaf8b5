# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Which Redis the records are in: the broker's own, or another."""

from __future__ import annotations

import redis
from dramatiq import Broker
from dramatiq.brokers.redis import RedisBroker

from ..config.settings import Settings
from ..errors import ConfigurationError
from ..store.connection import bounded_client, bounded_client_from_url
from .queues import BrokerQueues
from .rabbitmq import RabbitmqQueues
from .redis import RedisQueues, RedisQueuesApart

__all__ = ["queues_of", "tracker_client"]


def tracker_client(settings: Settings, broker: Broker) -> tuple[redis.Redis, bool]:
    """A client for the tracker, and whether it is of the broker's own Redis.

    Raises:
      ConfigurationError: There is no Redis to use.
    """
    if settings.redis_url is not None:
        return bounded_client_from_url(settings.redis_url), False
    if isinstance(broker, RedisBroker) and settings.client in (None, broker.client):
        return bounded_client(broker.client), True
    if settings.client is not None:
        return bounded_client(settings.client), False
    raise ConfigurationError(
        f"InFlightTracker has no Redis to keep its records in: the broker is a {type(broker).__name__}, and neither "
        "redis_url (environment variable PROCESSING_REDIS_URL) nor client is set. Set one of them, for example "
        "PROCESSING_REDIS_URL=redis://localhost:6379/0."
    )


def queues_of(broker: Broker, client: redis.Redis, *, shared: bool) -> BrokerQueues:
    """Return a broker's queues.

    Parameters:
      client: The tracker's.
      shared: True if that is of the broker's own Redis.
    """
    if not isinstance(broker, RedisBroker):
        return RabbitmqQueues.of(broker) or BrokerQueues()
    return RedisQueues(broker, client) if shared else RedisQueuesApart(broker, bounded_client(broker.client))
