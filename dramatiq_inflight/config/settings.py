# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The settings of a tracker.  Keyword arguments override environment variables, which override defaults.

Each setting is declared here, or in `policy` if actors and messages have an option of the same name, and nowhere else:
CONTRIBUTING.rst says how to add one.
"""

from __future__ import annotations

import difflib
import inspect
import re
import socket
import textwrap
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import redis

from ..errors import ConfigurationError
from ..incident import Incident
from .declaration import Section, Setting, declared, setting
from .environment import Environment
from .policy import OPTIONS, Policy
from .values import DAY, Choice, FilePath, Flag, Function, Namespace, RedisClient, RedisUrl, Seconds, Text

__all__ = ["SETTINGS", "Settings", "documented", "load_settings"]

T = TypeVar("T")

#: The longest pause between two heartbeats, as a share of the TTL: the rhythm of a lone survivor must not look like an
#: outage of Redis, which is assumed when nobody has beaten for half a TTL.
LONGEST_INTERVAL_PER_TTL = 1 / 3


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of one tracker.  All durations are in seconds."""

    instance_id: str = setting(
        Text(),
        socket.gethostname,
        "PROCESSING_INSTANCE_ID",
        Section.IDENTITY,
        "The pod, container or host.",
        default_said="the host name",
    )
    instance_exclusive: bool = setting(
        Flag(),
        False,
        "PROCESSING_INSTANCE_EXCLUSIVE",
        Section.IDENTITY,
        "No two containers ever have this instance id at once, as in a pod with one worker container. A new "
        "container then proves the old one dead at once.",
    )
    namespace: str = setting(
        Namespace(),
        "dramatiq_processing",
        "PROCESSING_NS",
        Section.IDENTITY,
        "The prefix of every key in Redis. No braces.",
    )
    redis_url: str | None = setting(
        RedisUrl(none="the RedisBroker's own"),
        None,
        "PROCESSING_REDIS_URL",
        Section.IDENTITY,
        "A Redis apart from the broker's. Any other broker needs one.",
        secret=True,
    )
    client: redis.Redis | None = setting(
        RedisClient(none="the RedisBroker's own"),
        None,
        "",
        Section.IDENTITY,
        "The same as a ``redis.Redis``.",
        secret=True,
    )
    enabled: bool = setting(
        Flag(),
        True,
        "PROCESSING_ENABLED",
        Section.IDENTITY,
        "``false``: the middleware does nothing.",
    )
    track_by_default: bool = setting(
        Flag(),
        False,
        "PROCESSING_TRACK_BY_DEFAULT",
        Section.TRACKING,
        "Track actors that do not have the option ``track_inflight``.",
    )
    heartbeat_interval: float = setting(
        Seconds(least=0.01),
        30.0,
        "HEARTBEAT_INTERVAL",
        Section.HEARTBEATS,
        "How often each worker process sends a heartbeat.",
    )
    heartbeat_ttl: float = setting(
        Seconds(least=0.02),
        90.0,
        "HEARTBEAT_TTL",
        Section.HEARTBEATS,
        "How long a heartbeat is valid: at least twice the interval, better three times. Workers with different TTLs "
        "may share a namespace.",
    )
    heartbeat: str = setting(
        Choice(of=("thread", "process")),
        "thread",
        "PROCESSING_HEARTBEAT",
        Section.HEARTBEATS,
        "``process``: a small process beside each worker process sends its heartbeat. C code that holds the GIL "
        "cannot starve it, and it sees the worker die.",
    )
    connection_timeout: float = setting(
        Seconds(),
        2.0,
        "PROCESSING_CONNECTION_TIMEOUT",
        Section.HEARTBEATS,
        "How long a worker may have no connection to Redis before it is declared dead. The time is longer where "
        "Redis answers slowly, and half of ``heartbeat_ttl`` at the most. ``0``: the heartbeat alone decides. Less "
        "than 2 is not safe: one lost packet costs a second.",
    )
    watch_processes: bool = setting(
        Flag(),
        True,
        "PROCESSING_WATCH_PROCESSES",
        Section.HEARTBEATS,
        "Worker processes on the same host watch each other, so that a death is known at once.",
    )
    health_file: Path | None = setting(
        FilePath(none="no file"),
        None,
        "PROCESSING_HEALTH_FILE",
        Section.HEARTBEATS,
        "A file that is touched at each successful heartbeat, for a liveness probe.",
    )
    recovery_interval: float = setting(
        Seconds(),
        30.0,
        "PROCESSING_RECOVERY_INTERVAL",
        Section.RECOVERY,
        "The longest pause between two sweeps. ``0``: sweep only at boot.",
        default_said="``heartbeat_interval``",
    )
    recovery_lock_ttl: float = setting(
        Seconds(least=0.1),
        300.0,
        "RECOVERY_LOCK_TTL",
        Section.RECOVERY,
        "How long a recoverer that makes no progress keeps others out.",
    )
    fence_ttl: float = setting(
        Seconds(least=0.001),
        7 * DAY,
        "PROCESSING_FENCE_TTL",
        Section.RECOVERY,
        "How long settled records are remembered if another copy of the message may still be under way.",
    )
    callback: Callable[[Incident], object] | None = setting(
        Function(takes="an Incident", none="no call"),
        None,
        "",
        Section.RECOVERY,
        "Called with an ``Incident`` for each message whose worker died, in the process that recovers it.",
        secret=True,
    )
    #: The settings that are options of actors and messages, too.
    policy: Policy = field(default_factory=Policy)
    alone_timeout: float = setting(
        Seconds(),
        600.0,
        "PROCESSING_ALONE_TIMEOUT",
        Section.DEAD_WORKERS,
        "How long a message on its last chance waits for the others in its process to end, and how long they then "
        "wait for it. Doubles with every crash beyond ``max_recoveries``.",
    )
    alone_in: str = setting(
        Choice(of=("auto", "container")),
        "auto",
        "PROCESSING_ALONE_IN",
        Section.DEAD_WORKERS,
        "``container``: a message on its last chance has all worker processes of its container to itself. ``auto``: "
        "so if the kernel kills the container as a whole when it is out of memory, else its process. Set "
        "``container`` on a platform that kills all by itself and does not show that to the process, as Heroku does "
        "over the memory quota.",
    )

    @property
    def beat_interval(self) -> float:
        """How often to beat, in seconds: as set, but at least three times in a TTL."""
        return min(self.heartbeat_interval, LONGEST_INTERVAL_PER_TTL * self.heartbeat_ttl)


