# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Make the copy of a message whose worker died: its mark, and where it goes by its policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dramatiq import Message
from dramatiq.logging import get_logger

from ..config.policy import Policy
from ..delivery import OPTION, mark_of_copy
from ..incident import Incident, Kind
from ..store.records import DeadIncarnation, Orphan
from ..store.replies import Claim

__all__ = ["Making"]


@dataclass(kw_only=True)
class Making:
    """Makes copies.

    Parameters:
      declared: The names of the queues and the actors that this broker declares: only their orphans are copied.
      policy_of: Returns the policy of a message.
    """

    declared: Callable[[], tuple[set[str], set[str]]]
    policy_of: Callable[[Message[object]], Policy] = lambda message: Policy()

    def __post_init__(self) -> None:
        self.logger = get_logger(__name__, type(self))

    def copy_of(
        self, message: Message[object], orphan: Orphan, dead: DeadIncarnation, reason: str
    ) -> tuple[Message[object], float, str]:
        """The copy to enqueue for an orphan, its delay in seconds, and why it is dead-lettered, if it is."""
        mark = mark_of_copy(message, generation=orphan.generation, origin=orphan.origin)
        mark["tries"] = orphan.tries
        mark["crashes"] = orphan.crashes
        # Where it was: a copy in a recovery queue stays there, though the payload may be from before it was moved.
        queue, delay, why = orphan.queue, 0.0, ""
        if orphan.verdict is Claim.POISONED:
            why = mark["reason"] = reason or Incident.of(Kind.POISON, orphan, dead).reason
        elif dead.id:
            queue, delay = self._whereto(message, orphan, dead)
        if queue != message.queue_name:
            mark.setdefault("home", message.queue_name)
        return message.copy(queue_name=queue, options={OPTION: mark}), delay, why

    def _whereto(self, message: Message[object], orphan: Orphan, dead: DeadIncarnation) -> tuple[str, float]:
        """The queue that a recovered copy goes to, and its delay in seconds."""
        try:
            policy = self.policy_of(message)
            queue = policy.recovery_queue or orphan.queue
            delay = 0.0 if dead.draining else policy.delay(orphan.crashes)
        except Exception:
            self.logger.exception(
                "Could not read the recovery options of message %s. Recovering it to its own queue without delay.",
                orphan.message_id,
            )
            return orphan.queue, 0.0
        if queue not in self.declared()[0]:
            self.logger.error(
                "recovery_queue of message %s (actor %r) is %r, but this worker does not declare that queue. "
                "Recovering the message to its own queue. Declare the queue: broker.declare_queue(%r).",
                *(orphan.message_id, orphan.actor, queue, queue),
            )
            queue = orphan.queue
        return queue, delay
