# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Copies of messages whose worker died: claim, enqueue a copy with a higher generation, mark.

Whatever the broker redelivers of the old copy is stale from the claim on.  A crash between any two steps leaves
something that the next sweep finishes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from dramatiq import Message
from dramatiq.errors import DecodeError
from dramatiq.logging import get_logger

from .incident import Incident, Kind
from .marks import OPTION, mark_of_copy
from .outcomes import Claim
from .policy import Policy
from .records import DeadIncarnation, Enqueued, Orphan
from .registry import Registry
from .swept import Swept
from .table import own_enqueue

__all__ = ["NOBODY", "Copies"]

#: After how many messages in a batch that cannot be enqueued the broker is taken to be away.
GIVE_UP_AFTER = 3

#: Whose death it was, when it is the copy of a message that was lost.
NOBODY = DeadIncarnation("", "", "", "", "", "", [])


class Enqueue(Protocol):
    """As `dramatiq.Broker.enqueue`; the delay is in milliseconds."""

    def __call__(self, message: Message[object], *, delay: int | None = None) -> Message[object]: ...


@dataclass(kw_only=True)
class Copies:
    """Claims messages, and enqueues copies of them.

    Parameters:
      registry: The records.
      enqueue: Puts a message on the broker, and returns it as enqueued.
      declared: The names of the queues and the actors that this broker declares: only their orphans are copied.
      lock_ttl: How long a claim keeps others off, seconds.
      custody: Who keeps the messages here; see `broker_recovery.custody`.
      policy_of: What is to become of a message.
      tell: Tells whoever wants to know what happened to a message, which is given where it was looked into.
    """

    registry: Registry
    enqueue: Enqueue
    declared: Callable[[], tuple[set[str], set[str]]]
    lock_ttl: float
    custody: str = ""
    policy_of: Callable[[Message[object]], Policy] = lambda message: Policy()
    tell: Callable[[Incident, Message[object] | None], None] = lambda incident, message: None
    #: What was claimed here and not brought to an end, with the dead incarnation's id: the next sweep's first work.
    leftovers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.logger = get_logger(__name__, type(self))
        self._reasons: dict[str, str] = {}
        self._mutex = threading.Lock()  # worker threads add to `leftovers`
        self._unreachable: set[str] = set()
        self._strange: set[tuple[str, str]] = set()  # queues and actors

    def leave_over(self, message_id: str, dead: str, reason: str = "") -> None:
        """What was claimed elsewhere in this process: the next sweep puts it back.

        The record has the payload until then.

        Parameters:
          reason: Why it is dead-lettered, if it is, and not by the blame rule.
        """
        with self._mutex:
            self.leftovers[message_id] = dead
            if reason:
                self._reasons[message_id] = reason

    def put_back(self, orphans: Sequence[Orphan], dead: DeadIncarnation, swept: Swept, *, reason: str = "") -> bool:
        """Enqueue a copy of each claimed orphan, tell whoever wants to know, and mark it.

        Parameters:
          dead: Who ran them; `NOBODY` if it is their copies that were lost.
          reason: Why those are dead-lettered that are, if not by the blame rule.

        Returns: whether all got to their end; the rest is left over for the next sweep.

        Raises:
          redis.RedisError: Redis cannot be reached; all that is not marked is left over for the next sweep.
        """
        with self._mutex:
            self.leftovers.update((orphan.message_id, dead.id) for orphan in orphans)
        copies: list[Enqueued] = []
        failures = 0
        for orphan in orphans:
            poison = orphan.verdict is Claim.POISONED
            incident = Incident.of(Kind.POISON if poison else Kind.RECOVERED, orphan, dead)
            try:
                message = Message.decode(orphan.payload)
            except DecodeError as error:
                if self.registry.set_aside(orphan, dead=dead.id):
                    swept.set_aside += 1
                    self.logger.error(
                        "The payload of message %s (actor %r) cannot be decoded (%s). It is set aside whole, and is "
                        "not run; %d are aside now.",
                        *(orphan.message_id, orphan.actor, error.error, self.registry.count_aside()),
                    )
                    self.tell(Incident.of(Kind.SET_ASIDE, orphan, dead), None)
                self.leftovers.pop(orphan.message_id, None)
                continue
            why = reason or self._reasons.pop(orphan.message_id, "") or incident.reason
            copy, delay = self._copy_of(message, orphan, dead, why if poison else "")
            try:
                with own_enqueue():
                    enqueued = self.enqueue(copy, delay=round(delay * 1000) or None)
            except Exception as error:
                self.logger.warning(
                    "A copy of message %s could not be enqueued (%s: %s). Nothing is lost: it will be tried again.",
                    *(orphan.message_id, type(error).__name__, error),
                )
                failures += 1
                if failures == GIVE_UP_AFTER:
                    break  # it is not the message, it is the broker
                continue
            copies.append(Enqueued(orphan, str(enqueued.options.get("redis_message_id") or ""), copy.queue_name, delay))
            if poison:
                self.logger.warning(
                    "Message %s (actor %r) is moved to the dead-letter queue: %s.",
                    *(orphan.message_id, orphan.actor, why),
                )
            if dead.id:
                self.tell(incident, message)
        if copies:
            self.registry.requeued(copies, dead=dead.id)
            for orphan, *_ in copies:
                self.leftovers.pop(orphan.message_id, None)
                if orphan.verdict is Claim.POISONED:
                    swept.poisoned += 1
                else:
                    swept.copied += 1
        swept.failed = swept.failed or failures > 0
        return failures == 0

    def _claim(self, ids: list[str], dead: DeadIncarnation, swept: Swept) -> bool:
        """Claim and put back.  False: some of them are still where they were."""
        answers = self._try_to_claim(ids, dead, swept)
        orphans = [answer for answer in answers if isinstance(answer, Orphan)]
        swept.settled += answers.count(Claim.SETTLED)
        complete = not orphans or self.put_back(orphans, dead, swept)
        return complete and not (Claim.BUSY in answers or Claim.ALIVE in answers)

    def _try_to_claim(
        self, ids: list[str], dead: DeadIncarnation, swept: Swept, *, leftovers: bool = False
    ) -> list[Orphan | Claim]:
        """Claim; what cannot be read is set aside by that, and said."""
        answers = self.registry.claim(ids, dead=dead.id, hold=self.lock_ttl, leftovers=leftovers)
        for id, answer in zip(ids, answers, strict=True):
            if answer is Claim.ASIDE:
                swept.set_aside += 1
                self.logger.error(
                    "The record of message %s cannot be read: it is damaged, or of another version. It is set aside "
                    "whole, and no copy is enqueued; if the broker still has the message, that runs. %d are aside now.",
                    *(id, self.registry.count_aside()),
                )
                self.tell(Incident.of(Kind.SET_ASIDE, _unreadable(id), dead), None)
        return answers

    def _copy_of(
        self, message: Message[object], orphan: Orphan, dead: DeadIncarnation, reason: str
    ) -> tuple[Message[object], float]:
        """The copy to enqueue for an orphan, and its delay in seconds."""
        mark = mark_of_copy(message, generation=orphan.generation, origin=orphan.origin)
        mark["crashes"] = orphan.crashes
        if reason:
            mark["reason"] = reason
        # Where it was: a copy in a recovery queue stays there, though the payload may be from before it was moved.
        queue, delay = orphan.queue, 0.0
        if dead.id and not reason:
            policy = self.policy_of(message)
            queue, delay = policy.recovery_queue or queue, 0.0 if dead.draining else policy.delay(orphan.crashes)
            if queue not in self.declared()[0]:
                self.logger.error(
                    "recovery_queue of message %s (actor %r) is %r, which no actor here declares: the message is "
                    "recovered to its own queue. Declare it: broker.declare_queue(%r).",
                    *(orphan.message_id, orphan.actor, queue, queue),
                )
                queue = orphan.queue
        if queue != message.queue_name:
            mark.setdefault("home", message.queue_name)
        return message.copy(queue_name=queue, options={OPTION: mark}), delay

    def _is_ours(self, dead: DeadIncarnation) -> bool:
        """Whether its messages are kept where ours are, as far as that can be told.

        Two applications may have queues and actors of the same names.
        """
        kind = self.custody.partition(",")[0]
        if dead.custody == self.custody or dead.custody.partition(",")[0] != kind:
            return True  # or the application has gone from one broker to another
        if dead.id not in self._unreachable:
            self._unreachable.add(dead.id)
            self.logger.warning(
                "Worker %s is dead, and its messages are kept elsewhere (%s) than this worker's (%s): a worker there "
                "has to recover them. Are two applications sharing one namespace of dramatiq_inflight? Give each its "
                "own (PROCESSING_NS).",
                *(dead, dead.custody, self.custody),
            )
        return False

    def _ours(self, ids: list[str]) -> list[str]:
        """Those whose queue and actor this broker declares, or whose record is gone.

        Enqueuing to a queue that is not declared would declare it on RabbitMQ, and consume what another application
        keeps there.
        """
        queues, actors = self.declared()
        ours = []
        for id, head in zip(ids, self.registry.peek(ids), strict=True):
            if head is None or (head.queue in queues and head.actor in actors):
                ours.append(id)
            elif (head.queue, head.actor) not in self._strange:
                self._strange.add((head.queue, head.actor))
                self.logger.warning(
                    "Messages of queue %r and actor %r are to be recovered, and this application does not declare "
                    "both: a worker of one that does has to do it. Are two applications sharing one namespace of "
                    "dramatiq_inflight?",
                    *(head.queue, head.actor),
                )
        return ours


def _unreadable(message_id: str) -> Orphan:
    return Orphan(message_id, Claim.ASIDE, 0, 0, 0, -1, 0, 0, 0, "", "", "", b"")
