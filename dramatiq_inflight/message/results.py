# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Results of a message that recovery has moved to another queue: stored where its sender looks for them.

Dramatiq's result backends make the key of a result from the message's queue, among others, and the sender knows the
queue it sent to.
"""

from __future__ import annotations

from typing import Any

from dramatiq import Broker
from dramatiq.broker import MessageProxy
from dramatiq.results import Results

from ..delivery import mark_of

__all__ = ["store_at_home"]


def store_at_home(broker: Broker, message: Any, hook: str, **outcome: Any) -> None:
    """Call a hook of Results for a moved message as if it were in the queue that it was sent to.

    Parameters:
      hook: ``after_process_message``, ``after_skip_message`` or ``after_nack``.
      outcome: The hook's other arguments.
    """
    home = mark_of(message).get("home")
    if home is None:
        return
    for middleware in broker.middleware:
        if not isinstance(middleware, Results):
            continue
        actor = broker.actors.get(message.actor_name)
        default = actor.options.get("store_results", middleware.store_results) if actor else middleware.store_results
        if message.options.get("store_results", default):
            there = MessageProxy(message.copy(queue_name=home))
            there.failed, there._exception = message.failed, message._exception
            getattr(middleware, hook)(broker, there, **outcome)
