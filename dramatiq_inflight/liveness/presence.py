# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A subscription that lasts as long as this process, and a look at those of others.

When a process is killed, its kernel closes its connections, and Redis knows within milliseconds.  So each incarnation
is subscribed to a channel of its own.  Each looks every second at the next ones in a ring; one that is absent, and does
not come back within its patience, is declared dead by `suspect.lua`, which checks all of it.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable

import redis

from ..store.store import Store
from ..store.workers import DIED, JOINED
from ..threads.moment import Moment
from ..threads.service import Service
from .lease import KnownBy, Lease
from .subscription import CannotSubscribe, Subscription, Subscriptions
from .suspicions import Suspicions

__all__ = ["Presence"]

#: How often to look, seconds: every second, and with many incarnations as often as makes 100 looks a second.
LOOK, LOOK_PER_INCARNATION = 1.0, 0.01

#: How many others that are there each one looks at.
NEIGHBOURS = 2

#: How often to read who is there, and to say again that this one is, seconds; with many incarnations so long for each.
REFRESH, REFRESH_PER_INCARNATION = 30.0, 0.3

#: How long it may take to open a connection at first and at the longest, and the pause between two tries, seconds.
CONNECT, LONGEST_CONNECT, AGAIN = 1.0, 4.0, 0.2

#: How long a server may not see a subscription that it has confirmed, until it is believed that it never will, seconds.
#: During a failover the commands and the subscription may go to different servers.
UNSEEN = 10.0

#: The patience: how many times the slowest look of how many seconds.
LOOKS_PER_PATIENCE, SLOWEST_OF = 6, 600.0

#: As long as QUALIFYING in common.lua, and some more, seconds.
QUALIFYING = 6.5


