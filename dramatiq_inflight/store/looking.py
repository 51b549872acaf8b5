# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""What the records and their indexes say, without a change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .records import Head, read_heads
from .scripts import BATCH, Scripting

__all__ = ["Looking"]


class Looking(Scripting):
    """Looks at records, and at who runs what."""

    def peek(self, ids: Iterable[str]) -> list[Head | None]:
        """The heads of records; ``None``: there is none, or it cannot be read."""
        ids = list(ids)
        found = self._ask(lambda: read_heads(self.client, self.keys, ids))
        return [found.get(id) for id in ids]

    def count_running(self) -> int:
        """How many messages Redis says that this incarnation runs."""
        return int(self._ask(lambda: self.client.zcard(self._mine)))

    def running_here(self) -> set[str]:
        """The messages that Redis says this incarnation runs."""
        return {id.decode() for id in self._ask(lambda: self.client.zrange(self._mine, 0, -1))}

    def delivered(self, copies: Sequence[tuple[tuple[str, ...], str]]) -> list[bool]:
        """Whether a broker on this Redis holds each copy for a worker, given as `start`'s `broker_keys` and its id."""
        pipeline = self.client.pipeline(transaction=False)
        for (acks, messages), copy_id in copies:
            pipeline.sismember(acks, copy_id)
            pipeline.hexists(messages, copy_id)
        answers = self._ask(pipeline.execute)
        return [bool(has and stored) for has, stored in zip(answers[::2], answers[1::2], strict=True)]

    def running_of(self, incarnation: str, offset: int) -> list[str]:
        """A batch of the messages that another incarnation runs, oldest first, from `offset`."""
        key = self.keys.running(incarnation)
        return [id.decode() for id in self._ask(lambda: self.client.zrange(key, offset, offset + BATCH - 1))]

    def runs_of(self, ids: Iterable[str]) -> dict[str, tuple[int, str]]:
        """The present run of each message that has a record, and its origin."""
        ids = list(ids)
        return {id: (head.run, head.origin) for id, head in zip(ids, self.peek(ids), strict=True) if head is not None}

    def count_aside(self) -> int:
        """How many payloads are set aside because they could not be decoded."""
        return int(self._ask(lambda: self.client.hlen(self.keys.aside)))
