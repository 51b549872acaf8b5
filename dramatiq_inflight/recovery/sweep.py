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

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import redis
from dramatiq.common import dq_name
from redis.exceptions import LockError
from redis.lock import Lock

from ..brokers.errors import is_passing
from ..brokers.redis import RedisQueues
from ..incident import Incident, Kind
from ..store.cause import causes_of
from ..store.records import DeadIncarnation, Due, Head, Orphan
from ..store.replies import Claim, Returned
from ..store.scripts import BATCH
from .copies import NOBODY, Copies
from .summary import Swept

__all__ = ["Recoverer"]


@dataclass(kw_only=True)
class Recoverer(Copies):
    """One sweep after another: find what is left, hand back or copy.

    Parameters:
      lock_ttl: How long the recovery lock lasts without a sign of progress, seconds.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self._said: set[str] = set()

    def sweep(self, stop: Callable[[], bool] = lambda: False) -> Swept:
        """Put back all that is due, under the recovery lock.

        Parameters:
          stop: Asked between batches; what is left then is for another sweep.

        Raises:
          redis.RedisError: Redis cannot be reached; what was done is done, the rest is for the next sweep.
        """
        swept = Swept()
        due = self.store.recovery.find_due()
        swept.next_in = due.next_in
        if due.dead or due.overdue or self.leftovers:
            self._sweep_alone(swept, due, stop)
        if swept.summary:
            self.logger.info("Recovered from dead workers: %s.", swept.summary)
        return swept

    def _sweep_alone(self, swept: Swept, due: Due, stop: Callable[[], bool]) -> None:
        lock = self.store.recovery.lock(self.lock_ttl)
        if not self._acquire(lock):
            swept.locked = True
            return
        try:
            holding = _Holding(lock, self.lock_ttl, stop)
            if due.dead and self.queues.shared:
                holding.brokers.update(self.store.workers.registered_brokers())
            self._failures.begin()
            too_slow = self._finish_leftovers(swept, holding)
            if self.store.me in due.dead:
                self.store.workers.heartbeat()  # late, and evidently alive
            kept = 0
            while not holding.over():
                dead = [id for id in self.store.recovery.find_due(skip_dead=kept).dead if id != self.store.me]
                if not dead:
                    break
                for id in dead:
                    if not holding.over() and not self._recover_safely(id, swept, holding):
                        kept += 1
            self._recover_overdue(swept, holding)
            if too_slow is not None:
                raise too_slow
            self._finish_leftovers(swept, holding)  # claimed in this sweep, and only the answer lost
            swept.next_in = self.store.recovery.find_due().next_in
        finally:
            try:
                lock.release()
            except LockError:
                pass  # it ran out, or somebody deleted it: it protects nothing

    def _acquire(self, lock: Lock) -> bool:
        me = self.store.me
        if lock.acquire(blocking=False, token=me):
            return True
        lock.local.token = me.encode()  # ours from a sweep that could not reach Redis to release it?
        try:
            return bool(lock.reacquire())
        except LockError:
            return False

    # One dead incarnation.

    def _recover_safely(self, id: str, swept: Swept, holding: _Holding) -> bool:
        """As `_recover`; whatever is wrong with one incarnation or its messages stops the recovery of no other."""
        try:
            return self._recover(self.store.workers.incarnation(id), swept, holding)
        except Exception as error:
            if is_passing(error):
                raise
            self.logger.exception(
                "Could not recover the messages of worker %s for an unexpected reason. Recovery will try again.", id
            )
            swept.failed = True
            return False

    def _recover(self, dead: DeadIncarnation, swept: Swept, holding: _Holding) -> bool:
        """Recover one incarnation.  False: something of it is left.

        A sweep that is to stop forgets it all the same if nothing is left; forget.lua sees what is listed as running.
        """
        if dead.id not in self._said:
            self.store.workers.record_death(dead)
            self._said.add(dead.id)
            self.logger.warning("Worker %s is dead: %s. Recovering its messages.", dead, dead.why)
        if not dead.broker_id:
            complete = self._copy(dead, swept, holding)
        elif queues := self.queues.sharing(dead.broker_namespace):
            complete = self._return_to_broker(dead, queues, swept, holding)
        else:
            if dead.id not in self._unreachable:
                self._unreachable.add(dead.id)
                self.logger.warning(
                    "Cannot recover the messages of dead worker %s: its broker (a RedisBroker with namespace %r) "
                    "cannot be reached from this worker. Start a worker of that broker. If two applications "
                    "share a namespace by mistake, give each its own (PROCESSING_NS).",
                    *(dead, dead.broker_namespace),
                )
            swept.left += 1
            return False
        if not complete or not self.store.workers.forget(dead.id, dead.place):
            return False
        swept.reaped += 1
        holding.brokers[dead.broker_namespace, dead.broker_id] -= 1  # the last one's share is nobody else's
        self._said.discard(dead.id)
        self.logger.info("Recovered all messages of dead worker %s.", dead)
        return True

    def _return_to_broker(self, dead: DeadIncarnation, queues: RedisQueues, swept: Swept, holding: _Holding) -> bool:
        if self.store.recovery.return_to_broker(dead.id, []) is None:
            return False
        names = set(dead.queues)
        # A worker that was stopped and started again in one process fetches under the same id as before.
        shared = holding.brokers[dead.broker_namespace, dead.broker_id] > 1
        kept = 0
        while not holding.over():
            ids = self.store.messages.running_of(dead.id, kept)
            if not ids:
                break
            heads = dict(zip(ids, self.store.messages.peek(ids), strict=True))
            names |= {name for head in heads.values() if head for name in (head.queue, dq_name(head.queue))}
            copies = [(head.queue, head.copy) if head else ("", "") for head in heads.values()]
            results = self._let_go_of(dead, dict(zip(ids, queues.held(copies), strict=True)))
            if results is None:
                return False
            swept.settled += sum(result is Returned.SETTLED for result in results.values())
            for id, result in results.items():
                head = heads[id]
                if head and result is Returned.RETURNED:
                    swept.handed_back += 1
                    self._tell(Incident.of(Kind.RECOVERED, _returned(id, head, dead), dead), None)
                    if shared:
                        swept.returned += queues.take_back(head.queue, head.copy, [dead.broker_id])
            to_claim = [id for id, result in results.items() if result is Returned.TO_CLAIM]
            # Only those whose actor, and so whose policy, is known here.
            ours = self._ours(to_claim)
            swept.left += len(to_claim) - len(ours)
            kept += len(to_claim) - len(ours) + self._claim(ours, dead, swept, holding.over)
            kept += sum(result is Returned.BUSY for result in results.values())
        if shared:
            return kept == 0
        if not holding.over():
            swept.returned += queues.give_back(dead.broker_id, names)
        return kept == 0 and queues.is_empty(dead.broker_id, names)

    def _let_go_of(self, dead: DeadIncarnation, held: dict[str, bool]) -> dict[str, Returned] | None:
        """Let the records of a dead worker go; ``None``: it is back.

        Parameters:
          held: True if the broker has the copy of each message.
        """
        found: dict[str, Returned] = {}
        while left := [(id, has) for id, has in held.items() if id not in found]:
            results = self.store.recovery.return_to_broker(dead.id, left)
            if results is None:
                return None
            pairs = zip(left, results, strict=True)
            found |= {id: result for (id, _), result in pairs if result is not Returned.LATER}
        return found

    def _copy(self, dead: DeadIncarnation, swept: Swept, holding: _Holding) -> bool:
        kept = 0
        while not holding.over() and not self._failures.too_many:
            ids = self.store.messages.running_of(dead.id, kept)
            if not ids:
                break
            ours = self._ours([id for id in ids if id not in self.leftovers]) if self._is_ours(dead) else []
            swept.left += len(ids) - len(ours)
            kept += len(ids) - len(ours) + self._claim(ours, dead, swept, holding.over)
        return kept == 0 and not self._failures.too_many

    # Messages that wait for their copy for too long, and those that an earlier sweep left over.

    def _recover_overdue(self, swept: Swept, holding: _Holding) -> None:
        seen: set[str] = set()
        offset = 0
        while not holding.over() and not self._failures.too_many:
            ids = self.store.recovery.find_due(skip_overdue=offset).overdue
            fresh = [id for id in ids if id not in seen and id not in self.leftovers]
            seen.update(ids)
            offset += len(ids) - len(fresh)  # they stay where they are
            ours = self._ours(fresh)
            swept.left += len(fresh) - len(ours)
            self._claim(self._ask_about(ours, swept), NOBODY, swept, holding.over)
            if len(ids) < BATCH:
                return

    def _ask_about(self, ids: list[str], swept: Swept) -> list[str]:
        """Ask the broker about copies that have not started for so long, if it can be asked.

        Returns: those of which another copy is to be made.
        """
        if not ids:
            return ids
        heads = {
            id: head
            for id, head in zip(ids, self.store.messages.peek(ids), strict=True)
            if head and head.state == "requeued"
        }
        said, returned = self.queues.ask(heads, self.declared()[0], self.store.workers.registered_brokers)
        swept.returned += returned
        found: dict[str, str] = {}
        while left := [(id, heads[id].copy, what) for id, what in said.items() if id not in found]:
            pairs = zip(left, self.store.recovery.extend_deadlines(left), strict=True)
            found |= {id: result for (id, _, _), result in pairs if result != "later"}
        swept.settled += list(found.values()).count("settled")
        return [id for id in ids if found.get(id, "due") == "due"]

    def _finish_leftovers(self, swept: Swept, holding: _Holding) -> redis.RedisError | None:
        """Put back what an earlier sweep, or another thread, has claimed.

        Returns: why some are still left over: a payload takes too long, say, and nothing else is to wait for that.
        """
        with self._mutex:
            leftovers = list(self.leftovers.items())
        random.shuffle(leftovers)  # or one that takes too long would always come before others
        for dead in {dead for _, dead in leftovers}:
            ids = [id for id, other in leftovers if other == dead]
            for batch in range(0, len(ids), BATCH):
                try:
                    owner = self.store.workers.incarnation(dead) if dead else NOBODY
                    self._claim(ids[batch : batch + BATCH], owner, swept, holding.over, leftovers=True)
                except redis.RedisError as error:
                    return error
        return None


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
        """Return whether to end here: asked to, or the lock is somebody else's now."""
        if not self._lost and time.monotonic() - self._extended > self._ttl / 3:
            try:
                self._lock.reacquire()
                self._extended = time.monotonic()
            except LockError:
                self._lost = True
        return self._lost or self._stop()


def _returned(message_id: str, head: Head, dead: DeadIncarnation) -> Orphan:
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
        tries=head.tries,
        origin=head.origin,
        queue=head.queue,
        actor=head.actor,
        causes=causes_of(head.causes) + (() if dead.draining else (dead.cause,)),
    )
