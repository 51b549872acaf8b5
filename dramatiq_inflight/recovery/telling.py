# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Tells whoever wants to know what happened to a message whose worker died.  One that fails breaks no recovery."""

from __future__ import annotations

from collections.abc import Callable

from dramatiq import Broker, Message
from dramatiq.logging import get_logger

from ..config.policy import Policy
from ..incident import Incident, Kind

__all__ = ["Telling"]


class Telling:
    """The tracker's callback, and the actors that messages name in ``on_recovery`` and ``on_poison``.

    Parameters:
      callback: Called in the thread that recovers.
    """

    def __init__(
        self,
        broker: Broker,
        policy_of: Callable[[Message[object]], Policy],
        callback: Callable[[Incident], object] | None,
    ) -> None:
        self.logger = get_logger(__name__, type(self))
        self.broker = broker
        self.policy_of = policy_of
        self.callback = callback

    def __call__(self, incident: Incident, message: Message[object] | None) -> None:
        """Tell; never raises an ``Exception``.

        Parameters:
          message: The message, where recovery has looked into it: nobody but an actor is shown it.
        """
        if self.callback is not None:
            try:
                self.callback(incident)
            except Exception:
                self.logger.exception(
                    "The callback of InFlightTracker failed for message %s. Recovery continues.", incident.message_id
                )
        if message is not None and incident.kind is Kind.POISON:
            self._send("on_poison", incident, message)
        elif message is not None and incident.kind is Kind.RECOVERED:
            self._send("on_recovery", incident, message)

    def _send(self, option: str, incident: Incident, message: Message[object]) -> None:
        name = None
        try:
            name = getattr(self.policy_of(message), option)
            if name is None:
                return
            self.broker.get_actor(name).send(message.asdict(), incident.asdict())
        except Exception as error:
            self.logger.error(
                "Could not call actor %r (%s of message %s; %s: %s). Recovery continues.",
                *(name, option, incident.message_id, type(error).__name__, error),
            )
