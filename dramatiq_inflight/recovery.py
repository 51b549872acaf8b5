# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Recovery: find what dead workers left behind, and put it back, exactly once.

Two ways, by what the dead worker's broker was:

*Hand back* (RedisBroker on the tracker's own Redis): the broker still holds the copies.  The records let go of them,
then the broker's ack sets are moved back, with everything else the worker had fetched.  No second copy is made.

*Copy* (every other broker): claim, enqueue a copy with a higher generation, mark.  The broker's own late redelivery of
the old copy is stale.

A crash between any two steps leaves something that the next sweep finishes.  The lock saves work: two sweeps at once
lose and double nothing, because every step checks in Redis what it changes.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from dramatiq.common import dq_name
from redis.exceptions import LockError
from redis.lock import Lock

from .challenge import SILENT, Challenges
from .copying import NOBODY, Copies
from .incident import Incident, Kind
from .outcomes import Claim, HandedBack
from .records import DeadIncarnation, Due, Head, Orphan
from .redis_broker import RedisQueues
from .scripting import BATCH
from .swept import Swept

__all__ = ["Recovery"]


@dataclass(kw_only=True)
class Recovery(Copies):
    """One sweep after another: find what is left, hand back or copy.

    Parameters:
      queues: The RedisBroker's queues, where they are on the tracker's own Redis: what is handed back.
      asks: The RedisBroker's queues, wherever they are: whom to ask whether the broker still holds a copy.
      lock_ttl: How long the recovery lock lasts without a sign of progress, seconds.
    """

    queues: RedisQueues | None
    asks: RedisQueues | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        #: Whom this process has asked whether it lives.
        self.challenges = Challenges(self.registry)
        self._said: set[str] = set()

    def sweep(self, stop: Callable[[], bool] = lambda: False) -> Swept:
        """Put back all that is due, under the recovery lock.

        Parameters:
          stop: Asked between batches; what is left then is for another sweep.

        Raises:
          redis.RedisError: Redis cannot be reached; what was done is done, the rest is for the next sweep.
        """
        swept = Swept()
        self._challenge(swept)
        due = self.registry.due()
        swept.next_in = due.next_in
        if due.dead or due.overdue or self.leftovers:
            self._sweep_alone(swept, due, stop)
        if swept.summary:
            self.logger.info("Recovered from dead workers: %s.", swept.summary)
        return swept

    def _sweep_alone(self, swept: Swept, due: Due, stop: Callable[[], bool]) -> None:
        lock = self.registry.lock(self.lock_ttl)
        if not self._acquire(lock):
            swept.locked = True
            return
        try:
            holding = _Holding(lock, self.lock_ttl, stop)
            if due.dead and self.queues is not None:
                holding.brokers.update(self.registry.registered_brokers())
            self._finish_leftovers(swept, holding)
            if self.registry.me in due.dead:
                self.registry.beat()  # late, and evidently alive
            kept = 0
            while not holding.over():
                dead = [id for id in self.registry.due(skip_dead=kept).dead if id != self.registry.me]
                if not dead:
                    break
                for id in dead:
                    if not holding.over() and not self._recover(self.registry.incarnation(id), swept, holding):
                        kept += 1
            self._recover_overdue(swept, holding)
            swept.next_in = self.registry.due().next_in
        finally:
            try:
                lock.release()
            except LockError:
                pass  # it ran out, or somebody deleted it: it protects nothing

    def _challenge(self, swept: Swept) -> None:
        """Ask whom there is to ask, and take from the silent the messages in question.

        Without the lock: each process asks for the sake of the copies that it was given, and a claim is atomic.
        """
        for owner, ids in self.challenges.ask().items():
            dead = dataclasses.replace(self.registry.incarnation(owner), proof=SILENT)
            self.logger.warning(
                "Worker %s is taken for dead for %d messages that were delivered again: %s.", dead, len(ids), SILENT
            )
            for batch in range(0, len(ids), BATCH):
                self._claim(ids[batch : batch + BATCH], dead, swept)

    def _acquire(self, lock: Lock) -> bool:
        me = self.registry.me
        if lock.acquire(blocking=False, token=me):
            return True
        lock.local.token = me.encode()  # ours from a sweep that could not reach Redis to release it?
        try:
            return bool(lock.reacquire())
        except LockError:
            return False

    # One dead incarnation.

    def _recover(self, dead: DeadIncarnation, swept: Swept, holding: _Holding) -> bool:
        """Recover one incarnation.  False: something of it is left."""
        if dead.id not in self._said:
            self.registry.notice(dead)
            self._said.add(dead.id)
            self.logger.warning("Worker %s is dead: %s. Recovering what it left behind.", dead, dead.why)
        if not dead.broker_id:
            complete = self._copy(dead, swept, holding)
        elif self.queues is not None and self.queues.namespace == dead.broker_namespace:
            complete = self._hand_back(dead, swept, holding)
        else:
            if dead.id not in self._unreachable:
                self._unreachable.add(dead.id)
                self.logger.warning(
                    "Worker %s is dead, and its broker (a RedisBroker with namespace %r) cannot be reached from here: "
                    "a worker of that broker has to recover its messages. Are two applications sharing one "
                    "namespace of dramatiq_inflight?",
                    *(dead, dead.broker_namespace),
                )
            swept.left += 1
            return False
        if not complete or not self.registry.reap(dead.id, dead.place):
            return False
        swept.reaped += 1
        holding.brokers[dead.broker_namespace, dead.broker_id] -= 1  # the last one's share is nobody else's
        self._said.discard(dead.id)
        self.logger.info("All that worker %s left behind was recovered.", dead)
        return True

    def _hand_back(self, dead: DeadIncarnation, swept: Swept, holding: _Holding) -> bool:
        queues = self.queues
        assert queues is not None
        if self.registry.hand_back(dead.id, []) is None:
            return False
        names = set(dead.queues)
        # A worker that was stopped and started again in one process fetches under the same id as before.
        shared = holding.brokers[dead.broker_namespace, dead.broker_id] > 1
        kept = 0
        while not holding.over():
            ids = self.registry.running_of(dead.id, kept)
            if not ids:
                break
            heads = self.registry.peek(ids)
            names |= {name for head in heads if head for name in (head.queue, dq_name(head.queue))}
            held = queues.held([(head.queue, head.copy or head.origin) if head else ("", "") for head in heads])
            results = self.registry.hand_back(dead.id, list(zip(ids, held, strict=True)))
            if results is None:
                return False
            swept.handed_back += results.count(HandedBack.HANDED_BACK)
            swept.settled += results.count(HandedBack.SETTLED)
            for id, head, result in zip(ids, heads, results, strict=True):
                if head and result is HandedBack.HANDED_BACK:
                    self.tell(Incident.of(Kind.RECOVERED, _handed_back(id, head, dead), dead), None)
            to_claim = [id for id, result in zip(ids, results, strict=True) if result is HandedBack.TO_CLAIM]
            # Only those whose actor, and so whose policy, is known here.
            ours = self._ours(to_claim) if to_claim else []
            swept.left += len(to_claim) - len(ours)
            kept += len(to_claim) - len(ours)
            if ours and not self._claim(ours, dead, swept):
                kept += len(ours)
            kept += results.count(HandedBack.BUSY)
            if shared:
                for head, result in zip(heads, results, strict=True):
                    if head and result is HandedBack.HANDED_BACK:
                        swept.returned += queues.take_back(head.queue, head.copy or head.origin, [dead.broker_id])
        if shared:
            return kept == 0 and not holding.over()
        if not holding.over():
            swept.returned += queues.give_back(dead.broker_id, names)
        return kept == 0 and not holding.over() and queues.is_empty(dead.broker_id, names)

    def _copy(self, dead: DeadIncarnation, swept: Swept, holding: _Holding) -> bool:
        kept = 0
        while not holding.over():
            ids = self.registry.running_of(dead.id, kept)
            if not ids:
                break
            ours = self._ours(ids) if self._is_ours(dead) else []
            kept += len(ids) - len(ours)
            before = len(self.leftovers)
            if ours and not self._claim(ours, dead, swept):
                kept += len(ours)
            if len(self.leftovers) > before:
                return False  # the broker is away
        if kept:
            swept.left += kept
        return kept == 0 and not holding.over()

    # What waits for its copy for too long, and what an earlier sweep left over.

    def _recover_overdue(self, swept: Swept, holding: _Holding) -> None:
        offset = 0
        while not holding.over():
            ids = self.registry.due(skip_overdue=offset).overdue
            if not ids:
                return
            asked = self._ask_about(ids, swept)
            known = {id for id, _, _ in asked}
            if asked:
                swept.settled += self.registry.postpone(asked).count("settled")
            ours = self._ours([id for id in ids if id not in known])
            if ours:
                answers = self._try_to_claim(ours, NOBODY, swept)
                orphans = [answer for answer in answers if isinstance(answer, Orphan)]
                if orphans and not self.put_back(orphans, NOBODY, swept):
                    return
            left = len(ids) - len(known) - len(ours)
            swept.left += left
            offset += left
            if not asked and not ours:
                continue
            if len(ids) < BATCH:
                return

    def _ask_about(self, ids: list[str], swept: Swept) -> list[tuple[str, str, bool]]:
        """Ask the broker about copies that have not started for so long, if it can be asked.

        Returns: triples of message id, copy id and whether the broker has it; none for a copy to be made again.
        """
        if self.asks is None:
            return []
        pairs = [
            (id, head)
            for id, head in zip(ids, self.registry.peek(ids), strict=True)
            if head and head.state in ("requeued", "poisoned") and head.copy not in ("", "-")
        ]
        if not pairs:
            return []
        held = self.asks.held([(head.queue, head.copy) for _, head in pairs])
        if self.queues is None:
            # A Redis apart may have lost what it does not have: another copy is made.
            return [(id, head.copy, True) for (id, head), has in zip(pairs, held, strict=True) if has]
        # With the broker: in a long queue, or stranded with a living worker whose fetch timed out on a stalled Redis.
        # Back to its queue with it: should a worker have it in memory after all, its start will know.
        brokers = [id for namespace, id in self.registry.registered_brokers() if namespace == self.queues.namespace]
        for (_, head), has in zip(pairs, held, strict=True):
            if has and self.queues.take_back(head.queue, head.copy, brokers):
                swept.returned += 1
        return [(id, head.copy, has) for (id, head), has in zip(pairs, held, strict=True)]

    def _finish_leftovers(self, swept: Swept, holding: _Holding) -> None:
        while self.leftovers and not holding.over():
            with self._mutex:
                leftovers = list(self.leftovers.items())
            dead = leftovers[0][1]
            ids = [id for id, other in leftovers if other == dead][:BATCH]
            owner = self.registry.incarnation(dead) if dead else NOBODY
            answers = self._try_to_claim(ids, owner, swept, leftovers=True)
            for id in ids:
                self.leftovers.pop(id, None)
            orphans = [answer for answer in answers if isinstance(answer, Orphan)]
            if orphans and not self.put_back(orphans, owner, swept):
                return


class _Holding:
    """The recovery lock while it is held: extended as long as work goes on."""

    def __init__(self, lock: Lock, ttl: float, stop: Callable[[], bool]) -> None:
        self._lock = lock
        self._ttl = ttl
        self._stop = stop
        #: How many incarnations fetch under each broker id, by namespace and id.
        self.brokers: Counter[tuple[str, str]] = Counter()
        self._extended = time.monotonic()
        self._lost = False

    def over(self) -> bool:
        """Whether to end here: asked to, or the lock is somebody else's now."""
        if not self._lost and time.monotonic() - self._extended > self._ttl / 3:
            try:
                self._lock.reacquire()
                self._extended = time.monotonic()
            except LockError:
                self._lost = True
        return self._lost or self._stop()


def _handed_back(message_id: str, head: Head, dead: DeadIncarnation) -> Orphan:
    """A record that was handed back, as it was charged."""
    return Orphan(
        message_id=message_id,
        verdict=Claim.CLAIMED,
        run=head.run,
        generation=head.generation,
        crashes=head.crashes + (not dead.draining),
        limit=head.limit,
        started_ms=head.started,
        first_ms=head.first or head.started,
        drains=head.drains + dead.draining,
        origin=head.origin,
        queue=head.queue,
        actor=head.actor,
        payload=b"",
    )
