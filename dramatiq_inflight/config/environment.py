# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Where the value of a setting comes from, and whether it can be one."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import redis
from environs import Env, EnvError

from ..errors import ConfigurationError
from .policy import CHECKS, Policy

__all__ = ["VARIABLES", "Source"]

#: Longer durations than this are taken for a mistake in the unit, seconds.
LONGEST = 10 * 365 * 24 * 3600.0

#: The environment variable of each setting.
VARIABLES: Final[Mapping[str, str]] = {
    "instance_id": "PROCESSING_INSTANCE_ID",
    "namespace": "PROCESSING_NS",
    "heartbeat_interval": "HEARTBEAT_INTERVAL",
    "heartbeat_ttl": "HEARTBEAT_TTL",
    "heartbeat": "PROCESSING_HEARTBEAT",
    "connection_timeout": "PROCESSING_CONNECTION_TIMEOUT",
    "recovery_lock_ttl": "RECOVERY_LOCK_TTL",
    "recovery_interval": "PROCESSING_RECOVERY_INTERVAL",
    "max_recoveries": "PROCESSING_MAX_RECOVERIES",
    "on_orphan": "PROCESSING_ON_ORPHAN",
    "recovery_queue": "PROCESSING_RECOVERY_QUEUE",
    "recovery_delay": "PROCESSING_RECOVERY_DELAY",
    "on_recovery": "PROCESSING_ON_RECOVERY",
    "on_poison": "PROCESSING_ON_POISON",
    "interrupt_on_loss": "PROCESSING_INTERRUPT_ON_LOSS",
    "hand_back": "PROCESSING_HAND_BACK",
    "stall_timeout": "PROCESSING_STALL_TIMEOUT",
    "remember_completed": "PROCESSING_REMEMBER_COMPLETED",
    "alone_timeout": "PROCESSING_ALONE_TIMEOUT",
    "alone_in": "PROCESSING_ALONE_IN",
    "fence_ttl": "PROCESSING_FENCE_TTL",
    "track_by_default": "PROCESSING_TRACK_BY_DEFAULT",
    "redis_url": "PROCESSING_REDIS_URL",
    "instance_exclusive": "PROCESSING_INSTANCE_EXCLUSIVE",
    "watch_processes": "PROCESSING_WATCH_PROCESSES",
    "health_file": "PROCESSING_HEALTH_FILE",
    "enabled": "PROCESSING_ENABLED",
}

#: How the text of those settings is read that are no texts and that an actor's option may have as well.
_PARSERS: Final[Mapping[str, str]] = {
    "max_recoveries": "int",
    "interrupt_on_loss": "bool",
    **dict.fromkeys(("recovery_delay", "hand_back", "stall_timeout", "remember_completed"), "float"),
}

#: Those that cannot be ``None``.
_NEVER_NONE: Final = frozenset({"on_orphan", "recovery_delay", "interrupt_on_loss", "remember_completed"})


class Source:
    """One place for a setting's value: the argument where given, else the environment, else the default."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self.arguments = arguments
        self.env = Env()

    def name(self, setting: str) -> str:
        """How the user knows the setting: by the argument, or by the variable that it came from."""
        return setting if setting in self.arguments else f"{setting} (environment variable {VARIABLES[setting]})"

    def wrong(self, setting: str, value: object, remedy: str) -> ConfigurationError:
        return ConfigurationError(f"{self.name(setting)} is {value!r}; it must be {remedy}.")

    def raw(self, setting: str) -> str | None:
        """The text in the environment, or ``None`` where the variable is not set."""
        text: str | None = self.env.str(VARIABLES[setting], None)
        return text

    def seconds(self, setting: str, default: float, *, least: float) -> float:
        remedy = f"a number of seconds from {least:g} to {LONGEST:g}"
        if setting in self.arguments:
            value = self.arguments[setting]
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise self.wrong(setting, value, remedy)
        else:
            try:
                value = self.env.float(VARIABLES[setting], default)
            except EnvError as error:
                raise self.wrong(setting, self.raw(setting), remedy) from error
        if not math.isfinite(value) or not least <= value <= LONGEST:
            raise self.wrong(setting, value, remedy)
        return float(value)

    def flag(self, setting: str, default: bool) -> bool:
        remedy = "true or false"
        if setting in self.arguments:
            value = self.arguments[setting]
            if not isinstance(value, bool):
                raise self.wrong(setting, value, remedy)
            return value
        try:
            return bool(self.env.bool(VARIABLES[setting], default))
        except EnvError as error:
            raise self.wrong(setting, self.raw(setting), remedy) from error

    def text(self, setting: str, default: str) -> str:
        value = self.arguments[setting] if setting in self.arguments else self.env.str(VARIABLES[setting], default)
        if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > 255:
            raise self.wrong(setting, value, "printable text of 1 to 255 characters")
        return value

    def path(self, setting: str) -> Path | None:
        value = self.arguments[setting] if setting in self.arguments else self.raw(setting)
        if value is None or value == "":
            return None
        remedy = "the path of a file in a folder that exists"
        if not isinstance(value, (str, Path)) or not Path(value).parent.is_dir() or Path(value).is_dir():
            raise self.wrong(setting, value, remedy)
        return Path(value)

    def choice(self, setting: str, default: str, choices: tuple[str, ...]) -> str:
        value = self.arguments[setting] if setting in self.arguments else self.env.str(VARIABLES[setting], default)
        if value not in choices:
            raise self.wrong(setting, value, " or ".join(repr(choice) for choice in choices))
        return str(value)

    def namespace(self, setting: str, default: str) -> str:
        value = self.text(setting, default)
        if "{" in value or "}" in value:
            raise self.wrong(setting, value, "printable text without braces (they mark a hash slot in Redis Cluster)")
        return value

    def policy(self) -> Policy:
        return Policy(**{name: self.checked(name) for name in CHECKS if self.is_set(name)})

    def is_set(self, setting: str) -> bool:
        return setting in self.arguments or self.raw(setting) is not None

    def checked(self, setting: str) -> Any:
        """A value that an actor's option may have as well; in the environment, empty text is ``None``."""
        if setting in self.arguments:
            return CHECKS[setting](self.arguments[setting], setting)
        value: object = (self.raw(setting) or "").strip()
        parse = _PARSERS.get(setting)
        if str(value).lower() in ("", "none") and setting not in _NEVER_NONE:
            value = None
        elif parse is not None:
            try:
                value = getattr(self.env, parse)(VARIABLES[setting])
            except EnvError:
                pass  # the check says what would be right
        return CHECKS[setting](value, self.name(setting))

    def redis_url(self, setting: str) -> str | None:
        value = self.arguments[setting] if setting in self.arguments else self.raw(setting)
        if value is None or value == "":
            return None
        remedy = "a URL such as redis://host:6379/0, rediss://... or unix://..."
        if not isinstance(value, str):
            raise self.wrong(setting, value, remedy)
        try:
            pool = redis.ConnectionPool.from_url(value)
            pool.connection_kwargs.get("host", "").encode("idna")  # fails here rather than at each connection
        except ValueError:
            pass
        else:
            return value
        # Neither the value nor the parser's own error, not even as the cause: either may hold the password.
        scheme = re.match(r"\w+://", value)
        raise self.wrong(setting, f"{scheme[0]}..." if scheme else "...", remedy)
