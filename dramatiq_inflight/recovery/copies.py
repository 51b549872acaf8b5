# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Copies of messages whose worker died: claim, enqueue a copy with a higher generation, mark.

Whatever the broker redelivers of the old copy is stale from the claim on.  A crash between any two steps leaves
something that the next sweep finishes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import redis

from ..brokers.queues import BrokerQueues
from ..incident import Incident, Kind
from ..store.records import DeadIncarnation, Orphan
from ..store.replies import Claim
from .enqueue import NOBODY, PuttingBack
from .summary import Swept

__all__ = ["NOBODY", "Copies"]

#: The answers of a claim for a message that stays where it is.
STAYS = (Claim.BUSY, Claim.MINE, Claim.WAITS, Claim.ALIVE)


@dataclass(kw_only=True)
class Copies(PuttingBack):
    """Claims messages, and enqueues copies of them.

    Parameters:
      lock_ttl: How long a claim keeps others off, seconds.
      queues: The broker's: a dead worker's share of them is handed back, and they are asked about copies.
    """

    lock_ttl: float
    queues: BrokerQueues

    def __post_init__(self) -> None:
        super().__post_init__()
        self._unreachable: set[str] = set()
        self._strange: set[tuple[str, str]] = set()  # queues and actors

    def _claim(
        self,
        ids: list[str],
        dead: DeadIncarnation,
        swept: Swept,
        over: Callable[[], bool],
        *,
        leftovers: bool = False,
    ) -> int:
        """Claim and put back, as many at a time as one script may copy.

        Returns: how many are still where they were.
        """
        kept = 0
        while ids:
            with self.in_company() as in_company:
                if over() or self._failures.too_many or not in_company:
                    swept.left += len(ids)
                    return kept + len(ids)
                answers = self._try_to_claim(ids, dead, swept, leftovers=leftovers)
                orphans = [answer for answer in answers if isinstance(answer, Orphan)]
                kept += sum(answer in STAYS for answer in answers)
                if orphans:
                    kept += self._put_back(orphans, dead, swept)
            later = [id for id, answer in zip(ids, answers, strict=True) if answer is Claim.LATER]
            if len(later) == len(ids):
                return kept + len(ids)
            ids = later
        return kept

    def _try_to_claim(
        self, ids: list[str], dead: DeadIncarnation, swept: Swept, *, leftovers: bool
    ) -> list[Orphan | Claim]:
        """Claim; what cannot be read, or kills whoever decodes it, is set aside by that, and said."""
        try:
            answers = self.store.recovery.claim(ids, dead=dead.id, hold=self.lock_ttl, leftovers=leftovers)
        except redis.RedisError:
            for id in ids:
                self.leave_over(id, dead.id)  # it may be claimed, and only the answer lost
            raise
        for id, answer in zip(ids, answers, strict=True):
            if leftovers and answer is not Claim.LATER:
                self.leftovers.pop(id, None)
            if answer is Claim.MINE:
                self.leave_over(id, dead.id)
            elif answer is Claim.ASIDE:
                swept.set_aside += 1
                self.logger.error(
                    "Cannot read the record of message %s: it is damaged, or another version wrote it. Set it "
                    "aside and enqueued no copy; if the broker still has the message, that copy runs (%d set "
                    "aside).",
                    *(id, self.store.messages.count_aside()),
                )
                self._tell(Incident.of(Kind.SET_ASIDE, Orphan(id, Claim.ASIDE), dead), None)
            elif answer is Claim.DEADLY:
                swept.set_aside += 1
                self.logger.error(
                    "Message %s killed each process that tried to recover it, as soon as the process decoded the "
                    "payload. Set it aside; it does not run (%d set aside).",
                    *(id, self.store.messages.count_aside()),
                )
                self._tell(Incident.of(Kind.SET_ASIDE, Orphan(id, Claim.ASIDE), dead), None)
        return answers

    def _is_ours(self, dead: DeadIncarnation) -> bool:
        """Return whether its messages are kept where ours are, as far as that can be told.

        Two applications may have queues and actors of the same names.
        """
        kind = self.queues.custody.partition(",")[0]
        if dead.custody == self.queues.custody or dead.custody.partition(",")[0] != kind:
            return True  # or the application has gone from one broker to another
        if dead.id not in self._unreachable:
            self._unreachable.add(dead.id)
            self.logger.warning(
                "Cannot recover the messages of dead worker %s: its broker (%s) is not this worker's (%s). Start "
                "a worker of that broker. If two applications share a namespace by mistake, give each its own "
                "(PROCESSING_NS).",
                *(dead, dead.custody, self.queues.custody),
            )
        return False

    def _ours(self, ids: list[str]) -> list[str]:
        """Return the messages whose queue and actor this broker declares, or whose record is gone; none of another
        RedisBroker.

        Enqueuing to a queue that is not declared would declare it on RabbitMQ, and consume what another application
        keeps there.
        """
        queues, actors = self.declared()
        ours = []
        for id, head in zip(ids, self.store.messages.peek(ids), strict=True):
            if head is not None and not self.queues.keeps(head):
                continue
            if head is None or (head.queue in queues and head.actor in actors):
                ours.append(id)
            elif (head.queue, head.actor) not in self._strange:
                self._strange.add((head.queue, head.actor))
                self.logger.warning(
                    "Cannot recover messages of queue %r and actor %r: this worker does not declare both. Start "
                    "a worker that does. If two applications share a namespace by mistake, give each its own "
                    "(PROCESSING_NS).",
                    *(head.queue, head.actor),
                )
        return ours
