# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""One connection that is subscribed to one channel, and never connects again by itself."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import redis

from ..store.connection import Address
from ..store.errors import comes_and_goes
from ..store.store import Store

__all__ = ["CannotSubscribe", "Subscription", "Subscriptions"]


class CannotSubscribe(redis.RedisError):
    """There can be no subscription here: the server refuses it, or the client is of a class of its own."""


class Subscription:
    """A connection that is subscribed.

    Attributes:
      begun: When its opening was begun (``time.monotonic``).
    """

    def __init__(self, connection: Any, begun: float, on_close: Callable[[Any], None]) -> None:
        self.connection = connection
        self.begun = begun
        self._on_close = on_close

    def wait(self, seconds: float) -> str:
        """Wait for what is published; empty if nothing is within so many seconds.

        Raises:
          redis.RedisError: The subscription is over.
        """
        if not self.connection.can_read(timeout=max(seconds, 0.0)):
            return ""
        kind, _, what = self.connection.read_response()
        if kind.endswith(b"unsubscribe"):
            raise redis.ConnectionError("the server has ended the subscription")
        return str(what, "utf-8", "replace") if kind.endswith(b"message") else ""

    def close(self) -> None:
        """Close the connection."""
        self._on_close(self.connection)


class Subscriptions:
    """Opens subscriptions, each by a connection from scratch: names, sentinels, TLS, credentials."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._address: Address | None = None
        self._pool: Any = None
        self._connections: set[Any] = set()

    def open(self, channel: str, within: float) -> Subscription:
        """Subscribe to a channel.

        Parameters:
          within: How long the connection may take to be opened, seconds.

        Raises:
          CannotSubscribe: Nobody can, or this user may not.
          redis.RedisError: It is not possible just now.
        """
        begun = time.monotonic()
        connection = self._pool_of(self._store.workers.node()).make_connection()
        self._connections.add(connection)
        try:
            connection.connect(within)
            connection.send_command("SSUBSCRIBE" if self._store.workers.sharded else "SUBSCRIBE", channel)
            connection.read_response()
        except redis.ResponseError as error:
            self._close(connection)
            moved = isinstance(error, redis.exceptions.MovedError)
            if moved:
                self._store.workers.find_node()
            if moved or comes_and_goes(error):
                raise redis.ConnectionError(str(error)) from error
            raise CannotSubscribe(str(error)) from error
        except BaseException:
            self._close(connection)
            raise
        return Subscription(connection, begun, self._close)

    def forked(self) -> None:
        """This is a child of the process: close the descriptors alone, for the connections are the parent's."""
        for connection in list(self._connections):
            self._close(connection)

    def _close(self, connection: Any) -> None:
        self._connections.discard(connection)
        connection.disconnect()  # redis-py shuts down what is its own process's alone

    def _pool_of(self, node: redis.Redis) -> Any:
        address = Address.of(node)
        if address is None:
            raise CannotSubscribe(f"{type(node).__name__} is a client of its own class")
        if address != self._address:
            # With RESP3 redis-py hands published messages to handlers of its own.
            plain = dataclasses.replace(address, arguments={**address.arguments, "protocol": 2})
            self._address, self._pool = address, plain.connect(waits=True).connection_pool
        return self._pool
