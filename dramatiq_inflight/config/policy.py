# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The policy for a message whose worker died: the settings that actors and messages have as options, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from .declaration import Section, Setting, declared, setting
from .values import DAY, ActorName, Choice, Flag, QueueName, Seconds, Whole

__all__ = ["OPTIONS", "Policy", "check_options"]

#: The delay of a recovered copy doubles with every crash, up to this or to `recovery_delay`, whatever is more, seconds.
DELAY_CAP = 3600.0

#: The longest time of a message.  More is taken for a mistake in the unit, seconds.
LONGEST = 7 * DAY


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The policy for a message whose worker died.  All durations are in seconds."""

    max_recoveries: int | None = setting(
        Whole(none="no limit"),
        3,
        "PROCESSING_MAX_RECOVERIES",
        Section.DEAD_WORKERS,
        "How many crashes a message may have and still run again. A crash is the death of a worker that runs it. On "
        "its last chance the message runs alone in its process, so that no other message pays for it.",
    )
    on_orphan: str = setting(
        Choice(of=("requeue", "dead_letter")),
        "requeue",
        "PROCESSING_ON_ORPHAN",
        Section.DEAD_WORKERS,
        "``dead_letter``: a message runs at most once. If its worker dies or a shutdown cuts it off, it never runs "
        "again.",
    )
    recovery_queue: str | None = setting(
        QueueName(none="the message's own"),
        None,
        "PROCESSING_RECOVERY_QUEUE",
        Section.DEAD_WORKERS,
        "The queue to which recovered messages go.",
    )
    recovery_delay: float = setting(
        Seconds(most=LONGEST),
        0.0,
        "PROCESSING_RECOVERY_DELAY",
        Section.DEAD_WORKERS,
        "How long a recovered message waits after its first crash. The delay doubles with every further crash, up to "
        "an hour.",
    )
    on_recovery: str | None = setting(
        ActorName(none="nobody"),
        None,
        "PROCESSING_ON_RECOVERY",
        Section.DEAD_WORKERS,
        "The actor that is sent every recovered message, as a dict, and what happened.",
    )
    on_poison: str | None = setting(
        ActorName(none="nobody"),
        None,
        "PROCESSING_ON_POISON",
        Section.DEAD_WORKERS,
        "The actor that is sent every dead-lettered message, as a dict, and what happened.",
    )
    interrupt_on_loss: bool = setting(
        Flag(),
        False,
        "PROCESSING_INTERRUPT_ON_LOSS",
        Section.DEAD_WORKERS,
        "Raise ``MessageLost`` in a message's thread once another worker owns the message.",
    )
    hand_back: float | None = setting(
        Seconds(most=LONGEST, none="no limit"),
        None,
        "PROCESSING_HAND_BACK",
        Section.LONG_JOBS,
        "How long a message may go on when its worker shuts down. Then it is interrupted and enqueued again.",
    )
    stall_timeout: float | None = setting(
        Seconds(above=True, most=LONGEST, none="no limit"),
        None,
        "PROCESSING_STALL_TIMEOUT",
        Section.LONG_JOBS,
        "How long a message may run without a checkpoint until it is reported as stalled.",
    )
    remember_completed: float = setting(
        Seconds(most=LONGEST),
        0.0,
        "PROCESSING_REMEMBER_COMPLETED",
        Section.LONG_JOBS,
        "How long a completion is remembered at the least. A message that is delivered again within that time does "
        "not run.",
    )

    @property
    def limit(self) -> int | str:
        """How many crashes the message may have, ``unlimited``, or ``once``: none, and no shutdown either."""
        if self.on_orphan == "dead_letter":
            return "once"
        return "unlimited" if self.max_recoveries is None else self.max_recoveries

    @property
    def may_interrupt(self) -> bool:
        """True if a run may have to be interrupted."""
        return self.interrupt_on_loss or self.hand_back is not None

    @property
    def tailored(self) -> bool:
        """True if recovery has to look into the message and to enqueue a copy: the broker's own will not do."""
        return bool(self.recovery_queue or self.recovery_delay or self.on_recovery)

    def delay(self, crashes: int) -> float:
        """Return how long a copy waits after so many crashes, seconds.  A shutdown is no crash, and costs no time."""
        if crashes == 0:
            return 0.0
        return min(self.recovery_delay * 2.0 ** min(crashes - 1, 64), max(DELAY_CAP, self.recovery_delay))


#: The options of actors and messages, by name.
OPTIONS: Final[Mapping[str, Setting]] = declared(Policy, options=True)


def check_options(options: Mapping[str, Any], whose: str) -> dict[str, Any]:
    """Return those of some options that are a policy's, checked.

    Parameters:
      whose: Where they were set, for the error.

    Raises:
      ConfigurationError: One of them is wrong.
    """
    return {
        name: option.check(options[name], f"{name} of {whose}") for name, option in OPTIONS.items() if name in options
    }
