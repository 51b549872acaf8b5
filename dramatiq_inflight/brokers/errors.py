# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Tell a broker that is away, and comes back, from one that refuses a message."""

from __future__ import annotations

import redis
from dramatiq.errors import ConnectionClosed, ConnectionFailed

from ..store.errors import comes_and_goes

__all__ = ["is_passing"]


def is_passing(error: BaseException) -> bool:
    """Return True if the broker is away; False if it, or anybody, refuses this very message."""
    if isinstance(error, (ConnectionClosed, ConnectionFailed)):
        # RabbitmqBroker says so of a channel that was closed because of the message, too: too large, no such queue.
        inner = error.args[0] if error.args else None
        return not any(kind.__name__ == "AMQPChannelError" for kind in type(inner).__mro__)
    if isinstance(error, (redis.ResponseError, redis.DataError)):
        return comes_and_goes(error)
    return isinstance(error, (redis.RedisError, OSError))
