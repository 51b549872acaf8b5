# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The tracker's questions to a broker's queues, and the answers of a broker that cannot be asked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..store.records import Head
from ..store.transport import Call
from .dead_letters import DeadLetters

if TYPE_CHECKING:
    from .redis import RedisQueues

__all__ = ["Answers", "BrokerQueues", "Complete", "Depth", "Registered"]

#: Given a queue, a copy's id and the broker's own script for its ack: runs that script, and may take another one along.
Complete = Callable[[str, str, Call], None]

#: Returns the brokers of all incarnations, by namespace and id.
Registered = Callable[[], list[tuple[str, str]]]

#: For copies that can be asked about, by message id: ``held``, ``consumed`` or ``maybe``; and how many were moved back
#: to their queue.
Answers = tuple[dict[str, str], int]


@dataclass(frozen=True)
class Depth:
    """How many messages a queue has.

    Parameters:
      ready: Messages that no worker has fetched.
      delayed: Messages that wait for their time; with RabbitMQ only those that no worker has fetched.
      unacked: Messages that workers have fetched and not acknowledged; None if the broker does not say.
      dead: Dead letters.
      first: The encoded message that was enqueued first of those that are ready; empty if the broker does not say.
    """

    ready: int
    delayed: int
    unacked: int | None
    dead: int
    first: bytes = b""

    @property
    def backlog(self) -> int:
        """How many messages are to be run, now or later."""
        return self.ready + self.delayed + (self.unacked or 0)


class BrokerQueues:
    """The queues of a broker that the tracker cannot ask: each answer is the one for which nothing has to be known."""

    #: True if the broker is on the tracker's own Redis, so that one script sees the records and the queues.
    shared = False
    #: True if a success is settled in the same write as its ack; else just before it.
    completes_with_ack = False
    #: True while a command that gave something back may still arrive.
    has_given_back = False

    @property
    def custody(self) -> str:
        """The keeper of the messages, to be told from another one with queues of the same names; empty if unknown.

        No address: workers may reach one broker by several.
        """
        return ""

    def identity(self) -> dict[str, str]:
        """Return what a worker registers of its broker."""
        return {"custody": self.custody}

    # A worker's life.

    def attach(self, complete: Complete) -> None:
        """Begin to work for a worker.

        Parameters:
          complete: Called for each ack, where `completes_with_ack`.
        """

    def detach(self) -> None:
        """Leave the broker as it was."""

    def close(self) -> None:
        """Close the connections."""

    def forked(self) -> None:
        """Take new locks in a forked child."""

    def give_back_own(self, registered: Registered) -> None:
        """Give back what Dramatiq has fetched and left behind, as the worker stops.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """

    # One delivery.

    def keys(self, queue: str) -> tuple[str, ...]:
        """Return the keys of this worker's ack set for a queue, and of the queue's messages, for a script to see."""
        return ()

    def payload(self, queue: str, copy_id: str) -> bytes:
        """Return the encoded message as the broker has it; empty if it cannot be asked, or has none.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        return b""

    def acknowledge(self, queue: str, copy_id: str, run: Callable[[Call], object]) -> None:
        """Acknowledge a copy that Dramatiq gave up to acknowledge.

        Parameters:
          run: Runs a script with the tracker's bounds.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """

    def has_delivery(self, queue: str, copy_id: str) -> tuple[bool, bool]:
        """Return whether a delivery to this broker is still its own, and whether the broker has the message at all.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        return True, True

    def has_dead_letter(self, queue: str, copy_id: str) -> bool:
        """Return False if that copy is not in the dead-letter queue, as far as the broker can be asked.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        return True

    # The contents of the queues.

    def depths(self, queues: Iterable[str]) -> dict[str, Depth] | None:
        """Return how many messages each queue has; None if the broker cannot be asked.

        Raises:
          redis.RedisError, ConnectionClosed: The broker cannot be reached.
        """
        return None

    def delayed(self, queue: str) -> Iterator[list[str]] | None:
        """Return the broker's ids of what waits for its time in a queue, some at a time; None if it cannot be asked.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        return None

    def delayed_messages(self, queue: str, copy_ids: list[str]) -> dict[str, bytes]:
        """Return those messages, encoded, as far as they still wait.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        return {}

    def versions(self, queues: Iterable[str]) -> dict[str, object] | None:
        """Return for each queue a value that changes with its dead letters; None if the broker cannot be asked.

        It may stay the same when letters come and go at once.

        Raises:
          redis.RedisError, ConnectionClosed: The broker cannot be reached.
        """
        depths = self.depths(queues)
        return None if depths is None else {queue: depth.dead for queue, depth in depths.items()}

    @contextmanager
    def dead_letters(self, queue: str) -> Iterator[DeadLetters | None]:
        """Look at the dead letters of a queue; None if the broker cannot be asked about them.

        Raises:
          redis.RedisError, ConnectionClosed: The broker cannot be reached.
        """
        yield None

    # Recovery.

    def keeps(self, head: Head) -> bool:
        """Return False if another broker than this one has the message of a record."""
        return True

    def sharing(self, namespace: str) -> RedisQueues | None:
        """Return these queues if a dead worker's share of them can be given back: its broker had that namespace."""
        return None

    def ask(self, heads: Mapping[str, Head], declared: Collection[str], registered: Registered) -> Answers:
        """Ask about copies that have not started for long.

        Parameters:
          heads: The records, by message id.
          declared: The queues that are declared here.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        return {}, 0
