# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The results of a sweep."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Swept"]


@dataclass
class Swept:
    """The results of one sweep: numbers of messages, except `reaped`."""

    #: Records of dead workers whose copies went back to the broker.
    handed_back: int = 0
    #: Everything that dead workers had fetched and that was moved back to its queue; includes `handed_back`.
    returned: int = 0
    #: Copies enqueued.
    copied: int = 0
    poisoned: int = 0
    settled: int = 0
    set_aside: int = 0
    #: Could not be enqueued: each is tried again by itself.
    refused: int = 0
    #: Left for another sweep, or another worker: see the log.
    left: int = 0
    #: Dead incarnations of which nothing is left.
    reaped: int = 0
    #: Another worker is sweeping.
    locked: bool = False
    #: Something could not be put back: the broker or Redis is away.
    failed: bool = False
    #: Seconds until there may be something next; ``None``: nothing is in sight.
    next_in: float | None = None

    @property
    def progress(self) -> int:
        """How much was done."""
        return self.returned + self.copied + self.poisoned + self.settled + self.set_aside + self.reaped

    @property
    def summary(self) -> str:
        """The same in words; empty: nothing was done."""
        done = []
        if self.returned or self.handed_back:
            fetched = max(self.returned - self.handed_back, 0)
            done.append(f"{self.handed_back} running messages and {fetched} fetched ones were returned to their queues")
        for number, text in (
            (self.copied, "copies were enqueued"),
            (self.poisoned, "poison messages were dead-lettered"),
            (self.settled, "were already complete"),
            (self.set_aside, "could not be decoded and were set aside"),
            (self.refused, "could not be enqueued and are tried again"),
        ):
            if number:
                done.append(f"{number} {text}")
        return "; ".join(done)
