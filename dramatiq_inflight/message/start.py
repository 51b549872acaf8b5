# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The start of a message: Redis is asked whether this copy may run here, and records that it does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis
from dramatiq import Broker
from dramatiq.logging import get_logger
from dramatiq.middleware import Interrupt, SkipMessage

from ..brokers.consumers import fetched_from
from ..brokers.deliveries import Deliveries
from ..brokers.queues import BrokerQueues
from ..config.policies import Policies
from ..delivery import Copy, Delivery, is_copy, mark_of
from ..errors import MessageSkipped
from ..incident import Incident, Kind
from ..isolation.gate import Gate
from ..liveness.lease import Lease
from ..recovery.sweep import Recoverer
from ..store.records import DeadIncarnation, Orphan
from ..store.replies import Claim, Start, Started
from ..store.store import Store
from ..threads.moment import Moment
from .checkpoints import Checkpoints
from .in_flight import Entry, Numbers, Table, current_entry
from .interrupt import Strand
from .reconcile import Ledger
from .refuse import SKIPS, TO_ANOTHER, Refusals
from .shutdown import HandingBack
from .stalls import Stalls
from .state import Phase

__all__ = ["Starting"]

#: How often a start is asked for whose answer comes late: a machine that is always so slow is not to ask for ever.
ASKED = 3


