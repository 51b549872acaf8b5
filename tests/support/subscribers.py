# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The connections of living workers, as the tracker's Redis sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import redis

from .servers import life_of

__all__ = ["QUALIFIED", "Subscribers"]

#: How long a worker is connected before it judges others, and some more, milliseconds; see QUALIFYING in common.lua.
QUALIFIED = 6500


class Subscribers:
    """The workers of one namespace, each of which is subscribed to a channel of its own.

    Parameters:
      prefix: The prefix of the tracker's keys.
      admin: Returns a client of the server that is the primary now.
      number: How many worker processes there are.
    """

    def __init__(self, prefix: str, admin: Callable[[], Any], number: int) -> None:
        self.prefix, self.admin, self.number = prefix, admin, number

    def can_judge(self) -> bool:
        """True if each worker has been connected for so long that it can judge the others."""
        client = self.admin()
        try:
            seconds, _ = client.time()
            said = self._said(client).values()
        except redis.RedisError:
            return False
        if len(said) != self.number or not all(b"life" in one for one in said):
            return False
        return bool(seconds * 1000 - max(int(one[b"seen"]) for one in said) > QUALIFIED)

    def are_back(self) -> bool:
        """True if all workers are subscribed, and have entered on the server as it is now."""
        client = self.admin()
        try:
            life = life_of(client)
            said = self._said(client)
            counts = [count for _, count in client.pubsub_numsub(*(f"{self.prefix}in:{id}" for id in said))]
        except redis.RedisError:
            return False
        entered = [one for one in said.values() if one.get(b"life") == life.encode()]
        return len(entered) == self.number and all(counts)

    def lose_one(self, client: Any = None) -> None:
        """Let the server close the subscription of one worker.

        Parameters:
          client: A connected client, where the server takes no more connections.
        """
        client = client or self.admin()
        client.client_kill_filter(_id=client.client_list(_type="pubsub")[0]["id"])

    def events(self, *kinds: str) -> dict[str, dict[str, str]]:
        """Return the events of some kinds that the history has, by their ids."""
        found = {}
        for id, raw in self.admin().xrange(f"{self.prefix}history"):
            fields = {name.decode(): value.decode() for name, value in raw.items()}
            if fields["event"] in kinds:
                found[id.decode()] = fields
        return found

    def _said(self, client: Any) -> dict[str, dict[bytes, bytes]]:
        """Return the description of each worker, by its id."""
        keys = client.keys(f"{self.prefix}incarnation:*")
        return {key.decode().rpartition(":")[2]: client.hgetall(key) for key in keys}
