# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The start of a message: Redis is asked whether this copy may run here, and records that it does."""

from __future__ import annotations

import dataclasses
import threading
import time
from typing import Any

import redis
from dramatiq.logging import get_logger
from dramatiq.middleware import Interrupt, SkipMessage

from ..brokers.consumers import fetched_from
from ..config.policies import Policies
from ..delivery import Copy, is_copy, mark_of
from ..errors import MessageSkipped
from ..incident import Incident, Kind
from ..store.records import DeadIncarnation, Orphan
from ..store.replies import Claim, Start, Started
from ..worker import Runtime
from .in_flight import Entry, Phase, current_entry
from .interrupt import Strand
from .refuse import SKIPS, TO_ANOTHER, Refusals

__all__ = ["Starting"]


class Starting:
    """Begins the messages of one worker."""

    def __init__(self, runtime: Runtime, policies: Policies) -> None:
        self.logger = get_logger(__name__, type(self))
        self.runtime = runtime
        self._policies = policies
        self._refusals = Refusals(runtime)

    def begin(self, message: Any) -> None:
        """Ask whether this copy may run here, and record that it does.

        Time limits, shutdowns and aborts are not armed yet: see `hooks`.  Any other interrupt was meant for something
        else, since the actor has not begun: this is called again then, and goes on where it was.

        Raises:
          MessageSkipped: Another copy has run, is running, or will.
          PoisonMessage: It has killed too many workers.
        """
        entry = self.runtime.table.get(message)
        try:
            if entry is None:
                self.runtime.gate.expel(threading.get_ident())  # of a message that never came to its end
            elif entry.phase is not Phase.STARTING:
                self._refusals.again(message, entry)
            self._begin(message)
        except (Interrupt, SkipMessage):
            raise
        except BaseException:
            entry = self.runtime.table.get(message)
            if entry is not None and entry.phase is Phase.STARTING:
                entry.end(succeeded=False)  # its start may have been recorded, and its end is then as well
            raise

    def put_off(self, message: Any) -> bool:
        """Put off a copy that was interrupted before it began.

        Returns: False if it has begun, or is not tracked.
        """
        if not self._policies.tracks(self.runtime.broker, message):
            return False
        entry, _ = self._reserve(message)
        if entry.phase is Phase.STARTING and not entry.has_run:
            try:
                why = "an interrupt came before it had begun"
                self._refusals.put_off(message, entry, TO_ANOTHER, why, counted=False, recorded=True)
            except MessageSkipped:
                pass
        return not entry.has_run

    def _begin(self, message: Any) -> None:
        if not self.runtime.gate.enter() or self.runtime.heartbeat.refused:
            self._refusals.to_another(message, self._reserve(message)[0])
        if self._policies.tracks(self.runtime.broker, message):
            self._start(message)
        elif self.runtime.is_elsewhere(
            message.queue_name, message.options.get("redis_message_id", ""), fetched_from=fetched_from(message)
        ):
            message.options["store_results"] = False
            entry = Entry(Copy.of(message), broker=self.runtime.broker, given_away=True, phase=Phase.SKIPPED)
            current_entry.set(entry)
            raise MessageSkipped(SKIPS[Start.ELSEWHERE])

    def _reserve(self, message: Any) -> tuple[Entry, str]:
        """The entry of this copy, and what the process knows of its message; see `Table.reserve`."""
        entry = self.runtime.table.get(message)
        if entry is None:
            copy = Copy.of(message)
            entry = Entry(copy, broker=self.runtime.broker, generation=copy.generation, epoch=self.runtime.lease.epoch)
        return entry, self.runtime.table.reserve(message, entry)

    def _start(self, message: Any) -> None:
        entry, here = self._reserve(message)
        self._look_at_delivery(message, entry)
        started, asked = None, False
        try:
            entry.policy = self._policies.of(message)
            entry.message = message
            if entry.policy.hand_back is not None and self.runtime.handing_back.begun:
                self._refusals.to_another(message, entry)  # or it would be handed back to us
            entry.alone = self.runtime.always_alone or self.runtime.gate.is_alone()
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
                self.runtime.table.skip(entry)
                raise
            self.logger.exception("Message %s is put off for an unexpected reason.", message.message_id)
            self._refusals.put_off(
                message, entry, self.runtime.settings.heartbeat_ttl, "its start failed", recorded=asked
            )
        if started is None:
            if here != "no" or is_copy(message) or entry.policy.on_orphan == "dead_letter":
                why = "its start cannot be recorded, because Redis is away"
                self._refusals.put_off(message, entry, self.runtime.settings.heartbeat_ttl, why, recorded=asked)
            entry.encoded()  # as it came: the actor may change its arguments, and the heartbeat writes the record
            self._run(entry)
        else:
            self._act_on(message, entry, started)

    def _look_at_delivery(self, message: Any, entry: Entry) -> None:
        if self.runtime.queues is None:  # else the start asks the broker
            if self.runtime.deliveries.is_lost(message):
                self._refusals.skip(message, entry, SKIPS[Start.ELSEWHERE])
            if getattr(message, "redelivered", False):
                entry.contended = True  # whoever had it before may have it in memory still
        if mark_of(message).get("void"):
            self._refusals.skip(message, entry, "it was enqueued by a worker that had lost the message")

    def _can_ask(self, message: Any) -> bool:
        """False while a Redis of the tracker's own is away: no message waits for it, since the heartbeat mends.

        A copy that was made by recovery, or put off, must ask.
        """
        return not self.runtime.connectivity.away or self.runtime.queues is not None or is_copy(message)

    def _ask(self, entry: Entry, here: str, *, seen_to: bool) -> Started | None:
        """Ask Redis whether the copy may run.  ``None``: it cannot be reached.

        Parameters:
          seen_to: Whether it was seen to it that the message is alone, as far as that is possible.
        """
        broker_keys = self.runtime.broker_keys(entry.copy.queue)

        def start(payload: bytes, *, forgotten: bool = False) -> Started:
            return self.runtime.registry.start(
                entry.copy,
                payload,
                limit=entry.policy.limit,
                here=here,
                forgotten=forgotten or self.runtime.lease.forgotten,
                alone=entry.alone if seen_to else None,
                tailored=entry.policy.tailored,
                broker_keys=broker_keys,
            )

        try:
            with entry.mutex:  # whoever wants to come in must not be let in between the look at `alone` and the start
                # Where the script can have the payload from the broker, it need not be encoded, nor sent.
                started = start(entry.payload if broker_keys else entry.encoded())
                if started.answer is Start.PAYLOAD:
                    started = start(entry.encoded())
                if started.answer is Start.ELSEWHERE and self.runtime.may_have_lost_data(fetched_from(entry.message)):
                    started = start(entry.encoded(), forgotten=True)  # nobody else has it if the loss took it away
                return started
        except redis.RedisError:
            entry.contended = True  # it may have been recorded, or may yet be: its end is told, and remembered
            return None  # said once, by Connectivity

    def _be_alone(self, message: Any, entry: Entry, started: Started) -> None:
        """Wait until the message has the process to itself; not for ever."""
        allowed = max(int(entry.policy.limit), 1)
        # Longer with every crash that did not convict it, so that a crash loop ends whatever its rhythm is.
        timeout = self.runtime.settings.alone_timeout * 2.0 ** min(started.crashes - allowed, 16)
        self.logger.warning(
            "Message %s (actor %r) has %d of %d crashes that it may have: it runs alone in this process, which starts "
            "nothing else meanwhile.",
            *(message.message_id, message.actor_name, started.crashes, entry.policy.limit),
        )
        entry.alone = True
        try:
            self.runtime.registry.hold(entry.copy, timeout)
        except redis.RedisError:
            pass  # its start will tell
        alone = self.runtime.gate.enter_alone(timeout, lambda: self.runtime.ledger.accompany(entry))
        if alone is None:
            self._refusals.to_another(message, entry)
        if not alone:
            entry.alone = False
            self.logger.warning(
                "Message %s could not be alone within %g seconds: it runs beside others, and would not be convicted.",
                *(message.message_id, timeout),
            )

    def _act_on(self, message: Any, entry: Entry, started: Started) -> None:
        if started.answer is Start.RUN:
            entry.written, entry.run, entry.generation = True, started.run, started.generation
            entry.crashes, entry.drains = started.crashes, started.drains
            entry.started_ms, entry.first_ms = started.started_ms, started.first_ms
            if started.owner:
                self._taken_over(entry, started)
            self._run(entry)
        elif started.answer in (Start.DUPLICATE, Start.WAITING):
            entry.copy = dataclasses.replace(entry.copy, duplicate=started.answer is Start.DUPLICATE)
            wait = started.wait_ms / 1000
            if started.owner:
                self.runtime.presence.suspect(started.owner)  # if that is gone, recovery is quicker than this copy
            self._refusals.put_off(message, entry, wait, "it is running already")
        elif started.answer is Start.POISONED:
            self._refusals.reject(
                message, entry, mark_of(message).get("reason") or "it has killed its worker too often"
            )
        elif started.answer in (Start.CLAIMED, Start.CONVICTED):
            self._put_back(entry, started)
            self._refusals.skip(message, entry, SKIPS[started.answer])
        else:
            entry.given_away = started.answer is Start.ELSEWHERE
            self._refusals.skip(message, entry, SKIPS[started.answer])

    def _run(self, entry: Entry) -> None:
        if entry.policy.may_interrupt:
            entry.strand = Strand()
        entry.checkpoints = self.runtime.checkpoints
        # All that others go by is there before it counts as running: from then on it may be interrupted.
        entry.moved_at = time.monotonic()
        current_entry.set(entry)
        self.runtime.table.run(entry)
        self.runtime.handing_back.started()
        if entry.policy.stall_timeout is not None:
            self.runtime.stalls.wake()

    def _put_back(self, entry: Entry, started: Started) -> None:
        """The start has claimed the message for us: its copy is enqueued by recovery."""
        # Not in this thread, which may be interrupted at any moment.
        self.runtime.recovery.leave_over(entry.copy.message_id, started.owner)
        self.runtime.recovery_thread.wake()

    def _taken_over(self, entry: Entry, started: Started) -> None:
        """This copy takes the place of one whose worker is dead."""
        try:
            dead = self.runtime.registry.incarnation(started.owner)
        except redis.RedisError:
            dead = DeadIncarnation(started.owner, "", "", "", "", "", [])
        self.logger.warning("Message %s is taken over from worker %s: %s.", entry.copy.message_id, dead, dead.why)
        self.runtime.recovery.tell(Incident.of(Kind.RECOVERED, _orphan(entry, started), dead), None)


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
        tries=0,
        origin=copy.origin,
        queue=copy.queue,
        actor=copy.actor,
        payload=b"",
    )
