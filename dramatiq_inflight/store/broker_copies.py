# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""What the broker has, or has no more, of a message: its copies that do not run."""

from __future__ import annotations

from collections.abc import Sequence

from ..delivery import Copy
from .scripts import Scripting, flag, ms

__all__ = ["ACK_TTL", "BrokerCopies"]

#: How long a message is remembered whose ack was sent, seconds: three times RabbitMQ's default heartbeat.  A broker
#: that has not read the ack notices within two that the connection is lost, and delivers the message again.
ACK_TTL = 180.0


class BrokerCopies(Scripting):
    """What this incarnation says of copies that wait, or that the broker is rid of."""

    def hold(self, copy: Copy, seconds: float) -> None:
        """A recovered copy waits here before it may run: its deadline comes so much later."""
        keys = [self.keys.record(copy.message_id), self.keys.waiting]
        self._call("hold", keys, [copy.message_id, copy.generation, self.deadline_ms + round(seconds * 1000)])

    def put_off(self, copy: Copy, delay: float) -> None:
        """A copy was enqueued again with a delay, in seconds, and is about to be acknowledged."""
        self._call(
            "put_off",
            [self.keys.record(copy.message_id), self.keys.waiting, *self.keys.journal],
            [copy.message_id, copy.broker_copy_id, self.deadline_ms + round(delay * 1000), self.me],
        )

    def settle(self, copy: Copy, state: str, broker_keys: Sequence[str] = ()) -> None:
        """The broker is rid of a copy that never ran.

        Parameters:
          state: ``completed`` or ``dead_lettered``.
          broker_keys: As for `Runs.start`.
        """
        self._call(
            "settle",
            [
                *(self.keys.record(copy.message_id), self.keys.waiting, self.keys.heartbeats),
                *(*self.keys.journal, *broker_keys[1:]),
            ],
            [
                *(copy.message_id, copy.generation, copy.origin, flag(copy.redelivered)),
                *(state, self.fence_ms, self.ttl_ms, copy.broker_copy_id, copy.tries),
            ],
        )

    def acked(self, finished: Sequence[tuple[str, int, float]]) -> int:
        """The broker was told of messages that were finished `unacked`.

        Parameters:
          finished: At most `BATCH` triples of message id, run, and for how long to remember it, seconds.

        Returns: how many records are forgotten then, or in `ACK_TTL`, whatever is later.
        """
        keys = [self.keys.record(id) for id, _, _ in finished]
        least = min(ms(ACK_TTL), self.fence_ms)
        args = [x for _, run, remember in finished for x in (run, max(least, round(remember * 1000)))]
        return int(self._call("acked", keys, args))
