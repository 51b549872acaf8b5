# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The queues of an application: how much each has, how quickly that comes and goes, and the last hour by the minute."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ..brokers.dead_letters import decoded
from ..brokers.queues import Depth
from .views import MinuteView, QueueView

__all__ = ["HOUR", "Throughput", "queue_view"]

MINUTE_MS = 60_000

#: So many minutes are known.
HOUR = 60


class Reported(NamedTuple):
    """A minute of one queue."""

    ended: int = 0
    #: How many messages were to be run at its beginning; -1: nobody has looked.
    backlog: int = -1
    failed: int = 0
    #: How long all of those that ended had run, milliseconds.
    ms: int = 0


#: By queue.
Minute = dict[str, Reported]


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
        last = self.minutes[this - 1].get(queue, Reported())
        ended = last.ended + self.minutes.get(this, {}).get(queue, Reported()).ended
        # What is there now was there before, or has come since.
        come = None if last.backlog < 0 else max(0, ended + backlog - last.backlog) / seconds
        return come, ended / seconds

    def hour(self, now_ms: int, queue: str | None = None) -> list[MinuteView]:
        """Return the minutes of the last hour, the present one last.

        Parameters:
          queue: Only this; None: all.
        """
        this = now_ms // MINUTE_MS
        return [self._minute(minute, queue) for minute in range(this - HOUR + 1, this + 1)]

    def _minute(self, minute: int, queue: str | None) -> MinuteView:
        said = self.minutes.get(minute, {})
        found = list(said.values()) if queue is None else [said.get(queue, Reported())]
        ended = sum(one.ended for one in found)
        return MinuteView(
            at=datetime.fromtimestamp(minute * 60, tz=UTC),
            ended=ended,
            failed=sum(one.failed for one in found),
            duration=sum(one.ms for one in found) / 1000 / ended if ended else None,
        )


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
    rows = {queue: row for queue, row in _object(text).items() if isinstance(row, list) and len(row) == 4}
    return {queue: Reported(*map(_number, row)) for queue, row in rows.items()}


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0
