# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The records in Redis: the only module that talks to the tracker's keys, one method a script.

The keys are those of keys.py.  Every method is one script, so it is atomic, and every method raises
``redis.RedisError`` when Redis cannot be reached or refuses.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from typing import Any, cast

import redis
from redis.commands.core import Script
from redis.lock import Lock

from .keys import Keys
from .records import (
    Answer,
    Challenged,
    Claim,
    Copy,
    DeadIncarnation,
    Due,
    Enqueued,
    Finished,
    HandedBack,
    Head,
    Mended,
    Orphan,
    Requeued,
    Saved,
    Stalled,
    Start,
    Started,
)
from .schema import FIELDS, OURS, Held, Refusal, Schema
from .version import __version__
from .wire import Call, Wire

__all__ = ["ASKED", "BATCH", "DIED", "GRACE", "JOINED", "Registry", "listening_times"]

STARTED = {answer.value.encode(): answer for answer in Start}
NO_PAYLOAD = Started(Start.PAYLOAD, True, 0, 0, 0, 0, 0, 0, 0, "")
FINISHED = {answer.value.encode(): answer for answer in Finished}

#: What incarnations say to each other: do you live; I am new, watch me; somebody has died, recover what is left.
ASKED, JOINED, DIED = "asked", "joined", "died"

#: How much is kept for one that does not listen.
LONGEST_LIST = 100

#: How many are told of a death by one that saw it, and recovers nothing itself.
SOME = 4

#: How many records one script handles at the most: they take about a millisecond of the server's time.
BATCH = 50

#: How long a message is remembered whose ack was sent, seconds: three times RabbitMQ's default heartbeat.  A broker
#: that has not read the ack notices within two that the connection is lost, and delivers the message again.
ACK_TTL = 180.0

#: How long a checkpoint is kept after it was last written, seconds: for longer than retries are delayed.
CHECKPOINT_TTL = 30 * 24 * 3600.0

#: The shortest grace after an outage, seconds; see _common.lua.
GRACE = 6.0

#: How long messages that are still running when their worker leaves may take to end, seconds.
HAND_OVER_DELAY = 5.0

#: What the TTL of a worker has more while it shuts down, milliseconds: its deadline tells that it was; see _common.lua.
DRAINING = 0.5

#: The first deadline for a recovered copy to start, in TTLs; doubles with each copy.
FIRST_DEADLINE_TTLS = 10


def _load_scripts() -> dict[str, str]:
    folder = files(__package__).joinpath("scripts")
    texts = {entry.name: entry.read_text("utf-8") for entry in folder.iterdir() if entry.name.endswith(".lua")}
    common = texts.pop("_common.lua")
    return {name.removesuffix(".lua"): common + text for name, text in texts.items()}


def listening_times(patience: float) -> tuple[float, float]:
    """How long to wait for a word at a time, and how long Redis may take to say that there is none, seconds.

    Parameters:
      patience: How long an answer may take.  A connection that is dead without anybody knowing is found out, and
        another one made, before two questions are left unanswered.
    """
    wait = min(max(patience / 2, 0.1), 10.0)
    return wait, wait + min(max(patience / 2, 0.5), 2.0)


