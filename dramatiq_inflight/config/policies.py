# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The policy of each message: the policies of the actors, and which messages are tracked."""

from __future__ import annotations

import dataclasses
from typing import Any

from dramatiq import Broker
from dramatiq.logging import get_logger

from ..delivery import is_copy
from ..errors import ConfigurationError
from .policy import OPTIONS, Policy, check_options
from .settings import Settings

__all__ = ["Policies"]


class Policies:
    """The policies of a broker's actors."""

    def __init__(self, settings: Settings) -> None:
        self.logger = get_logger(__name__, type(self))
        self.settings = settings
        self._policies: dict[str, Policy] = {}  # by actor

    def declare(self, actor: Any) -> None:
        """Check the actor's options.

        Raises:
          ConfigurationError: One of them is wrong.
        """
        track = actor.options.get("track_inflight")
        if track is not None and not isinstance(track, bool):
            raise ConfigurationError(
                f"track_inflight of actor {actor.actor_name!r} is {track!r}; it must be True or False."
            )
        options = check_options(actor.options, f"actor {actor.actor_name!r}")
        self._policies[actor.actor_name] = dataclasses.replace(self.settings.policy, **options)

    def prepare(self, broker: Broker) -> None:
        """Know the policies of all actors, also of those that were declared before this middleware was added.

        Raises:
          ConfigurationError: One of their options is wrong.
        """
        for actor in list(broker.actors.values()):
            self._prepare(broker, actor)

    def _prepare(self, broker: Broker, actor: Any) -> None:
        if actor.actor_name not in self._policies:  # it was declared before this middleware was added
            self.declare(actor)
        policy = self._policies[actor.actor_name]
        if policy.recovery_queue is not None:
            broker.declare_queue(policy.recovery_queue)  # so that workers consume it
        for option in ("on_recovery", "on_poison"):
            name = getattr(policy, option)
            if name is not None and name not in broker.actors:
                self.logger.warning(
                    "%s of actor %r is %r, but this worker declares no such actor. It will not be called.",
                    *(option, actor.actor_name, name),
                )

    def tracks(self, broker: Broker, message: Any) -> bool:
        """Return whether a message is tracked: as it says itself, or its actor, or the tracker.

        A copy that this package has made is tracked to its end, whatever is said by now: its record waits for that.
        """
        actor = broker.actors.get(message.actor_name)
        if actor is None:
            return False
        if is_copy(message):
            return True
        track = message.options.get("track_inflight", actor.options.get("track_inflight"))
        return self.settings.track_by_default if track is None else bool(track)

    def of(self, message: Any) -> Policy:
        """Return the policy of a message: its own options override its actor's, which override the tracker's."""
        policy = self._policies.get(message.actor_name, self.settings.policy)
        own = message.options
        if OPTIONS.keys().isdisjoint(own):
            return policy
        for option in OPTIONS.keys() & own:
            try:
                checked = check_options({option: message.options[option]}, f"message {message.message_id}")
                policy = dataclasses.replace(policy, **checked)
            except ConfigurationError as error:
                self.logger.error("%s The actor's option is used instead.", error)
        return policy
