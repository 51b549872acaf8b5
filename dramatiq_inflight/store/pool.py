# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The rules that every connection of the tracker obeys, in one place.

- A connection is bounded: its opening (names, sentinels, credentials, TLS), its commands, its answers.
- An answer that says "wrong server" drops the connection, and all idle ones; a new one reaches the right server.
- Of a name with several addresses, the one that led to the server before is tried first: others may swallow packets.
- A connection that was idle for a second proves that it is alive before it is used.  A balancer that has forgotten it
  swallows what is sent, and no error comes.
- An answer that is late is compared with a new connection's: if that one is answered, this one is dead.
- A connection belongs to the process that opened it.  A forked child closes its copies of the descriptors, no more.
- A closed pool keeps no connection.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import SentinelConnectionPool

from .ruled import CONNECT_TIMEOUT, ruled

__all__ = ["COMMAND_TIMEOUT", "Pool", "SentinelPool", "bounds"]

#: How long to wait for an answer, seconds.  The grace in the scripts is meant to be longer than a connect, this, and
#: the pause between two tries together.
COMMAND_TIMEOUT = 2.0

#: For how long an idle connection is trusted, seconds.
TRUSTED = 1.0

#: How many attempts to connect may hang before the next ones wait for longer and longer.
HANGING = 4


def bounds(timeout: float) -> dict[str, Any]:
    """The arguments of a connection that waits for an answer so many seconds."""
    return {
        "socket_timeout": timeout,
        "socket_connect_timeout": COMMAND_TIMEOUT,
        "decode_responses": False,
        "health_check_interval": 0,  # a connection proves itself when that is needed
        # One more try, for a connection that is dropped.  All scripts bear being run twice.
        "retry": Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
    }


class _Rules:
    """A pool whose connections obey the rules.  Its idle connections are a list: threads take and give without a lock.

    Parameters:
      looks: True if a late answer is compared with a new connection's.  Not where a command waits at the server.
    """

    pid: int

    def __init__(self, connection_class: type[Any], *, looks: bool = True, **arguments: Any) -> None:
        self.plain_class = connection_class
        self.looks = looks
        #: Called with an answer that says "wrong server".
        self.on_wrong_server: Callable[[redis.RedisError], None] = lambda error: None
        self.closed = False
        #: When the newest connection was opened that was answered beside another one; since when connections are
        #: believed to lead to the right server (``time.monotonic``).
        self.answered_at = self.trusted_since = float("-inf")
        #: The address, of those that a name has, that led to the server before; empty: none that is known.
        self.address = ""
        own: Any = ruled(connection_class)  # type: ignore[arg-type]
        super().__init__(connection_class=own, **arguments)  # type: ignore[call-arg]

    def reset(self) -> None:
        """Begin without connections: at first, and in a forked child, where they are the parent's."""
        parents, self._idle = getattr(self, "_idle", []), list[Any]()
        self.hanging: set[object] = set()
        self._hung_at = 0.0
        super().reset()  # type: ignore[misc]
        for connection in parents:
            connection.disconnect()  # closes the descriptor: redis-py shuts down what is its own process's alone

    def get_connection(self, command_name: Any = None, *keys: Any, **options: Any) -> Any:
        """A connection that is open, and as good as can be known."""
        if self.pid != os.getpid():
            self.reset()
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:
                break
            if time.monotonic() - connection.sent_at < TRUSTED or connection.is_alive():
                return connection
            self.distrust()
        return self.open()

    def open(self, within: float = CONNECT_TIMEOUT) -> Any:
        """A new connection."""
        connection = self.make_connection()
        connection.connect(within)
        return connection

    def make_connection(self) -> Any:
        """A connection that is not open yet: as many as there are threads."""
        connection = self.connection_class(**self.connection_kwargs)  # type: ignore[attr-defined]
        connection.pool = self
        return connection

    def release(self, connection: Any) -> None:
        """Take a connection back, unless it is of no use any more."""
        believed = connection.ready and connection.opened_at > self.trusted_since
        if believed and not connection.owed and not self.closed and connection.pid == os.getpid():
            self._idle.append(connection)
        else:
            connection.disconnect()

    def distrust(self) -> None:
        """Drop what is idle: one connection was dead, or led to the wrong server."""
        while self._idle:
            try:
                self._idle.pop().disconnect()
            except IndexError:
                return

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Drop what is idle; each thread that uses a connection finds out by itself."""
        self.distrust()

    def close(self) -> None:
        """Keep no connection any more.  A thread that goes on opens one for each command."""
        self.closed = True
        self.distrust()

    def answers_anew(self, since: float, within: float) -> bool:
        """Return whether a connection that was opened after `since` (``time.monotonic``) is answered."""
        if self.answered_at > since:
            return True
        begun = time.monotonic()
        try:
            connection = self.open(within)
        except redis.RedisError:
            return False
        if not connection.is_alive():
            return False
        self.answered_at = begun
        self.distrust()
        self.release(connection)
        return True

    def in_time(self, connect: Callable[[], None], connection: Any, within: float) -> None:
        """Connect in a thread, for nothing bounds what a resolver, a sentinel or a provider of credentials takes.

        Raises:
          redis.RedisError: It failed, or took longer.
        """
        hanging = len(self.hanging)
        if hanging >= HANGING and time.monotonic() < self._hung_at + hanging:
            raise redis.TimeoutError(
                f"{hanging} attempts to connect hang, in name resolution, sentinels or credentials"
            )
        done = threading.Lock()  # not an event: an interrupt of this thread must leave no lock taken in there
        done.acquire()
        failures: list[BaseException] = []
        token = object()

        def work() -> None:
            try:
                connect()
            except BaseException as error:
                failures.append(error)
            self.hanging.discard(token)
            done.release()
            if connection.given_up:
                connection.disconnect()

        try:
            threading.Thread(target=work, name="dramatiq_inflight-connect", daemon=True).start()
        except RuntimeError:
            work()  # there can be no more threads: better unbounded than not at all
        if not done.acquire(timeout=within):
            self._hung_at = time.monotonic()
            self.hanging.add(token)
            connection.given_up = True
            if not done.locked():
                self.hanging.discard(token)  # it has ended this very moment
            raise redis.TimeoutError(f"no connection within {within:g} seconds")
        if failures:
            error = failures.pop()
            if isinstance(error, Exception) and not isinstance(error, redis.RedisError):
                raise redis.ConnectionError(f"{type(error).__name__}: {error}") from error  # of credentials, say
            raise error


class Pool(_Rules, redis.ConnectionPool):
    """A pool of connections to a server."""


class SentinelPool(_Rules, SentinelConnectionPool):
    """A pool of connections to a server that sentinels know."""

    def close(self) -> None:
        """Keep no connection any more, to the sentinels either."""
        super().close()
        for sentinel in self.sentinel_manager.sentinels:
            if isinstance(sentinel.connection_pool, Pool):
                sentinel.connection_pool.close()
