# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""What the broker has, or has no more, of a message: its copies that do not run."""

from __future__ import annotations

from collections.abc import Sequence

from ..delivery import Copy
from .scripts import Scripting, ms

__all__ = ["ACK_TTL", "BrokerCopies"]

#: How long a message is remembered whose ack was sent, seconds: three times RabbitMQ's default heartbeat.  A broker
#: that has not read the ack notices within two that the connection is lost, and delivers the message again.
ACK_TTL = 180.0


class BrokerCopies(Scripting):
    """What this incarnation says of copies that wait, or that the broker is rid of."""

    def hold(self, copy: Copy, seconds: float) -> None:
        """A recovered copy waits here before it may run: its deadline comes so much later."""
        self._execute(
            "hold",
            record_key=self.keys.record(copy.message_id),
            id=copy.message_id,
            generation=copy.generation,
            wait=self.deadline_ms + round(seconds * 1000),
        )

    def put_off(self, copy: Copy, delay: float) -> None:
        """A copy was enqueued again with a delay, in seconds, and is about to be acknowledged."""
        self._execute(
            "put_off",
            record_key=self.keys.record(copy.message_id),
            id=copy.message_id,
            copy=copy.broker_copy_id,
            wait=self.deadline_ms + round(delay * 1000),
        )

    def settle(self, copy: Copy, state: str, broker_keys: Sequence[str] = ()) -> None:
        """The broker is rid of a copy that never ran.

        Parameters:
          state: ``completed`` or ``dead_lettered``.
          broker_keys: As for `Runs.start`.
        """
        self._execute(
            "settle",
            record_key=self.keys.record(copy.message_id),
            broker_messages=broker_keys[1] if broker_keys else None,
            id=copy.message_id,
            generation=copy.generation,
            origin=copy.origin,
            redelivered=copy.redelivered,
            state=state,
            copy=copy.broker_copy_id,
            tries=copy.tries,
        )

    def acked(self, finished: Sequence[tuple[str, int, float]]) -> int:
        """The broker was told of messages that were finished `unacked`.

        Parameters:
          finished: At most `BATCH` triples of message id, run, and for how long to remember it, seconds.

        Returns: how many records are forgotten then, or in `ACK_TTL`, whatever is later.
        """
        least = min(ms(ACK_TTL), self.fence_ms)
        rows = [
            {"record_key": self.keys.record(id), "run": run, "remember": max(least, round(remember * 1000))}
            for id, run, remember in finished
        ]
        return int(self._execute("acked", rows))
