# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Incarnations driven by hand: what they do in Redis, and death by decree instead of by waiting."""

from __future__ import annotations

import dataclasses
import json
import uuid
from typing import Any

import redis
from dramatiq import Message

from dramatiq_inflight.delivery import Copy
from dramatiq_inflight.store.connection import bounded_client
from dramatiq_inflight.store.records import DRAINING, Head, Orphan
from dramatiq_inflight.store.replies import Claim, Reasserted, Returned, Start, Started
from dramatiq_inflight.store.scripts import Contact, Scripts
from dramatiq_inflight.store.store import Store
from dramatiq_inflight.threads.moment import Moment

__all__ = ["JOURNAL", "Lab", "ago", "copy_of"]

#: The keys that stay when the work is done; they expire.
JOURNAL = {"history", "counts", "throughput", "schema"}


def ago(seconds: float) -> Moment:
    """The moment so many seconds before; negative: after."""
    now = Moment.now()
    return Moment(now.since_boot - seconds, now.wall - seconds)


def copy_of(message_id: str = "", *, generation: int = 1, origin: str = "o1", redelivered: bool = False) -> Copy:
    """A copy of a message, as a broker might deliver it."""
    return Copy(message_id or uuid.uuid4().hex, generation, origin, origin, redelivered, "default", "work")


def payload_of(copy: Copy) -> bytes:
    """An encoded message for a copy."""
    options = {"redis_message_id": copy.broker_copy_id}
    return Message(copy.queue, copy.actor, (), {}, options, copy.message_id, 1_700_000_000_000).encode()


class Lab:
    """A namespace and the incarnations in it.

    Heartbeats are believed for a minute here, so nobody dies of a slow test: `kill` sets a heartbeat's end in Redis.
    Messages have their process to themselves unless they are told otherwise, as in a worker with one thread.
    """

    def __init__(self, client: redis.Redis, namespace: str) -> None:
        self.client: Any = bounded_client(client)
        self.prefix = f"{{{namespace}}}:"
        self.namespace = namespace

    def incarnation(self, name: str, *, fence_ttl: float = 60) -> Store:
        store = Store(Scripts(self.client, self.namespace, name, heartbeat_ttl=60, fence_ttl=fence_ttl))
        store.workers.register({"instance": f"pod-{name}", "host": "h", "pid": "1"})
        return store

    def noting(self, name: str) -> tuple[Store, list[bool]]:
        """One that has not said yet who it is; and, each time that it renews its heartbeat, whether it was known."""
        heard: list[bool] = []
        store = Store(
            Scripts(
                *(self.client, self.namespace, name),
                heartbeat_ttl=60,
                fence_ttl=60,
                contact=Contact(renewed=lambda known, begun, absent: heard.append(known)),
            )
        )
        return store, heard

    def is_busy(self, store: Store) -> list[bool]:
        """Let it renew its heartbeat only where it must, as if it had done so just now.

        Returns: a list that grows with each renewal, by whether it was known.
        """
        heard: list[bool] = []
        store.scripts.contact = Contact(
            renewed=lambda known, begun, absent: heard.append(known), is_due=lambda now: False
        )
        return heard

    def kill(self, store: Store, *, draining: bool = False) -> None:
        """Its heartbeat has expired, while others beat; `draining`: it was shutting down when it sent its last."""
        mark = {DRAINING + store.me: float("-inf")} if draining else {}
        self.client.zadd(self.prefix + "heartbeats", {store.me: 1000, **mark})

    def start(
        self,
        store: Store,
        copy: Copy,
        *,
        limit: int | str = 3,
        alone: bool | None = True,
        tailored: bool = False,
        here: str = "no",
        payload: bytes | None = None,
        forgotten: bool = False,
        broker_keys: tuple[str, ...] = (),
    ) -> Started:
        return store.messages.start(
            copy,
            payload_of(copy) if payload is None else payload,
            limit=limit,
            here=here,
            forgotten=forgotten,
            alone=alone,
            tailored=tailored,
            broker_keys=broker_keys,
        )

    def reassert(
        self,
        store: Store,
        copy: Copy,
        *,
        payload: bytes | None = None,
        run: int = 1,
        limit: int | str = 3,
        started_ms: int = 1,
        crashes: int = 0,
        alone: bool = False,
    ) -> tuple[Reasserted, int, int, int, int]:
        return store.messages.reassert(
            copy,
            lambda: payload_of(copy) if payload is None else payload,
            run=run,
            limit=limit,
            started_ms=started_ms,
            crashes=crashes,
            drains=0,
            alone=alone,
        )

    def runs(self, store: Store, copy: Copy, *, limit: int | str = 3, alone: bool | None = True) -> Started:
        """Start it, and see that it runs."""
        started = self.start(store, copy, limit=limit, alone=alone)
        assert started.answer is Start.RUN
        return started

    def return_to_broker(self, by: Store, dead: Store, copy: Copy) -> None:
        """It dies, and the broker, which holds the copy, has it back."""
        self.kill(dead)
        assert by.recovery.return_to_broker(dead.me, [(copy.message_id, True)]) == [Returned.RETURNED]

    def claim(self, store: Store, copy: Copy, dead: Store, *, leftovers: bool = False) -> Orphan:
        """Claim it, and see that it was claimed."""
        orphan = store.recovery.claim([copy.message_id], dead=dead.me, hold=60, leftovers=leftovers)[0]
        assert isinstance(orphan, Orphan), orphan
        return orphan

    def claim_answer(self, store: Store, copy: Copy, dead: str) -> Claim:
        answer = store.recovery.claim([copy.message_id], dead=dead, hold=60)[0]
        return answer.verdict if isinstance(answer, Orphan) else answer

    def head(self, copy: Copy) -> Head | None:
        """The record without its payload."""
        raw = self.client.get(f"{self.prefix}record:{copy.message_id}")
        return None if raw is None else Head.of(json.loads(raw.partition(b"\n")[0]))

    def payload(self, copy: Copy) -> bytes:
        """The payload in the record."""
        raw: bytes = self.client.get(f"{self.prefix}record:{copy.message_id}") or b""
        return raw.partition(b"\n")[2]

    def state(self, copy: Copy) -> str | None:
        """The state of the record, and whether it is to be dead-lettered."""
        head = self.head(copy)
        return head.state + ", dead_letter" * head.dead_letter if head is not None else None

    def expiry(self, copy: Copy) -> float:
        """Seconds until the record expires; -1: never."""
        ms: int = self.client.pttl(f"{self.prefix}record:{copy.message_id}")
        return ms / 1000 if ms > 0 else ms

    def deadline(self, copy: Copy) -> float | None:
        score: float | None = self.client.zscore(self.prefix + "waiting", copy.message_id)
        return score

    def overdue(self, copy: Copy) -> None:
        """Its deadline has passed."""
        assert self.deadline(copy) is not None
        self.client.zadd(self.prefix + "waiting", {copy.message_id: 1})

    def names(self) -> set[str]:
        """All keys of the namespace, without the prefix and the history, which outlasts them."""
        return {key.decode().removeprefix(self.prefix) for key in self.client.keys(self.prefix + "*")} - JOURNAL

    @staticmethod
    def recovered(copy: Copy, orphan: Orphan) -> Copy:
        """The copy that recovery would enqueue for an orphan."""
        return dataclasses.replace(copy, generation=orphan.generation, broker_copy_id=f"r{orphan.generation}")
