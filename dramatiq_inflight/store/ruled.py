# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A connection that obeys the rules of `pool`: a class of redis-py's, and what it does beside."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import redis
from redis.exceptions import NoPermissionError

from .errors import says_wrong_server

__all__ = ["CONNECT_TIMEOUT", "ruled"]

#: How long it may take to open a connection, with all that others are asked for that, seconds.
CONNECT_TIMEOUT = 3.0

#: How late an answer may be before a new connection is tried beside it, seconds; and how much longer it has once that
#: one was answered, for a server that was just slow answers both at once.
LATE, AFTER_ANOTHER = 0.5, 0.1

#: A command of more bytes is sent piece by piece, each in the time of an answer.
LARGE = 64 * 1024

#: The bytes of a sent command that kernels and proxies may still hold; how fast these go on at the least.
IN_TRANSIT, SLOWEST = 8 * 1024 * 1024, 256 * 1024


class _Ruled:
    """The part of a connection that obeys the rules; a class of redis-py's comes behind it."""

    pool: Any
    _sock: Any
    plain_send: Callable[..., None]
    plain_read: Callable[..., Any]
    #: Whether it is open, and past its handshake.
    ready = False
    #: How many answers are to come.  One that is given back with any would give them to the next command.
    owed = 0
    #: How many there will be, of what is sent next.
    expected = 1
    #: When it was opened, when a command was sent last, and until when its answer may come (``time.monotonic``).
    opened_at = sent_at = answer_by = 0.0
    #: Whether it took too long to open: it is closed as soon as it is.
    given_up = False
    #: Whether the next answer may take all its time, without a look at another connection.
    waits_out = False
    #: The address that it was opened to, where it is one of a network.
    address = ""
    #: Whether it is to show that it is alive, and whether a new connection was answered while this one was not.
    proving = outdone = False
    #: How long a command may take, and until a late answer is looked into; how long it waits now, seconds.
    timeout = patience = waiting = 0.0

    def connect(self, within: float = CONNECT_TIMEOUT) -> None:
        """Open it, if it is not open."""
        if self._sock is not None:
            return
        if self.given_up:
            raise redis.TimeoutError("this connection hangs while it is opened")
        self.pool.in_time(self._open, self, within)
        self.timeout = self.waiting = self.pool.connection_kwargs["socket_timeout"]
        self.patience = min(LATE, self.timeout) if self.pool.looks else self.timeout
        self.ready, self.owed, self.sent_at = True, 0, time.monotonic()
        self.opened_at = self.sent_at

    def _open(self) -> None:
        super().connect()  # type: ignore[misc]
        self.pool.address = self.address  # also of one that was given up: the next one will be in time

    def disconnect(self, *args: Any, **options: Any) -> None:
        """Close it."""
        self.ready = False
        super().disconnect(*args, **options)  # type: ignore[misc]

    def is_alive(self) -> bool:
        """Return whether it is answered at once; if not, it is closed."""
        self.proving = True
        try:
            self.send_command("PING")
            self.read_response()
        except redis.ResponseError:
            pass  # that is an answer
        except redis.RedisError:
            self.disconnect()
        finally:
            self.proving = False
        return self.ready

    def send_command(self, *args: Any, **options: Any) -> None:
        """Send one command."""
        self.expected = 1
        super().send_command(*args, **options)  # type: ignore[misc]

    def pack_commands(self, commands: Any) -> Any:
        """Pack the commands that are sent next."""
        commands = list(commands)
        self.expected = len(commands)
        return super().pack_commands(commands)  # type: ignore[misc]

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """Send what is packed."""
        if self._sock is None:
            self.connect()
        if not self.ready:
            self.plain_send(command, check_health=False)
            return
        self.owed, self.outdone = self.expected, self.proving
        self.sent_at = time.monotonic()
        self.answer_by = self.sent_at + self.timeout
        patience = LATE if self.proving else self.timeout if self.waits_out else self.patience
        self.waits_out = False
        if self.waiting != patience:
            self._wait_at_most(patience)
        size = len(command[0]) if len(command) == 1 else sum(map(len, command))
        if size > LARGE:
            self._send_large(command, size)
            return
        try:
            self.plain_send(command, check_health=False)
        except redis.TimeoutError as error:
            raise redis.ConnectionError(str(error)) from error  # not even this little: nobody takes what was sent

    def read_response(self, *args: Any, **options: Any) -> Any:
        """Read an answer."""
        if not self.ready:
            return self.plain_read(*args, **options)
        while True:
            try:
                reply = self.plain_read(*args, disconnect_on_error=False, **options)
            except redis.TimeoutError:
                try:
                    self._await_late_answer()
                except BaseException:
                    self.disconnect()
                    raise
            except redis.ResponseError as error:
                self.owed -= 1
                if isinstance(error, NoPermissionError):  # it may be so wherever it is asked, and is an answer of many
                    self.opened_at = float("-inf")  # closed when it is given back
                    self.pool.distrust()
                elif says_wrong_server(error):
                    self._leave(error)
                    raise redis.ConnectionError(str(error)) from error
                raise
            except redis.ConnectionError as error:
                self._leave(error)
                raise
            except BaseException:
                self.disconnect()
                raise
            else:
                self.owed -= 1
                return reply

    def _wait_at_most(self, seconds: float) -> None:
        self.waiting = seconds
        self._sock.settimeout(seconds)

    def _send_large(self, command: Any, size: int) -> None:
        """Send what a slow network takes long for: it goes on as long as pieces go through."""
        self._wait_at_most(self.timeout)
        for part in command:
            view = memoryview(part)
            for i in range(0, len(view), LARGE):
                self.plain_send([view[i : i + LARGE]], check_health=False)
        # The rest of it is on its way, and has as long as the most of it has taken.
        now = time.monotonic()
        rest = max(now - self.sent_at, min(size, IN_TRANSIT) / SLOWEST)
        self.answer_by = now + self.timeout + rest
        self._wait_at_most(self.patience + rest)

    def _await_late_answer(self) -> None:
        """See whether to wait on.

        Raises:
          redis.RedisError: This connection is not going to be answered.
        """
        if self.outdone:
            raise redis.ConnectionError("a connection is not answered any more, and a new one is")
        left = self.answer_by - time.monotonic()
        if left <= 0:
            self.pool.distrust()
            raise redis.TimeoutError(f"no answer within {self.timeout:g} seconds")
        if self.pool.looks and self.pool.answers_anew(self.sent_at, left):
            self.outdone = True
            self._wait_at_most(AFTER_ANOTHER)
        else:
            self._wait_at_most(max(self.answer_by - time.monotonic(), 0.001))

    def _leave(self, error: redis.RedisError) -> None:
        """It leads to the wrong server, or nowhere: so do the others."""
        self.disconnect()
        self.pool.trusted_since = time.monotonic()  # those that are in use are closed when they are given back
        self.pool.distrust()
        if says_wrong_server(error):
            self.pool.address = ""
            self.pool.on_wrong_server(error)


class _Addressed(redis.Connection):
    """A connection to one address after the other, of those that a name has.  TLS is wrapped around it, by the name."""

    pool: Any
    address: str

    def _connect(self) -> Any:
        name, failure = self.host, OSError("the name has no address")
        found = socket.getaddrinfo(name, self.port, self.socket_type, socket.SOCK_STREAM)
        addresses = dict.fromkeys(str(info[4][0]) for info in found)
        for address in sorted(addresses, key=lambda address: address != self.pool.address):
            self.host = self.address = address
            try:
                return super()._connect()  # type: ignore[no-untyped-call]
            except OSError as error:
                failure = error
            finally:
                self.host = name
        raise failure


@cache
def ruled(connection_class: Any) -> Any:
    """The class of connections like these that obeys the rules."""
    if issubclass(connection_class, _Ruled):
        return connection_class
    plain = {"plain_send": connection_class.send_packed_command, "plain_read": connection_class.read_response}
    classes: tuple[Any, ...] = (connection_class,)
    if issubclass(connection_class, redis.Connection):  # not a Unix socket's
        classes = (_Addressed,) if connection_class is redis.Connection else (connection_class, _Addressed)
    return type(connection_class.__name__, (_Ruled, *classes), plain)
