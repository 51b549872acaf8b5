# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Kinds of values that a setting can have: how text is read, which values are right, and how a page shows them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import redis
from dramatiq import Actor
from environs import Env, EnvError

__all__ = [
    "DAY",
    "ActorName",
    "Choice",
    "FilePath",
    "Flag",
    "Function",
    "Namespace",
    "NotRight",
    "QueueName",
    "RedisClient",
    "RedisUrl",
    "Seconds",
    "Text",
    "Value",
    "Whole",
]

DAY = 24 * 3600.0

_QUEUE_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9._-]*")  # as Dramatiq's own check of an actor's queue_name


class NotRight(Exception):
    """A value is not one of its kind.  `Value.right` has what would be."""


@dataclass(frozen=True, kw_only=True)
class Value:
    """A kind of values.

    Parameters:
      none: The meaning of ``None``, as in "None for no limit"; empty if the value cannot be ``None``.
    """

    none: str = ""

    #: The method of `environs.Env` that reads it.
    parser: ClassVar[str] = "str"

    @property
    def right(self) -> str:
        """The description of a right value, for an error."""
        return self._right + (f", or None for {self.none}" if self.none else "")

    @property
    def _right(self) -> str:
        raise NotImplementedError

    def read(self, env: Env, variable: str) -> object:
        """Read a variable that is set.  Return its text if that cannot be parsed: `check` refuses it."""
        text = str(env.str(variable))
        if self.none and text.strip().lower() in ("", "none"):
            return None
        try:
            return getattr(env, self.parser)(variable)
        except EnvError:
            return text

    def check(self, value: object) -> Any:
        """Return the value to use.

        Raises:
          NotRight: It is none of this kind.
        """
        return None if value is None and self.none else self._check(value)

    def _check(self, value: object) -> Any:
        raise NotImplementedError

    def shown(self, value: object) -> str:
        """A wrong value, as an error shows it."""
        return repr(value)

    def defaults(self, value: Any) -> str:
        """A default that is not ``None``, in reStructuredText, as a page shows it."""
        return f"``{value}``"

    @property
    def bounds(self) -> str:
        """A sentence about what else the value must be, as a page shows it; empty if there is none."""
        return ""


