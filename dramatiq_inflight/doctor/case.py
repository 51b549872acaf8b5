# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The case that the checks examine, and the class of a check."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import redis
from dramatiq import Broker
from dramatiq.brokers.redis import RedisBroker

from ..config.settings import Settings
from ..inspection.inspector import Inspector, Overview
from ..tracker import Tracker, trackers_of
from .findings import Code, Finding

__all__ = ["CannotTell", "Case", "Check", "text"]


class CannotTell(Exception):
    """A check cannot be made; its text says why."""


@dataclass(frozen=True)
class Check:
    """One check.

    Parameters:
      code: The code of the finding that all is well.
      what: The subject; reads well before "could not be checked".
      fine: The title if it finds nothing.
      find: The function that yields its findings.
      applies: True if it makes sense here.
    """

    code: Code
    what: str
    fine: str
    find: Callable[[Case], Iterable[Finding]]
    applies: Callable[[Case], bool] = lambda case: True


class Case:
    """An application, or what is left of one: whatever of it can be looked at."""

    def __init__(self, broker: Broker | None, inspector: Inspector | None) -> None:
        self._broker = broker
        self._inspector = inspector

    @property
    def broker(self) -> Broker:
        """The application's broker."""
        if self._broker is None:
            raise CannotTell("there is no broker")
        return self._broker

    @property
    def redis_broker(self) -> RedisBroker:
        """The application's broker, where it is one."""
        if not isinstance(self._broker, RedisBroker):
            raise CannotTell("this is no RedisBroker")
        return self._broker

    @property
    def has_redis(self) -> bool:
        """True if there is a Redis to look at."""
        return self._inspector is not None

    @property
    def inspector(self) -> Inspector:
        """An inspector of the namespace."""
        if self._inspector is None:
            raise CannotTell("there is no Redis")
        return self._inspector

    @property
    def trackers(self) -> list[Tracker]:
        """The trackers in the broker's middleware: one, if all is well."""
        return [] if self._broker is None else trackers_of(self._broker)

    @property
    def settings(self) -> Settings | None:
        """The tracker's settings, or ``None`` without a tracker."""
        return next((tracker.settings for tracker in self.trackers), None)

    @cached_property
    def overview(self) -> Overview:
        """The namespace at a glance."""
        return self.inspector.overview()

    @property
    def is_cluster(self) -> bool:
        """True if the client knows that it speaks to a Redis Cluster."""
        return isinstance(self.inspector._client, redis.RedisCluster)

    @cached_property
    def server(self) -> Any:
        """A client of the server that has the namespace: of a Cluster, the primary."""
        client: Any = self.inspector._client
        if not self.is_cluster:
            return client
        return client.get_redis_connection(client.get_node_from_key(self.inspector._keys.heartbeats))

    @cached_property
    def info(self) -> dict[str, Any]:
        """The server's answer to ``INFO``."""
        return dict(self.server.info())

    def config(self, name: str) -> str:
        """Return how the server is configured."""
        try:
            found = self.server.config_get(name)
        except redis.exceptions.NoPermissionError:
            raise
        except redis.ResponseError:
            raise CannotTell("this server does not tell its configuration") from None
        values = {text(key): text(value) for key, value in found.items()}
        if name not in values:
            raise CannotTell(f"this server has no {name}")
        return values[name]


def text(value: object) -> str:
    """A reply as text, whatever the client makes of it."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
