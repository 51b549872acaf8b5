# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A copy that does not run here: it is skipped, put off, left to another worker, or rejected as poison."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import redis
from dramatiq import Broker
from dramatiq.logging import get_logger
from dramatiq.middleware import Interrupt

from ..brokers.consumers import fetched_from
from ..brokers.deliveries import Deliveries
from ..brokers.queues import BrokerQueues
from ..delivery import OPTION, Mark, mark_of, own_enqueue
from ..errors import MessageSkipped, PoisonMessage
from ..store.replies import Start
from ..store.store import Store
from .in_flight import Entry, Table, current_entry
from .state import Phase

__all__ = ["SKIPS", "TO_ANOTHER", "Refusals", "patiently"]

#: A duplicate is put off for longer and longer, but for no longer than this, seconds.
LONGEST_DEFERRAL = 900.0

#: How long a message is put off that is for another worker, because this one shuts down, seconds.
TO_ANOTHER = 2.0

#: Why a copy is skipped.
SKIPS = {
    Start.CLAIMED: "its worker died; a copy of it is enqueued",
    Start.CONVICTED: "it has killed its worker too often; a copy is dead-lettered with the reason",
    Start.STALE: "recovery has enqueued a newer copy",
    Start.COMPLETED: "it has completed",
    Start.SUPERSEDED: "it has been enqueued again since",
    Start.ENDING: "it has just ended here",
    Start.ELSEWHERE: "the broker has given it to another worker",
}

logger = get_logger(__name__)

T = TypeVar("T")


class Refusals:
    """Keeps copies from running; each method ends in an exception that tells Dramatiq so."""

    def __init__(
        self, broker: Broker, table: Table, store: Store, queues: BrokerQueues, deliveries: Deliveries
    ) -> None:
        self.logger = get_logger(__name__, type(self))
        self._broker = broker
        self._table = table
        self._store = store
        self._queues = queues
        self._deliveries = deliveries

    def defer(
        self, message: Any, entry: Entry, wait: float, why: str, *, counted: bool = True, recorded: bool = False
    ) -> NoReturn:
        """Enqueue a duplicate again with a delay: the broker keeps a durable copy until the owner has finished.

        Parameters:
          wait: For how long at first, seconds; it doubles each time.
          counted: True if this time counts.
          recorded: True if its start may have been recorded: the record is let go again.

        Raises:
          MessageSkipped: Once the broker has it, or has taken the delivery back.
        """
        if not (entry.copy.origin or entry.copy.redelivered):
            # Its sender has no tracker.  It is no second delivery; without an id it would be taken for one next time.
            entry.mark(origin=secrets.token_hex(8))
        deferrals = mark_of(message).get("deferrals", 0)
        if entry.copy.duplicate:
            wait += 0.5  # when the owner's heartbeat has expired, not just before
        delay = min(wait * 2 ** min(deferrals, 16), max(LONGEST_DEFERRAL, wait))
        mark: Mark = {
            **mark_of(message),
            "generation": entry.copy.generation,
            "deferrals": deferrals + counted,
        }
        if entry.copy.origin:
            mark["origin"] = entry.copy.origin
        if entry.copy.duplicate:
            mark["duplicate"] = True
        deferred = message.copy(options={OPTION: mark})

        def enqueue() -> bool:
            if self._deliveries.is_lost(message):
                return False  # RabbitMQ delivers it again: a copy would be one too many
            self._broker.enqueue(deferred, delay=int(delay * 1000))
            return True

        if patiently(f"The copy of message {message.message_id} could not be put off", enqueue):
            self._tell(message, entry, delay)
            why = f"{why}; this copy is put off for {delay:.1f} seconds"
        else:
            why = SKIPS[Start.ELSEWHERE]
        if recorded:
            # As if the broker had taken it back.  That is told behind the ack, or by the heartbeat; if it was to be
            # alone, nobody goes in before that.
            entry.refusal = why
            entry.withdraw()
            self._refuse(message, entry, why)
        self.skip(message, entry, why)

    def _tell(self, message: Any, entry: Entry, delay: float) -> None:
        if self._queues.shared:
            # Whoever asks the broker about this copy must know.  Where the tracker's Redis is another, nobody asks.
            patiently(
                f"Redis could not be told that message {message.message_id} was put off",
                lambda: self._store.messages.defer(entry.copy, delay),
            )
        else:
            try:
                self._store.messages.defer(entry.copy, delay)  # for the history alone
            except redis.RedisError:
                pass

    def to_another(self, message: Any, entry: Entry) -> NoReturn:
        """This worker shuts down before the copy can begin: put it off, without the next time being any later.

        Not if it was taken back meanwhile: that would be a second copy.

        Raises:
          MessageSkipped: Once the broker has it.
        """
        if self._deliveries.is_elsewhere(
            message.queue_name, entry.copy.broker_copy_id, always=True, fetched_from=fetched_from(message)
        ):
            self.leave(message, entry)
        why = "this worker shuts down before it can begin"
        self.defer(message, entry, TO_ANOTHER, why, counted=False)

    def skip(self, message: Any, entry: Entry, why: str) -> NoReturn:
        """Another copy has run, is running, or will.

        Raises:
          MessageSkipped: Always.
        """
        entry.refusal = why
        self._table.refuse(entry, Entry.skip)
        self._refuse(message, entry, why)

    def leave(self, message: Any, entry: Entry) -> NoReturn:
        """Leave a copy, unacknowledged, to the worker that the broker has given it to.

        Raises:
          MessageSkipped: Always.
        """
        entry.refusal = SKIPS[Start.ELSEWHERE]
        self._table.refuse(entry, Entry.give_away)
        self._refuse(message, entry, entry.refusal)

    def _refuse(self, message: Any, entry: Entry, why: str) -> NoReturn:
        current_entry.set(entry)  # so that no other middleware hears of it, and no ack that is not ours is sent
        # Results stores None for a skipped message: it would replace the result of the copy that runs.
        message.options["store_results"] = False
        self.logger.info("Skipped this copy of message %s: %s.", message.message_id, why)
        raise MessageSkipped(why)

    def again(self, message: Any, entry: Entry) -> NoReturn:
        """Refuse a copy that was refused before: an interrupt came when that was said.

        Raises:
          MessageSkipped, PoisonMessage: As before.
        """
        if entry.state.phase is Phase.POISONED:
            raise PoisonMessage(entry.refusal)
        self._refuse(message, entry, entry.refusal)

    def reject(self, message: Any, entry: Entry, reason: str) -> NoReturn:
        """It goes to the dead-letter queue.

        Raises:
          PoisonMessage: Always.
        """
        entry.refusal = f"message {message.message_id} is poison: {reason}"
        message.fail()
        self._table.refuse(entry, Entry.reject)
        raise PoisonMessage(entry.refusal)


def patiently(failure: str, step: Callable[[], T]) -> T:
    """Do it before the message is acknowledged, whatever that takes: Dramatiq is as patient with its own acks."""
    while True:
        try:
            with own_enqueue():
                return step()
        except Interrupt:
            continue  # the message does not run: there is nothing to interrupt, but a copy to be kept
        except Exception as error:
            logger.warning("%s (%s: %s); trying again.", failure, type(error).__name__, error)
        try:
            time.sleep(1)
        except Interrupt:
            pass
