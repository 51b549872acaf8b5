# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The end of a message: what follows from it is with the broker before its record is settled, and settled before it is
forgotten.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import redis
from dramatiq import Broker
from dramatiq.common import q_name
from dramatiq.logging import get_logger
from dramatiq.middleware import Shutdown

from ..brokers.deliveries import Deliveries
from ..brokers.queues import BrokerQueues
from ..config.policies import Policies
from ..delivery import OPTION, Copy, mark_of_copy
from ..errors import HandBack, TryAgain
from ..isolation.gate import Gate
from ..liveness.lease import Lease
from ..store.store import Store
from ..store.transport import Call
from .checkpoints import expect_nothing
from .continuations import enqueue_what_is_left, has_more_to_do, remove_continuations
from .failure import Failure, failure_of
from .in_flight import Entry, Outcome, Retry, Table, current_entry
from .interrupt import uninterrupted
from .reconcile import Ledger
from .refuse import patiently
from .results import store_at_home
from .state import Phase, Recorded

__all__ = ["Ending"]


@dataclass(kw_only=True, eq=False)
class Ending:
    """Ends the messages of one worker."""

    broker: Broker
    policies: Policies
    table: Table
    gate: Gate
    store: Store
    lease: Lease
    queues: BrokerQueues
    deliveries: Deliveries
    ledger: Ledger

    def __post_init__(self) -> None:
        self.logger = get_logger(__name__, type(self))

    def processed(self, message: Any, result: Any, exception: BaseException | None) -> None:
        """Note how the message ended.  If another run may own it, look it up, so that nothing follows twice."""
        entry = self.table.get(message)
        if entry is not None and (entry.state.phase is Phase.RUNNING or entry.state.has_ended):
            uninterrupted(lambda: self._processed(message, entry, result, exception))

    def _processed(self, message: Any, entry: Entry, result: Any, exception: BaseException | None) -> None:
        self._end(entry, succeeded=exception is None)
        if self._is_lost(entry, exception is not None or has_more_to_do(self.broker, message)):
            if entry.succeeded and has_more_to_do(self.broker, message):
                entry.outcome = Outcome.CUT_SHORT
            _let_nothing_follow(message)  # its new owner answers for it
        elif _is_to_go_on(entry, exception):
            self._hand_back(message, entry, max((again.delay for again in _leaves(exception, TryAgain)), default=None))
        elif exception is None:
            store_at_home(self.broker, message, "after_process_message", result=result)

    def skipped(self, message: Any) -> None:
        """Note that another middleware skipped the message after its start was recorded."""
        entry = self.table.get(message)
        if entry is not None and entry.state.phase is Phase.RUNNING:
            uninterrupted(lambda: self._end(entry, succeeded=not message.failed))
            store_at_home(self.broker, message, "after_skip_message")

    def before_ack(self, message: Any) -> None:
        """Enqueue what Dramatiq could not, and settle the message where the ack does not.

        With a broker on the tracker's Redis, `complete_and_ack` settles a success in the same write as the ack.
        Elsewhere it is settled here, and remembered until the ack was sent.  A failure whose retry the broker has
        refused for good is handed over to recovery.
        """
        uninterrupted(lambda: self._before_ack(message))

    def _before_ack(self, message: Any) -> None:
        entry = self.table.get(message)
        if entry is not None:
            if entry.state.phase in (Phase.RUNNING, Phase.ENDING):
                # An interrupt has hit Dramatiq's own code behind the actor, or one of the hooks: it has failed, and
                # nothing comes next.
                self._end(entry, succeeded=False)
                if not self._is_lost(entry):
                    entry.follow_up.want_retry()
                entry.follow()
            if entry.state.handed_back:
                try:
                    self.ledger.hand_back(entry)
                except redis.RedisError:
                    pass  # its copy waits until its release is told
            enqueue_what_is_left(self.broker, entry, lambda: self._is_taken(entry))
            if entry.state.recorded is Recorded.COPY and entry.follow_up.retry is not Retry.ENQUEUED:
                entry.refuse_copy()
            if entry.state.phase in (Phase.ENDED, Phase.ACKING):
                entry.acknowledge()
        if entry is None:
            self._settle_unseen(message, "completed")
        elif self._is_stranded(entry):
            # Before the ack: killed in between, it would be taken for one of which the broker holds what comes next.
            self._strand(message, entry)
        elif not self.queues.completes_with_ack and entry.to_finish:
            entry.contended = entry.contended or self.deliveries.is_lost(message)
            self._finish(entry)

    def complete_and_ack(self, queue: str, copy_id: str, ack: Call) -> None:
        """Settle a success in the same write as its ack.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        entry = current_entry.get()
        if entry is None or entry.copy.broker_copy_id != copy_id:
            self.store.scripts.run(ack)  # a failure, a skipped copy, or a move by a consumer thread
        elif entry.state.phase is Phase.ELSEWHERE:
            return  # not ours to acknowledge; if it came back to this worker meanwhile, that copy is to run
        elif entry.to_finish:
            self.ledger.complete(entry, self.queues.keys(queue), ack)
        else:
            self.store.scripts.run(ack)

    def after_ack(self, message: Any) -> None:
        """Settle a failure, of which the broker holds the retry, or a success that no ack has settled.  Forget it."""
        uninterrupted(lambda: self._after_ack(message))

    def _after_ack(self, message: Any) -> None:
        entry = self.table.get(message)
        if entry is not None and not self.queues.completes_with_ack and entry.state.told and entry.succeeded:
            self.deliveries.acked(message, entry.numbers.run, entry.policy.remember_completed)
        try:
            ended = entry is not None and entry.state.phase in (Phase.ENDED, Phase.ACKING)
            if entry is not None and ended and not entry.state.told and not entry.succeeded:
                entry.contended = entry.contended or self.deliveries.is_lost(message)
                self._let_go(entry)
            elif entry is not None and self.queues.completes_with_ack and entry.to_finish:
                self._finish(entry)  # its consumer does not call `do_ack`; whether it has acknowledged, the broker says
        finally:
            self._forget(message, entry)

    def before_nack(self, message: Any) -> None:
        """Enqueue what follows from the failure before the broker dead-letters the copy."""
        entry = self.table.get(message)
        if entry is not None:
            uninterrupted(lambda: enqueue_what_is_left(self.broker, entry, lambda: self._is_lost(entry)))

    def after_nack(self, message: Any) -> None:
        """Settle a failure that the broker has dead-lettered, and forget it."""
        uninterrupted(lambda: self._after_nack(message))

    def _after_nack(self, message: Any) -> None:
        entry = self.table.get(message)
        if entry is None:
            self._settle_unseen(message, "dead_lettered")
        elif entry.state.phase is Phase.POISONED:
            self._settle(entry.copy, "dead_lettered", failure_of(message))
        elif entry.state.has_ended:
            entry.follow()
            if self._is_dead_lettered(message, entry):
                entry.outcome, entry.failure = Outcome.DEAD_LETTERED, failure_of(message)
            else:
                entry.outcome = Outcome.FAILED
                entry.take_back()
            self._let_go(entry)
        self._forget(message, entry)
        store_at_home(self.broker, message, "after_nack")

    def _end(self, entry: Entry, *, succeeded: bool) -> None:
        """The actor has ended, and what Redis was being told of it has arrived: it may have been given up by that."""
        if entry.succeeded and not succeeded:
            entry.follow_up.pending = {}  # from the success: what was not enqueued of it follows from its retry
        entry.end(succeeded=succeeded)
        expect_nothing(entry)
        with entry.mutex:
            pass

    def _hand_back(self, message: Any, entry: Entry, delay: int | None) -> None:
        """The message has stopped, and is enqueued again before it is acknowledged: its worker shuts down, or its
        database asks for it.

        Parameters:
          delay: How long it waits, milliseconds.
        """
        # The origin is the same: if we are killed before the ack, the broker has both, and one of them runs.
        mark = mark_of_copy(message, generation=_generation(entry), origin=entry.copy.origin)
        copy = message.copy(options={OPTION: mark})
        entry.follow_up.pending = {entry.copy.message_id: (copy, delay)}
        entry.follow_up.want_retry()  # should that not be possible, recovery does it
        entry.hand_back()
        _let_nothing_follow(message)  # it has not failed, and has not succeeded either
        self.logger.info("Stopped message %s and enqueued it again. This is not a failure.", message.message_id)

    def _is_lost(self, entry: Entry, something_follows: bool = False) -> bool:
        """Return whether another worker has the message, as far as Redis can be asked."""
        if self.lease.in_doubt(entry.epoch, something_follows=something_follows):
            try:
                self.ledger.look_up(entry)
            except redis.RedisError:
                pass  # the heartbeat learns it when Redis is back
        return entry.state.lost

    def _is_taken(self, entry: Entry) -> bool:
        """Like `_is_lost`; also raise the generation of the copy to enqueue.

        The look-up may have raised that of the record.
        """
        lost = self._is_lost(entry)
        if entry.state.handed_back and entry.follow_up.pending:
            copy, _ = entry.follow_up.pending[entry.copy.message_id]
            copy.options[OPTION]["generation"] = _generation(entry)
        return lost

    def _is_stranded(self, entry: Entry) -> bool:
        """Return whether a failure is about to be acknowledged, and nothing comes next."""
        if entry.follow_up.retry is not Retry.WANTED:
            return False  # nobody wanted one: an acknowledged failure is over
        return entry.state.phase is Phase.ACKING and not (entry.succeeded or entry.state.lost or entry.state.told)

    def _strand(self, message: Any, entry: Entry) -> None:
        entry.outcome = Outcome.STRANDED
        try:
            if not entry.state.handed_back:  # nothing was to follow from that
                entry.delivery.payload = message.encode()
        except Exception:
            self.logger.exception(
                "Message %s can no longer be encoded. Recovery enqueues it as it was received.", message.message_id
            )
        # However long that takes: acknowledged before Redis knows of it, it would be lost with this process.
        patiently(
            f"Redis could not be told that message {message.message_id} has failed",
            lambda: self.ledger.let_go(entry),
        )

    def _is_dead_lettered(self, message: Any, entry: Entry) -> bool:
        """Return whether the nack has moved the copy: it moves nothing that the broker had taken back before."""
        try:
            return not self.deliveries.is_lost(message) and self.queues.has_dead_letter(
                entry.copy.queue, entry.copy.broker_copy_id
            )
        except redis.RedisError:
            return False  # if it was moved, there is no other to run

    def _finish(self, entry: Entry) -> None:
        try:
            self.ledger.complete(entry, self.queues.keys(entry.copy.queue), unacked=True)
        except redis.RedisError:
            pass  # _forget leaves it to the heartbeat

    def _let_go(self, entry: Entry) -> None:
        try:
            self.ledger.let_go(entry)
        except redis.RedisError:
            pass  # _forget leaves it to the heartbeat

    def _forget(self, message: Any, entry: Entry | None) -> None:
        """The broker is done with this copy, and so is this thread."""
        ended = entry is not None and entry.state.phase in (Phase.ENDED, Phase.ACKING)
        if entry is not None and ended and not entry.state.lost and self.ledger.owes(entry):
            entry.leave_untold()
        # Its record must not say that it is alone when others come in.
        self.gate.leave(told=entry is None or entry.state.phase is not Phase.UNTOLD)
        current_entry.set(None)
        self.table.forget(message)  # last: an interrupt repeats all this with the same entry

    def _settle_unseen(self, message: Any, state: str) -> None:
        """The broker is rid of a copy that never came to us: it was too old, or has no actor here."""
        if message.queue_name != q_name(message.queue_name):
            return  # moved from a delay queue to its queue
        if self.policies.tracks(self.broker, message) or message.actor_name not in self.broker.actors:
            self._settle(Copy.of(message), state, failure_of(message))

    def _settle(self, copy: Copy, state: str, failure: Failure) -> None:
        keys = self.queues.keys(copy.queue)
        try:
            self.store.messages.close_unstarted(copy, state, keys, why=failure.why, traceback=failure.traceback)
        except redis.RedisError:
            pass  # the record keeps its deadline, and recovery asks the broker then


def _generation(entry: Entry) -> int:
    """Return the generation of a copy that its own run enqueues: a copy older than the record would be stale."""
    return max(entry.numbers.generation, entry.copy.generation)


def _let_nothing_follow(message: Any) -> None:
    """Neither what comes after a success, nor a retry or a dead letter."""
    remove_continuations(message)
    message.options["store_results"] = False
    message.options["throws"] = BaseException
    message.failed, message.fail = False, lambda: None


def _is_to_go_on(entry: Entry, exception: BaseException | None) -> bool:
    """Return whether a run has stopped for a reason that is no failure, and is to be enqueued again for that."""
    if _leaves(exception, HandBack, TryAgain):
        return True
    return entry.policy.hand_back is not None and bool(_leaves(exception, Shutdown))


def _leaves(exception: BaseException | None, *kinds: type[Any]) -> list[Any]:
    """The errors of these kinds that an exception stands for; none if it stands for another one, too.

    It is one itself, or was raised from one, as Dramatiq does if an async actor takes more than a second to clean up,
    or is a group of such, as of ``asyncio.TaskGroup``.
    """
    if exception is None or isinstance(exception, kinds):
        return [] if exception is None else [exception]
    inside = getattr(exception, "exceptions", None)
    if isinstance(inside, tuple):
        found = [_leaves(one, *kinds) for one in inside]
        return [leaf for leaves in found for leaf in leaves] if all(found) else []
    return [exception.__cause__] if isinstance(exception.__cause__, kinds) else []
