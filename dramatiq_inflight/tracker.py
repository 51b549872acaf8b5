# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A tracker as programs that run no worker need it: its settings, and the policies of its actors."""

from __future__ import annotations

from typing import Any

from dramatiq import Broker
from dramatiq.middleware import Middleware

from .config.policies import Policies
from .config.policy import OPTIONS
from .config.settings import Settings
from .errors import ConfigurationError

__all__ = ["Tracker", "tracker_of", "trackers_of"]


class Tracker(Middleware):
    """The part of `InFlightTracker` that knows no worker."""

    def __init__(self, settings: Settings) -> None:
        self.policies = Policies(settings)

    @property
    def settings(self) -> Settings:
        """The settings from keyword arguments, the environment and the defaults."""
        return self.policies.settings

    @property
    def actor_options(self) -> set[str]:
        """The options of actors (and messages) that this middleware knows."""
        return {"track_inflight", *OPTIONS}

    def before_declare_actor(self, broker: Broker, actor: Any) -> None:
        """Check the actor's options.

        Raises:
          ConfigurationError: One of them is wrong.
        """
        self.policies.declare(actor)


def trackers_of(broker: Broker) -> list[Tracker]:
    """Return the trackers in a broker's middleware: one, if all is well."""
    return [middleware for middleware in broker.middleware if isinstance(middleware, Tracker)]


def tracker_of(broker: Broker) -> Tracker:
    """Return the first tracker in a broker's middleware.

    Raises:
      ConfigurationError: There is none.
    """
    for tracker in trackers_of(broker):
        return tracker
    raise ConfigurationError(
        "There is no InFlightTracker in the broker's middleware; add one: broker.add_middleware(InFlightTracker())."
    )
