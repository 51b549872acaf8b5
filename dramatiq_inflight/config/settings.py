# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""What the user can set: read from keyword arguments and the environment, checked, and frozen."""

from __future__ import annotations

import difflib
import socket
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import redis

from ..errors import ConfigurationError
from ..incident import Incident
from .environment import VARIABLES, Source
from .policy import Policy

__all__ = ["Settings", "load_settings"]

#: The longest pause between two heartbeats, as a share of the TTL: the rhythm of a lone survivor must not look like an
#: outage of Redis, which is assumed when nobody has beaten for half a TTL.
LONGEST_INTERVAL_PER_TTL = 1 / 3

#: Settings that no text can hold.
ARGUMENTS_ONLY: Final = ("client", "callback")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of one tracker.  All durations are in seconds."""

    #: The pod, container or host.
    instance_id: str
    #: Prefix of every key in Redis.
    namespace: str = "dramatiq_processing"
    #: How often a worker process proves that it lives.
    heartbeat_interval: float = 30.0
    #: How long such a proof is believed.
    heartbeat_ttl: float = 90.0
    #: What sends it: a ``thread``, or a small ``process`` beside, which C code that holds the GIL cannot starve.
    heartbeat: str = "thread"
    #: How long a worker may have no connection to Redis before it is declared dead; 0: its heartbeat alone decides.
    connection_timeout: float = 2.0
    #: How long a recoverer may hold the recovery lock without a sign of progress.
    recovery_lock_ttl: float = 300.0
    #: Longest pause between two sweeps; 0: sweep only at boot.
    recovery_interval: float = 30.0
    #: What is to become of a message whose worker died, where neither it nor its actor says.
    policy: Policy = field(default_factory=Policy)
    #: How long a message that has to run alone waits for the others in its process, and how long they then wait for it.
    alone_timeout: float = 600.0
    #: ``container``: such a message has all worker processes of its container to itself; ``auto``: so where the kernel
    #: kills the container as a whole when it is out of memory, else its process.
    alone_in: str = "auto"
    #: Called with what happened to each message whose worker died.
    callback: Callable[[Incident], object] | None = field(default=None, repr=False)
    #: How long settled records are remembered, where another copy of the message may still be under way.
    fence_ttl: float = 7 * 24 * 3600.0
    #: Whether to track actors that do not say.
    track_by_default: bool = False
    #: A Redis apart from the broker's.  May hold a password, so it is not shown.
    redis_url: str | None = field(default=None, repr=False)
    #: A client of a Redis apart from the broker's.
    client: redis.Redis | None = field(default=None, repr=False)
    #: Whether no two containers ever have this instance id at once: a newer one then proves the older one dead.
    instance_exclusive: bool = False
    #: A file that is touched at each successful heartbeat.
    health_file: Path | None = None
    #: Whether worker processes on the same host watch each other; off: deaths are known by the heartbeat alone.
    watch_processes: bool = True
    #: Off: the middleware does nothing.
    enabled: bool = True

    @property
    def beat_interval(self) -> float:
        """How often to beat, in seconds: as set, but at least three times in a TTL."""
        return min(self.heartbeat_interval, LONGEST_INTERVAL_PER_TTL * self.heartbeat_ttl)


def load_settings(arguments: Mapping[str, Any]) -> Settings:
    """Settings from keyword arguments over environment variables over defaults.

    Raises:
      ConfigurationError: An argument is unknown, or a value is malformed or out of its range.
    """
    known = sorted([*VARIABLES, *ARGUMENTS_ONLY])
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Known are {', '.join(known)}."
        raise ConfigurationError(f"InFlightTracker has no setting {unknown[0]!r}. {hint}")

    source = Source(arguments)
    values: dict[str, Any] = {
        "instance_id": source.text("instance_id", socket.gethostname()),
        "namespace": source.namespace("namespace", Settings.namespace),
        "heartbeat_interval": source.seconds("heartbeat_interval", Settings.heartbeat_interval, least=0.01),
        "heartbeat_ttl": source.seconds("heartbeat_ttl", Settings.heartbeat_ttl, least=0.02),
        "heartbeat": source.choice("heartbeat", Settings.heartbeat, ("process", "thread")),
        "connection_timeout": source.seconds("connection_timeout", Settings.connection_timeout, least=0.0),
        "recovery_lock_ttl": source.seconds("recovery_lock_ttl", Settings.recovery_lock_ttl, least=0.1),
        "policy": source.policy(),
        "alone_timeout": source.seconds("alone_timeout", Settings.alone_timeout, least=0.0),
        "fence_ttl": source.seconds("fence_ttl", Settings.fence_ttl, least=0.001),
        "track_by_default": source.flag("track_by_default", Settings.track_by_default),
        "instance_exclusive": source.flag("instance_exclusive", Settings.instance_exclusive),
        "health_file": source.path("health_file"),
        "watch_processes": source.flag("watch_processes", Settings.watch_processes),
        "enabled": source.flag("enabled", Settings.enabled),
        "redis_url": source.redis_url("redis_url"),
        "alone_in": source.choice("alone_in", Settings.alone_in, ("auto", "container")),
        "client": arguments.get("client"),
        "callback": arguments.get("callback"),
    }
    values["recovery_interval"] = source.seconds("recovery_interval", values["heartbeat_interval"], least=0.0)
    settings = Settings(**values)
    _check_together(settings, source)
    return settings


def _check_together(settings: Settings, source: Source) -> None:
    interval, ttl = settings.heartbeat_interval, settings.heartbeat_ttl
    if ttl < 2 * interval:
        raise ConfigurationError(
            f"{source.name('heartbeat_ttl')} is {ttl:g}, {source.name('heartbeat_interval')} is {interval:g} seconds; "
            f"the TTL must be at least twice the interval ({2 * interval:g}), and should be three times "
            f"({3 * interval:g}), or one late heartbeat makes a living worker look dead."
        )
    if ttl < 3 * interval:
        warnings.warn(
            f"dramatiq_inflight: heartbeat_ttl ({ttl:g} s) is less than three times heartbeat_interval ({interval:g}); "
            "a single lost heartbeat can make a living worker look dead.",
            RuntimeWarning,
            stacklevel=4,  # whoever makes the tracker
        )
    if settings.redis_url is not None and settings.client is not None:
        raise ConfigurationError("Both redis_url (or PROCESSING_REDIS_URL) and client are set; set one of them.")
    if settings.client is not None and not hasattr(settings.client, "register_script"):
        raise ConfigurationError(
            f"client is a {type(settings.client).__name__}; it must be a synchronous redis-py client, "
            "such as redis.Redis(host=...)."
        )
    if settings.callback is not None and not callable(settings.callback):
        raise ConfigurationError(
            f"callback is a {type(settings.callback).__name__}; it must be a function that takes an Incident."
        )
