# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""What an error that Redis answers says of Redis, and not of the command."""

from __future__ import annotations

import re

import redis
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
)

__all__ = ["comes_and_goes", "says_wrong_server"]

#: This server does not serve, or serves somebody else: a new connection may reach another, or bring new credentials.
WRONG_SERVER = (ReadOnlyError, BusyLoadingError, ClusterDownError, AuthenticationError, NoPermissionError)

#: The same, where redis-py has no error for it.  Before version 7 Redis hides all of these in a sentence of its own, if
#: it is a script that fails.
WRONG_SERVER_REPLIES = re.compile(
    r"(^|: -)(READONLY|LOADING|MASTERDOWN|CLUSTERDOWN|NOAUTH|WRONGPASS|NOPERM|NOREPLICAS|UNBLOCKED) "
)

#: What comes and goes: Redis is slow, full, or about to be another one's replica.
PASSING = (redis.TimeoutError, OutOfMemoryError, ReadOnlyError)

#: The same: the disk is full, too few replicas follow, or somebody's script runs for long.
PASSING_REPLIES = re.compile(r"(^|: -)(BUSY|MISCONF|NOREPLICAS|OOM|READONLY) ")


def says_wrong_server(error: redis.RedisError) -> bool:
    """Whether an answer says that this connection leads to the wrong server, or that its credentials are old."""
    return isinstance(error, WRONG_SERVER) or bool(WRONG_SERVER_REPLIES.search(str(error)))


def comes_and_goes(error: redis.RedisError) -> bool:
    """Whether an answer of Redis is about its present state, not about what it was asked."""
    return isinstance(error, PASSING) or bool(PASSING_REPLIES.search(str(error)))
