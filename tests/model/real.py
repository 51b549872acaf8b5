# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The real scripts, called as the model calls its own: the same calls, the same answers, the same state of Redis."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import replace
from itertools import compress
from math import inf
from typing import Any

import redis

from dramatiq_inflight.delivery import Copy
from dramatiq_inflight.liveness.subscription import Subscriptions
from dramatiq_inflight.store.cause import PROCESS, PROVEN_MS
from dramatiq_inflight.store.connection import bounded_client
from dramatiq_inflight.store.declarations import SCRIPTS
from dramatiq_inflight.store.records import DRAINING, DeadIncarnation, Enqueued, Head, Orphan
from dramatiq_inflight.store.replies import Claim, Reasserted, Start, Started
from dramatiq_inflight.store.scripts import Contact, Scripts
from dramatiq_inflight.store.store import Store
from tests.support.servers import life_of

from .scripts import NOBODY, SETTLED, WAITING, Call, Heart, Record, Redis

__all__ = ["Real", "texts"]

MESSAGE = "m"
TTL_MS, FENCE_MS = 60_000, 60_000
#: A time of Redis's clock, for the start of the first run; the others follow.
FIRST_START = 1_000_000
EXPIRED, PROVEN = PROVEN_MS, PROCESS.number
#: The members for what `Heart` has besides its kind, in that order: before an id.
MARKS = (DRAINING, "*doubted:")
#: In the place of until when it may be back: it cannot.
LONG_AGO = -1.1e12
PATIENCE_MS = 20_000
A_WEEK = 7 * 24 * 3600 * 1000
#: The damaged payload, and the expected expiry of the record: see `Real.expiry`.
DAMAGED = b"what is this?"
#: The payload of a record that has none, and does not say who has.
NOWHERE = -1


def texts() -> dict[str, str]:
    """The scripts as Redis gets them, by name."""
    return dict(SCRIPTS)


def _id(number: int) -> str:
    return f"c{number}" if number else ""


def _number(id: str) -> int:
    return int(id.removeprefix("c")) if id else 0


def _payload(attempt: int | None) -> bytes:
    return b"" if attempt is None else b"attempt\n%d" % attempt