@dataclass(kw_only=True, eq=False)
class Starting:
    """Begins the messages of one worker.

    Parameters:
      suspect: Called with an incarnation that may be gone.
      on_hand_over: Called when there is a message for recovery to enqueue.
    """

    broker: Broker
    policies: Policies
    table: Table
    gate: Gate
    store: Store
    lease: Lease
    queues: BrokerQueues
    deliveries: Deliveries
    refusals: Refusals
    ledger: Ledger
    checkpoints: Checkpoints
    handing_back: HandingBack
    stalls: Stalls
    recovery: Recoverer
    suspect: Callable[[str], None]
    on_hand_over: Callable[[], None]

    def __post_init__(self) -> None:
        self.logger = get_logger(__name__, type(self))

    def begin(self, message: Any) -> None:
        """Ask whether this copy may run here, and record that it does.

        Time limits, shutdowns and aborts are not armed yet: see `message.hooks`.  Any other interrupt was meant for
        something else, since the actor has not begun: this is called again then, and goes on where it was.

        Raises:
          MessageSkipped: Another copy has run, is running, or will.
          PoisonMessage: It has killed too many workers.
        """
        entry = self.table.get(message)
        try:
            if entry is None:
                self.gate.expel(threading.get_ident())  # of a message that never came to its end
            elif entry.state.phase is not Phase.STARTING:
                self.refusals.again(message, entry)
            self._begin(message)
        except (Interrupt, SkipMessage):
            raise
        except BaseException:
            entry = self.table.get(message)
            if entry is not None and entry.state.phase is Phase.STARTING:
                entry.end(succeeded=False)  # its start may have been recorded, and its end is then as well
            raise

    def defer(self, message: Any) -> bool:
        """Put off a copy that was interrupted before it began.

        Returns: False if it has begun, or is not tracked.
        """
        if not self.policies.tracks(self.broker, message):
            return False
        entry, _ = self._reserve(message)
        if entry.state.phase is Phase.STARTING and not entry.has_run:
            try:
                why = "an interrupt came before it had begun"
                self.refusals.defer(message, entry, TO_ANOTHER, why, counted=False, recorded=True)
            except MessageSkipped:
                pass
        return not entry.has_run

    def _begin(self, message: Any) -> None:
        if not self.gate.enter() or self.lease.refused:
            self.refusals.to_another(message, self._reserve(message)[0])
        if self.policies.tracks(self.broker, message):
            self._start(message)
        elif self.deliveries.is_elsewhere(
            message.queue_name, message.options.get("redis_message_id", ""), fetched_from=fetched_from(message)
        ):
            message.options["store_results"] = False
            entry = Entry(Delivery(Copy.of(message), self.broker, message))
            entry.give_away()
            current_entry.set(entry)
            raise MessageSkipped(SKIPS[Start.ELSEWHERE])

    def _reserve(self, message: Any) -> tuple[Entry, str]:
        """The entry of this copy, and what the process knows of its message; see `Table.reserve`."""
        entry = self.table.get(message)
        if entry is None:
            copy = Copy.of(message)
            entry = Entry(
                Delivery(copy, self.broker, message),
                numbers=Numbers(generation=copy.generation),
                epoch=self.lease.epoch,
            )
        return entry, self.table.reserve(message, entry)

    def _start(self, message: Any) -> None:
        entry, here = self._reserve(message)
        self._look_at_delivery(message, entry)
        started, asked = None, False
        try:
            entry.policy = self.policies.of(message)
            if entry.policy.hand_back is not None and self.handing_back.begun:
                self.refusals.to_another(message, entry)  # or it would be handed back to us
            entry.alone = self.gate.is_alone()
            asked = self._can_ask(message)
            started = self._ask(entry, here, seen_to=entry.alone) if asked else None
            if started is not None and started.answer is Start.LAST_CHANCE:
                self._be_alone(message, entry, started)
                started = self._ask(entry, here, seen_to=True)
        except SkipMessage:
            raise
        except Exception:
            # Dramatiq would swallow it, and run the actor.
            if started is None and not is_copy(message) and entry.policy.on_orphan != "dead_letter":
                self.table.refuse(entry, Entry.skip)
                raise
            self.logger.exception(
                "Could not start message %s for an unexpected reason. Enqueuing it again with a delay.",
                message.message_id,
            )
            self.refusals.defer(
                message, entry, self.policies.settings.heartbeat_ttl, "its start failed", recorded=asked
            )
        if started is None:
            if here != "no" or is_copy(message) or entry.policy.on_orphan == "dead_letter":
                why = "its start cannot be recorded, because Redis is away"
                self.refusals.defer(message, entry, self.policies.settings.heartbeat_ttl, why, recorded=asked)
            # As it came: the actor may change its arguments, and the heartbeat writes the record.
            entry.delivery.encoded()
            self._run(entry)
        else:
            self._act_on(message, entry, started)

    def _look_at_delivery(self, message: Any, entry: Entry) -> None:
        if self.deliveries.is_lost(message):
            self.refusals.skip(message, entry, SKIPS[Start.ELSEWHERE])
        if getattr(message, "redelivered", False):
            entry.contended = True  # whoever had it before may have it in memory still
        if mark_of(message).get("void"):
            self.refusals.skip(message, entry, "it was enqueued by a worker that had lost the message")

    def _can_ask(self, message: Any) -> bool:
        """False while a Redis of the tracker's own is away: no message waits for it, since the heartbeat mends.

        A copy that was made by recovery, or put off, must ask.
        """
        return not self.store.scripts.contact.is_away() or is_copy(message)

    def _ask(self, entry: Entry, here: str, *, seen_to: bool) -> Started | None:
        """Ask Redis whether the copy may run; return ``None`` if it cannot be reached.

        Parameters:
          seen_to: True if it was seen to it that the message is alone, as far as that is possible.
        """
        broker_keys = self.queues.keys(entry.copy.queue)

        def start(payload: bytes, *, forgotten: bool = False) -> Started:
            for _ in range(ASKED):
                asked = Moment.now()
                started = self.store.messages.start(
                    entry.copy,
                    payload,
                    limit=entry.policy.limit,
                    here=here,
                    forgotten=forgotten or self.lease.forgotten,
                    alone=entry.alone if seen_to else None,
                    tailored=entry.policy.tailored,
                    broker_keys=broker_keys,
                )
                if started.answer is not Start.RUN or not self.lease.is_outdated(asked):
                    break
                # We were frozen: others may have taken it meanwhile, and even completed it.
            return started

        try:
            with entry.mutex:  # whoever wants to come in must not be let in between the look at `alone` and the start
                # Where the script can have the payload from the broker, it need not be encoded, nor sent.
                started = start(entry.delivery.payload if broker_keys else entry.delivery.encoded())
                if started.answer is Start.PAYLOAD:
                    started = start(entry.delivery.encoded())
                elsewhere = started.answer is Start.ELSEWHERE
                if elsewhere and self.deliveries.may_have_lost_data(fetched_from(entry.delivery.message)):
                    # Nobody else has it if the loss took it away.
                    started = start(entry.delivery.encoded(), forgotten=True)
                return started
        except redis.RedisError:
            entry.contended = True  # it may have been recorded, or may yet be: its end is told, and remembered
            return None  # said once, by Connectivity

    def _be_alone(self, message: Any, entry: Entry, started: Started) -> None:
        """Wait until the message has the process to itself; not for ever."""
        allowed = max(int(entry.policy.limit), 1)
        # Longer with every crash that did not convict it, so that a crash loop ends whatever its rhythm is.
        timeout = self.policies.settings.alone_timeout * 2.0 ** min(started.crashes - allowed, 16)
        self.logger.warning(
            "Message %s (actor %r) has used %d of %d allowed crashes. Running it alone in this process.",
            *(message.message_id, message.actor_name, started.crashes, entry.policy.limit),
        )
        entry.alone = True
        try:
            self.store.messages.extend_deadline(entry.copy, timeout)
        except redis.RedisError:
            pass  # its start will tell
        alone = self.gate.enter_alone(timeout, lambda: self.ledger.clear_alone(entry))
        if alone is None:
            self.refusals.to_another(message, entry)
        if not alone:
            entry.alone = False
            self.logger.warning(
                "Message %s could not run alone within %g seconds. Running it beside other messages; a crash "
                "will not dead-letter it.",
                *(message.message_id, timeout),
            )

    def _act_on(self, message: Any, entry: Entry, started: Started) -> None:
        if started.answer is Start.RUN:
            entry.record_start(
                Numbers(
                    *(started.run, started.generation, started.crashes, started.drains),
                    *(started.started_ms, started.first_ms),
                )
            )
            if started.owner:
                self._taken_over(entry, started)
            self._run(entry)
        elif started.answer in (Start.DUPLICATE, Start.WAITING):
            entry.mark(duplicate=started.answer is Start.DUPLICATE)
            wait = started.wait_ms / 1000
            if started.owner:
                self.suspect(started.owner)  # if that is gone, recovery is quicker than this copy
            self.refusals.defer(message, entry, wait, "it is running already")
        elif started.answer is Start.POISONED:
            self.refusals.reject(message, entry, mark_of(message).get("reason") or "it has killed its worker too often")
        elif started.answer in (Start.CLAIMED, Start.CONVICTED):
            self._put_back(entry, started)
            self.refusals.skip(message, entry, SKIPS[started.answer])
        elif started.answer is Start.ELSEWHERE:
            self.refusals.leave(message, entry)
        else:
            self.refusals.skip(message, entry, SKIPS[started.answer])

    def _run(self, entry: Entry) -> None:
        if entry.policy.may_interrupt:
            entry.strand = Strand()
        # All that others go by is there before it counts as running: from then on it may be interrupted.
        entry.progress.checkpoints, entry.progress.moved_at = self.checkpoints, time.monotonic()
        current_entry.set(entry)
        self.table.run(entry)
        self.handing_back.started()
        if entry.policy.stall_timeout is not None:
            self.stalls.wake()

    def _put_back(self, entry: Entry, started: Started) -> None:
        """The start has claimed the message for us: its copy is enqueued by recovery."""
        # Not in this thread, which may be interrupted at any moment.
        self.recovery.leave_over(entry.copy.message_id, started.owner)
        self.on_hand_over()

    def _taken_over(self, entry: Entry, started: Started) -> None:
        """This copy takes the place of one whose worker is dead."""
        try:
            dead = self.store.workers.incarnation(started.owner)
        except redis.RedisError:
            dead = DeadIncarnation(started.owner, "", "", "", "", "", [])
        self.logger.warning("Took over message %s from worker %s: %s.", entry.copy.message_id, dead, dead.why)
        self.recovery.tell(Incident.of(Kind.RECOVERED, _orphan(entry, started), dead), None)


def _orphan(entry: Entry, started: Started) -> Orphan:
    copy = entry.copy
    return Orphan(
        message_id=copy.message_id,
        verdict=Claim.CLAIMED,
        run=started.run,
        generation=started.generation,
        crashes=started.crashes,
        limit=entry.policy.limit,
        started_ms=started.started_ms,
        first_ms=started.first_ms or started.started_ms,
        drains=started.drains,
        origin=copy.origin,
        queue=copy.queue,
        actor=copy.actor,
    )
