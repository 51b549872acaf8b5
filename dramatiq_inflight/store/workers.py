# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The incarnations in the records: they come, beat, say things to each other, are looked at, and go."""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from ..threads.moment import Moment
from ..version import __version__
from .cause import CONNECTION, Cause
from .records import DRAINING, DeadIncarnation
from .replies import Seen, Suspicion
from .schema import FIELDS, Held, Refusal
from .scripts import Part, ms

__all__ = ["BEAT", "DIED", "GRACE", "JOINED", "Ended", "Workers"]

#: The shortest grace after an outage, seconds; see common.lua.
GRACE = 6.0

#: How long messages that are still running when their worker leaves may take to end, seconds.
HAND_OVER_DELAY = 5.0

#: A message was taken from you: beat, and hear of it; I am new, watch me; somebody has died, recover what is left.
BEAT, JOINED, DIED = "beat", "joined", "died"

#: How many are told of a death by one that saw it, and recovers nothing itself.
SOME = 4


@dataclass(slots=True)
class Ended:
    """How many messages of a queue have ended, how many of them failed, and how long all of them ran."""

    ended: int = 0
    failed: int = 0
    seconds: float = 0.0


class Workers(Part):
    """Registers this incarnation, keeps it alive, and sees the others."""

    #: The set of those in its place, once it has said where that is.
    _place: str | None = None

    #: The server that this incarnation has booted with, by its run id.
    _server = ""

    #: The server as it was last heard of: what is fetched from now on comes from it, or from a later one.
    server = ""

    #: Whether it shuts down.
    draining = False

    #: When it was registered first.
    _since: Moment | None = None

    def register(self, fields: dict[str, str]) -> Refusal | None:
        """Say who this incarnation is; `incarnation` gives it back.

        Returns: why it cannot share the namespace with those that are there; ``None`` if it does.
        """
        if not isinstance(self.client, redis.RedisCluster):  # there no script is sent along with another
            pipeline = self.client.pipeline(transaction=False)
            for script in self.scripts.loaded.values():  # so that none is missing when it is sent ahead of an ack
                pipeline.script_load(script.script)
            self.scripts.ask(pipeline.execute)
        self.server = self.ask_server()
        self._server = self._server or self.server
        begun = Moment.now()
        known = self._register(self.me, {**fields, "schema": str(self.scripts.schema)})
        if isinstance(known, Refusal):
            return known
        self._place = self.keys.place(fields.get("place", ""))
        self._since = self._since or begun
        self.scripts.in_contact(known, begun)
        if self.draining:
            self.heartbeat()  # Redis did not know this incarnation, and was to hear that it shuts down
        return None

    def count(self, ended: Mapping[str, Ended], backlogs: Mapping[str, int]) -> bool:
        """Record which messages have ended in each queue since the last time, and how many are there to be run.

        Returns: True if this is the first report of the present minute, so that backlogs are wanted.
        """
        queues = ended.keys() | backlogs.keys()
        rows = []
        for queue in queues:
            tally = ended.get(queue, Ended())
            counted = {"ended": tally.ended, "failed": tally.failed, "ms": round(tally.seconds * 1000)}
            rows.append({"queue": queue, **counted, "backlog": backlogs.get(queue, -1)})
        return bool(self.scripts.execute("count", rows))

    def refusal(self) -> Refusal | None:
        """Return why a process that is no worker may change nothing here; ``None`` if it may."""
        answer = self._register("", {})
        return answer if isinstance(answer, Refusal) else None

    def explain(self, refusal: Refusal) -> str:
        """Return why the namespace cannot be shared, in words: by whom it is held, and what to do."""
        raw: Any = self.scripts.ask(lambda: self.client.hmget(self.keys.schema, FIELDS))
        blocker = str(self.incarnation(refusal.blocker)) if refusal.blocker else ""
        return refusal.text(self.scripts.namespace, __version__, self.scripts.schema, Held.of(raw).version, blocker)

    def _register(self, me: str, fields: dict[str, str]) -> int | Refusal:
        reply = self.scripts.execute(
            "register",
            incarnation=self.keys.incarnation(me),
            place=self.keys.place(fields.get("place", "")),
            me=me,
            writes=self.scripts.schema,
            up=ms(self._since.age) if self._since is not None else 0,
            rows=[{"field": field, "value": value} for field, value in fields.items()],
        )
        if isinstance(reply, list):
            return Refusal(int(reply[1]), reply[2].decode(), int(reply[3]) / 1000)
        return int(reply)

    def heartbeat(self) -> bool:
        """Prove that this incarnation lives.  False if it had been declared dead, or Redis has lost it."""
        begun = Moment.now()
        known = self.scripts.execute("heartbeat", kind="draining" if self.draining else "alive")
        return self.scripts.in_contact(known, begun)

    def heartbeat_on_behalf(self) -> bool:
        """Beat on behalf of this incarnation, from a process that sees it live.  False if Redis does not know it."""
        return int(self.scripts.execute("heartbeat", kind="attested")) >= 0

    def drain(self) -> None:
        """This incarnation shuts down: every beat from now on says so."""
        self.draining = True

    def deregister(self) -> int:
        """End this incarnation in order.  Messages that it still runs are handed over after `HAND_OVER_DELAY` seconds.

        Returns: how many messages that are.
        """
        # A thread that goes on must not keep the incarnation alive for longer.
        self.scripts.ttl_ms = ms(HAND_OVER_DELAY)
        incarnation = self.keys.incarnation(self.me)
        left = self.scripts.execute(
            "deregister",
            incarnation=incarnation,
            running=self.scripts.mine,
            place=self._place,
            delay=self.scripts.ttl_ms,
        )
        return int(left)

    def was_handed_back(self) -> bool:
        """Return whether what this incarnation had fetched was ever given to others."""
        return self.scripts.ask(lambda: self.client.zscore(self.keys.handed, self.me)) is not None

    def is_forgotten(self, since: str = "") -> bool:
        """Return whether Redis may have lost what it knew of this incarnation, or a part of it.

        It does not know the incarnation, though nobody has recovered it.  Or it is another server than before: its
        data may be older than what has happened since.

        Parameters:
          since: The server that is meant, by its run id; empty for the one at boot.
        """
        if self.ask_server() != (since or self._server):
            return True
        known = self.scripts.ask(lambda: self.client.hexists(self.keys.incarnation(self.me), "booted"))
        return not known and not self.was_handed_back()

    def ask_server(self) -> str:
        """Ask for the id that the server drew when it started; return the known one if this user may not.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """

        def ask() -> str:
            try:
                return str(self.client.info("server").get("run_id", self._server))
            except redis.ResponseError:  # the ACL does not allow INFO, or a proxy does not know it
                return self._server

        run_id: str = self.scripts.ask(ask)
        return run_id

    # The others.

    def incarnation(self, id: str) -> DeadIncarnation:
        """Return the description that an incarnation gave of itself."""
        return self.incarnations([id])[0]

    def incarnations(self, ids: Sequence[str]) -> list[DeadIncarnation]:
        """Return the descriptions that incarnations gave of themselves."""
        return [_incarnation(id, raw, *scores) for id, (raw, scores) in zip(ids, self._said(ids), strict=True)]

    def _said(self, ids: Sequence[str]) -> list[tuple[dict[bytes, bytes], list[float | None]]]:
        """Return the descriptions of incarnations, the deadlines of their heartbeats, and whether they shut down."""
        pipeline = self.client.pipeline(transaction=False)
        for id in ids:
            pipeline.hgetall(self.keys.incarnation(id))
            pipeline.zmscore(self.keys.heartbeats, [id, DRAINING + id])
        replies = self.scripts.ask(pipeline.execute)
        return list(zip(replies[::2], replies[1::2], strict=True))

    def everybody(self) -> list[str]:
        """All incarnations that are believed to live, or whose death is not recovered yet."""
        return list(self.deadlines())

    def in_place(self, place: str) -> list[str]:
        """The incarnations in a place, in an order that is the same for all who ask."""
        key = self.keys.place(place)
        return sorted(id.decode() for id in self.scripts.ask(lambda: self.client.smembers(key))) if key else []

    def deadlines(self) -> dict[str, float]:
        """Until when each incarnation is believed to live, milliseconds of Redis's clock."""
        scores: Any = self.scripts.ask(
            lambda: self.client.zrangebyscore(self.keys.heartbeats, 0, "+inf", withscores=True)
        )
        return {member.decode(): score for member, score in scores if not member.startswith(b"*")}

    def registered_brokers(self) -> list[tuple[str, str]]:
        """Namespace and broker id of every incarnation that has a RedisBroker on this Redis, living or dead."""
        pipeline = self.client.pipeline(transaction=False)
        for id in self.everybody():
            pipeline.hmget(self.keys.incarnation(id), "broker_namespace", "broker_id")
        rows = self.scripts.ask(pipeline.execute)
        return [(namespace.decode(), id.decode()) for namespace, id in rows if namespace and id]

    def mark_dead(self, dead: DeadIncarnation, cause: Cause) -> bool:
        """An incarnation is dead beyond doubt.  False: that was known, or it has left."""
        incarnation, place = self.keys.incarnation(dead.id), self.keys.place(dead.place)
        return bool(
            self.scripts.execute("mark_dead", incarnation=incarnation, place=place, dead=dead.id, cause=cause.number)
        )

    def record_death(self, dead: DeadIncarnation) -> bool:
        """Note for people that an incarnation is dead; return False if it is back, or that is noted already."""
        incarnation = self.keys.incarnation(dead.id)
        return bool(self.scripts.execute("record_death", incarnation=incarnation, dead=dead.id))

    def forget(self, dead: str, place: str = "") -> bool:
        """Forget a dead incarnation; return False if it is back, or something of it is still to be recovered."""
        reaped = self.scripts.execute(
            "forget",
            incarnation=self.keys.incarnation(dead),
            running=self.keys.running(dead),
            place=self.keys.place(place),
            dead=dead,
        )
        return bool(reaped)

    @property
    def sharded(self) -> bool:
        """True if channels belong to the node that has the keys, and messages stay there."""
        return isinstance(self.client, redis.RedisCluster)

    def wake(self, ids: Sequence[str], what: str) -> None:
        """Publish a hint to other incarnations, which may miss it."""
        node = self.node()
        publish = "SPUBLISH" if self.sharded else "PUBLISH"
        pipeline = node.pipeline(transaction=False)
        for id in ids:
            pipeline.execute_command(publish, self.keys.channel(id), what)
        if ids:
            self.scripts.ask(lambda: pipeline.execute(raise_on_error=False))  # a user who may not: it is a hint

    def tell_some(self, what: str) -> None:
        """Publish a hint to some others, whoever they are."""
        others = [id for id in self.everybody() if id != self.me]
        self.wake(random.sample(others, min(SOME, len(others))), what)

    def node(self) -> Any:
        """A client of the server that has the keys and the channels.

        Raises:
          redis.RedisError: That is not known.
        """
        if not self.sharded:
            return self.client
        cluster: Any = self.client
        return self.scripts.ask(lambda: cluster.get_redis_connection(cluster.get_node_from_key(self.keys.heartbeats)))

    def find_node(self) -> None:
        """Have a cluster asked again which of its nodes has the keys.

        Raises:
          redis.RedisError: None of them answers.
        """
        cluster: Any = self.client
        self.scripts.ask(cluster.nodes_manager.initialize)

    def enter(self, *, patience: float, anew: bool, on_behalf: bool = False) -> bool:
        """Have the server see this incarnation's subscription, so that its death is known by that.

        Parameters:
          patience: How long it may take to come back when its connection is lost, seconds.
          anew: The subscription is a new one.
          on_behalf: This is another process, which sees the incarnation live.

        Returns: False if the server does not see it, or does not say which server it is.
        """
        entered = self.scripts.own(
            "enter",
            incarnation=self.keys.incarnation(self.me),
            on_behalf=on_behalf,
            count=self._count,
            channel=self.keys.channel(self.me),
            patience=ms(patience),
            anew=anew,
        )
        if entered[0]:
            self.server = entered[2].decode().partition(" ")[0]
        return bool(entered[0])

    def look(self, ids: Sequence[str]) -> Mapping[str, int]:
        """Return how many connections each incarnation has that are subscribed to its channel."""
        node = self.node()
        channels = [self.keys.channel(id) for id in ids]
        reply: Any = self.scripts.ask(lambda: node.execute_command("PUBSUB", self._count, *channels))
        return dict(zip(ids, map(int, reply[1::2]), strict=True))

    def have_entered(self, ids: Collection[str]) -> Mapping[str, bool]:
        """Return whether the server has ever seen each incarnation's subscription: then it looks at others."""
        pipeline = self.client.pipeline(transaction=False)
        for id in ids:
            pipeline.hexists(self.keys.incarnation(id), "life")
        return dict(zip(ids, map(bool, self.scripts.ask(pipeline.execute)), strict=True))

    def suspect(self, other: str, since: int = 0) -> Suspicion:
        """Note that no connection of another incarnation was seen; and that it is dead, once its patience is over.

        Parameters:
          since: The earlier answer, if a connection was opened from scratch since; see suspect.lua.
        """
        seen, absent_since, patience = self.scripts.execute(
            "suspect",
            incarnation=self.keys.incarnation(self.me),
            other_incarnation=self.keys.incarnation(other),
            other=other,
            count=self._count,
            my_channel=self.keys.channel(self.me),
            its_channel=self.keys.channel(other),
            my_probe=self.keys.probe(self.me),
            absent_since=since,
            cause=CONNECTION.number,
        )
        return Suspicion(Seen(seen.decode()), absent_since, patience / 1000)

    @property
    def _count(self) -> str:
        return "SHARDNUMSUB" if self.sharded else "NUMSUB"


def _incarnation(id: str, raw: dict[bytes, bytes], deadline: float | None, draining: float | None) -> DeadIncarnation:
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
        draining=draining is not None,
        cause=Cause.of_deadline(deadline, "left" in said),
        place=said.get("place", ""),
        process_started=said.get("process_started", ""),
    )
