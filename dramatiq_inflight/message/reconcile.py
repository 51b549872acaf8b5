# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The ledger: reports to Redis how runs ended, and mends records that differ from the table of this process."""

from __future__ import annotations

import time
from collections.abc import Callable

import redis
from dramatiq.logging import get_logger

from ..brokers.queues import BrokerQueues
from ..delivery import Copy
from ..errors import MessageLost
from ..liveness.lease import Lease
from ..store.replies import Finished, Reasserted
from ..store.scripts import NotSent
from ..store.store import Store
from ..store.transport import Call
from .in_flight import Entry, Outcome, Table
from .state import Phase, Recorded

__all__ = ["Ledger"]

#: How long Dramatiq may take to acknowledge a message that has ended, before that is done for it, seconds.  It tries
#: every five seconds as long as its broker is away.
ACK_PATIENCE = 60.0

#: After how long what has succeeded is settled though it is not acknowledged yet, seconds: no ack takes so long.
ACK_PAUSE = 2.0


class Ledger:
    """Keeps the records in Redis in step with the table of this process.

    Parameters:
      interval: The pause between two heartbeats, seconds.
      on_hand_over: Called when there is a message for recovery to enqueue.
      on_drop: Called with what was dropped from the table then.
    """

    def __init__(
        self,
        store: Store,
        table: Table,
        lease: Lease,
        queues: BrokerQueues,
        *,
        interval: float,
        on_hand_over: Callable[[], None],
        on_drop: Callable[[Entry], None],
    ) -> None:
        self.logger = get_logger(__name__, type(self))
        self.store = store
        self.table = table
        self.lease = lease
        self.queues = queues
        self.interval = interval
        self.on_hand_over = on_hand_over
        self.on_drop = on_drop
        self._strangers: dict[str, tuple[int, str]] = {}  # by run and origin

    def beaten(self) -> None:
        """This incarnation has beaten: tell Redis what it could not be told, and mend what differs.

        The number of messages that Redis says we run is compared with our own; only a difference is looked into.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        self._tell_the_untold()
        self.settle_what_was_never_acknowledged(max(self.interval, ACK_PATIENCE))
        self._compare()

    def clear_alone(self, entry: Entry) -> bool:
        """Record that a message gets company, so that a death does not convict it; return False if that failed."""
        try:
            with entry.mutex:
                if entry.state.recorded is Recorded.NOTHING:
                    self._record(entry)
                self.store.messages.clear_alone(entry.copy.message_id, entry.numbers.run, entry.copy.origin)
                entry.alone = False
        except redis.RedisError:
            return False
        return True

    def _record(self, entry: Entry) -> None:
        """Find the record of a message that may have one, or write it if that message is to run here."""
        if not entry.refusal:
            self._mend(entry)
        elif entry.state.phase in (Phase.ENDED, Phase.ACKING, Phase.UNTOLD):  # withdrawn
            self._finds_run(entry)

    def complete(
        self, entry: Entry, broker_keys: tuple[str, ...] = (), then: Call | None = None, *, unacked: bool = False
    ) -> None:
        """Tell Redis that a message is complete; `then`: and acknowledge it, in one write.

        Parameters:
          unacked: It is still to be acknowledged, and is to be remembered until then.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        with entry.mutex:
            if entry.state.lost and not entry.numbers.run:
                entry.record_end()  # it has no number to tell its record from another run's
            if entry.state.told:
                if then is not None:
                    self.store.scripts.run(then)
                return
            outcome = self._finish(entry, broker_keys, then, unacked=unacked)
            if outcome is Finished.FENCED and self._finds_run(entry):
                outcome = self._finish(entry, broker_keys, None, unacked=unacked)
            entry.record_end()
        if outcome is Finished.LATE:
            self.logger.warning(
                "Message %s completed here after recovery had taken it over. Its copy will not run.",
                entry.copy.message_id,
            )
        elif outcome is Finished.FENCED:
            self.logger.warning(
                "Message %s completed here after another worker or an operator had taken it over. The completion "
                "is ignored.",
                entry.copy.message_id,
            )

    def _finish(self, entry: Entry, broker_keys: tuple[str, ...], then: Call | None, *, unacked: bool) -> Finished:
        return self.store.messages.complete(
            entry.copy,
            entry.numbers.run,
            started_ms=entry.numbers.started_ms,
            again=entry.follow_up.enqueued_again or entry.outcome is Outcome.CUT_SHORT,
            contended=entry.contended,
            unacked=unacked,
            remember=entry.policy.remember_completed,
            broker_keys=broker_keys,
            then=then,
        )

    def let_go(self, entry: Entry) -> None:
        """Tell Redis that a message has failed; if it is stranded, that recovery has to enqueue what comes next.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        with entry.mutex:
            if entry.state.lost:
                return
            outcome = self._let_go(entry)
            found = outcome is Finished.FENCED and self._finds_run(entry)
            # A stranded message has no other copy: its record is written if Redis has lost it, or has let it go.
            if found or (entry.outcome is Outcome.STRANDED and self._is_written(entry, outcome)):
                outcome = self._let_go(entry)
            entry.record_end()
        if outcome is Finished.HANDED_OVER:
            self.logger.warning(
                "Message %s ended here, but its next copy could not be enqueued. Recovery enqueues it.",
                entry.copy.message_id,
            )
            self.on_hand_over()

    def _let_go(self, entry: Entry) -> Finished:
        copy, run = entry.copy, entry.numbers.run
        if entry.outcome is Outcome.STRANDED:
            return self.store.messages.await_copy(copy.message_id, run, entry.delivery.payload, origin=copy.origin)
        return self.store.messages.release(
            copy.message_id,
            run,
            contended=entry.contended or entry.state.may_run_again,
            consumed=not entry.state.may_run_again,
            dead_lettered=entry.outcome is Outcome.DEAD_LETTERED,
            copy=copy,
            why=entry.failure.why,
            traceback=entry.failure.traceback,
        )

    def _finds_run(self, entry: Entry) -> bool:
        """Look up the number of a run whose start was not answered: only the number says what is its own."""
        if entry.numbers.run or entry.state.lost:
            return False
        if entry.has_run:
            self._mend(entry)
            return entry.numbers.run > 0 and not entry.state.lost
        # Its actor was never begun: to write its record anew would end the copy that waits, unrun.
        head = self.store.messages.peek([entry.copy.message_id])[0]
        if head and (head.state, head.owner, head.origin) == ("running", self.store.me, entry.copy.origin):
            entry.record_run(run=head.run)
        return entry.numbers.run > 0

    def _is_written(self, entry: Entry, outcome: Finished) -> bool:
        missing = outcome is Finished.GONE or (outcome is Finished.FENCED and entry.state.handed_back)
        if missing:
            self._mend(entry)
        return missing and entry.numbers.run > 0 and not entry.state.lost

    def hand_back(self, entry: Entry) -> None:
        """Tell Redis that a message has stopped, and is about to be enqueued again: whichever copy starts, may.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        with entry.mutex:
            if entry.state.lost or entry.state.told:
                return
            copy = entry.copy
            outcome = self.store.messages.await_copy(
                copy.message_id, entry.numbers.run, b"", later=True, origin=copy.origin
            )
            if outcome is Finished.HANDED_OVER:
                entry.record_copy()
            elif outcome is Finished.FENCED:
                self._mend(entry)  # ours all the same, if only the answer was lost that it had let go

    def look_up(self, entry: Entry) -> None:
        """See whether a message that runs here is still ours, and write its record where it is missing.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        with entry.mutex:
            # A lost message stays lost: its run ends without a word, and its record would belong to nobody by then.
            if not (entry.state.told or entry.state.lost):
                self._mend(entry)

    def _mend(self, entry: Entry) -> None:
        epoch, numbers = self.lease.epoch, entry.numbers
        try:
            mended, run, generation, crashes, drains = self.store.messages.reassert(
                entry.copy,
                lambda: self._payload_of(entry),
                run=numbers.run,
                limit=entry.policy.limit,
                started_ms=numbers.started_ms,
                crashes=numbers.crashes,
                drains=numbers.drains,
                alone=entry.alone,
                tailored=entry.policy.tailored,
                acked=entry.state.phase in (Phase.ACKING, Phase.UNTOLD),
                broker_keys=self.queues.keys(entry.copy.queue),
            )
        except NotSent:
            raise
        except redis.RedisError:
            entry.contended = True  # it may have been written: its end is told, and remembered
            raise
        except Exception:
            self.logger.exception(
                "Message %s can no longer be encoded. Its record is not checked.", entry.copy.message_id
            )
            return
        if mended is Reasserted.AGAIN:
            return  # it stays in doubt
        if mended is Reasserted.LOST:
            if not entry.state.lost:
                self.lose(entry)
        elif mended is not Reasserted.LATER:
            if mended is not Reasserted.KEPT:
                self.logger.info("The record of message %s was %s.", entry.copy.message_id, mended.value)
            entry.record_run(run=run, generation=generation, crashes=crashes, drains=drains)
        entry.epoch = epoch

    def _payload_of(self, entry: Entry) -> bytes:
        """The message as it came: the broker's own bytes, where it has them."""
        delivery = entry.delivery
        if not delivery.payload:
            delivery.payload = self.queues.payload(delivery.copy.queue, delivery.copy.broker_copy_id)
        return delivery.encoded()

    def owes(self, entry: Entry) -> bool:
        """Return whether Redis is still to be told how a message ended.

        Not what it never heard of, and of which it has nothing to remember: what runs while Redis is away would fill
        the memory of the process.
        """
        if entry.state.told:
            return False
        heard_of = entry.state.recorded is not Recorded.NOTHING or entry.contended or entry.outcome is Outcome.STRANDED
        return heard_of or entry.policy.remember_completed > 0

    def lose(self, entry: Entry) -> None:
        """Another worker has the message, or is to have it."""
        entry.lose()
        interrupted = (
            entry.policy.interrupt_on_loss and entry.strand is not None and entry.strand.interrupt(MessageLost)
        )
        self.logger.warning(
            "Message %s was taken from this worker, because the worker was silent or an operator used force. Its "
            "run %s here; its result is ignored.",
            *(entry.copy.message_id, "is interrupted" if interrupted else "goes on"),
        )

    def _tell_the_untold(self) -> None:
        for entry in self.table.entries():
            since = time.monotonic() - max(self.interval, ACK_PAUSE)
            late = entry.state.phase is Phase.ACKING and entry.acking_since < since and entry.to_finish
            if entry.state.phase is not Phase.UNTOLD and not late:
                continue
            entry.contended = True  # the broker may have given the message to others while Redis could not be told
            if late:
                self.complete(
                    entry, unacked=not self.queues.completes_with_ack
                )  # Dramatiq still tries to acknowledge it
                continue
            goes_on = entry.follow_up.enqueued_again or not entry.succeeded
            if entry.numbers.run and goes_on and not entry.state.may_run_again and self.lease.in_doubt(entry.epoch):
                self.look_up(entry)  # if it was let go, and nobody has started it: no copy is to run beside its retry
            if entry.succeeded:
                self.complete(entry)
            else:
                self.let_go(entry)
            self.table.drop(entry)

    def settle_what_was_never_acknowledged(self, age: float) -> None:
        """Messages that Dramatiq began to acknowledge so many seconds ago, and gave up: see that it comes about.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        for entry in self.table.entries():
            if entry.state.phase is not Phase.ACKING or time.monotonic() - entry.acking_since < age:
                continue  # whatever follows from it may still be under way
            if not entry.succeeded and not entry.follow_up.enqueued_again:
                continue  # our record is all there is of it
            if entry.to_finish:
                self.complete(entry, unacked=not self.queues.completes_with_ack)
            elif not entry.state.told:
                self.let_go(entry)
            self.queues.acknowledge(entry.copy.queue, entry.copy.broker_copy_id, self.store.scripts.run)
            self.table.drop(entry)
            self.on_drop(entry)

    def _compare(self) -> None:
        before = [entry for entry in self.table.entries() if not entry.state.lost]
        running = [entry for entry in before if entry.state.phase is Phase.RUNNING]
        for entry in running:
            if entry.state.recorded is Recorded.NOTHING or self.lease.in_doubt(entry.epoch):
                self.look_up(entry)
        self._see_deliveries(running)
        if self.store.messages.count_running() == len(before) and not self._strangers:
            return
        there = self.store.messages.running_here()
        for entry in running:
            if entry.copy.message_id not in there and entry.state.phase is Phase.RUNNING:
                self.look_up(entry)
        # A message that runs here by Redis, and is not in the table, may just be starting or ending.  So only one that
        # was a stranger one beat ago as well is let go.
        strangers = there - {entry.copy.message_id for entry in before + self.table.entries()}
        runs = self.store.messages.runs_of(strangers) if strangers else {}
        for message_id, (run, origin) in runs.items():
            if self._strangers.get(message_id) == (run, origin):
                self.logger.warning(
                    "Released the record of message %s, because no run of it is left in this worker.", message_id
                )
                copy = Copy(message_id, 0, origin, "", False, "", "")
                self.store.messages.release(message_id, run, contended=True, consumed=False, copy=copy)
        self._strangers = runs

    def _see_deliveries(self, running: list[Entry]) -> None:
        """Where the broker does not hold a copy any more that runs here, the record is all that is left."""
        delivered = [
            (entry, (keys, entry.copy.broker_copy_id))
            for entry in running
            if entry.copy.broker_copy_id and (keys := self.queues.keys(entry.copy.queue))
        ]
        if not delivered:
            return
        for (entry, _), held in zip(
            delivered, self.store.messages.delivered([where for _, where in delivered]), strict=True
        ):
            if not held and entry.state.phase is Phase.RUNNING:
                self.look_up(entry)