@dataclass(frozen=True, kw_only=True)
class Seconds(Value):
    """A duration.  Longer ones than `most` are taken for a mistake in the unit."""

    parser = "float"

    least: float = 0.0
    most: float = 3650 * DAY
    #: True if `least` itself is too little.
    above: bool = False

    @property
    def _right(self) -> str:
        return f"a number of seconds {'above' if self.above else 'from'} {self.least:g} to {self.most:.15g}"

    def _check(self, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise NotRight
        if not self.least <= value <= self.most or (self.above and value == self.least):  # no NaN passes
            raise NotRight
        return float(value)

    def defaults(self, value: Any) -> str:
        return f"``{value:.15g}`` seconds" + (f" ({value / DAY:g} days)" if value >= DAY else "")

    @property
    def bounds(self) -> str:
        least = f"More than {self.least:g} s" if self.above else f"At least {self.least:g} s" if self.least else ""
        most = f"at most {self.most / DAY:g} days" if self.most < 365 * DAY else ""
        both = ", ".join(filter(None, (least, most)))
        return both and f"{both[0].upper()}{both[1:]}."


@dataclass(frozen=True, kw_only=True)
class Whole(Value):
    """A whole number from 0."""

    parser = "int"

    @property
    def _right(self) -> str:
        return "a whole number from 0"

    def _check(self, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
            raise NotRight
        return value


@dataclass(frozen=True, kw_only=True)
class Flag(Value):
    """True or False."""

    parser = "bool"

    @property
    def _right(self) -> str:
        return "True or False"

    def _check(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise NotRight
        return value

    def defaults(self, value: Any) -> str:
        return f"``{str(value).lower()}``"


@dataclass(frozen=True, kw_only=True)
class Choice(Value):
    """One of a few texts."""

    of: tuple[str, ...]

    @property
    def _right(self) -> str:
        return " or ".join(map(repr, self.of))

    def _check(self, value: object) -> str:
        if value not in self.of:
            raise NotRight
        return str(value)

    @property
    def bounds(self) -> str:
        return f"{' or '.join(f'``{one}``' for one in self.of)}."


@dataclass(frozen=True, kw_only=True)
class Text(Value):
    """A printable text."""

    @property
    def _right(self) -> str:
        return "printable text of 1 to 255 characters"

    def _check(self, value: object) -> str:
        if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > 255:
            raise NotRight
        return value


@dataclass(frozen=True, kw_only=True)
class Namespace(Text):
    """A printable text without braces."""

    @property
    def _right(self) -> str:
        return f"{super()._right} without braces (they mark a hash slot in Redis Cluster)"

    def _check(self, value: object) -> str:
        text = super()._check(value)
        if "{" in text or "}" in text:
            raise NotRight
        return text


@dataclass(frozen=True, kw_only=True)
class QueueName(Value):
    """The name of a queue."""

    @property
    def _right(self) -> str:
        return "the name of a queue (letters, digits, '-', '_' and '.', beginning with a letter or '_')"

    def _check(self, value: object) -> str:
        # None of those that Dramatiq makes itself: delay queues and dead-letter queues.
        if not isinstance(value, str) or not _QUEUE_NAME.fullmatch(value) or value.endswith((".DQ", ".XQ")):
            raise NotRight
        return value


@dataclass(frozen=True, kw_only=True)
class ActorName(Value):
    """The name of an actor; an actor is taken for its name."""

    @property
    def _right(self) -> str:
        return "an actor or the name of one"

    def _check(self, value: object) -> str:
        if isinstance(value, Actor):
            return str(value.actor_name)
        if not isinstance(value, str) or not value.strip():
            raise NotRight
        return value


@dataclass(frozen=True, kw_only=True)
class FilePath(Value):
    """The path of a file; empty text is ``None``."""

    @property
    def _right(self) -> str:
        return "the path of a file in a folder that exists"

    def _check(self, value: object) -> Path | None:
        if value == "":
            return None
        if not isinstance(value, (str, Path)) or not Path(value).parent.is_dir() or Path(value).is_dir():
            raise NotRight
        return Path(value)


@dataclass(frozen=True, kw_only=True)
class RedisUrl(Value):
    """The address of a Redis; empty text is ``None``.  It may hold a password, so no error shows it."""

    @property
    def _right(self) -> str:
        return "a URL such as redis://host:6379/0, rediss://... or unix://..."

    def _check(self, value: object) -> str | None:
        if value == "":
            return None
        if not isinstance(value, str) or not _is_address(value):
            raise NotRight
        return value

    def shown(self, value: object) -> str:
        if not isinstance(value, str):
            return repr(value)
        scheme = re.match(r"\w+://", value)
        return repr(f"{scheme[0]}..." if scheme else "...")


def _is_address(url: str) -> bool:
    try:
        pool = redis.ConnectionPool.from_url(url)
        pool.connection_kwargs.get("host", "").encode("idna")  # fails here rather than at each connection
    except ValueError:  # its text may hold the password
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class Function(Value):
    """A function."""

    takes: str

    @property
    def _right(self) -> str:
        return f"a function that takes {self.takes}"

    def _check(self, value: object) -> Callable[..., object]:
        if not callable(value):
            raise NotRight
        return value

    def shown(self, value: object) -> str:
        return f"a {type(value).__name__}"


@dataclass(frozen=True, kw_only=True)
class RedisClient(Value):
    """A client of Redis."""

    @property
    def _right(self) -> str:
        return "a synchronous redis-py client, such as redis.Redis(host=...)"

    def _check(self, value: object) -> Any:
        if not hasattr(value, "register_script"):
            raise NotRight
        return value

    def shown(self, value: object) -> str:
        return f"a {type(value).__name__}"