#: All settings by name, in the order in which they are documented.
SETTINGS: Final[Mapping[str, Setting]] = {
    one.name: one
    for section in Section
    for one in (*OPTIONS.values(), *declared(Settings, options=False).values())
    if one.section == section
}


def load_settings(arguments: Mapping[str, Any]) -> Settings:
    """Settings from keyword arguments over environment variables over defaults.

    Raises:
      ConfigurationError: An argument is unknown, or a value is malformed or out of its range.
    """
    unknown = sorted(set(arguments) - set(SETTINGS))
    if unknown:
        near = difflib.get_close_matches(unknown[0], SETTINGS, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Known are {', '.join(sorted(SETTINGS))}."
        raise ConfigurationError(f"InFlightTracker has no setting {unknown[0]!r}. {hint}")

    environment = Environment(SETTINGS)
    known_as: dict[str, str] = {}
    values: dict[str, Any] = {}
    for name, one in SETTINGS.items():
        variable = environment.variable(name)
        if name in arguments:
            known_as[name] = name
            values[name] = one.check(arguments[name], name)
        else:
            known_as[name] = f"{name} (environment variable {variable or one.variable})"
            if variable:
                values[name] = one.check(environment.read(name), known_as[name])
    if "heartbeat_interval" in values:
        values.setdefault("recovery_interval", values["heartbeat_interval"])
    policy = Policy(**{name: values.pop(name) for name in OPTIONS if name in values})
    settings = Settings(policy=policy, **values)
    _check_together(settings, known_as)
    environment.warn(but=arguments.keys())
    return settings


def documented(owner: type[T]) -> type[T]:
    """List the settings in the docstring of a class that takes them, in the place of a parameter ``settings``."""
    if owner.__doc__:  # there is none under -OO
        owner.__doc__ = re.sub(r"^  settings: .*", _parameters(), inspect.cleandoc(owner.__doc__), flags=re.MULTILINE)
    return owner


def _parameters() -> str:
    lines = []
    for one in SETTINGS.values():
        variable = f"``{one.variable}``; " if one.variable else ""
        also = "; also an option of actors and messages" if one.is_option else ""
        text = f"{one.name}: {one.meaning} ({variable}default: {one.shown_default}{also})"
        lines += textwrap.wrap(text, 110, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
    return "\n".join(lines)


def _check_together(settings: Settings, known_as: Mapping[str, str]) -> None:
    interval, ttl = settings.heartbeat_interval, settings.heartbeat_ttl
    if ttl < 2 * interval:
        raise ConfigurationError(
            f"{known_as['heartbeat_ttl']} is {ttl:g}, {known_as['heartbeat_interval']} is {interval:g} seconds; "
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
