# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Why a worker process has died, as far as another one could find out.

In Redis a cause is a number.  It stands in the place of the deadline of an incarnation that was proven dead, in the
event of its death, and in the records of the messages that it ran; see common.lua.
"""

from __future__ import annotations

import enum
import signal
from collections import Counter
from dataclasses import dataclass
from typing import Final

__all__ = [
    "CONNECTION",
    "EXPIRED",
    "LEFT",
    "OUT_OF_MEMORY",
    "PROCESS",
    "PROVEN_MS",
    "REPLACED",
    "Cause",
    "CauseKind",
    "causes_of",
    "in_words",
]

#: A deadline below this is no time: the incarnation was proven dead, and it is the number of the cause; see common.lua.
PROVEN_MS: Final = 1000


class CauseKind(enum.Enum):
    """The kinds of causes, by the name that metrics and JSON have for them.

    Each has the first of its numbers in Redis, a few words, and what a log line says.
    """

    HEARTBEAT = "heartbeat", 0, "heartbeat expired", "its heartbeat has expired"
    #: Its process is gone, and nobody could read how it ended.
    PROCESS = "process", 1, "unknown", "its process is gone, seen from the same host"
    CONNECTION = "connection", 2, "connections closed", "its connections to Redis are closed"
    REPLACED = "replaced", 3, "replaced", "a newer container has its instance id, which is exclusive"
    LEFT = "left", 4, "left", "it left while messages were still running"
    OUT_OF_MEMORY = "out_of_memory", 5, "out of memory", "out of memory: the kernel has killed its process"
    SIGNAL = "signal", 100, "killed by signal", "its process was killed by signal"
    EXIT = "exit", 300, "exit code", "its process has ended with exit code"
    #: A later version knows it.
    OTHER = "other", PROVEN_MS, "unknown", "it is dead, and the cause is of a later version"

    _value_: str
    first: int
    short: str
    long: str

    def __new__(cls, name: str, first: int, short: str, long: str) -> CauseKind:
        self = object.__new__(cls)
        self._value_, self.first, self.short, self.long = name, first, short, long
        return self


@dataclass(frozen=True)
class Cause:
    """Why one worker process has died."""

    #: As it is in Redis.
    number: int

    @classmethod
    def of_status(cls, status: int) -> Cause:
        """The cause of an end by its wait status, as `os.waitpid` has it."""
        if os_signal := status & 0x7F:
            return cls(CauseKind.SIGNAL.first + os_signal)
        return cls(CauseKind.EXIT.first + (status >> 8 & 0xFF))

    @classmethod
    def of_deadline(cls, deadline: float | None, left: bool) -> Cause:
        """The cause of a death by what Redis has in the place of the deadline.

        Parameters:
          left: The incarnation has ended in order, with messages still running.
        """
        if deadline is not None and 0 <= deadline < PROVEN_MS:
            return cls(int(deadline))
        return LEFT if left else EXPIRED

    @property
    def kind(self) -> CauseKind:
        """What kind of cause it is; there are few."""
        for kind, last in ((CauseKind.SIGNAL, 199), (CauseKind.EXIT, 555)):
            if kind.first <= self.number <= last:
                return kind
        return next((kind for kind in CauseKind if kind.first == self.number), CauseKind.OTHER)

    @property
    def detail(self) -> int | None:
        """The signal, or the exit code; None for other kinds."""
        return self.number - self.kind.first if self.kind in (CauseKind.SIGNAL, CauseKind.EXIT) else None

    @property
    def name(self) -> str:
        """As JSON has it: the name of the kind, and the number of a signal or an exit code."""
        return self.kind.value if self.detail is None else f"{self.kind.value} {self.detail}"

    def __str__(self) -> str:
        return self.kind.short + self._detail

    def why(self, draining: bool = False) -> str:
        """As a log line says it.

        Parameters:
          draining: The worker was shutting down.
        """
        shutting_down = " while it was shutting down" if draining and self.kind is not CauseKind.LEFT else ""
        return f"{self.kind.long}{self._detail}{shutting_down}"

    @property
    def _detail(self) -> str:
        if self.detail is None:
            return ""
        try:
            name = f" ({signal.Signals(self.detail).name})" if self.kind is CauseKind.SIGNAL else ""
        except ValueError:  # of real time, or of another system
            name = ""
        return f" {self.detail}{name}"


#: Those that have no number of their own.
EXPIRED, PROCESS, CONNECTION, REPLACED, LEFT, OUT_OF_MEMORY = (
    Cause(kind.first)
    for kind in (
        *(CauseKind.HEARTBEAT, CauseKind.PROCESS, CauseKind.CONNECTION, CauseKind.REPLACED, CauseKind.LEFT),
        CauseKind.OUT_OF_MEMORY,
    )
)


def causes_of(text: str) -> tuple[Cause, ...]:
    """The causes that a record keeps, the newest last; what is no number is passed over."""
    return tuple(Cause(int(word)) for word in text.split() if word.isdecimal() and len(word) < 9)


def in_words(causes: tuple[Cause, ...], crashes: int) -> str:
    """How often each of them was the cause of a message's crashes; of those that are not there it is unknown."""
    counted = Counter(map(str, causes[-crashes:] if crashes else ()))
    counted["unknown"] += crashes - counted.total()
    return ", ".join(f"{what} {times(number)}" for what, number in counted.most_common() if number > 0)


def times(number: int) -> str:
    """Once, or so many times."""
    return "once" if number == 1 else f"{number} times"
