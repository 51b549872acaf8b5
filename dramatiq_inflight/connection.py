# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The tracker's own connections: to the broker's Redis or another, always with bounds.

The broker's client may wait for an answer for ever (older redis-py, or a user's choice).  A heartbeat must not, and it
must not compete with worker threads for a connection.  So the tracker opens connections of its own, made like the
client's it is given, but with time-outs, with replies as bytes (payloads need not be text), and without long retries.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass, field
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.retry import Retry
from redis.sentinel import SentinelConnectionPool

__all__ = ["COMMAND_TIMEOUT", "Address", "bounded_client", "bounded_client_from_url"]

#: How long to wait for a connection or an answer, seconds.  The grace in the scripts is meant to be longer than this
#: and the pause between two tries together.
COMMAND_TIMEOUT = 2.0

#: How many connections there may be: as many as there are worker threads.  redis-py 8 has a default of 100.
UNLIMITED = 2**31

#: What a connection pool adds to its connections' arguments for its own use, in one redis-py or another.
POOL_INTERNALS = ("maint_notifications", "orig_", "himport_registry", "connection_pool", "retry", "event_dispatcher")


@dataclass(frozen=True)
class Address:
    """How to reach a Redis: all that another process needs to make a client of its own.

    Holds the password, and shows none of it.
    """

    #: Of a connection; of the client, where that is a cluster's.
    connection_class: type[Any] = field(repr=False)
    arguments: dict[str, Any] = field(repr=False)
    #: Host and port of some nodes of a cluster.
    nodes: tuple[tuple[str, int], ...] = ()
    #: What else the pool was made with, where sentinels give the address.
    sentinel_pool: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, client: redis.Redis) -> Address | None:
        """Of a client; ``None`` if it is of a class of its own, of which nothing is known."""
        if isinstance(client, redis.RedisCluster):
            manager = client.nodes_manager
            nodes = tuple((node.host, node.port) for node in manager.startup_nodes.values())
            return cls(type(client), _own_arguments(manager.connection_kwargs), nodes)
        pool = getattr(client, "connection_pool", None)
        if not isinstance(pool, redis.ConnectionPool):
            return None
        arguments = _own_arguments(pool.connection_kwargs)
        if not isinstance(pool, SentinelConnectionPool):
            return cls(pool.connection_class, arguments)
        proxy = pool.proxy
        own = {
            "service_name": proxy.service_name,
            "sentinel_manager": proxy.sentinel_manager,
            "is_master": pool.is_master,
            "check_connection": pool.check_connection,
        }
        return cls(pool.connection_class, arguments, sentinel_pool=own)

    def pickled(self) -> bytes:
        """For another process.

        Raises:
          Exception: What the user gave to the client cannot be pickled.
        """
        file = io.BytesIO()
        _Pickler(file).dump(self)
        pickle.loads(file.getvalue())
        return file.getvalue()

    def connect(self, timeout: float = COMMAND_TIMEOUT) -> redis.Redis:
        """A client with connections of its own, and bounds on how long a command may take."""
        if self.nodes:
            nodes = [ClusterNode(host, port) for host, port in self.nodes]
            bounds = {name: value for name, value in _bounds(timeout).items() if name != "retry"}
            cluster: redis.Redis = self.connection_class(startup_nodes=nodes, **{**self.arguments, **bounds})
            return cluster
        arguments = {**self.arguments, **_bounds(timeout)}
        pool_class = SentinelConnectionPool if self.sentinel_pool else redis.ConnectionPool
        pool = pool_class(
            connection_class=self.connection_class, max_connections=UNLIMITED, **self.sentinel_pool, **arguments
        )
        return redis.Redis(connection_pool=pool)


def bounded_client(client: redis.Redis, timeout: float = COMMAND_TIMEOUT) -> redis.Redis:
    """A client of the same Redis with connections of its own, and bounds on how long a command may take.

    A client of another class than ``redis.Redis`` (a cluster's) is used as it is: its own bounds hold.
    """
    address = Address.of(client)
    return client if address is None or address.nodes else address.connect(timeout)


class _Pickler(pickle.Pickler):
    """Knows how to pickle the clients that a sentinel manager has of its sentinels."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, redis.Redis):
            pool = obj.connection_pool
            return _client, (pool.connection_class, _own_arguments(pool.connection_kwargs))
        return NotImplemented


def _client(connection_class: type[Any], arguments: dict[str, Any]) -> redis.Redis:
    return redis.Redis(connection_pool=redis.ConnectionPool(connection_class, **arguments))


def _own_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    # A bare object() is redis-py's way to say "by default"; it is known by its identity, which pickling does not keep.
    return {
        name: value
        for name, value in arguments.items()
        if not name.startswith(POOL_INTERNALS) and type(value) is not object
    }


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
