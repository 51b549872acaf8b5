# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The records of messages: what a worker says of those that it runs, and of the broker's copies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, partial
from typing import Any

import redis

from ..delivery import Copy
from ..threads.moment import Moment
from .declarations import flag
from .records import Head, read_heads
from .replies import Finished, Reasserted, Saved, Start, Started
from .scripts import BATCH, Part, ms
from .transport import Call

__all__ = ["ACK_TTL", "Messages"]

STARTED = {answer.value.encode(): answer for answer in Start}
NO_PAYLOAD = Started(Start.PAYLOAD, True, 0, 0, 0, 0, 0, 0, 0, "")
FINISHED = {answer.value.encode(): answer for answer in Finished}

#: How long a checkpoint is kept after it was last written, seconds: for longer than retries are delayed.
CHECKPOINT_TTL = 30 * 24 * 3600.0

#: How long a message is remembered whose ack was sent, seconds: three times RabbitMQ's default heartbeat.  A broker
#: that has not read the ack notices within two that the connection is lost, and delivers the message again.
ACK_TTL = 180.0


class Messages(Part):
    """Starts and ends runs, and reads records."""

    @cached_property
    def _starts(self) -> tuple[str, ...]:
        """The keys that start.lua may change, beside the record."""
        keys = self.keys
        return (self.scripts.mine, keys.heartbeats, keys.waiting, keys.handed, keys.history, keys.counts)

    @cached_property
    def _ends(self) -> tuple[str, ...]:
        """The keys that complete.lua may change, beside the record and the checkpoint."""
        return (self.scripts.mine, self.keys.heartbeats, self.keys.waiting, self.keys.history, self.keys.counts)

    def start(
        self,
        copy: Copy,
        payload: bytes,
        *,
        limit: int | str,
        here: str,
        forgotten: bool = False,
        alone: bool | None = None,
        tailored: bool = False,
        broker_keys: Sequence[str] = (),
    ) -> Started:
        """May this copy run here?  One round trip.

        Parameters:
          payload: The encoded message; empty for the broker's own, which takes `broker_keys`.
          limit: How many crashes it may have; see `Policy.limit`.
          here: The runs of the message in this process; see `Table.reserve`.
          forgotten: True if Redis has ever lost what it knew of this incarnation, or may have.
          alone: True if it has the process to itself; ``None`` if it did not wait for that yet.
          tailored: True if its recovery takes a copy.
          broker_keys: The broker's ack set of this worker and queue, and its message hash, if on this Redis.
        """
        begun = Moment.now()
        due = self.scripts.contact.is_due(begun)
        reply = self.scripts.call(
            "start",
            [self.keys.record(copy.message_id), *self._starts, *broker_keys],
            [
                *(self.me, self.scripts.ttl_ms, copy.message_id, copy.generation, copy.origin),
                *(flag(copy.redelivered), here, copy.queue, copy.actor, limit, copy.broker_copy_id, payload),
                *(flag(copy.duplicate), flag(forgotten), "" if alone is None else flag(alone), flag(tailored)),
                *(flag(copy.condemned), copy.fence, copy.tries, flag(due)),
            ],
        )
        if isinstance(reply, int):
            return Started(Start.RUN, None, 0, 1, copy.generation, 0, reply, 0, 0, "")
        if len(reply) == 1:
            return NO_PAYLOAD
        self.scripts.in_contact(reply[1], begun)
        return Started._make([STARTED[reply[0]], reply[1] == 1, *reply[2:9], reply[9].decode()])

    def clear_alone(self, message_id: str, run: int, origin: str = "") -> None:
        """A message that had its process to itself is about to get company."""
        self.scripts.own("clear_alone", record_key=self.keys.record(message_id), run=run, origin=origin)

    def checkpoint(self, message_id: str, run: int, fields: dict[str, str], origin: str = "") -> Saved:
        """Keep how far a run has come.  One round trip."""
        reply = self.scripts.own(
            "checkpoint",
            record_key=self.keys.record(message_id),
            checkpoint=self.keys.checkpoint(message_id),
            run=run,
            kept_for=ms(CHECKPOINT_TTL),
            origin=origin,
            rows=[{"field": field, "value": value} for field, value in fields.items()],
        )
        return Saved(reply[0].decode())

    def kept(self, message_id: str) -> dict[str, str]:
        """Return the last checkpoint of a message; empty if there is none."""
        raw: Any = self.scripts.ask(lambda: self.client.hgetall(self.keys.checkpoint(message_id)))
        return {name.decode(): value.decode() for name, value in raw.items()}

    def stall(self, message_id: str, run: int, *, still: float, origin: str = "") -> bool:
        """Note that a message that runs here has not moved for `still` seconds.  One round trip.

        Returns: False if another run has it, or its start is not recorded.
        """
        reply = self.scripts.own(
            "stall",
            record_key=self.keys.record(message_id),
            id=message_id,
            run=run,
            still=round(still * 1000),
            origin=origin,
        )
        return bool(reply[0] == b"noted")

    def reassert(
        self,
        copy: Copy,
        payload: bytes | Callable[[], bytes],
        *,
        run: int,
        limit: int | str,
        started_ms: int,
        crashes: int,
        drains: int,
        alone: bool = False,
        tailored: bool = False,
        acked: bool = False,
        broker_keys: Sequence[str] = (),
    ) -> tuple[Reasserted, int, int, int, int]:
        """This process runs the message: make the record say so, if nobody else has started it.

        One round trip where the record says so already; two where it is to be written.

        Parameters:
          payload: The encoded message, or what encodes it; called only if the record is to be written.
          run: As `start` gave it; 0 if its answer was lost.
          crashes, drains: As they were when this run started: what it was charged with since is taken back.
          acked: True if the broker was told already that its copy is done with.
          broker_keys: As for `start`.

        Returns: what became of it, and the record's run, generation, crashes and drains.
        """
        broker_acks, broker_messages = broker_keys or (None, None)
        reassert = partial(
            self.scripts.own,
            "reassert",
            record_key=self.keys.record(copy.message_id),
            running=self.scripts.mine,
            broker_acks=broker_acks,
            broker_messages=broker_messages,
            id=copy.message_id,
            run=run,
            generation=copy.generation,
            origin=copy.origin,
            queue=copy.queue,
            actor=copy.actor,
            limit=limit,
            copy=copy.broker_copy_id,
            started=started_ms,
            crashes=crashes,
            drains=drains,
            alone=alone,
            tailored=tailored,
            unacked=not acked,
            tries=copy.tries,
        )
        reply = reassert(payload=b"", asked=0)
        for _ in range(3):  # the second answer may have come too late
            if reply[0] != b"again":
                break
            payload = payload if isinstance(payload, bytes) else payload()
            reply = reassert(payload=payload, asked=reply[2])
        return Reasserted(reply[0].decode()), int(reply[2]), int(reply[3]), int(reply[4]), int(reply[5])

    def complete(
        self,
        copy: Copy,
        run: int,
        *,
        again: bool,
        contended: bool,
        started_ms: int = 0,
        unacked: bool = False,
        remember: float = 0.0,
        broker_keys: Sequence[str] = (),
        then: Call | None = None,
    ) -> Finished:
        """The message is complete.  One round trip.

        Parameters:
          again: True if the run enqueued its own message again.
          contended: True if another copy of it was met in this process.
          started_ms: As `start` gave it; 0: not known.
          unacked: True if it is to be remembered until `shorten_retention` says that the broker was told.
          remember: How long it is to be remembered at the least, seconds.
          broker_keys: As for `start`.
          then: A script of the broker's, on this Redis, to be run after it, sent in the same write.  If it fails, its
            error is raised.
        """
        keys = [self.keys.record(copy.message_id), *self._ends, self.keys.checkpoint(copy.message_id), *broker_keys]
        begun = Moment.now()
        args = [
            *(self.me, self.scripts.ttl_ms, copy.message_id, run, copy.origin, flag(again), flag(contended)),
            *(self.scripts.fence_ms, copy.broker_copy_id, copy.generation, flag(unacked)),
            *(round(remember * 1000), started_ms, flag(self.scripts.contact.is_due(begun))),
        ]
        if then is None:
            reply = self.scripts.call("complete", keys, args)
        else:
            both = (Call(self.scripts.loaded["complete"], keys, args), then)
            reply, answer = self.scripts.ask(lambda: self.scripts.wire.exchange(both))
            for outcome in (answer, reply):
                if isinstance(outcome, redis.RedisError):
                    raise outcome
        if isinstance(reply, int):
            return Finished.FINISHED
        self.scripts.in_contact(reply[1], begun)
        return FINISHED[reply[0]]

    def release(
        self,
        message_id: str,
        run: int,
        *,
        contended: bool,
        consumed: bool = True,
        dead_lettered: bool = False,
        copy: Copy | None = None,
        why: str = "",
        traceback: str = "",
    ) -> Finished:
        """The message failed, and the broker holds its retry or its dead letter.  One round trip.

        Parameters:
          consumed: False if it never ran here, and whatever copy the broker has may run.
          dead_lettered: Its copy may run again, too: if it is met, it was replayed.
          copy: The copy that ran; None for whichever it was.
          why, traceback: The error's text, for the history, if it was dead-lettered.
        """
        origin = copy.origin if copy is not None else ""
        state = "dead_lettered" if dead_lettered else "released" if consumed else "let_go"
        reply = self.scripts.own(
            "release",
            record_key=self.keys.record(message_id),
            running=self.scripts.mine,
            id=message_id,
            run=run,
            contended=contended,
            state=state,
            origin=origin,
            why=why,
            traceback=traceback,
        )
        return FINISHED[reply[0]]

    def await_copy(
        self, message_id: str, run: int, payload: bytes, *, later: bool = False, origin: str = ""
    ) -> Finished:
        """Let go of a message for which no copy could be enqueued: recovery enqueues one.

        Parameters:
          payload: The encoded message; empty for the record's own.
          later: True if it is about to be enqueued here: recovery does so only if no copy of it starts.
        """
        reply = self.scripts.own(
            "await_copy",
            record_key=self.keys.record(message_id),
            running=self.scripts.mine,
            id=message_id,
            run=run,
            payload=payload,
            delay=self.scripts.deadline_ms if later else 0,
            origin=origin,
        )
        return FINISHED[reply[0]]

    def extend_deadline(self, copy: Copy, seconds: float) -> None:
        """A recovered copy waits here before it may run: its deadline comes so much later."""
        self.scripts.execute(
            "extend_deadline",
            record_key=self.keys.record(copy.message_id),
            id=copy.message_id,
            generation=copy.generation,
            wait=self.scripts.deadline_ms + round(seconds * 1000),
        )

    def defer(self, copy: Copy, delay: float) -> None:
        """A copy was enqueued again with a delay, in seconds, and is about to be acknowledged."""
        self.scripts.execute(
            "defer",
            record_key=self.keys.record(copy.message_id),
            id=copy.message_id,
            copy=copy.broker_copy_id,
            wait=self.scripts.deadline_ms + round(delay * 1000),
        )

    def close_unstarted(
        self, copy: Copy, state: str, broker_keys: Sequence[str] = (), *, why: str = "", traceback: str = ""
    ) -> None:
        """The broker is rid of a copy that never ran.

        Parameters:
          state: ``completed`` or ``dead_lettered``.
          broker_keys: As for `start`.
          why, traceback: As for `release`.
        """
        self.scripts.execute(
            "close_unstarted",
            record_key=self.keys.record(copy.message_id),
            broker_messages=broker_keys[1] if broker_keys else None,
            id=copy.message_id,
            generation=copy.generation,
            origin=copy.origin,
            redelivered=copy.redelivered,
            state=state,
            copy=copy.broker_copy_id,
            tries=copy.tries,
            queue=copy.queue,
            actor=copy.actor,
            why=why,
            traceback=traceback,
        )

    def shorten_retention(self, finished: Sequence[tuple[str, int, float]]) -> int:
        """The broker was told of messages that were finished `unacked`.

        Parameters:
          finished: At most `BATCH` triples of message id, run, and for how long to remember it, seconds.

        Returns: how many records are forgotten then, or in `ACK_TTL`, whatever is later.
        """
        least = min(ms(ACK_TTL), self.scripts.fence_ms)
        rows = [
            {"record_key": self.keys.record(id), "run": run, "remember": max(least, round(remember * 1000))}
            for id, run, remember in finished
        ]
        return int(self.scripts.execute("shorten_retention", rows))

    def peek(self, ids: Iterable[str]) -> list[Head | None]:
        """Return the heads of records; ``None`` for one that is missing, or cannot be read."""
        ids = list(ids)
        found = self.scripts.ask(lambda: read_heads(self.client, self.keys, ids))
        return [found.get(id) for id in ids]

    def count_running(self) -> int:
        """Return how many messages Redis says that this incarnation runs."""
        return int(self.scripts.ask(lambda: self.client.zcard(self.scripts.mine)))

    def running_here(self) -> set[str]:
        """The messages that Redis says this incarnation runs."""
        return {id.decode() for id in self.scripts.ask(lambda: self.client.zrange(self.scripts.mine, 0, -1))}

    def delivered(self, copies: Sequence[tuple[tuple[str, ...], str]]) -> list[bool]:
        """Whether a broker on this Redis holds each copy for a worker, given as `start`'s `broker_keys` and its id."""
        pipeline = self.client.pipeline(transaction=False)
        for (acks, messages), copy_id in copies:
            pipeline.sismember(acks, copy_id)
            pipeline.hexists(messages, copy_id)
        answers = self.scripts.ask(pipeline.execute)
        return [bool(has and stored) for has, stored in zip(answers[::2], answers[1::2], strict=True)]

    def running_of(self, incarnation: str, offset: int) -> list[str]:
        """A batch of the messages that another incarnation runs, oldest first, from `offset`."""
        key = self.keys.running(incarnation)
        return [id.decode() for id in self.scripts.ask(lambda: self.client.zrange(key, offset, offset + BATCH - 1))]

    def runs_of(self, ids: Iterable[str]) -> dict[str, tuple[int, str]]:
        """The present run of each message that has a record, and its origin."""
        ids = list(ids)
        return {id: (head.run, head.origin) for id, head in zip(ids, self.peek(ids), strict=True) if head is not None}

    def count_aside(self) -> int:
        """Return how many payloads are set aside because they could not be decoded."""
        return int(self.scripts.ask(lambda: self.client.hlen(self.keys.aside)))
