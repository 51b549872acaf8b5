# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The consequences of a message: its retry, the next stage of its pipeline, the callback of its group.

Dramatiq enqueues it when the actor has ended.  If the broker is away then, Dramatiq logs that and acknowledges the
message, and what was to follow never runs.  So what could not be enqueued is enqueued here before the acknowledgement,
whatever that takes; should the worker die meanwhile, the message is still its, and is recovered.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from dramatiq import Broker
from dramatiq.common import q_name
from dramatiq.errors import ActorNotFound, QueueNotFound
from dramatiq.logging import get_logger
from dramatiq.middleware import Interrupt, MiddlewareError
from dramatiq.results import Results

from ..brokers.errors import is_passing
from ..delivery import own_enqueue
from .in_flight import Entry, Outcome, Retry

__all__ = ["begin_enqueue", "end_enqueue", "enqueue_what_is_left", "has_more_to_do", "remove_continuations"]

#: The enqueues of Dramatiq's middleware after a success, by the message's options.
OPTIONS = frozenset({"pipe_target", "group_completion_uuid", "group_completion_callbacks", "on_success", "on_failure"})

#: Errors of the message itself, or of the application: to try again is no use.
PERMANENT = (TypeError, ValueError, ActorNotFound, QueueNotFound)

#: How often an enqueue is tried that fails for another reason than that the broker is away.
TRIES = 5

#: Between two tries, seconds.
PAUSE = 1.0

logger = get_logger(__name__)


def has_more_to_do(broker: Broker, message: Any) -> bool:
    """Return whether a success of this message is to have consequences beyond those of the actor itself."""
    its_own, its_actors = message.options, broker.actors[message.actor_name].options
    if not (OPTIONS.isdisjoint(its_own) and OPTIONS.isdisjoint(its_actors)):
        options = {**its_actors, **its_own}
        if any(options.get(option) for option in OPTIONS):
            return True
    for options in (its_own, its_actors):
        if "store_results" in options:
            return bool(options["store_results"])
    return any(isinstance(m, Results) and m.store_results for m in broker.middleware)


def remove_continuations(message: Any) -> None:
    """Nothing follows from this run: another worker has its message."""
    for option in OPTIONS:
        message.options.pop(option, None)


def begin_enqueue(entry: Entry, message: Any, delay: int | None) -> None:
    """Something that follows from a message is about to be enqueued."""
    id = str(message.message_id)
    if id == entry.copy.message_id:
        entry.follow_up.want_retry()
    entry.follow_up.pending = {**entry.follow_up.pending, id: (message, delay)}


def end_enqueue(entry: Entry, message: Any) -> None:
    """Record that the broker accepted a message that a run has enqueued."""
    follow_up, id = entry.follow_up, str(message.message_id)
    if id in follow_up.pending:
        follow_up.pending = {other: what for other, what in follow_up.pending.items() if other != id}
    if id == entry.copy.message_id and entry.state.has_ended:
        follow_up.retry = Retry.ENQUEUED
    elif id == entry.copy.message_id:
        follow_up.enqueued_itself = True


def enqueue_what_is_left(broker: Broker, entry: Entry, is_lost: Callable[[], bool]) -> None:
    """Enqueue what Dramatiq could not.  Does not return until it is with the broker, or cannot be for good.

    Parameters:
      is_lost: True if another worker has the message by now, which then answers for what follows.
    """
    for message, delay in list(entry.follow_up.pending.values()):
        failures, said = 0, False
        while failures < TRIES:
            try:
                if is_lost():
                    if entry.succeeded:
                        entry.outcome = Outcome.CUT_SHORT
                    return
                # If a message is delayed, Dramatiq's hooks see the copy that goes to the delay queue.
                copy = message.copy(queue_name=q_name(message.queue_name))
                with own_enqueue():
                    broker.enqueue(copy, delay=delay)
                break
            except Interrupt:
                if str(message.message_id) not in entry.follow_up.pending:
                    break  # it came when the broker had the message
                continue  # there is no actor to interrupt any more
            except MiddlewareError:
                break  # somebody does not want it to be enqueued
            except Exception as error:
                failures = TRIES if isinstance(error, PERMANENT) else failures + (not is_passing(error))
                if not said or failures == TRIES:
                    said = True
                    logger.warning(
                        "Could not enqueue message %s, which follows message %s (%s: %s); %s.",
                        *(message.message_id, entry.copy.message_id, type(error).__name__, error),
                        "giving up" if failures == TRIES else "it will be tried again",
                    )
            if failures < TRIES:
                _pause()
    entry.follow_up.pending = {}


def _pause() -> None:
    try:
        time.sleep(PAUSE)
    except Interrupt:
        pass