class Presence(Service):
    """A thread that keeps the subscription, hears what others publish there, and looks at them.

    Parameters:
      connection_timeout: How long an incarnation may have no connection, seconds; 0: that is not looked at.
      longest: The longest patience, seconds.
      on_word: Called with each hint, and with all of them when some may have been missed.
      on_death: Called after each death that was recorded here.
    """

    def __init__(
        self,
        store: Store,
        lease: Lease,
        *,
        connection_timeout: float,
        longest: float,
        on_word: Callable[[str], None],
        on_death: Callable[[], None],
    ) -> None:
        super().__init__("presence", "The look at other workers")
        self.store = store
        self.lease = lease
        self.connection_timeout = connection_timeout
        self.longest = longest
        self.on_word = on_word
        self._subscriptions = Subscriptions(store)
        #: None until it is open, and while it is lost.
        self.subscription: Subscription | None = None
        self._suspicions = Suspicions(
            store,
            self._subscriptions,
            on_death=on_death,
            on_lost=self.look_again,
            on_unseeable=self._unseeable_is,
        )
        self._failures = 0
        self._within = CONNECT
        self._unseen_since: float | None = None
        self._said = False
        self._anew = True
        self._slow: list[tuple[float, float]] = []  # looks by time, each slower than all later ones
        self._told_patience = 0.0
        #: All that are there, this one too.
        self.everybody: list[str] = []
        self._unseeable: set[str] = set()
        #: Incarnations that were there in the last looks, and whether they look at others, too.
        self.neighbours: dict[str, bool] = {}
        self._look_at = float("inf")
        #: When to read who is there, and when to look at all of them once (``time.monotonic``).
        self.refresh_at, self.look_at_all_at = 0.0, float("inf")

    def failed(self, error: Exception) -> float:
        """As `Service.failed`; the subscription is lost."""
        if isinstance(error, CannotSubscribe):
            self._cannot(str(error))
        else:
            super().failed(error)
            self._lose(str(error) if isinstance(error, redis.RedisError) else "an unexpected error")
        self._failures += 1
        if self.lease.known_by is KnownBy.WITHOUT:
            return REFRESH
        # At once before the first try, and later when the patience is over.
        return 0.0 if self._failures <= 1 else AGAIN if self._failures * AGAIN < LONGEST_CONNECT else LOOK

    def start(self) -> None:
        """Be present from now on."""
        self._suspicions.start()
        super().start()

    def wake(self) -> None:
        """End the present wait, and the one for a word."""
        super().wake()
        with contextlib.suppress(redis.RedisError):
            self.store.workers.wake([self.store.me], "")

    def stop(self, within: float = 5.0) -> None:
        """Look at nobody any more, and stay subscribed; as `Service.stop`."""
        super().stop(within)
        self._suspicions.stop(within)

    def close(self) -> None:
        """Close the subscription."""
        self._close()

    def forked(self) -> None:
        """This process is a child of the worker's: it keeps none of its connections open."""
        self._subscriptions.forked()

    def suspect(self, id: str) -> None:
        """Look at an incarnation at once: a second delivery of one of its messages is here, or no connection of it."""
        if self.lease.known_by is KnownBy.ENTERED:
            self._suspicions.add(id)

    @property
    def patience(self) -> float:
        """How long this incarnation may take to come back, seconds; longer where Redis answers slowly."""
        slowest = self._slow[0][1] if self._slow else 0.0
        unnoticed = 2 * LOOK_PER_INCARNATION * len(self.everybody)  # until it sees by its own look that it is lost
        return min(max(self.connection_timeout, LOOKS_PER_PATIENCE * slowest, unnoticed), self.longest)

    def run_once(self) -> float:
        """Hear one word, or look at those that are due; subscribe before.

        Raises:
          redis.RedisError: The subscription is lost, or there can be none.
        """
        if self.subscription is None:
            self._subscribe()
        if self.stopping:
            return 0.0
        assert self.subscription is not None
        due = min(self._look_at, self.refresh_at)
        if word := self.subscription.wait(min(due - time.monotonic(), LOOK)):
            self._hear(word)
        if self.stopping:
            return 0.0
        if time.monotonic() >= self.refresh_at:
            self._refresh()
        elif time.monotonic() >= self._look_at:
            self._look()
        return 0.0

    def _subscribe(self) -> None:
        channel = self.store.keys.channel(self.store.me)
        try:
            self.subscription = self._subscriptions.open(channel, self._within)
        except redis.TimeoutError:
            self._within = min(2 * self._within, LONGEST_CONNECT)  # Redis may be too slow
            raise
        self._within = CONNECT
        if self.stopping:
            return  # what enters now would never leave
        self._anew = True
        self._refresh()
        self._failures = 0
        for word in (JOINED, DIED):  # as if all that was published meanwhile had been heard
            self.on_word(word)

    def _refresh(self) -> None:
        """Say that this incarnation is subscribed, and read who else is there.

        Raises:
          redis.RedisError: Redis does not see the subscription.
        """
        pause = max(REFRESH, REFRESH_PER_INCARNATION * len(self.everybody))
        self.refresh_at = time.monotonic() + pause * random.uniform(0.9, 1.1)
        if not self.connection_timeout:
            return
        if not self.lease.is_registered:  # it may not share the namespace
            self.refresh_at = time.monotonic() + AGAIN
            return
        begun, self._told_patience = Moment.now(), self.patience
        try:
            entered = self.store.workers.enter(patience=self._told_patience, anew=self._anew)
            everybody = sorted(self.store.workers.everybody()) if entered else []
            self.everybody = everybody
            if entered and self._anew:
                there = [id for id, count in self.store.workers.look(self._ring()).items() if count]
                self.store.workers.wake(there[-NEIGHBOURS:], JOINED)  # these are to look at this one
        except redis.RedisError:
            self.refresh_at = time.monotonic() + LOOK  # of the subscription that says nothing: Redis may be slow
            return
        if not entered and self.lease.unregistered:
            self.refresh_at = time.monotonic() + AGAIN  # Redis does not know this incarnation, until it registers
            return
        if not entered:
            self._not_seen()
            return
        self._unseen_since, self._anew = None, False
        if self.lease.known_by is not KnownBy.ENTERED:
            self._said = False
            self.look_at_all_at = time.monotonic() + QUALIFYING
        self.lease.entered(begun)
        self._look_at = time.monotonic()
        self._unseeable.clear()
        self.neighbours.clear()

    def look_again(self) -> None:
        """The server is another one than before, though no connection was closed; or the subscription is lost."""
        self.refresh_at = 0.0

    def _unseeable_is(self, id: str) -> None:
        self._unseeable.add(id)

    def _not_seen(self) -> None:
        if self.lease.known_by is KnownBy.WITHOUT:
            return
        now = time.monotonic()
        if self._unseen_since is None:
            self._unseen_since = now
        if now - self._unseen_since < UNSEEN:
            raise redis.ConnectionError("Redis does not see the subscription")
        self._say_without("Redis does not see the subscription, or does not say which server it is")

    def _cannot(self, why: str) -> None:
        self._lose(why)
        try:
            self.store.workers.enter(
                patience=self.patience, anew=False
            )  # that it is not seen keeps it from being judged
        except redis.RedisError:
            return
        self._say_without(why)

    def _say_without(self, why: str) -> None:
        self.lease.without()
        if not self._said and self.connection_timeout:
            self._said = True
            self.logger.warning(
                "Redis cannot detect this worker's death by its connections (%s). Its heartbeat alone decides, "
                "so its messages are recovered later.",
                why,
            )

    def _lose(self, why: str) -> None:
        self._close()
        if self.lease.known_by is KnownBy.ENTERED:
            self.logger.info("Lost this worker's subscription in Redis (%s). Subscribing again.", why)
            self._failures = 0
        self.lease.lost()
        self._look_at, self.refresh_at = float("inf"), 0.0

    def _close(self) -> None:
        subscription, self.subscription = self.subscription, None
        if subscription is not None:
            subscription.close()

    def _hear(self, word: str) -> None:
        if word == JOINED:
            self.refresh_at = min(self.refresh_at, time.monotonic() + random.uniform(0.0, LOOK))
        self.on_word(word)

    def _look(self) -> None:
        """Look at this incarnation itself, and at the next in the ring until so many are there.

        Raises:
          redis.RedisError: The server does not count this incarnation.
        """
        pause = max(LOOK, LOOK_PER_INCARNATION * len(self.everybody))
        self._look_at = time.monotonic() + pause * random.uniform(0.7, 1.0)
        everybody = time.monotonic() >= self.look_at_all_at
        if everybody:
            self._unseeable.clear()  # some may not have been back when they were seen last
        ring = [id for id in self._ring() if id not in self._unseeable]
        there = 0
        me = [self.store.me]
        while me or (ring and (everybody or there < NEIGHBOURS)):
            some = ring if everybody else ring[: NEIGHBOURS - there]
            ring = ring[len(some) :]
            counts = self._count([*me, *some])
            if counts is None:
                return
            if me and not counts[self.store.me]:
                raise redis.ConnectionError("Redis does not see the subscription any more")
            me = []
            present = {id for id in some if counts[id]}
            if not everybody:
                there += sum(self._looks_too(present).values())
            for id in some:
                if id in present:
                    continue
                if id in self.neighbours:  # it has died or left: others that it has looked at may be mine now
                    del self.neighbours[id]
                    self.refresh_at = time.monotonic()
                self.suspect(id)
        if everybody:
            self.look_at_all_at = float("inf")

    def _looks_too(self, ids: set[str]) -> dict[str, bool]:
        """Return whether each looks at others in turn; where its own `connection_timeout` is 0 it does not."""
        unknown = ids - self.neighbours.keys()
        if unknown:
            try:
                self.neighbours.update(self.store.workers.have_entered(unknown))
            except redis.RedisError:
                return dict.fromkeys(ids, True)  # until the next look
        return {id: self.neighbours[id] for id in ids}

    def _count(self, ids: list[str]) -> dict[str, int] | None:
        """How many connections each has; None if Redis does not answer, which says nothing of the subscription."""
        moment, begun = Moment.now(), time.monotonic()
        try:
            counts = dict(self.store.workers.look(ids))
        except redis.RedisError:
            counts = None
        now = time.monotonic()
        while self._slow and self._slow[-1][1] <= now - begun:
            self._slow.pop()
        self._slow.append((now, now - begun))
        while self._slow[0][0] < now - SLOWEST_OF:
            del self._slow[0]
        if self.patience > self._told_patience:
            self.refresh_at = now
        if counts is not None and counts.get(self.store.me):
            self.lease.seen(moment)
        return counts

    def _ring(self) -> list[str]:
        """All others that are there, beginning with the next one."""
        me = self.store.me
        return [id for id in self.everybody if id > me] + [id for id in self.everybody if id < me]
