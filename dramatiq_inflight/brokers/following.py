# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A RedisBroker's own commands after a failover behind one address."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import redis
from redis.exceptions import NoPermissionError

from ..store.errors import says_wrong_server

__all__ = ["Following", "drop_idle"]


class Following:
    """The script of the broker's commands, for a client that stays with a server which is none any more.

    A server that says so has done nothing, so that the command may be sent again.  redis-py does that by itself where
    it is told to (``retry_on_error``), and a broker's client seldom is.
    """

    def __init__(self, plain: Any) -> None:
        self.plain = plain
        self.sha, self.script = plain.sha, plain.script

    def __call__(self, keys: Sequence[Any] = (), args: Sequence[Any] = (), client: Any = None) -> Any:
        for last in (False, True):
            try:
                return self.plain(keys=keys, args=args, client=client)
            except redis.ResponseError as error:
                if not says_wrong_server(error) or not drop_idle(self.plain.registered_client):
                    raise
                if last and isinstance(error, NoPermissionError):
                    raise
                if last:
                    raise redis.ConnectionError(str(error)) from error  # which Dramatiq expects, and tries again
            except redis.RedisError:
                raise
            except BaseException:
                # An interrupt between the command and its answer: redis-py 8 keeps the connection, and would give the
                # answer to the next command.
                drop_idle(self.plain.registered_client)
                raise
        raise AssertionError("not reached")


def drop_idle(client: redis.Redis) -> bool:
    """Close a client's idle connections.  False if it has none that are known."""
    pool = getattr(client, "connection_pool", None)
    only = getattr(client, "connection", None)  # of a single_connection_client
    if only is not None:
        only.disconnect()
    if isinstance(pool, redis.BlockingConnectionPool):
        for connection in list(pool.pool.queue):
            if connection is not None:
                connection.disconnect()
    elif isinstance(pool, redis.ConnectionPool):
        pool.disconnect(inuse_connections=False)
    else:
        return False
    return True
