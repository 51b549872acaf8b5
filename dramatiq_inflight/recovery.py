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
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import redis
from dramatiq import Message
from dramatiq.common import dq_name
from dramatiq.errors import DecodeError
from dramatiq.logging import get_logger
from redis.exceptions import LockError
from redis.lock import Lock

from .challenge import SILENT, Challenges
from .incident import Incident, Kind
from .policy import Policy
from .records import OPTION, Claim, DeadIncarnation, Enqueued, HandedBack, Head, Mark, Orphan, mark_of
from .redis_broker import RedisQueues
from .registry import BATCH, Registry
from .table import own_enqueue

__all__ = ["NOBODY", "Recovery", "RecoveryThread", "Swept"]

#: After how many messages in a batch that cannot be enqueued the broker is taken to be away.
GIVE_UP_AFTER = 3

#: Whose death it was, when it is the copy of a message that was lost.
NOBODY = DeadIncarnation("", "", "", "", "", "", [])


class Enqueue(Protocol):
    """As `dramatiq.Broker.enqueue`; the delay is in milliseconds."""

    def __call__(self, message: Message[object], *, delay: int | None = None) -> Message[object]: ...


@dataclass
class Swept:
    """What one sweep did: numbers of messages, but for `reaped`."""

    #: Records of dead workers whose copies went back to the broker.
    handed_back: int = 0
    #: Everything that dead workers had fetched and that was moved back to its queue; includes `handed_back`.
    returned: int = 0
    #: Copies enqueued.
    copied: int = 0
    poisoned: int = 0
    settled: int = 0
    set_aside: int = 0
    #: Left for another sweep, or another worker: see the log.
    left: int = 0
    #: Dead incarnations of which nothing is left.
    reaped: int = 0
    #: Another worker is sweeping.
    locked: bool = False
    #: Something could not be put back: the broker or Redis is away.
    failed: bool = False
    #: Seconds until there may be something next; ``None``: nothing is in sight.
    next_in: float | None = None

    @property
    def progress(self) -> int:
        """How much was done."""
        return self.returned + self.copied + self.poisoned + self.settled + self.set_aside + self.reaped


@dataclass
class Recovery:
    """One sweep after another: find, claim, enqueue, mark.

    Parameters:
      registry: The records.
      enqueue: Puts a message on the broker, and returns it as enqueued.
      declared: The names of the queues and the actors that this broker declares: only their orphans are copied.
      queues: The RedisBroker's queues, where they are on the tracker's own Redis: what is handed back.
      custody: Who keeps the messages here; see `runtime.custody`.
      asks: The RedisBroker's queues, wherever they are: whom to ask whether the broker still holds a copy.
      lock_ttl: How long the recovery lock lasts without a sign of progress, seconds.
      policy_of: What is to become of a message.
      tell: Tells whoever wants to know what happened to a message, which is given where it was looked into.
    """

    registry: Registry
    enqueue: Enqueue
    declared: Callable[[], tuple[set[str], set[str]]]
    queues: RedisQueues | None
    lock_ttl: float
    custody: str = ""
    asks: RedisQueues | None = None
    policy_of: Callable[[Message[object]], Policy] = lambda message: Policy()
    tell: Callable[[Incident, Message[object] | None], None] = lambda incident, message: None
    #: What was claimed here and not brought to an end, with the dead incarnation's id: the next sweep's first work.
    leftovers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.logger = get_logger(__name__, type(self))
        #: Whom this process has asked whether it lives.
        self.challenges = Challenges(self.registry)
        self._said: set[str] = set()
        self._reasons: dict[str, str] = {}
        self._mutex = threading.Lock()  # worker threads add to `leftovers`
        self._unreachable: set[str] = set()
        self._strange: set[tuple[str, str]] = set()  # queues and actors

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
        if not (due.dead or due.overdue or self.leftovers):
            self._report(swept)
            return swept
        lock = self.registry.lock(self.lock_ttl)
        if not self._acquire(lock):
            swept.locked = True
            self._report(swept)
            return swept
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
        self._report(swept)
        return swept

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

    # One dead incarnation.

    def _acquire(self, lock: Lock) -> bool:
        me = self.registry.me
        if lock.acquire(blocking=False, token=me):
            return True
        lock.local.token = me.encode()  # ours from a sweep that could not reach Redis to release it?
        try:
            return bool(lock.reacquire())
        except LockError:
            return False

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
        mark: Mark = {**mark_of(message), "generation": orphan.generation, "crashes": orphan.crashes}
        mark.pop("duplicate", None)
        mark.pop("deferrals", None)
        if orphan.origin:
            mark["origin"] = orphan.origin
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

    # What waits for its copy for too long.

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

    def _report(self, swept: Swept) -> None:
        parts = [
            (swept.handed_back, "running messages and"),
            (swept.returned - swept.handed_back, "fetched ones went back to their queues"),
        ]
        done = []
        if swept.returned or swept.handed_back:
            done.append(" ".join(f"{max(number, 0)} {text}" for number, text in parts))
        for number, text in (
            (swept.copied, "copies were enqueued"),
            (swept.poisoned, "poison messages go to the dead-letter queue"),
            (swept.settled, "were complete already"),
            (swept.set_aside, "could not be decoded and were set aside"),
        ):
            if number:
                done.append(f"{number} {text}")
        if done:
            self.logger.info("Recovered from dead workers: %s.", "; ".join(done))


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


