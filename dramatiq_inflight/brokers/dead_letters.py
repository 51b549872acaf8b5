# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A look at a broker's dead-letter queue, during which letters can be taken out."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dramatiq import JSONEncoder, Message, get_encoder
from dramatiq.errors import DecodeError

__all__ = ["DeadLetter", "DeadLetters", "decoded"]

#: An id that every encoder of JSON writes as it is.
PLAIN = re.compile(r"[A-Za-z0-9_.:-]+")


def decoded(data: bytes) -> Message[Any] | None:
    """Return a message; None if it cannot be decoded, or is not what Dramatiq makes: anybody can enqueue anything."""
    try:
        message: Message[Any] = Message.decode(data)
        names = message.queue_name, message.actor_name, message.message_id
        if not all(isinstance(name, str) for name in names) or not isinstance(message.options, dict):
            return None
        "".join(names).encode()  # not so with half a surrogate pair
        int(message.message_timestamp)
    except (DecodeError, AttributeError, TypeError, ValueError, OverflowError):
        return None
    return message


@dataclass(frozen=True)
class DeadLetter:
    """A message in a dead-letter queue.

    Parameters:
      queue: The queue from which it was dead-lettered.
      data: The encoded message.
      copy_id: The broker's id of it; empty if the broker has none.
      at_ms: When it was dead-lettered, milliseconds; 0 if the broker does not say.
      reason: The broker's own reason: RabbitMQ's ``rejected`` or ``delivery_limit``; else empty.
      tag: The delivery's, on the RabbitMQ channel that has looked at it.
    """

    queue: str
    data: bytes
    copy_id: str = ""
    at_ms: int = 0
    reason: str = ""
    tag: int = 0

    @cached_property
    def message(self) -> Message[Any] | None:
        """The message; None as for `decoded`."""
        return decoded(self.data)

    @property
    def id(self) -> str:
        """The message's id; if it cannot be decoded, the broker's id of the letter."""
        return str(self.message.message_id) if self.message is not None else self.copy_id

    def is_of(self, message_id: str) -> bool:
        """Return True if it is that message; as JSON, most letters need not be decoded for the answer."""
        if type(get_encoder()) is JSONEncoder and PLAIN.fullmatch(message_id) and message_id != self.copy_id:
            return message_id.encode() in self.data and self.id == message_id
        return self.id == message_id


class DeadLetters(ABC):
    """The letters of one queue, in the broker's order."""

    #: True if the newest letter comes first.
    newest_first = False

    def __iter__(self) -> Iterator[DeadLetter]:
        """Read them, some at a time.

        Raises:
          redis.RedisError, ConnectionClosed: The broker cannot be reached.
        """
        return self.read(())

    @abstractmethod
    def read(self, known: Collection[str]) -> Iterator[DeadLetter]:
        """Read them, some at a time; `data` is empty for a letter whose `copy_id` is known.

        Raises:
          redis.RedisError, ConnectionClosed: The broker cannot be reached.
        """

    def some(self, copy_ids: Iterable[str]) -> Iterator[DeadLetter]:
        """Read the letters with these ids of the broker, as far as they are still there.

        Raises:
          redis.RedisError, ConnectionClosed: The broker cannot be reached.
        """
        wanted = set(copy_ids)
        return (letter for letter in self if letter.copy_id in wanted)

    @abstractmethod
    def count(self) -> int:
        """Return how many there are.

        Raises:
          redis.RedisError, ConnectionClosed: The broker cannot be reached.
        """

    @abstractmethod
    def drop(self, letter: DeadLetter) -> None:
        """Take a letter out, if it is still there.

        Raises:
          redis.RedisError, ConnectionClosed: The broker cannot be reached.
        """