class Real:
    """One message in a namespace of its own.

    Parameters:
      scripts: The texts to run; mutated ones, say.
    """

    def __init__(self, client: redis.Redis, incarnations: int, scripts: Mapping[str, str]) -> None:
        self.client: Any = bounded_client(client)
        self.namespace = f"t{uuid.uuid4().hex[:12]}"
        self.prefix = f"{{{self.namespace}}}:"
        self.names = [chr(ord("a") + number) for number in range(incarnations)]
        #: Whether a script that need not renew the heartbeat is to do so.
        self.due = True
        contact = Contact(is_due=lambda now: self.due)
        self.members = [
            Store(Scripts(self.client, self.namespace, name, heartbeat_ttl=60, fence_ttl=60, contact=contact))
            for name in self.names
        ]
        for store in self.members:
            store.scripts.loaded.update({name: self.client.register_script(text) for name, text in scripts.items()})
        self.record = f"{self.prefix}record:{MESSAGE}"
        self.hearts, self.waiting = self.prefix + "heartbeats", self.prefix + "waiting"
        self.handed, self.aside = self.prefix + "handed", self.prefix + "aside"
        self.broker_keys = (self.prefix + "acks", self.prefix + "msgs")
        self.suspects = self.prefix + "suspects"
        self.connection: Any = Subscriptions(self.members[0]).open("any", 10).connection
        self.life = life_of(self.client)
        #: The model's number of each start, by its time.
        self.starts: dict[int, int] = {}
        self.now = 0
        self.known: set[int] = set()

    def close(self) -> None:
        """Leave nothing behind."""
        self.connection.disconnect()
        keys = self.client.keys(self.prefix + "*")
        if keys:
            self.client.delete(*keys)

    # The state of Redis.

    def put(self, state: Redis) -> None:
        """Make Redis be in this state."""
        self.starts = {FIRST_START + number: number for number in range(1, 100)}
        pipeline = self.client.pipeline(transaction=False)
        incarnations = [f"{self.prefix}incarnation:{name}" for name in self.names]
        running = [f"{self.prefix}running:{name}" for name in self.names]
        pipeline.delete(self.record, self.hearts, self.waiting, self.handed, self.aside, *incarnations, *running)
        pipeline.delete(self.suspects)
        record = state.record
        if record is not None and record.state == "damaged":
            pipeline.set(self.record, DAMAGED)
        elif record is not None:
            expiry = FENCE_MS if record.state in SETTLED else A_WEEK if record.state in WAITING else None
            pipeline.set(self.record, self._encoded(record), px=expiry)
        if state.waiting:
            pipeline.zadd(self.waiting, {MESSAGE: 1 if state.waiting == "due" else self._now() + 600_000})
        for number, key in enumerate(running):
            if state.running[number]:
                pipeline.zadd(key, {MESSAGE: 1})
            if state.handed[number]:
                pipeline.zadd(self.handed, {self.names[number]: self._now()})
            kind, *marks = state.hearts[number]
            # No beat of this millisecond has the deadline of one that was noted.
            lives = self._now() + TTL_MS - (1000 if state.noted[number] else 0)
            deadline = {"expired": EXPIRED, "proven": PROVEN, "gone": PROVEN}.get(kind, lives)
            if kind != "none":
                pipeline.zadd(self.hearts, {self.names[number]: deadline})
                pipeline.hset(incarnations[number], "instance", "i")
            for prefix in compress(MARKS, marks):
                pipeline.zadd(self.hearts, {prefix + self.names[number]: -inf})
            if kind == "gone":
                pipeline.zadd(self.hearts, {f"*until:{self.names[number]}": -lives})
            if state.entered[number] or state.noted[number]:
                life = self.life if state.entered[number] else "of another server"
                entered = {"life": life, "seen": 1, "patience": PATIENCE_MS, "instance": "i"}
                pipeline.hset(incarnations[number], mapping=entered)
            if state.entered[number] or state.noted[number]:
                since_then = 0 if state.noted[number] else 1  # one that has shown itself since is as if not noted
                pipeline.hset(self.suspects, self.names[number], f"1 {deadline - since_then} 1 i")
        if state.last:
            pipeline.zadd(self.hearts, {"*last": self._now()})
        if state.aside:
            pipeline.hset(self.aside, MESSAGE, "x")
        pipeline.execute()

    def _now(self) -> int:
        if not self.now:
            seconds, micro = self.client.time()
            self.now = seconds * 1000 + micro // 1000
        return self.now

    def _encoded(self, record: Record) -> bytes:
        head = Head(
            state=record.state,
            owner="" if record.owner == NOBODY else self.names[record.owner],
            run=record.run,
            generation=record.generation,
            crashes=record.crashes,
            limit=record.limit,
            contended=record.contended,
            forced=record.forced,
            started=self._time(record.started),
            first=record.first and self._time(record.first),
            origin=_id(record.origin),
            copy=_id(record.copy),
            queue="default",
            actor="work",
            drains=record.drains,
            alone=record.alone,
            tailored=record.tailored,
            tries=record.tries,
            deaths=record.deaths,
            dead_letter=record.dead_letter,
            kept_in=self.broker_keys[1],
        )
        return json.dumps(list(vars(head).values()), separators=(",", ":")).encode() + b"\n" + _payload(record.payload)

    def get(self) -> tuple[Redis, str]:
        """The state of Redis as the model would have it, and when the record expires: never, later, soon; or gone."""
        pipeline = self.client.pipeline(transaction=False)
        pipeline.time()
        pipeline.get(self.record)
        pipeline.pttl(self.record)
        pipeline.zscore(self.waiting, MESSAGE)
        pipeline.zrange(self.hearts, 0, -1, withscores=True)
        pipeline.zrange(self.handed, 0, -1)
        pipeline.hget(self.aside, MESSAGE)
        for name in self.names:
            pipeline.zscore(f"{self.prefix}running:{name}", MESSAGE)
            pipeline.hmget(f"{self.prefix}incarnation:{name}", "life", "seen")
            pipeline.hget(self.suspects, name)
        (seconds, micro), raw, pttl, deadline, scores, handed, aside, *rest = pipeline.execute()
        self.now = seconds * 1000 + micro // 1000
        hearts = {member.decode(): score for member, score in scores}
        state = Redis(
            record=self._decoded(raw),
            waiting="" if deadline is None else "due" if deadline <= self.now else "later",
            running=tuple(score is not None for score in rest[0::3]),
            hearts=tuple(self._heart(name, hearts) for name in self.names),
            handed=tuple(name.encode() in handed for name in self.names),
            aside=aside is not None,
            last="*last" in hearts,
            entered=tuple(life == self.life.encode() for life, _ in rest[1::3]),
            noted=tuple(
                note is not None
                and note.decode().split()[1:3] == [f"{hearts.get(name, 0):.0f}", (seen or b"").decode()]
                for name, (_, seen), note in zip(self.names, rest[1::3], rest[2::3], strict=True)
            ),
        )
        return state, {-2: "gone", -1: "never"}.get(pttl, "later" if pttl > A_WEEK - 60_000 else "soon")

    def _heart(self, name: str, scores: dict[str, float]) -> Heart:
        score, until = scores.get(name), scores.get(f"*until:{name}", 0)
        if score is None:
            kind = "none"
        elif score > self.now:
            kind = "fresh"
        else:
            kind = "expired" if score >= PROVEN_MS else "gone" if -until > self.now else "proven"
        return Heart(kind, *(scores.get(prefix + name) == -inf for prefix in MARKS))

    def _decoded(self, raw: bytes | None) -> Record | None:
        if raw is None:
            return None
        if raw == DAMAGED:
            return Record("damaged")
        line, _, payload = raw.partition(b"\n")
        head = Head.of(json.loads(line))
        over = head.state in SETTLED and head.state != "let_go"
        return Record(
            state=head.state,
            owner=self.names.index(head.owner) if head.owner else NOBODY,
            run=head.run,
            generation=head.generation,
            crashes=head.crashes,
            limit=head.limit,
            contended=head.contended,
            forced=head.forced,
            started=0 if over or not head.started else self._start_of(head.started, head.run),
            first=0 if over or not head.first else self._start_of(head.first, 0),
            origin=_number(head.origin),
            copy=_number(head.copy),
            drains=head.drains,
            alone=head.alone,
            tailored=head.tailored,
            tries=head.tries,
            deaths=head.deaths,
            dead_letter=head.dead_letter,
            payload=int(payload.rpartition(b"\n")[2]) if payload else None if head.kept_in or over else NOWHERE,
        )

    def _start_of(self, time: int, run: int) -> int:
        return self.starts.setdefault(time, run)

    def _time(self, start: int) -> int:
        """Return the time of a start that the model knows by its number."""
        return max((time for time, number in self.starts.items() if number == start), default=0) if start else 0

    # The world, where no script stands for it.

    def pass_time(self, state: Redis) -> None:
        """Let events happen that need no script: heartbeats expire, doubts end, deadlines come, a record is damaged."""
        for name, (kind, *_) in zip(self.names, state.hearts, strict=True):
            if kind == "expired":
                self.client.zadd(self.hearts, {name: EXPIRED})
            if kind in ("expired", "proven"):
                self.client.zadd(self.hearts, {f"*until:{name}": LONG_AGO}, xx=True)
        if state.waiting == "due":
            self.client.zadd(self.waiting, {MESSAGE: 1})
        if state.record and state.record.state == "damaged":
            self.client.set(self.record, DAMAGED)
        elif state.record is None:
            self.client.delete(self.record)

    # The calls.

    def call(self, call: Call) -> Any:
        """Run the real script; its answer is the model's."""
        return getattr(self, "_" + call.script)(**call.named)

    def _who(self, number: int) -> str:
        return "" if number == NOBODY else self.names[number]

    def _delivered(self, name: int, delivery: tuple[bool, bool] | None, payload: bytes) -> tuple[str, ...]:
        if delivery is None:
            return ()
        held, stored = delivery
        pipeline = self.client.pipeline(transaction=False)
        pipeline.delete(*self.broker_keys)
        if held:
            pipeline.sadd(self.broker_keys[0], _id(name))
        if stored:
            pipeline.hset(self.broker_keys[1], _id(name), payload)
        pipeline.execute()
        return self.broker_keys

    def _copy(self, *, generation: int = 1, origin: int = 0, copy: int = 0, **marks: Any) -> Copy:
        redelivered = marks.pop("redelivered", False)
        return replace(Copy(MESSAGE, generation, _id(origin), _id(copy), redelivered, "default", "work"), **marks)

    def _start(
        self,
        *,
        me: int,
        copy: int,
        payload: int,
        delivery: tuple[bool, bool] | None,
        here: str,
        limit: int | str,
        forgotten: bool,
        alone: bool | None,
        tailored: bool,
        due: bool,
        **marks: Any,
    ) -> Any:
        broker_keys = self._delivered(copy, delivery, _payload(payload))
        self._tick()
        self.due = due

        def start(data: bytes) -> Started:
            return self.members[me].messages.start(
                self._copy(copy=copy, **marks),
                data,
                limit=limit,
                here=here,
                forgotten=forgotten,
                alone=alone,
                tailored=tailored,
                broker_keys=broker_keys,
            )

        # As the middleware does it: the broker has the payload, or else is given it.
        started = start(b"" if broker_keys else _payload(payload))
        if started.answer is Start.PAYLOAD:
            started = start(_payload(payload))
        answer = started.answer.value
        if answer == "run":
            self.starts[started.started_ms] = started.run
        if answer in ("duplicate", "waiting"):
            assert started.wait_ms > 0
        owner = self.names.index(started.owner) if started.owner else NOBODY
        return answer, started.known, started.run, started.generation, started.crashes, started.drains, owner

    def _tick(self) -> None:
        """No two starts of one walk have the same time, for it is by their times that they are told apart."""
        latest = max(self.starts, default=0)
        while True:
            seconds, micro = self.client.time()
            if seconds * 1000 + micro // 1000 > latest:
                return

    def _clear_alone(self, me: int, run: int, origin: int) -> Any:
        self.members[me].messages.clear_alone(MESSAGE, run, _id(origin))

    def _complete(
        self,
        *,
        me: int,
        run: int,
        copy: int,
        generation: int,
        origin: int,
        started: int,
        due: bool,
        delivery: tuple[bool, bool] | None,
        **flags: Any,
    ) -> Any:
        self.due = due
        broker_keys = self._delivered(copy, delivery, b"x")
        copied = self._copy(generation=generation, origin=origin, copy=copy)
        return (
            self.members[me]
            .messages.complete(*(copied, run), started_ms=self._time(started), broker_keys=broker_keys, **flags)
            .value
        )

    def _shorten_retention(self, run: int) -> Any:
        return self.members[0].messages.shorten_retention([(MESSAGE, run, 0)])

    def _release(self, me: int, run: int, contended: bool, state: str, origin: int) -> Any:
        store = self.members[me]
        return store.messages.release(
            MESSAGE,
            run,
            contended=contended,
            consumed=state != "let_go",
            dead_lettered=state == "dead_lettered",
            copy=self._copy(origin=origin),
        ).value

    def _await_copy(self, me: int, run: int, origin: int, payload: int, delay: bool) -> Any:
        return (
            self.members[me].messages.await_copy(MESSAGE, run, _payload(payload), later=delay, origin=_id(origin)).value
        )

    def _defer(self, copy: int, at_broker: int | None) -> Any:
        self._keep(at_broker)
        return self.members[0].messages.defer(self._copy(copy=copy), 1)

    def _extend_deadline(self, generation: int) -> Any:
        return self.members[0].messages.extend_deadline(self._copy(generation=generation), 1)

    def _close_unstarted(self, state: str, **copied: Any) -> Any:
        return self.members[0].messages.close_unstarted(self._copy(**copied), state)

    def _reassert(
        self,
        *,
        me: int,
        copy: int,
        generation: int,
        origin: int,
        tries: int,
        started: int,
        payload: int,
        held: bool | None,
        **named: Any,
    ) -> Any:
        delivery = None if held is None else (held, True)
        mended, *numbers = self.members[me].messages.reassert(
            self._copy(generation=generation, origin=origin, copy=copy, tries=tries),
            lambda: _payload(payload),
            started_ms=self._time(started),
            broker_keys=self._delivered(copy, delivery, b"x"),
            **named,
        )
        if mended is Reasserted.WRITTEN and not started:
            self.starts[json.loads(self.client.get(self.record).partition(b"\n")[0])[8]] = 0
        return mended.value, *numbers

    def _heartbeat(self, me: int, kind: str) -> Any:
        store = self.members[me]
        if kind == "attested":
            return store.workers.heartbeat_on_behalf()
        store.workers.draining = kind == "draining"
        known = store.workers.heartbeat()
        if self.client.zscore(self.hearts, store.me) is None:
            store.workers.register({"instance": "i"})  # as its heartbeat does
        return known

    def _enter(self, me: int, subscribed: bool) -> Any:
        store = self.members[me]
        self._subscribe(store.keys.channel(store.me), subscribed)
        return store.workers.enter(patience=PATIENCE_MS / 1000, anew=True)

    def _suspect(self, other: int, me: int, seen: tuple[bool, bool], over: bool) -> Any:
        store, name, since = self.members[me], self.names[other], 0
        channels = (store.keys.channel(store.me), store.keys.channel(name), store.keys.probe(store.me))
        for channel, subscribed in zip(channels, (*seen, over), strict=True):
            self._subscribe(channel, subscribed)
        mine = f"{self.prefix}incarnation:{store.me}"
        if self.client.hexists(mine, "seen"):
            self.client.hset(mine, "seen", 1)  # it entered long ago
        note = self.client.hget(self.suspects, name)
        if note:
            since = 1
            self.client.hset(self.suspects, name, b"1 " + note.partition(b" ")[2])
        return store.workers.suspect(name, since).seen.value

    def _subscribe(self, channel: str, subscribed: bool) -> None:
        self.connection.send_command("SUBSCRIBE" if subscribed else "UNSUBSCRIBE", channel)
        while self.connection.read_response()[0] == b"message":
            pass  # a hint to one whose message was taken

    def _mark_dead(self, dead: int) -> Any:
        incarnation = DeadIncarnation(self.names[dead], "", "", "", "", "", [])
        return self.members[0].workers.mark_dead(incarnation, PROCESS)

    def _forget(self, dead: int) -> Any:
        return self.members[0].workers.forget(self.names[dead])

    def _return_to_broker(self, dead: int, held: bool | None) -> Any:
        results = self.members[0].recovery.return_to_broker(self.names[dead], [] if held is None else [(MESSAGE, held)])
        return None if results is None else results[0].value if results else "begun"

    def _claim(self, me: int, dead: int, leftovers: bool, at_broker: int | None) -> Any:
        self._keep(at_broker)
        answer = self.members[me].recovery.claim([MESSAGE], dead=self._who(dead), hold=60, leftovers=leftovers)[0]
        return answer.value if isinstance(answer, Claim) else self._claimed(answer)

    def _take(self, me: int, dead_letter: bool, force: bool, at_broker: int | None) -> Any:
        self._keep(at_broker)
        answer = self.members[me].operations.take(MESSAGE, hold=60, condemn=dead_letter, force=force)
        return answer if isinstance(answer, str) else self._claimed(answer)

    def _keep(self, payload: int | None) -> None:
        """The broker has this payload of the copy that the record names, or is done with it."""
        self.client.delete(self.broker_keys[1])
        raw = self.client.get(self.record)
        if payload is not None and raw not in (None, DAMAGED):
            copy = Head.of(json.loads(raw.partition(b"\n")[0])).copy
            self.client.hset(self.broker_keys[1], copy, _payload(payload))

    def _discard(self, force: bool) -> Any:
        return self.members[0].operations.discard(MESSAGE, force=force)

    @staticmethod
    def _claimed(answer: Orphan) -> Any:
        payload = int(answer.payload.rpartition(b"\n")[2]) if answer.payload else None
        return (
            answer.verdict.value,
            *(answer.run, answer.generation, answer.crashes, answer.limit, answer.drains, answer.tries),
            *(_number(answer.origin), payload),
        )

    def _orphan(self, generation: int) -> Orphan:
        return Orphan(MESSAGE, Claim.CLAIMED, generation=generation)

    def _confirm_copies(self, me: int, dead: int, generation: int, copy: int) -> Any:
        copies = [Enqueued(self._orphan(generation), _id(copy), "default", 0)]
        return self.members[me].recovery.confirm_copies(copies, dead=self._who(dead))[0].value

    def _return_claims(self, me: int, generation: int, why: str) -> Any:
        self.members[me].recovery.return_claims([(MESSAGE, generation, why)])

    def _extend_deadlines(self, copy: int, what: str) -> Any:
        return self.members[0].recovery.extend_deadlines([(MESSAGE, _id(copy), what)])[0]

    def _set_aside(self, me: int, generation: int, dead: int) -> Any:
        return self.members[me].recovery.set_aside(self._orphan(generation), dead=self._who(dead))
