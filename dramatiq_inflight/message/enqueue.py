# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Enqueues: marks keep copies apart, and a run that has lost its message enqueues nothing."""

from __future__ import annotations

import difflib
import secrets
import threading
from typing import Any

from dramatiq import Broker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.logging import get_logger
from dramatiq.worker import ConsumerThread

from ..brokers.deliveries import Deliveries
from ..config.policies import Policies
from ..config.policy import OPTIONS as OF_POLICIES
from ..delivery import OPTION, Mark, is_own_enqueue, mark_of
from ..errors import MessageSkipped
from .continuations import begin_enqueue, end_enqueue
from .in_flight import Entry, entry_here

__all__ = ["Enqueues"]

#: The option of a delayed copy, in memory alone, that says by which queue and id the broker knows it: the copy that is
#: moved to its queue has another id.
DELIVERY = f"{OPTION}_delivery"

#: The options of messages that mean something to the tracker.
KNOWN = ("track_inflight", *OF_POLICIES)

#: How alike another name is that was likely meant to be one of these, from 0 to 1.
NEAR = 0.8

#: How many names are looked at: an application may make names up for each message.
MOST_NAMES = 200

logger = get_logger(__name__)


class Enqueues:
    """Marks what is enqueued, in workers and elsewhere."""

    def __init__(self, policies: Policies) -> None:
        self._policies = policies
        #: The worker's, if this process is one.
        self.deliveries: Deliveries | None = None
        self._marks_early = False
        #: Names of options that were looked at.
        self._looked_at: set[str] = set()

    def attach(self, broker: Broker) -> None:
        """Where a broker gives no ids, give each enqueue one before it begins.

        Not in ``before_enqueue``: RabbitmqBroker calls that again with each attempt, and other people's brokers may
        have encoded the message by then.
        """
        if isinstance(broker, (RedisBroker, StubBroker)) or self._marks_early:
            return
        self._marks_early = True
        enqueue = broker.enqueue

        def marking(message: Any, *, delay: int | None = None) -> Any:
            if not is_own_enqueue.get():
                message = message.copy()  # two threads may enqueue one message object
                self._mark(broker, message)
                entry = entry_here(broker)
                if entry is not None and entry.state.has_ended:
                    begin_enqueue(entry, message, delay)  # RabbitmqBroker may fail before its hook
            return enqueue(message, delay=delay)

        broker.enqueue = marking  # type: ignore[method-assign]

    def delay(self, message: Any) -> None:
        """Remember under which id the broker knows a copy that waits in our memory for its time."""
        copy_id = message.options.get("redis_message_id")
        if self.deliveries is not None and copy_id:
            message.options[DELIVERY] = message.queue_name, copy_id

    def begin(self, broker: Broker, message: Any, delay: int | None) -> None:
        """Mark what is enqueued, unless that is done already.

        Raises:
          MessageSkipped: See `_mark`.
        """
        if not self._marks_early:
            self._mark(broker, message)
        entry = entry_here(broker)
        if entry is not None and entry.state.has_ended:
            begin_enqueue(entry, message, delay)

    def end(self, broker: Broker, message: Any) -> None:
        """Note that a run has enqueued its own message again: itself, or as a retry."""
        entry = entry_here(broker)
        if entry is not None:
            end_enqueue(entry, message)

    def _mark(self, broker: Broker, message: Any) -> None:
        """Keep copies apart: what is enqueued anew is no copy of what was, and a zombie doubles nothing.

        A run that has lost its message may enqueue it again: that copy is void, and does not run.  The hooks after such
        a run enqueue nothing (Dramatiq logs that as a failure).  A delayed copy that was given to others is not moved
        to its queue.

        Raises:
          MessageSkipped: That is so; Dramatiq then drops what the consumer has in memory, and fetches anew.
        """
        if is_own_enqueue.get():
            return
        if not message.options.keys() <= self._looked_at:
            self._look_at_options(broker, message)
        if isinstance(threading.current_thread(), ConsumerThread):
            delivery = message.options.pop(DELIVERY, None)
            if delivery is not None and self.deliveries is not None and self.deliveries.is_elsewhere(*delivery):
                raise MessageSkipped(f"delayed message {message.message_id} was given to another worker meanwhile")
            return
        entry = entry_here(broker)
        self._give_origin(broker, message, entry)
        if entry is None or not (entry.state.lost or entry.state.handed_back):
            return
        if entry.state.handed_back:
            raise MessageSkipped(f"nothing follows from message {entry.copy.message_id} yet: it is enqueued again")
        if entry.state.has_ended:
            raise MessageSkipped(f"nothing follows from message {entry.copy.message_id} here: another worker has it")
        if str(message.message_id) == entry.copy.message_id:
            message.options[OPTION] = {"void": True}

    def _look_at_options(self, broker: Broker, message: Any) -> None:
        """Warn once of each option that is nearly one of ours: Dramatiq takes any name."""
        if len(self._looked_at) > MOST_NAMES:
            return
        for name in message.options.keys() - self._looked_at:
            self._looked_at.add(name)
            near = difflib.get_close_matches(str(name), KNOWN, 1, NEAR)
            if near and name not in KNOWN and name not in broker.actor_options:
                logger.warning(
                    "Message %s of actor %r has the unknown option %r. Did you mean %r?",
                    *(message.message_id, message.actor_name, name, near[0]),
                )

    def _give_origin(self, broker: Broker, message: Any, entry: Entry | None) -> None:
        """Give a message that is enqueued anew a mark of its own, with an id if the broker gives none."""
        mark = mark_of(message)
        kept: Mark = {"generation": mark["generation"]} if "generation" in mark else {}
        if "home" in mark:
            kept["home"] = mark["home"]
        is_its_own = entry is not None and entry.copy.message_id == str(message.message_id)
        fence = entry.numbers.started_ms if entry is not None and is_its_own else 0
        if fence := max(fence, mark.get("fence", 0)):
            kept["fence"] = fence  # the record of one that has failed may be gone when its retry starts
        has_ids = isinstance(broker, (RedisBroker, StubBroker))
        tracked = self._policies.settings.enabled and self._policies.tracks(broker, message)
        if not has_ids and (tracked or mark):  # what had a mark is known to the records, whoever sends it again
            kept["origin"] = secrets.token_hex(8)
        if kept:
            message.options[OPTION] = kept
        elif mark:
            del message.options[OPTION]
