# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The tracker's own connections: to the broker's Redis or another, always with bounds.

The broker's client may wait for an answer for ever (older redis-py, or a user's choice).  A heartbeat must not, and it
must not compete with worker threads for a connection.  So the tracker opens connections of its own, made like the
client's it is given, but with time-outs, with replies as bytes (payloads need not be text), and without long retries.
"""

from __future__ import annotations

from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import SentinelConnectionPool

__all__ = ["COMMAND_TIMEOUT", "bounded_client", "bounded_client_from_url"]

#: How long to wait for a connection or an answer, seconds.  The grace in the scripts is meant to be longer than this
#: and the pause between two tries together.
COMMAND_TIMEOUT = 2.0

#: How many connections there may be: as many as there are worker threads.  redis-py 8 has a default of 100.
UNLIMITED = 2**31

#: What a connection pool adds to its connections' arguments for its own use, in one redis-py or another.
POOL_INTERNALS = ("maint_notifications", "orig_", "himport_registry", "connection_pool", "retry", "event_dispatcher")


def bounded_client(client: redis.Redis, timeout: float = COMMAND_TIMEOUT) -> redis.Redis:
    """A client of the same Redis with connections of its own, and bounds on how long a command may take.

    A client of another class than ``redis.Redis`` (a cluster's) is used as it is: its own bounds hold.
    """
    pool = getattr(client, "connection_pool", None)
    if not isinstance(pool, redis.ConnectionPool):
        return client
    arguments = {name: value for name, value in pool.connection_kwargs.items() if not name.startswith(POOL_INTERNALS)}
    arguments.update(_bounds(timeout))
    bounded: redis.ConnectionPool
    if isinstance(pool, SentinelConnectionPool):
        proxy = pool.proxy
        bounded = SentinelConnectionPool(
            proxy.service_name,
            proxy.sentinel_manager,
            is_master=pool.is_master,
            check_connection=pool.check_connection,
            connection_class=pool.connection_class,
            max_connections=UNLIMITED,
            **arguments,
        )
    else:
        bounded = redis.ConnectionPool(pool.connection_class, UNLIMITED, **arguments)
    return redis.Redis(connection_pool=bounded)


def bounded_client_from_url(url: str) -> redis.Redis:
    """A client of the Redis at `url`, with bounds on how long a command may take."""
    return bounded_client(redis.Redis.from_url(url))


def _bounds(timeout: float) -> dict[str, Any]:
    return {
        "socket_timeout": timeout,
        "socket_connect_timeout": COMMAND_TIMEOUT,
        "decode_responses": False,
        # One more try, for a pooled connection that a restarted server has closed.  All scripts bear being run twice.
        "retry": Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
    }
