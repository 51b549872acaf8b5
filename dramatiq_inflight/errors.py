# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The errors of this package: one tree, under Dramatiq's own."""

from __future__ import annotations

import random
from typing import Any

from dramatiq.errors import DramatiqError, Retry
from dramatiq.middleware import Interrupt, MiddlewareError, SkipMessage

__all__ = [
    "AlreadyDone",
    "Busy",
    "CheckpointError",
    "ConfigurationError",
    "HandBack",
    "InFlightError",
    "MessageLost",
    "MessageSkipped",
    "Overtaken",
    "PoisonMessage",
    "SchemaError",
    "TryAgain",
    "Unfenced",
]


class InFlightError(DramatiqError):
    """Base class of all errors that this package raises."""

    def __init__(self, message: str) -> None:
        super().__init__(message)  # type: ignore[no-untyped-call]


class ConfigurationError(InFlightError, MiddlewareError, ValueError):
    """A setting or an actor option is wrong; the text names it, its value and what would be right.

    It is a ``MiddlewareError`` because Dramatiq logs and swallows every other exception of a ``before_`` hook,
    and a worker that is configured wrongly must not start.
    """


class SchemaError(ConfigurationError):
    """The namespace is used by another version of this package that this one cannot share it with.

    The text names both, who has it, and what to do; see docs/upgrading.rst.  Nothing was changed.
    """


class CheckpointError(InFlightError, ValueError):
    """A checkpoint cannot be kept: it is no JSON, it is too large, or the message does not run any more."""


class MessageSkipped(InFlightError, SkipMessage):
    """This copy of a message is not to run: another one has run, is running, or will.  Dramatiq acknowledges it."""


class PoisonMessage(InFlightError, SkipMessage):
    """The message has killed its worker more than ``max_recoveries`` times and is moved to the dead-letter queue.

    Where results are stored, this is the message's result, with the reason as its text.
    """


class HandBack(Interrupt):
    """Raised in the thread of a message with ``hand_back`` whose worker shuts down: it is enqueued again.

    Not as a failure and not as a retry; what it has kept by `Current.checkpoint` is there for its next run.
    """


class MessageLost(Interrupt):
    """Raised in the thread of a message that another worker has taken, with ``interrupt_on_loss``: stop what you do.

    Like Dramatiq's ``TimeLimitExceeded`` it is no ``Exception``; it reaches the thread when that next runs Python code.
    """


# A Retry is what Dramatiq does not log as a failure.


class AlreadyDone(InFlightError, Retry):
    """An earlier run has committed the effect of `dramatiq_inflight.effects.once`.

    Let it through.  The message is acknowledged as a success with the stored result, and what follows is enqueued.
    """

    def __init__(self, key: str, result: Any = None) -> None:
        super().__init__(f"{key!r} is done already.")
        #: The key.
        self.key = key
        #: The result that the block has kept, or None.
        self.result = result
        self.delay = None


class TryAgain(InFlightError, Retry):
    """A block of ``once`` or ``fence`` has written nothing, and can be tried again.

    Let it through.  The message is enqueued again with a short delay, neither as a failure nor as a retry.
    """

    #: How long a message waits at the least, milliseconds.
    pause = 1000

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.delay = round(self.pause * random.uniform(1, 2))


class Busy(TryAgain):
    """The database refused a transaction in favour of another one: deadlock, serialization failure or lock timeout."""

    pause = 200


class Unfenced(TryAgain):
    """The run has no fence: Redis was away when it started."""


class Overtaken(TryAgain):
    """A run with a higher fence has claimed the key, though Redis does not say that this run is lost."""
