# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Asked and silent: a copy of a message that another worker runs was delivered, so ask that worker whether it lives.

RabbitMQ delivers a message again within milliseconds of its worker's death, while the dead worker's heartbeat may be
believed for another minute.  The living answer a question with a heartbeat, within milliseconds; whoever leaves two of
them unanswered is dead for the message in question.  One question may be lost, or fall into a moment of starvation.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from .outcomes import Answer
from .registry import Registry

__all__ = ["SILENT", "Challenges"]

#: Why one is dead that was asked and is silent.
SILENT = "it was asked twice whether it lives, and has not answered"

#: When to ask again if Redis could not be reached, seconds.
RETRY = 1.0


@dataclass
class _Question:
    messages: set[str] = field(default_factory=set)
    token: str = ""
    #: When to ask next (``time.monotonic``).
    at: float = 0.0


class Challenges:
    """The questions that this process has asked, and for the sake of which messages."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._mutex = threading.Lock()  # worker threads open, the recovery thread asks
        self._open: dict[str, _Question] = {}

    def open(self, owner: str, message_id: str) -> None:
        """A copy of a message that another incarnation runs was delivered: ask that one, at the next `ask`."""
        with self._mutex:
            self._open.setdefault(owner, _Question()).messages.add(message_id)

    def ask(self) -> dict[str, list[str]]:
        """Ask those whose time has come.

        Returns: the messages in question of each that has been silent to the end.

        Raises:
          redis.RedisError: Redis cannot be reached; what is open stays open.
        """
        silent: dict[str, list[str]] = {}
        for owner, question in list(self._open.items()):
            if question.at > time.monotonic():
                continue
            question.at = time.monotonic() + RETRY  # should Redis be away
            answer, wait, question.token = self.registry.challenge(owner, question.token)
            question.at = time.monotonic() + wait
            if answer is Answer.ASKED:
                continue
            with self._mutex:
                messages = sorted(self._open.pop(owner).messages)
            if answer is Answer.SILENT:
                silent[owner] = messages
        return silent

    @property
    def next_in(self) -> float | None:
        """Seconds until somebody is to be asked; ``None``: nobody is."""
        with self._mutex:
            return min((max(0.0, q.at - time.monotonic()) for q in self._open.values()), default=None)