class Registry:
    """The tracker's keys as one incarnation sees them.

    Parameters:
      client: Redis; its replies must be bytes.
      namespace: Prefix of every key.
      me: The id of this incarnation.
      heartbeat_ttl: How long a heartbeat is believed, seconds.
      fence_ttl: How long settled records are remembered, seconds.
      on_contact: Called after every script that this incarnation runs for itself, with whether it was known to live,
        when it was begun (``time.monotonic``), and whether Redis had not heard of it at all.
      on_answer_lost: Called when a script may have run, and what it said is not known.
      on_failure: Called after every command that did not reach Redis, or was refused.
      schema: What this version writes and can read.
    """

    def __init__(
        self,
        client: redis.Redis,
        namespace: str,
        me: str,
        *,
        heartbeat_ttl: float,
        fence_ttl: float,
        on_contact: Callable[[bool, float, bool], None] = lambda known, begun, absent: None,
        on_answer_lost: Callable[[], None] = lambda: None,
        on_failure: Callable[[redis.RedisError], None] = lambda error: None,
        schema: Schema | None = None,
    ) -> None:
        self.client = client
        self.schema = schema or OURS
        self.namespace = namespace
        self.keys = Keys(namespace)
        self.me = me
        self.ttl_ms: float = _ms(heartbeat_ttl)
        self.fence_ms = _ms(fence_ttl)
        self.deadline_ms = FIRST_DEADLINE_TTLS * _ms(heartbeat_ttl)
        self._on_contact = on_contact
        self._on_answer_lost = on_answer_lost
        self._on_failure = on_failure
        self._scripts: dict[str, Script] = {
            name: client.register_script(text) for name, text in _load_scripts().items()
        }
        self._wire = Wire(client, on_resend=on_answer_lost)
        self._mine = self.keys.running(me)
        #: What the start of a message may change beside its record, and its end.
        self._starts = (self._mine, self.keys.heartbeats, self.keys.waiting, self.keys.handed, *self.keys.journal)
        self._ends = (self._mine, self.keys.heartbeats, self.keys.waiting, *self.keys.journal)
        self._place: tuple[str, ...] = ()
        self._registered = False

    # A message's life.

    def start(
        self,
        copy: Copy,
        payload: bytes,
        *,
        limit: int,
        here: str,
        forgotten: bool = False,
        alone: bool | None = None,
        tailored: bool = False,
        broker_keys: Sequence[str] = (),
    ) -> Started:
        """May this copy run here?  One round trip.

        Parameters:
          payload: The encoded message; empty: as the broker has it, which takes `broker_keys`.
          limit: How many crashes it may have; see `Policy.limit`.
          here: What this process knows of the message: ``no``, ``running`` or ``ended``.
          forgotten: Whether Redis has ever lost what it knew of this incarnation, or may have.
          alone: Whether it has the process to itself; ``None``: that was not seen to yet.
          tailored: Whether its recovery takes a copy.
          broker_keys: The broker's ack set of this worker and queue, and its message hash, if on this Redis.
        """
        begun = time.monotonic()
        reply = self._call(
            "start",
            [self.keys.record(copy.message_id), *self._starts, *broker_keys],
            [
                *(self.me, self.ttl_ms, copy.message_id, copy.generation, copy.origin, _flag(copy.redelivered), here),
                *(copy.queue, copy.actor, limit, copy.broker_copy_id, payload, self.fence_ms),
                *(_flag(copy.duplicate), _flag(forgotten), "" if alone is None else _flag(alone), _flag(tailored)),
                *(_flag(copy.condemned), copy.run),
            ],
        )
        if len(reply) == 1:
            return NO_PAYLOAD
        self._in_contact(reply[1], begun)
        return Started._make([STARTED[reply[0]], reply[1] == 1, *reply[2:9], reply[9].decode()])

    def accompany(self, message_id: str, run: int) -> None:
        """A message that had its process to itself is about to get company."""
        self._own("accompany", [self.keys.record(message_id), self.keys.heartbeats], [self.me, self.ttl_ms, run])

    def finish(
        self,
        copy: Copy,
        run: int,
        *,
        again: bool,
        contended: bool,
        unacked: bool = False,
        remember: float = 0.0,
        broker_keys: Sequence[str] = (),
        then: Call | None = None,
    ) -> Finished:
        """The message is complete.  One round trip.

        Parameters:
          run: As `start` gave it; 0 if its answer was lost.
          again: Whether the run enqueued its own message again.
          contended: Whether another copy of it was met in this process.
          unacked: Whether it is to be remembered until `acked` says that the broker was told.
          remember: How long it is to be remembered at the least, seconds.
          broker_keys: As for `start`.
          then: A script of the broker's, on this Redis, to be run after it, sent in the same write.  If it fails, its
            error is raised.
        """
        keys = [self.keys.record(copy.message_id), *self._ends, self.keys.checkpoint(copy.message_id), *broker_keys]
        args = [
            *(self.me, self.ttl_ms, copy.message_id, run, copy.origin, _flag(again), _flag(contended)),
            *(self.fence_ms, copy.broker_copy_id, copy.generation, _flag(unacked)),
            round(remember * 1000),
        ]
        begun = time.monotonic()
        if then is None:
            reply = self._call("finish", keys, args)
        else:
            both = (Call(self._scripts["finish"], keys, args), then)
            reply, answer = self._ask(lambda: self._wire.exchange(both))
            for outcome in (answer, reply):
                if isinstance(outcome, redis.RedisError):
                    raise outcome
        self._in_contact(reply[1], begun)
        return FINISHED[reply[0]]

    def acked(self, finished: Sequence[tuple[str, int, float]]) -> int:
        """The broker was told of messages that were finished `unacked`.

        Parameters:
          finished: At most `BATCH` triples of message id, run, and for how long to remember it, seconds.

        Returns: how many records are forgotten then, or in `ACK_TTL`, whatever is later.
        """
        keys = [self.keys.record(id) for id, _, _ in finished]
        least = min(_ms(ACK_TTL), self.fence_ms)
        args = [x for _, run, remember in finished for x in (run, max(least, round(remember * 1000)))]
        return int(self._call("acked", keys, args))

    def release(
        self,
        message_id: str,
        run: int,
        *,
        contended: bool,
        consumed: bool = True,
        dead_lettered: bool = False,
        copy: Copy | None = None,
    ) -> Finished:
        """The message failed, and the broker holds its retry or its dead letter.  One round trip.

        Parameters:
          consumed: False: it never ran here, and whatever copy the broker has may run.
          dead_lettered: Its copy may run again, too: if it is met, it was replayed.
          copy: What ran, in case that its start was not recorded (run 0).
        """
        its_copy = "2" if dead_lettered else _flag(consumed)
        origin, generation = (copy.origin, copy.generation) if copy is not None else ("", 0)
        reply = self._own(
            "release",
            [self.keys.record(message_id), *self._ends],
            [self.me, self.ttl_ms, message_id, run, _flag(contended), self.fence_ms, its_copy, origin, generation],
        )
        return FINISHED[reply[0]]

    def hand_over(self, message_id: str, run: int, payload: bytes, *, later: bool = False) -> Finished:
        """The message failed and was acknowledged, but nothing was enqueued in its place: recovery has to.

        Parameters:
          payload: The encoded message; empty: as the record has it.
          later: It is about to be enqueued here: recovery has to only if no copy of it starts.
        """
        reply = self._own(
            "hand_over",
            [self.keys.record(message_id), *self._ends],
            [self.me, self.ttl_ms, message_id, run, payload, self.deadline_ms if later else 0, self.fence_ms],
        )
        return FINISHED[reply[0]]

    def put_off(self, copy: Copy, delay: float) -> None:
        """A copy was enqueued again with a delay, in seconds, and is about to be acknowledged."""
        self._call(
            "put_off",
            [self.keys.record(copy.message_id), self.keys.waiting, *self.keys.journal],
            [copy.message_id, copy.broker_copy_id, self.deadline_ms + round(delay * 1000), self.me],
        )

    def checkpoint(self, message_id: str, run: int, fields: dict[str, str]) -> Saved:
        """Keep how far a run has come.  One round trip."""
        reply = self._own(
            "checkpoint",
            [self.keys.record(message_id), self.keys.heartbeats, self.keys.checkpoint(message_id)],
            [self.me, self.ttl_ms, run, _ms(CHECKPOINT_TTL), *(text for pair in fields.items() for text in pair)],
        )
        return Saved(reply[0].decode())

    def kept(self, message_id: str) -> dict[str, str]:
        """What the last checkpoint of a message has; empty: there is none."""
        raw: Any = self._ask(lambda: self.client.hgetall(self.keys.checkpoint(message_id)))
        return {name.decode(): value.decode() for name, value in raw.items()}

    def stall(self, message_id: str, run: int, *, recover: bool, still: float, hold: float) -> Stalled:
        """A message that runs here has not moved for `still` seconds.  One round trip.

        Parameters:
          recover: Its run is given up, and this incarnation claims it, for `hold` seconds.
        """
        reply = self._own(
            "stall",
            [self.keys.record(message_id), *self._ends],
            [self.me, self.ttl_ms, message_id, run, _flag(recover), round(still * 1000), _ms(hold)],
        )
        return Stalled(reply[0].decode())

    def hold(self, copy: Copy, seconds: float) -> None:
        """A recovered copy waits here before it may run: its deadline comes so much later."""
        keys = [self.keys.record(copy.message_id), self.keys.waiting]
        self._call("hold", keys, [copy.message_id, copy.generation, self.deadline_ms + round(seconds * 1000)])

    def settle(self, copy: Copy, state: str, broker_keys: Sequence[str] = ()) -> None:
        """The broker is rid of a copy that never ran.

        Parameters:
          state: ``completed`` or ``dead_lettered``.
          broker_keys: As for `start`.
        """
        self._call(
            "settle",
            [
                *(self.keys.record(copy.message_id), self.keys.waiting, self.keys.heartbeats),
                *(*self.keys.journal, *broker_keys[1:]),
            ],
            [
                *(copy.message_id, copy.generation, copy.origin, _flag(copy.redelivered)),
                *(state, self.fence_ms, self.ttl_ms, copy.broker_copy_id),
            ],
        )

    def mend(
        self,
        copy: Copy,
        payload: bytes,
        *,
        run: int,
        limit: int,
        started_ms: int,
        crashes: int,
        drains: int,
        alone: bool = False,
        tailored: bool = False,
    ) -> tuple[Mended, int, int, int, int]:
        """This process runs the message: make the record say so, if nobody else has started it.

        Parameters:
          crashes, drains: As they were when this run started: what it was charged with since is taken back.

        Returns: what became of it, and the record's run, generation, crashes and drains.
        """
        reply = self._own(
            "mend",
            [self.keys.record(copy.message_id), *self._ends],
            [
                *(self.me, self.ttl_ms, copy.message_id, run, copy.generation, copy.origin, copy.queue, copy.actor),
                *(limit, copy.broker_copy_id, started_ms, crashes, drains, _flag(alone), _flag(tailored), payload),
            ],
        )
        return Mended(reply[0].decode()), int(reply[2]), int(reply[3]), int(reply[4]), int(reply[5])

    # An incarnation's life.

    def beat(self) -> bool:
        """Prove that this incarnation lives.  False: it had been taken for dead, or Redis has lost it."""
        return self._say_alive("beat", [self.keys.heartbeats], [self.me, self.ttl_ms])

    def attest(self) -> bool:
        """Beat on behalf of this incarnation, from a process that sees it live.  False: Redis does not know it."""
        return bool(self._call("attest", [self.keys.heartbeats], [self.me, self.ttl_ms]))

    def register(self, fields: dict[str, str]) -> Refusal | None:
        """Say who this incarnation is; `incarnation` gives it back.

        Returns: why it cannot share the namespace with those that are there; ``None``: it does.
        """
        if not isinstance(self.client, redis.RedisCluster):  # there no script is sent along with another
            pipeline = self.client.pipeline(transaction=False)
            for script in self._scripts.values():  # so that none is missing when it is sent ahead of an ack
                pipeline.script_load(script.script)
            self._ask(pipeline.execute)
        begun = time.monotonic()
        known = self._enter(self.me, {**fields, **self.schema.said()})
        if isinstance(known, Refusal):
            return known
        self._place = self.keys.places(fields.get("place", ""))
        self._registered = True
        self._in_contact(known, begun)
        return None

    def refusal(self) -> Refusal | None:
        """Why whoever is no worker must not change anything here; ``None``: it may."""
        answer = self._enter("", {})
        return answer if isinstance(answer, Refusal) else None

    def explain(self, refusal: Refusal) -> str:
        """Why the namespace cannot be shared, in words: by whom it is held, and what to do."""
        raw: Any = self._ask(lambda: self.client.hmget(self.keys.schema, FIELDS))
        holders = []
        everybody = self.everybody()
        for id, (said, _) in zip(everybody, self._said(everybody), strict=True):
            schema, version, instance = (said.get(name, b"").decode() for name in (b"schema", b"version", b"instance"))
            if id == refusal.blocker or schema == str(refusal.in_use):
                holders.append(f"{instance} ({f'dramatiq_inflight {version}, ' if version else ''}incarnation {id})")
        return refusal.text(self.namespace, __version__, self.schema, Held.of(raw), holders)

    def _enter(self, me: str, fields: dict[str, str]) -> int | Refusal:
        places = self.keys.places(fields.get("place", ""))
        others: list[str] = []
        while True:
            keys = [self.keys.heartbeats, self.keys.incarnation(me), *self.keys.journal, self.keys.schema]
            keys += [*map(self.keys.incarnation, others), *places]
            args = [me, self.ttl_ms, *self.schema, _flag(self._registered), len(others), *others]
            reply = self._call("register", keys, [*args, *(text for pair in fields.items() for text in pair)])
            if not isinstance(reply, list):
                return int(reply)
            if reply[0] == b"refused":
                return Refusal(int(reply[1]), reply[2].decode(), int(reply[3]) / 1000)
            others = [id for id in self.everybody() if id != me]

    def drain(self) -> None:
        """This incarnation shuts down: every proof of life that it sends from now on says so."""
        self.ttl_ms = int(self.ttl_ms) + DRAINING

    def leave(self) -> int:
        """End this incarnation in order.  What it still runs is handed over after `HAND_OVER_DELAY` seconds.

        Returns: how many messages that are.
        """
        self.ttl_ms = (
            _ms(HAND_OVER_DELAY) + DRAINING
        )  # A thread that goes on must not keep the incarnation alive for longer.
        keys = [
            *(self.keys.heartbeats, self.keys.incarnation(self.me), self._mine, *self.keys.heard_by(self.me)),
            *(*self.keys.journal, *self._place),
        ]
        return int(self._call("leave", keys, [self.me, self.ttl_ms]))

    def count_running(self) -> int:
        """How many messages Redis says that this incarnation runs."""
        return int(self._ask(lambda: self.client.zcard(self._mine)))

    def running_here(self) -> set[str]:
        """The messages that Redis says this incarnation runs."""
        return {id.decode() for id in self._ask(lambda: self.client.zrange(self._mine, 0, -1))}

    def runs_of(self, ids: Iterable[str]) -> dict[str, int]:
        """The present runs of those messages that have a record."""
        ids = list(ids)
        return {id: head.run for id, head in zip(ids, self.peek(ids), strict=True) if head is not None}

    # Recovery.

    def lock(self, ttl: float) -> Lock:
        """The recovery lock, which saves work and protects nothing; not yet acquired."""
        return Lock(self.client, self.keys.lock, timeout=ttl, blocking=False, thread_local=False)

    def due(self, *, skip_dead: int = 0, skip_overdue: int = 0) -> Due:
        """What is there to recover, a batch of each kind, passing over so many that are to be left."""
        keys = [self.keys.heartbeats, self.keys.waiting, self.keys.lock]
        dead, overdue, next_ms = self._call("due", keys, [self.ttl_ms, BATCH, skip_dead, skip_overdue])
        next_in = next_ms / 1000 if next_ms >= 0 else None
        return Due([id.decode() for id in dead], [id.decode() for id in overdue], next_in)

    def incarnation(self, id: str) -> DeadIncarnation:
        """What an incarnation said of itself."""
        return self.incarnations([id])[0]

    def incarnations(self, ids: Sequence[str]) -> list[DeadIncarnation]:
        """What incarnations said of themselves."""
        return [_incarnation(id, raw, deadline) for id, (raw, deadline) in zip(ids, self._said(ids), strict=True)]

    def _said(self, ids: Sequence[str]) -> list[tuple[dict[bytes, bytes], float | None]]:
        """What incarnations said of themselves, and until when they are believed to live."""
        pipeline = self.client.pipeline(transaction=False)
        for id in ids:
            pipeline.hgetall(self.keys.incarnation(id))
            pipeline.zscore(self.keys.heartbeats, id)
        replies = self._ask(pipeline.execute)
        return list(zip(replies[::2], replies[1::2], strict=True))

    def everybody(self) -> list[str]:
        """All incarnations that are believed to live, or whose death is not recovered yet."""
        return list(self.deadlines())

    def in_place(self, place: str) -> list[str]:
        """The incarnations in a place, in an order that is the same for all who ask."""
        (key,) = self.keys.places(place)
        return sorted(id.decode() for id in self._ask(lambda: self.client.smembers(key)))

    def prove(self, dead: DeadIncarnation, why: str) -> bool:
        """An incarnation is dead beyond doubt.  False: that was known, or it has left."""
        keys = [self.keys.heartbeats, self.keys.incarnation(dead.id), *self.keys.journal, *self.keys.places(dead.place)]
        return bool(self._call("prove", keys, [dead.id, why]))

    def notice(self, dead: DeadIncarnation) -> bool:
        """Note for people that an incarnation is dead.  False: it is back, or that is noted already."""
        keys = [self.keys.heartbeats, self.keys.incarnation(dead.id), *self.keys.journal]
        return bool(self._call("notice", keys, [dead.id, self.ttl_ms, dead.why]))

    def deadlines(self) -> dict[str, float]:
        """Until when each incarnation is believed to live, milliseconds of Redis's clock."""
        scores: Any = self._ask(lambda: self.client.zrange(self.keys.heartbeats, 0, -1, withscores=True))
        return {member.decode(): score for member, score in scores if not member.startswith(b"*")}

    def wake(self, ids: Sequence[str], what: str) -> None:
        """Say something to other incarnations; see `heard`."""
        self._say([(self.keys.wake(id), what) for id in ids])

    def tell_some(self, what: str) -> None:
        """Say something to some others, whoever they are."""
        others = [id for id in self.everybody() if id != self.me]
        self.wake(random.sample(others, min(SOME, len(others))), what)

    def ask(self, ids: Sequence[str]) -> None:
        """Ask other incarnations whether they live.  The answer is a heartbeat; see `challenge` and `deadlines`.

        Each is asked twice over: the worker itself, and its heartbeat's process, if it has one.
        """
        self._say([(key, ASKED) for id in ids for key in self.keys.heard_by(id)])

    def challenge(self, id: str, token: str) -> Challenged:
        """Ask an incarnation whether it lives, note when, and say what is known by now.

        Parameters:
          token: As the first answer gave it; empty at first.
        """
        if not token:
            token = str(int(self._ask(lambda: self.client.zscore(self.keys.heartbeats, id)) or 0))
        # What is noted was asked, and asked of an owner that had this heartbeat: an answer may come before the note.
        self.ask([id])
        keys = [self.keys.heartbeats, self.keys.incarnation(id)]
        answer, wait_ms = self._call("challenge", keys, [id, self.ttl_ms, token])
        return Challenged(Answer(answer.decode()), wait_ms / 1000, token)

    def heard(self, client: redis.Redis, timeout: float, *, by_process: bool = False) -> str:
        """Wait until somebody says something to this incarnation; empty: nobody did within `timeout` seconds.

        Parameters:
          client: One whose bounds allow for the wait.
          by_process: Listen to the questions that are put to the heartbeat's process.
        """
        found: Any = client.blpop([self.keys.asked(self.me) if by_process else self.keys.wake(self.me)], timeout)
        return str(found[1], "utf-8") if found else ""

    def _say(self, sayings: Sequence[tuple[str, str]]) -> None:
        pipeline = self.client.pipeline(transaction=False)
        for key, what in sayings:
            pipeline.lpush(key, what)
            pipeline.ltrim(key, 0, LONGEST_LIST - 1)
            pipeline.pexpire(key, int(self.ttl_ms))
        self._ask(pipeline.execute)

    def registered_brokers(self) -> list[tuple[str, str]]:
        """Namespace and broker id of every incarnation that has a RedisBroker on this Redis, living or dead."""
        pipeline = self.client.pipeline(transaction=False)
        for id in self.everybody():
            pipeline.hmget(self.keys.incarnation(id), "broker_namespace", "broker_id")
        rows = self._ask(pipeline.execute)
        return [(namespace.decode(), id.decode()) for namespace, id in rows if namespace and id]

    def running_of(self, incarnation: str, offset: int) -> list[str]:
        """A batch of the messages that another incarnation runs, oldest first, from `offset`."""
        key = self.keys.running(incarnation)
        return [id.decode() for id in self._ask(lambda: self.client.zrange(key, offset, offset + BATCH - 1))]

    def peek(self, ids: Iterable[str]) -> list[Head | None]:
        """The heads of at most `BATCH` records."""
        heads = self._call("peek", [self.keys.record(id) for id in ids], [])
        return [Head.of(json.loads(head)) if head else None for head in heads]

    def hand_back(self, dead: str, held: Sequence[tuple[str, bool]]) -> list[HandedBack] | None:
        """Let go of a dead worker's records.

        Parameters:
          held: At most `BATCH` pairs of message id and whether the broker still holds its copy.

        Returns: what became of each; ``None``: the incarnation is back, and nothing was done.
        """
        reply = self._call(
            "hand_back",
            [
                *(self.keys.heartbeats, self.keys.waiting, self.keys.running(dead), self.keys.handed),
                *(*self.keys.journal, *(self.keys.record(id) for id, _ in held)),
            ],
            [
                *(dead, self.ttl_ms, self.deadline_ms, self.fence_ms, self.me),
                *(x for id, has in held for x in (id, _flag(has))),
            ],
        )
        return [HandedBack(result.decode()) for result in reply[1:]] if reply[0] else None

    def count_aside(self) -> int:
        """How many payloads are set aside because they could not be decoded."""
        return int(self._ask(lambda: self.client.hlen(self.keys.aside)))

    def was_handed_back(self) -> bool:
        """Whether what this incarnation had fetched was ever given to others."""
        return self._ask(lambda: self.client.zscore(self.keys.handed, self.me)) is not None

    def is_forgotten(self) -> bool:
        """Whether Redis does not know who this incarnation is, though nobody has recovered it: it has lost its data."""
        known = self._ask(lambda: self.client.hexists(self.keys.incarnation(self.me), "booted"))
        return not known and not self.was_handed_back()

    def claim(self, ids: Sequence[str], *, dead: str, hold: float, leftovers: bool = False) -> list[Orphan | Claim]:
        """Take at most `BATCH` orphans, to enqueue a copy of each.

        Parameters:
          dead: The dead incarnation that ran them; empty for records past their deadline.
          hold: How long the claim holds, seconds.
          leftovers: Also what this incarnation has claimed before, and did not bring to an end.
        """
        reply = self._call(
            "claim",
            [
                *(self.keys.heartbeats, self.keys.waiting, self.keys.running(dead), self.keys.aside),
                *(self.keys.incarnation(dead), *self.keys.journal, *(self.keys.record(id) for id in ids)),
            ],
            [self.me, self.ttl_ms, dead, _ms(hold), self.fence_ms, _flag(leftovers), *ids],
        )
        return [_orphan(id, row) for id, row in zip(ids, reply, strict=True)]

    def requeued(self, copies: Sequence[Enqueued], *, dead: str) -> list[Requeued]:
        """The copies of claimed orphans, at most `BATCH`, are with the broker."""
        reply = self._call(
            "requeued",
            [
                self.keys.waiting,
                self.keys.running(dead),
                *(self.keys.record(copy.orphan.message_id) for copy in copies),
            ],
            [
                *(self.me, self.deadline_ms, dead),
                *(
                    x
                    for orphan, copy_id, queue, delay in copies
                    for x in (orphan.message_id, orphan.generation, copy_id, queue, round(delay * 1000))
                ),
            ],
        )
        return [Requeued(result.decode()) for result in reply]

    def postpone(self, answers: Sequence[tuple[str, str, bool]]) -> list[str]:
        """Records past their deadline: at most `BATCH` triples of message id, copy id, and whether the broker has it.

        Returns: for each ``postponed``, ``settled`` or ``gone``.
        """
        reply = self._call(
            "postpone",
            [self.keys.waiting, *(self.keys.record(id) for id, _, _ in answers)],
            [
                *(self.deadline_ms, self.fence_ms),
                *(x for id, copy_id, has in answers for x in (id, copy_id, "held" if has else "consumed")),
            ],
        )
        return [result.decode() for result in reply]

    def set_aside(self, orphan: Orphan, *, dead: str) -> bool:
        """Keep a claimed payload that cannot be decoded where people look for it."""
        keys = [
            self.keys.record(orphan.message_id),
            self.keys.waiting,
            self.keys.running(dead),
            self.keys.aside,
            *self.keys.journal,
        ]
        return bool(self._call("set_aside", keys, [self.me, orphan.message_id, orphan.generation]) == b"aside")

    # What an operator does.

    def take(self, message_id: str, *, hold: float, condemn: bool, force: bool) -> Orphan | str:
        """Take a message from whoever has it, to enqueue a copy; or why not: see take.lua.

        Parameters:
          hold: How long the claim holds, seconds.
          condemn: The copy is to be dead-lettered.
          force: Also from a living worker that runs it.
        """
        owner = self._owner(message_id)
        keys = [self.keys.record(message_id), self.keys.heartbeats, self.keys.waiting, self.keys.running(owner)]
        args = [self.me, self.ttl_ms, message_id, owner, _ms(hold), _flag(condemn), _flag(force), self.fence_ms]
        row = self._call("take", [*keys, *self.keys.journal], args)
        if force and owner:
            self.ask([owner])  # with its answer it hears that it has lost a message
        return row[0].decode() if len(row) == 1 else cast("Orphan", _orphan(message_id, row))

    def discard(self, message_id: str, *, force: bool = False) -> str:
        """Give a message up; or why not: see discard.lua.

        Parameters:
          force: Also one that runs on a living worker.
        """
        owner = self._owner(message_id)
        keys = [self.keys.record(message_id), self.keys.heartbeats, self.keys.waiting, self.keys.running(owner)]
        keys += [self.keys.aside, *self.keys.journal, self.keys.checkpoint(message_id)]
        answer = self._call("discard", keys, [self.ttl_ms, message_id, owner, self.fence_ms, _flag(force)])
        if force and owner:
            self.ask([owner])
        return str(answer, "utf-8")

    def drop_aside(self, message_id: str) -> None:
        """What was set aside is enqueued anew, and need not be kept."""
        self._call("drop_aside", [self.keys.aside, *self.keys.journal], [message_id])

    def _owner(self, message_id: str) -> str:
        (head,) = self.peek([message_id])
        return head.owner if head is not None else ""

    def reap(self, dead: str, place: str = "") -> bool:
        """Forget a dead incarnation.  False: it is back, or something of it is still to be recovered."""
        keys = [
            *(self.keys.heartbeats, self.keys.incarnation(dead), self.keys.running(dead), *self.keys.heard_by(dead)),
            *(*self.keys.journal, *self.keys.places(place)),
        ]
        return bool(self._call("reap", keys, [dead, self.ttl_ms]))

    # How it gets there.

    def run(self, call: Call) -> Any:
        """Run a script of the broker's, on this Redis, with the tracker's bounds."""
        return self._ask(lambda: self._wire.call(*call))

    def close(self) -> None:
        """Close what connections are idle."""
        self._wire.close()

    def _own(self, script: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """A script that this incarnation runs for itself: it renews the heartbeat."""
        begun = time.monotonic()
        reply = self._call(script, keys, args)
        self._in_contact(reply[1], begun)
        return reply

    def _say_alive(self, script: str, keys: Sequence[str], args: Sequence[Any]) -> bool:
        """A script that does nothing else, or whose answer is no more than whether this incarnation was known."""
        begun = time.monotonic()
        return self._in_contact(self._call(script, keys, args), begun)

    def _in_contact(self, known: int, begun: float) -> bool:
        """A script has renewed the heartbeat; `known`: as ``beat`` in _common.lua says it."""
        self._on_contact(known == 1, begun, known < 0)
        return known == 1

    def _call(self, script: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        return self._ask(lambda: self._wire.call(self._scripts[script], keys, args))

    def _ask(self, command: Callable[[], Any]) -> Any:
        try:
            return command()
        except redis.RedisError as error:
            self._on_answer_lost()
            self._on_failure(error)
            raise


def _incarnation(id: str, raw: dict[bytes, bytes], deadline: float | None) -> DeadIncarnation:
    said = {name.decode(): value.decode(errors="replace") for name, value in raw.items()}
    return DeadIncarnation(
        id=id,
        instance=said.get("instance", ""),
        host=said.get("host", ""),
        pid=said.get("pid", ""),
        broker_namespace=said.get("broker_namespace", ""),
        broker_id=said.get("broker_id", ""),
        queues=json.loads(said.get("queues", "[]")),
        custody=said.get("custody", ""),
        dead_since_ms=int(said.get("gone", deadline or 0)),
        draining=(deadline or 0) % 1 >= DRAINING,
        left="left" in said,
        proof=said.get("why", ""),
        place=said.get("place", ""),
        process_started=said.get("process_started", ""),
    )


def _orphan(message_id: str, row: list[Any]) -> Orphan | Claim:
    answer = Claim(row[0].decode())
    if len(row) == 1:
        return answer
    run, generation, crashes, limit, started, first, drains = (int(number) for number in row[1:8])
    origin, queue, actor = (text.decode() for text in row[8:11])
    return Orphan(
        message_id=message_id,
        verdict=answer,
        run=run,
        generation=generation,
        crashes=crashes,
        limit=limit,
        started_ms=started,
        first_ms=first or started,
        drains=drains,
        origin=origin,
        queue=queue,
        actor=actor,
        payload=row[11],
    )


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _flag(value: bool) -> str:
    return "1" if value else "0"