class RecoveryThread(threading.Thread):
    """Sweeps at boot, and then whenever something falls due; has a thread of its own, since an enqueue may hang.

    Parameters:
      interval: Longest pause between two sweeps, seconds; 0: only at boot.
      at_boot: How long boot lasts for that, seconds: whoever died before it is judged by then.
    """

    def __init__(self, recovery: Recovery, interval: float, at_boot: float = 0.0) -> None:
        super().__init__(name="dramatiq_inflight-recovery", daemon=True)
        self.logger = get_logger(__name__, type(self))
        self.recovery = recovery
        self.interval = interval
        self._boot_ends = time.monotonic() + at_boot
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._failures = 0
        #: How many sweeps were begun.
        self.sweeps = 0

    def run(self) -> None:
        """Sweep until `stop` is called; survive everything."""
        while not self._stopping.is_set():
            self._wake.clear()
            pauses = (self._sweep(), self.recovery.challenges.next_in)
            self._wake.wait(min((pause for pause in pauses if pause is not None), default=None))

    @property
    def stopping(self) -> bool:
        """Whether it was told to stop."""
        return self._stopping.is_set()

    def wake(self) -> None:
        """There is something to recover now."""
        self._wake.set()

    def stop(self) -> None:
        """Stop after the present batch; returns when the thread has ended, or after a few seconds."""
        self._stopping.set()
        self._wake.set()
        if self.is_alive():
            self.join(timeout=5)

    def _sweep(self) -> float | None:
        """Sweep, and return how long to pause; ``None``: for ever."""
        longest = self.interval or 30.0
        self.sweeps += 1
        try:
            swept = self.recovery.sweep(self._stopping.is_set)
        except redis.RedisError:
            self._failures += 1
            return min(longest, 2.0 ** min(self._failures - 1, 6))
        except Exception:
            self.logger.exception("Recovery failed for an unexpected reason; it will be tried again.")
            self._failures += 1
            return min(longest, 2.0 ** min(self._failures, 6))
        if swept.failed or (swept.left and not swept.progress):
            self._failures += 1
            return min(longest, 2.0 ** min(self._failures - 1, 6))
        self._failures = 0
        if not self.interval:
            longest = self._boot_ends - time.monotonic()
            if longest <= 0 and not swept.locked:
                return None
        if swept.locked:
            return min(longest, 1.0)
        # All workers wake at the same deadline: spread them, so that most find the work done.
        soon = longest if swept.next_in is None else swept.next_in + random.uniform(0.005, 0.1)
        return min(longest, max(soon, 0.02))


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


def _unreadable(message_id: str) -> Orphan:
    return Orphan(message_id, Claim.ASIDE, 0, 0, 0, -1, 0, 0, 0, "", "", "", b"")
