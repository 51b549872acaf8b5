# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The queues of an application: how much each has, and how quickly that comes and goes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..brokers.dead_letters import decoded
from ..brokers.queues import Depth
from .views import QueueView

__all__ = ["Throughput", "queue_view"]

MINUTE_MS = 60_000

#: By queue: how many messages ended in a minute, and how many were to be run at its beginning; -1: nobody has looked.
Minute = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Throughput:
    """The reports of the workers.

    Parameters:
      minutes: The minutes of the last hour, by their number since 1970.
      ended: How many messages have ever ended in each queue.
    """

    minutes: dict[int, Minute]
    ended: dict[str, int]

    @classmethod
    def of(cls, raw: Mapping[str, str]) -> Throughput:
        """Read the hash that count.lua writes; what is damaged is left out."""
        minutes = {int(name): _minute(value) for name, value in raw.items() if name.isdecimal() and len(name) < 12}
        return cls(minutes, {queue: _number(value) for queue, value in _object(raw.get("all", "")).items()})

    def rates(self, queue: str, now_ms: int, backlog: int) -> tuple[float | None, float | None]:
        """Return how many messages of a queue came and ended each second; None where that is not known.

        Parameters:
          backlog: How many are to be run now.
        """
        this = now_ms // MINUTE_MS
        if this - 1 not in self.minutes:
            return None, None
        seconds = (now_ms - (this - 1) * MINUTE_MS) / 1000
        ended, before = self.minutes[this - 1].get(queue, (0, -1))
        ended += self.minutes.get(this, {}).get(queue, (0, -1))[0]
        # The messages that are there now were there before, or have come since.
        come = None if before < 0 else max(0, ended + backlog - before) / seconds
        return come, ended / seconds


def queue_view(name: str, depth: Depth, in_flight: int, throughput: Throughput, now_ms: int) -> QueueView:
    """Return one queue.

    Parameters:
      in_flight: How many tracked messages of it run.
    """
    rate_in, rate_out = throughput.rates(name, now_ms, depth.backlog)
    return QueueView(
        name=name,
        depth=depth.ready,
        delayed=depth.delayed,
        unacked=depth.unacked,
        in_flight=in_flight,
        dead_letters=depth.dead,
        oldest=_oldest(depth, now_ms),
        rate_in=rate_in,
        rate_out=rate_out,
    )


def _oldest(depth: Depth, now_ms: int) -> float | None:
    if not depth.ready:
        return 0.0
    message = decoded(depth.first) if depth.first else None
    if message is None:
        return None
    again = message.options.get("requeue_timestamp")
    enqueued = max(int(message.message_timestamp), again if isinstance(again, (int, float)) else 0)
    return max(0.0, (now_ms - enqueued) / 1000)


def _minute(text: str) -> Minute:
    pairs = {queue: pair for queue, pair in _object(text).items() if isinstance(pair, list) and len(pair) == 2}
    return {queue: (_number(ended), _number(backlog)) for queue, (ended, backlog) in pairs.items()}


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0
