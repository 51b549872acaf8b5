# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Scripts by the shortest way: the pool's connections, several scripts in one write.

Every tracked message costs two round trips, so what they cost a worker thread is what tracking costs.  redis-py's
client does much around a command that is of no use here (its own retries, health checks, metrics, a look at each
connection before it is used); its *connections* are all that is needed, and take half the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import redis
from redis.commands.core import Script
from redis.exceptions import NoScriptError

from .pool import Pool, SentinelPool

__all__ = ["Call", "Wire"]


def _packer() -> Callable[[Sequence[Any]], bytes] | None:
    try:
        from hiredis import pack_command  # noqa: PLC0415  optional
    except ImportError:
        return None
    packer: Any = pack_command
    return cast(Callable[[Sequence[Any]], bytes], packer)


#: Packs a command as redis-py does where it has hiredis, without its look at each argument, which takes twice as long.
pack = _packer()


class Call(NamedTuple):
    """One script with its keys and arguments."""

    script: Script
    keys: Sequence[Any]
    args: Sequence[Any]


class Wire:
    """Sends scripts over the connections of the client's pool; as many as are used at once.

    All scripts that are sent this way bear being run twice: a connection that was dead is opened again, and the scripts
    are sent again, once; `on_resend` is called then, for an answer may have been lost.  A client without a pool of the
    tracker's (a cluster's) sends each by itself.
    """

    def __init__(self, client: redis.Redis, on_resend: Callable[[], None]) -> None:
        self._client = client
        self._on_resend = on_resend
        pool = getattr(client, "connection_pool", None)
        self._pool = pool if isinstance(pool, (Pool, SentinelPool)) else None

    def call(self, script: Script, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        """Run one script.

        Raises:
          redis.RedisError: Redis cannot be reached, or the script failed.
        """
        reply = self.exchange((Call(script, keys, args),))[0]
        if isinstance(reply, redis.RedisError):
            raise reply
        return reply

    def exchange(self, calls: Sequence[Call]) -> list[Any]:
        """Run scripts one after the other, sent in one write.  The reply of one that failed is its error.

        A script that a restarted server does not know yet runs after the others.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        if self._pool is None:
            return [script(keys=keys, args=args) for script, keys, args in calls]
        replies = self._round_trip(self._pool, calls)
        for i, reply in enumerate(replies):
            if isinstance(reply, NoScriptError):
                self._client.script_load(calls[i].script.script)
                replies[i] = self._round_trip(self._pool, (calls[i],))[0]
        return replies

    def _round_trip(self, pool: Pool | SentinelPool, calls: Sequence[Call]) -> list[Any]:
        connection = pool.get_connection()
        commands = [("EVALSHA", script.sha, len(keys), *keys, *args) for script, keys, args in calls]
        packed = connection.pack_commands(commands) if pack is None else [b"".join(map(pack, commands))]
        for last in (False, True):
            try:
                connection.expected = len(calls)
                connection.send_packed_command(packed)
                replies = [_read(connection) for _ in calls]
            except redis.ConnectionError:
                connection.disconnect()
                if last:
                    raise
                self._on_resend()
                connection = pool.open()
                connection.waits_out = True  # whatever the other one was: this answer may come late
            except BaseException:
                # A time-out, or an interrupt of the thread: the replies to come must not be taken for the next ones.
                connection.disconnect()
                raise
            else:
                break
        pool.release(connection)
        return replies


def _read(connection: Any) -> Any:
    try:
        return connection.read_response()
    except redis.ResponseError as error:
        return error
