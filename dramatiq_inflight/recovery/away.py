# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Find out that the broker is away, without trying every message."""

from __future__ import annotations

__all__ = ["Failures"]

#: After how many failures in a row the broker may be away: from then on only some messages are tried.
GIVE_UP_AFTER = 3

#: After how many it is away.
MOST_FAILURES = 8

#: An enqueue that fails after so long is taken for a failure of the broker, whatever it says; seconds.
SLOW = 5.0


class Failures:
    """Failures in a row that may be the broker's, and their consequence: fewer and fewer messages are tried."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Forget all: a sweep begins."""
        #: Whether anything was enqueued in this sweep.
        self.reached = False
        self._in_a_row, self._slow, self._pass_over = 0, False, 0

    @property
    def too_many(self) -> bool:
        """True if the broker is away."""
        return self._in_a_row >= (GIVE_UP_AFTER if self._slow else MOST_FAILURES)

    @property
    def none(self) -> bool:
        """True if the broker is there, as far as is known: the last message was enqueued."""
        return self.reached and not self._in_a_row

    def to_pass_over(self) -> bool:
        """Return whether the next message is not to be tried."""
        if self.too_many:
            return True
        self._pass_over -= 1
        return self._pass_over >= 0

    def failed(self, after: float, passing: bool) -> None:
        """One could not be enqueued, or none of a batch, after so many seconds."""
        if not (passing or after > SLOW):
            return
        self._slow = self._slow or after > SLOW
        self._in_a_row += 1
        if self._in_a_row >= GIVE_UP_AFTER:
            self._pass_over = 2 ** (self._in_a_row - GIVE_UP_AFTER)

    def succeeded(self) -> None:
        """One was enqueued: the broker is there."""
        self.begin()
        self.reached = True
