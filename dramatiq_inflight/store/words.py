# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""What incarnations say to each other, and whether they can see each other's connections."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import redis

from .replies import Seen, Suspicion
from .scripts import ms
from .workers import Membership

__all__ = ["BEAT", "CLOSED", "DIED", "JOINED", "Words"]

#: A message was taken from you: beat, and hear of it; I am new, watch me; somebody has died, recover what is left.
BEAT, JOINED, DIED = "beat", "joined", "died"

#: Why an incarnation is dead that has no connection any more.
CLOSED = "its connections to Redis are closed"

#: How many are told of a death by one that saw it, and recovers nothing itself.
SOME = 4


class Words(Membership):
    """Publishes hints to others; enters, and looks who else is there."""

    @property
    def sharded(self) -> bool:
        """Whether channels belong to the node that has the keys, and messages stay there."""
        return isinstance(self.client, redis.RedisCluster)

    def wake(self, ids: Sequence[str], what: str) -> None:
        """Publish a hint to other incarnations, which may miss it."""
        node = self.node()
        publish = "SPUBLISH" if self.sharded else "PUBLISH"
        pipeline = node.pipeline(transaction=False)
        for id in ids:
            pipeline.execute_command(publish, self.keys.channel(id), what)
        if ids:
            self._ask(lambda: pipeline.execute(raise_on_error=False))  # a user who may not: it is a hint

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
        return self._ask(lambda: cluster.get_redis_connection(cluster.get_node_from_key(self.keys.heartbeats)))

    def find_node(self) -> None:
        """Have a cluster asked again which of its nodes has the keys.

        Raises:
          redis.RedisError: None of them answers.
        """
        cluster: Any = self.client
        self._ask(cluster.nodes_manager.initialize)

    def enter(self, *, patience: float, anew: bool, on_behalf: bool = False) -> bool:
        """Have the server see this incarnation's subscription, so that its death is known by that.

        Parameters:
          patience: How long it may take to come back when its connection is lost, seconds.
          anew: The subscription is a new one.
          on_behalf: This is another process, which sees the incarnation live.

        Returns: False if the server does not see it, or does not say which server it is.
        """
        entered = self._own(
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
        """How many connections each incarnation has that are subscribed to its channel."""
        node = self.node()
        channels = [self.keys.channel(id) for id in ids]
        reply: Any = self._ask(lambda: node.execute_command("PUBSUB", self._count, *channels))
        return dict(zip(ids, map(int, reply[1::2]), strict=True))

    def have_entered(self, ids: Collection[str]) -> Mapping[str, bool]:
        """Whether the server has ever seen each incarnation's subscription: then it looks at others."""
        pipeline = self.client.pipeline(transaction=False)
        for id in ids:
            pipeline.hexists(self.keys.incarnation(id), "life")
        return dict(zip(ids, map(bool, self._ask(pipeline.execute)), strict=True))

    def suspect(self, other: str, since: int = 0) -> Suspicion:
        """Note that no connection of another incarnation was seen; and that it is dead, once its patience is over.

        Parameters:
          since: What an earlier answer has said, if a connection was opened from scratch since; see suspect.lua.
        """
        seen, absent_since, patience = self._execute(
            "suspect",
            incarnation=self.keys.incarnation(self.me),
            other_incarnation=self.keys.incarnation(other),
            other=other,
            count=self._count,
            my_channel=self.keys.channel(self.me),
            its_channel=self.keys.channel(other),
            my_probe=self.keys.probe(self.me),
            absent_since=since,
            why=CLOSED,
        )
        return Suspicion(Seen(seen.decode()), absent_since, patience / 1000)

    @property
    def _count(self) -> str:
        return "SHARDNUMSUB" if self.sharded else "NUMSUB"
