# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The errors and exit codes of the command line."""

from __future__ import annotations

import click
import redis
from dramatiq.errors import ConnectionClosed, ConnectionFailed
from redis.exceptions import RedisClusterException

from ..errors import ConfigurationError
from ..store.errors import masked
from .text import clean

__all__ = ["AWAY", "NOT_DONE", "Group", "Unreachable", "Wrong", "away", "not_done"]

#: Nothing is there, or not all was done, or there is something to see to; the commands say which.
NOT_DONE = 1
WRONG = 2
UNREACHABLE = 3

#: The commands that go on until they are ended; the doctor's exit code is its own.
LIVE = ("watch", "dashboard", "exporter", "doctor")

#: The errors of Redis's client when Redis is away or refuses.
AWAY = (redis.RedisError, RedisClusterException)


class _Failure(click.ClickException):
    def __init__(self, message: str) -> None:
        super().__init__(clean(masked(message)))


class Wrong(_Failure):
    """It was called wrongly, or something is configured wrongly."""

    exit_code = WRONG


class Unreachable(_Failure):
    """Redis, or the broker, cannot be reached or refuses."""

    exit_code = UNREACHABLE


def not_done() -> click.exceptions.Exit:
    """To be raised when all has been said."""
    return click.exceptions.Exit(NOT_DONE)


def away(error: BaseException) -> str:
    """Says that Redis is away, in one line, without a password."""
    if isinstance(error, redis.AuthenticationError):
        return f"Redis does not let us in: {clean(masked(str(error)))}"
    if isinstance(error, redis.ResponseError):
        return f"Redis refuses: {clean(masked(str(error)))}"
    return f"Redis cannot be reached: {clean(masked(str(error)))}"


class Group(click.Group):
    """Makes one line and an exit code of each error that is to be expected."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            result = super().invoke(ctx)
            if getattr(ctx.obj, "is_unused", False) and ctx.invoked_subcommand not in LIVE:
                raise not_done()
            return result
        except AWAY as error:
            raise Unreachable(away(error)) from error
        except (ConnectionClosed, ConnectionFailed) as error:
            raise Unreachable(f"The broker cannot be reached: {error}") from error
        except ConfigurationError as error:
            raise Wrong(str(error)) from error
