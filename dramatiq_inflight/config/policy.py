# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""What is to become of a message whose worker died."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from dramatiq import Actor

from ..errors import ConfigurationError

__all__ = ["CHECKS", "OPTIONS", "Policy", "check_options"]

_QUEUE_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9._-]*")  # as Dramatiq's own check of an actor's queue_name

#: Longer delays than this are taken for a mistake in the unit, seconds.
LONGEST_DELAY = 7 * 24 * 3600.0

#: The delay of a recovered copy doubles with every crash, up to this or to `recovery_delay`, whatever is more, seconds.
DELAY_CAP = 3600.0


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What is to become of a message whose worker died."""

    #: How often it may be running when its worker dies, and still run again; ``None``: always.
    max_recoveries: int | None = 3
    #: ``requeue``: it runs again.  ``dead_letter``: what may have run never runs again.
    on_orphan: str = "requeue"
    #: Where recovered copies go; ``None``: where the message was.
    recovery_queue: str | None = None
    #: How long a recovered copy waits after the first crash, seconds; doubles with every further one.
    recovery_delay: float = 0.0
    #: The actor that is told of a recovery.
    on_recovery: str | None = None
    #: The actor that is told that the message was dead-lettered.
    on_poison: str | None = None
    #: Whether it is interrupted where it runs once another worker has taken it.
    interrupt_on_loss: bool = False
    #: How long it may go on when its worker shuts down, seconds; then it is interrupted and enqueued again, as it is
    #: when it stops by itself.  ``None``: it is not.
    hand_back: float | None = None
    #: How long it may run without a checkpoint until that is reported, seconds; ``None``: for ever.
    stall_timeout: float | None = None
    #: How long its completion is remembered at the least, seconds: what is delivered again within that does not run.
    remember_completed: float = 0.0

    @property
    def limit(self) -> int | str:
        """How many crashes the message may have, ``unlimited``, or ``once``: none, and no shutdown either."""
        if self.on_orphan == "dead_letter":
            return "once"
        return "unlimited" if self.max_recoveries is None else self.max_recoveries

    @property
    def may_interrupt(self) -> bool:
        """Whether a run may have to be interrupted."""
        return self.interrupt_on_loss or self.hand_back is not None

    @property
    def tailored(self) -> bool:
        """Whether recovery has to look into the message and to enqueue a copy: the broker's own will not do."""
        return bool(self.recovery_queue or self.recovery_delay or self.on_recovery)

    def delay(self, crashes: int) -> float:
        """How long a copy waits after so many crashes, seconds.  A shutdown is no crash, and costs no time."""
        if crashes == 0:
            return 0.0
        return min(self.recovery_delay * 2.0 ** min(crashes - 1, 64), max(DELAY_CAP, self.recovery_delay))


def check_max_recoveries(value: object, name: str) -> int | None:
    """A whole number from 0, or ``None`` for no limit."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise ConfigurationError(f"{name} is {value!r}; it must be a whole number from 0, or None for no limit.")
    return value


def check_on_orphan(value: object, name: str) -> str:
    """``requeue`` or ``dead_letter``."""
    if value not in ("requeue", "dead_letter"):
        raise ConfigurationError(f"{name} is {value!r}; it must be 'requeue' or 'dead_letter'.")
    return str(value)


def check_recovery_queue(value: object, name: str) -> str | None:
    """The name of a queue, or ``None``."""
    if value is None:
        return None
    # None of those that Dramatiq makes itself: delay queues and dead-letter queues.
    if not isinstance(value, str) or not _QUEUE_NAME.fullmatch(value) or value.endswith((".DQ", ".XQ")):
        raise ConfigurationError(
            f"{name} is {value!r}; it must be the name of a queue (letters, digits, '-', '_' and '.', beginning with "
            "a letter or '_'), or None for the message's own."
        )
    return value


def check_recovery_delay(value: object, name: str) -> float:
    """Seconds from 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= LONGEST_DELAY:
        raise ConfigurationError(f"{name} is {value!r}; it must be a number of seconds from 0 to {LONGEST_DELAY:g}.")
    return float(value)


def check_optional_time(value: object, name: str) -> float | None:
    """Seconds from 0, or ``None``."""
    if value is None:
        return None
    try:
        return check_recovery_delay(value, name)
    except ConfigurationError as error:
        raise ConfigurationError(f"{str(error)[:-1]}, or None.") from None


def check_timeout(value: object, name: str) -> float | None:
    """Seconds above 0, or ``None``."""
    seconds = check_optional_time(value, name)
    if seconds == 0:
        raise ConfigurationError(f"{name} is {value!r}; it must be a number of seconds above 0, or None.")
    return seconds


def check_handler(value: object, name: str) -> str | None:
    """The name of an actor, the actor itself, or ``None``."""
    if isinstance(value, Actor):
        return str(value.actor_name)
    if value is not None and (not isinstance(value, str) or not value.strip()):
        raise ConfigurationError(f"{name} is {value!r}; it must be an actor or the name of one, or None.")
    return value


def check_flag(value: object, name: str) -> bool:
    """``True`` or ``False``."""
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} is {value!r}; it must be True or False.")
    return value


#: How each option is checked: given a value and its name for the error, the value to use, or `ConfigurationError`.
CHECKS: Final[Mapping[str, Callable[[object, str], Any]]] = {
    "max_recoveries": check_max_recoveries,
    "on_orphan": check_on_orphan,
    "recovery_queue": check_recovery_queue,
    "recovery_delay": check_recovery_delay,
    "on_recovery": check_handler,
    "on_poison": check_handler,
    "interrupt_on_loss": check_flag,
    "hand_back": check_optional_time,
    "stall_timeout": check_timeout,
    "remember_completed": check_recovery_delay,
}

OPTIONS: Final = frozenset(CHECKS)


def check_options(options: Mapping[str, Any], whose: str) -> dict[str, Any]:
    """The options of a policy that are among these.

    Raises:
      ConfigurationError: One of them is wrong; `whose` says where it was set.
    """
    return {name: CHECKS[name](options[name], f"{name} of {whose}") for name in CHECKS if name in options}
