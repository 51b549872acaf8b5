# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""How a script gets to the tracker's keys: what all parts of the store use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis
from redis.commands.core import Script
from redis.exceptions import RedisClusterException

from ..threads.moment import Moment
from .connection import close_client
from .declarations import DECLARATIONS, SCRIPTS
from .keys import Keys
from .pool import Pool, SentinelPool
from .schema import SCHEMA
from .transport import Call, Wire

__all__ = ["BATCH", "Contact", "NotSent", "Part", "Scripts", "ms", "reach"]

#: How many records one script handles at the most: they take about a millisecond of the server's time.
BATCH = 50

#: The first deadline for a recovered copy to start, in TTLs; doubles with each copy.
FIRST_DEADLINE_TTLS = 10

#: The scripts that the heartbeat may also send later.
LATER = frozenset(
    {
        "clear_alone",
        "checkpoint",
        "reassert",
        "complete",
        "release",
        "await_copy",
        "close_unstarted",
        "defer",
        "shorten_retention",
    }
)


class NotSent(redis.ConnectionError):
    """Redis is away, and is on its own: no message waits to be told so once more."""


@dataclass(frozen=True)
class Contact:
    """A listener to the outcome of an incarnation's commands in Redis.

    Parameters:
      renewed: Called after every script that the incarnation runs for itself, with whether it was known to live, when
        the script was begun, and whether Redis had not heard of it at all.
      answer_lost: Called when a script may have run, and what it said is not known.
      failed: Called after every command that did not reach Redis, or was refused.
      is_away: Asked whether what can be told later is not to be tried now.
      is_due: Asked, with the present, whether a script that need not renew the heartbeat is to do so.
    """

    renewed: Callable[[bool, Moment, bool], None] = lambda known, begun, absent: None
    answer_lost: Callable[[], None] = lambda: None
    failed: Callable[[redis.RedisError], None] = lambda error: None
    is_away: Callable[[], bool] = lambda: False
    is_due: Callable[[Moment], bool] = lambda now: True


class Scripts:
    """The tracker's keys as one incarnation sees them.

    Parameters:
      client: Redis; its replies must be bytes.
      namespace: Prefix of every key.
      me: The id of this incarnation.
      heartbeat_ttl: How long a heartbeat is believed, seconds.
      fence_ttl: How long settled records are remembered, seconds.
      contact: The listener to its outcomes.
      schema: The schema that this version writes.
    """

    def __init__(
        self,
        client: redis.Redis,
        namespace: str,
        me: str,
        *,
        heartbeat_ttl: float,
        fence_ttl: float,
        contact: Contact = Contact(),
        schema: int | None = None,
    ) -> None:
        self.client = client
        self.schema = schema or SCHEMA
        self.namespace = namespace
        self.keys = Keys(namespace)
        self.me = me
        self.ttl_ms = ms(heartbeat_ttl)
        self.fence_ms = ms(fence_ttl)
        self.deadline_ms = FIRST_DEADLINE_TTLS * ms(heartbeat_ttl)
        self.contact = contact
        #: The scripts by their names, and what sends them.
        self.loaded: dict[str, Script] = {name: client.register_script(text) for name, text in SCRIPTS.items()}
        self.wire = Wire(client, on_resend=contact.answer_lost)
        pool = getattr(client, "connection_pool", None)
        if isinstance(pool, (Pool, SentinelPool)):
            pool.on_wrong_server = contact.failed  # though a new connection leads to the right one at once
        self.mine = self.keys.running(me)
        self.usual = {**self.keys.shared, "me": me, "fence_ttl": self.fence_ms}
        self.worker: int | None = None

    def run(self, call: Call) -> Any:
        """Run a script of the broker's, on this Redis, with the tracker's bounds."""
        return self.ask(lambda: self.wire.call(*call))

    def close(self) -> None:
        """Close the connections.  A caller that goes on opens one for each command."""
        close_client(self.client)

    def forked(self) -> None:
        """Speak for the worker no more: this process is a child that it has forked.

        A checkpoint is kept as long as the worker lives, for it renews the worker's heartbeat as well.
        """
        if self.worker is None:
            self.worker = os.getppid()
        self.contact = Contact()

    def own(self, script: str, /, rows: Iterable[Mapping[str, Any]] | None = None, **named: Any) -> Any:
        """A script that this incarnation runs for itself: it renews the heartbeat."""
        begun = Moment.now()
        reply = self.execute(script, rows, **named)
        self.in_contact(reply[1], begun)
        return reply

    def in_contact(self, known: int, begun: Moment) -> bool:
        """A script has renewed the heartbeat; `known`: as ``beat`` in common.lua says it."""
        self.contact.renewed(known == 1, begun, known < 0)
        return known == 1

    def execute(self, script: str, /, rows: Iterable[Mapping[str, Any]] | None = None, **named: Any) -> Any:
        """Run a script with its keys and arguments by name.

        Raises:
          TypeError: One is missing, or is none of the script's.
        """
        return self.call(script, *self.pack(script, rows, **named))

    def pack(
        self, script: str, /, rows: Iterable[Mapping[str, Any]] | None = None, **named: Any
    ) -> tuple[list[Any], list[Any]]:
        """Return keys and arguments of a script in their order; those that mean the same to all scripts are added."""
        declaration = DECLARATIONS[script]
        usual = {**self.usual, "ttl": self.ttl_ms}
        for name in declaration.names & usual.keys():
            named.setdefault(name, usual[name])
        return declaration.pack(named, rows)

    def call(self, script: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        if self.worker is not None and (script != "checkpoint" or os.getppid() != self.worker):
            raise redis.ConnectionError("this process was forked from a worker, and does not speak for it")
        if script in LATER and self.contact.is_away():
            raise NotSent(f"Redis is away: {script} is not sent.")
        return self.ask(lambda: self.wire.call(self.loaded[script], keys, args))

    def ask(self, command: Callable[[], Any]) -> Any:
        try:
            return reach(command)
        except redis.RedisError as error:
            self.contact.answer_lost()
            self.contact.failed(error)
            raise


class Part:
    """A part of the store, which runs its scripts by `Scripts`."""

    def __init__(self, scripts: Scripts) -> None:
        self.scripts = scripts
        self.client = scripts.client
        self.keys = scripts.keys
        self.me = scripts.me


def reach(command: Callable[[], Any]) -> Any:
    """Run a command of a client.

    Raises:
      redis.RedisError: It failed.  A cluster of which no node can be reached raises another error by itself.
    """
    try:
        return command()
    except RedisClusterException as error:
        raise redis.ConnectionError(str(error)) from error


def ms(seconds: float) -> int:
    """As the scripts are given a duration."""
    return max(1, round(seconds * 1000))
