# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""How the tracker reaches a Redis: like a client that it is given, by connections of its own (`pool`).

The client may wait for an answer for ever (older redis-py, or a user's choice).  A heartbeat must not, and it must not
compete with worker threads for a connection.  Replies are bytes, for payloads need not be text, and nothing is tried
again for long.
"""

from __future__ import annotations

import copy
import io
import pickle
import socket
from dataclasses import dataclass, field
from typing import Any

import redis
from redis.cluster import ClusterNode
from redis.sentinel import SentinelConnectionPool

from .pool import COMMAND_TIMEOUT, Pool, SentinelPool, bounds

__all__ = ["Address", "bounded_client", "bounded_client_from_url", "close_client", "where"]

#: How long a sentinel may take to answer, seconds: the next one is asked then.
SENTINEL_TIMEOUT = 1.0

#: A balancer forgets an idle connection after minutes, and learns of it by this that the connection is in use.
KEEPALIVE = {
    getattr(socket, name): seconds
    for name, seconds in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
}

#: The arguments that a connection pool adds to its connections' for its own use, in one redis-py or another.
POOL_INTERNALS = ("maint_notifications", "orig_", "himport_registry", "connection_pool", "retry", "event_dispatcher")


@dataclass(frozen=True)
class Address:
    """How to reach a Redis: all that another process needs to make a client of its own.

    Holds the password, and shows none of it.
    """

    #: Arguments of a connection; of the client, if that is a cluster's.
    connection_class: type[Any] = field(repr=False)
    arguments: dict[str, Any] = field(repr=False)
    #: Host and port of some nodes of a cluster.
    nodes: tuple[tuple[str, int], ...] = ()
    #: The pool's other arguments, if sentinels give the address.
    sentinel_pool: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, client: redis.Redis) -> Address | None:
        """Return the address of a client, or ``None`` if its class is unknown."""
        if isinstance(client, redis.RedisCluster):
            manager = client.nodes_manager
            nodes = tuple((node.host, node.port) for node in manager.startup_nodes.values())
            return cls(type(client), _own_arguments(manager.connection_kwargs), nodes)
        pool = getattr(client, "connection_pool", None)
        if not isinstance(pool, redis.ConnectionPool):
            return None
        arguments = _own_arguments(pool.connection_kwargs)
        connection_class = getattr(pool, "plain_class", pool.connection_class)
        if not isinstance(pool, SentinelConnectionPool):
            return cls(connection_class, arguments)
        proxy = pool.proxy
        own = {
            "service_name": proxy.service_name,
            "sentinel_manager": proxy.sentinel_manager,
            "is_master": pool.is_master,
            "check_connection": pool.check_connection,
        }
        return cls(connection_class, arguments, sentinel_pool=own)

    def pickled(self) -> bytes:
        """For another process.

        Raises:
          Exception: An argument that the user gave to the client cannot be pickled.
        """
        file = io.BytesIO()
        _Pickler(file).dump(self)
        pickle.loads(file.getvalue())
        return file.getvalue()

    def connect(self, timeout: float = COMMAND_TIMEOUT, *, waits: bool = False) -> redis.Redis:
        """A client with connections of its own, which obey the tracker's rules.

        Parameters:
          timeout: How long an answer may take, seconds.
          waits: True if its commands wait at the server, so that a late answer says nothing.
        """
        arguments = {**self.arguments, **bounds(timeout)}
        if self.nodes:
            nodes = [ClusterNode(host, port) for host, port in self.nodes]
            cluster: redis.Redis = self.connection_class(startup_nodes=nodes, **arguments)
            return cluster
        arguments["retry_on_error"] = [redis.ConnectionError]  # older redis-py tries nothing else again
        if issubclass(self.connection_class, redis.Connection):  # not a Unix socket's
            arguments = {"socket_keepalive": True, "socket_keepalive_options": KEEPALIVE, **arguments}
        if not self.sentinel_pool:
            return redis.Redis(connection_pool=Pool(self.connection_class, looks=not waits, **arguments))
        own = {**self.sentinel_pool, "sentinel_manager": _bounded(self.sentinel_pool["sentinel_manager"])}
        return redis.Redis(connection_pool=SentinelPool(self.connection_class, looks=not waits, **own, **arguments))


def bounded_client(client: redis.Redis, timeout: float = COMMAND_TIMEOUT, *, waits: bool = False) -> redis.Redis:
    """A client of the same Redis with connections of its own, which obey the tracker's rules; see `Address.connect`.

    A client of a class of its own, of which nothing is known, is used as it is: its own bounds hold.
    """
    address = Address.of(client)
    return client if address is None else address.connect(timeout, waits=waits)


def where(client: redis.Redis) -> str:
    """Return where a client connects to, for people: host and port, and never a password."""
    if isinstance(client, redis.RedisCluster):
        return ", ".join(f"{node.host}:{node.port}" for node in client.nodes_manager.startup_nodes.values())
    pool = client.connection_pool
    if isinstance(pool, SentinelConnectionPool):
        return f"the primary that the sentinels call {pool.service_name!r}"
    said = pool.connection_kwargs
    return str(said["path"]) if "path" in said else f"{said.get('host', 'localhost')}:{said.get('port', 6379)}"


def close_client(client: redis.Redis) -> None:
    """Close the connections of a client that `bounded_client` has made; one that is used as it is stays open."""
    pool = getattr(client, "connection_pool", None)
    if isinstance(pool, (Pool, SentinelPool)):
        pool.close()
    elif isinstance(client, redis.RedisCluster):
        client.close()


def _bounded(sentinels: Any) -> Any:
    """A sentinel manager like this one, whose questions are bounded."""
    manager = copy.copy(sentinels)
    manager.sentinels = [bounded_client(sentinel, SENTINEL_TIMEOUT) for sentinel in sentinels.sentinels]
    return manager


class _Pickler(pickle.Pickler):
    """Knows how to pickle the clients that a sentinel manager has of its sentinels."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, redis.Redis):
            pool = obj.connection_pool
            own_class = getattr(pool, "plain_class", pool.connection_class)
            return _client, (own_class, _own_arguments(pool.connection_kwargs))
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
