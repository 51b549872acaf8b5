# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""What this process knows of its own standing: can it reach Redis, and may it have been taken for dead?"""

from __future__ import annotations

import enum
import time

import redis
from dramatiq.logging import get_logger

from ..store.errors import what_to_check
from ..threads.bell import Bell
from ..threads.moment import Moment
from ..threads.mutex import Mutex

__all__ = ["Connectivity", "KnownBy", "Lease"]

#: How recent the last contact must be for what follows from a message to need no look-up, seconds.  The clocks of a
#: virtual machine that is paused may all stand still, so no worker can tell that it was away for longer.
JUST_NOW = 0.5


class KnownBy(enum.Enum):
    """How an incarnation's death is known."""

    #: Redis sees its subscription: by the end of that.
    ENTERED = "entered"
    #: It is not subscribed, and is about to be: by the end of the last subscription, unless it beats meanwhile.
    LOST = "lost"
    #: It cannot be seen there: by its heartbeat alone.
    WITHOUT = "without"


class Connectivity:
    """Whether Redis can be reached: said once when it is lost, and once when it is back."""

    def __init__(self, where: str) -> None:
        self.logger = get_logger(__name__, type(self))
        self._mutex = Mutex()
        self._where = where
        self._has_been_there = False
        #: When a command has failed after which no heartbeat has arrived.
        self.away_since: Moment | None = None
        self._failed_at = float("-inf")
        #: How many commands have not reached Redis, or were refused.
        self.failures = 0
        self.wake = Bell()

    @property
    def away(self) -> bool:
        """True if a command has failed, and no heartbeat has arrived since.  That is tried again within a second."""
        return self.away_since is not None

    def failed_within(self, seconds: float) -> bool:
        """Return whether any command has failed in the last so many seconds."""
        return time.monotonic() - self._failed_at < seconds

    def succeeded(self, begun: Moment) -> None:
        """A script has renewed the heartbeat; `begun` says when.

        One from before the outage ends none.  Nor does a command that only reads: Redis answers those while it is full.
        """
        self._has_been_there = True
        if self.away_since is None:
            return
        with self._mutex:
            since = self.away_since
            if since is None or begun.since_boot < since.since_boot:
                return
            self.away_since = None
        self.logger.info("Redis is back after %.1f seconds. Messages are tracked again.", since.age)

    def failed(self, error: redis.RedisError) -> None:
        """A command did not reach Redis, or was refused."""
        self._failed_at = time.monotonic()
        with self._mutex:
            self.failures += 1
            first = self.away_since is None
            if first:
                self.away_since = Moment.now()
        if first and not self._has_been_there:
            self.logger.error(
                "Redis cannot be used at %s (%s: %s). Check %s. No message is tracked until then.",
                *(self._where, type(error).__name__, error, what_to_check(error)),
            )
        elif first:
            self.logger.error(
                "Redis cannot be used (%s: %s). Work continues; new messages are not tracked meanwhile.",
                type(error).__name__,
                error,
            )
        if first:
            self.wake.ring()


class Lease:
    """How surely this incarnation is believed to live.

    Others may have taken its messages when it was silent for a TTL (frozen, starved, or cut off), or when it had no
    connection for its patience.  From half a TTL of silence on, or when its subscription is lost, or Redis says that it
    did not know the incarnation, or an answer of Redis was lost, a new epoch begins: every message that started in an
    earlier one is looked up before anything is done in its name.  So is one that ends when nothing has shown for
    `connection_timeout` that this incarnation is connected, and one from which anything follows, unless Redis has
    answered just now.

    Parameters:
      ttl: How long a heartbeat is believed, seconds.
      connection_timeout: How long this incarnation may have no connection, seconds; 0: that says nothing.
      wake: Rung when the heartbeat thread has to beat, or to say again who this is.
    """

    def __init__(self, ttl: float, connection_timeout: float, wake: Bell) -> None:
        self._wake = wake
        self._silent_after = ttl / 2
        self._absent_after = min(ttl / 2, connection_timeout)
        self._due_after = min(JUST_NOW, ttl / 2, connection_timeout or JUST_NOW) / 2
        #: How this incarnation's death is known.
        self.known_by = KnownBy.LOST if connection_timeout else KnownBy.WITHOUT
        #: When the last script was sent that renewed the heartbeat.
        self.last_contact = Moment.now()
        self._last_seen = self.last_contact
        self._answer_lost = False
        self._last_silence = 0.0
        self._silence_ended = float("-inf")
        self.epoch = 0
        #: Whether this incarnation was ever taken for dead, or Redis lost its data.
        self.revived = False
        #: Whether Redis has lost its data, as far as is known: `registered` knows better.
        self.forgotten = False
        self._ever_forgotten = False
        #: Whether the namespace has become one that this version cannot share.
        self.refused = False
        # The present version of this incarnation's description, and the registered one: objects that are as good as
        # numbers, and that no two threads can confuse.
        self._version, self._told = object(), object()
        self._unknown = True
        self._registered = False
        # How often Redis did not know us, and had not heard of us at all: in all, when that was last looked into, and
        # when this incarnation was last registered.
        self._losses = self._looked_into = self._settled = (0, 0)

    def was_lost(self) -> bool:
        """Return whether Redis did not know this incarnation any more; until it is registered."""
        self._looked_into = self._losses
        return self._losses[0] > self._settled[0]

    def contact(self, known: bool, begun: Moment, absent: bool = False) -> None:
        """A script of ours has renewed the heartbeat.

        Parameters:
          known: True if we were believed to live until then, with all that we run.
          begun: When it was sent: the heartbeat is no older than that.
          absent: True if Redis had not heard of us at all.
        """
        silence = self.last_contact.until(begun)
        doubt = silence > self._silent_after or self._answer_lost
        self.last_contact = max(begun, self.last_contact)  # by the time since boot
        self._answer_lost = False
        if not known:
            if self._registered:
                self._losses = self._losses[0] + 1, self._losses[1] + absent
            if not self._unknown:
                self._unknown = True
                self._wake.ring()
        if silence > self._silent_after:
            self._last_silence, self._silence_ended = silence, time.monotonic()
        if doubt or (not known and self._registered):
            self.revived = self.revived or not known
            self.forgotten = self.forgotten or (absent and self._registered)
            self.epoch += 1

    def is_due(self, now: Moment) -> bool:
        """Return True if the next script is to renew the heartbeat.

        Every script of a message could, and a busy worker runs thousands in a second.  It renews often enough for none
        of its rules to notice a difference.
        """
        return self._answer_lost or self.last_contact.until(now) > self._due_after

    def is_outdated(self, begun: Moment) -> bool:
        """Return True if the worker may have been declared dead since a command was sent: it was frozen, say."""
        return begun.age > (self._absent_after or self._silent_after)

    def entered(self, begun: Moment) -> None:
        """Redis sees this incarnation's subscription; `begun` is when that was asked."""
        self.known_by = KnownBy.ENTERED
        self.seen(begun)

    def seen(self, begun: Moment) -> None:
        """A look has counted this incarnation's own subscription; `begun` is when it was sent."""
        self._last_seen = max(begun, self._last_seen)

    def lost(self) -> None:
        """The subscription is lost: beat until there is another one."""
        if self.known_by is KnownBy.ENTERED:
            self.known_by = KnownBy.LOST
            self.epoch += 1
            self._wake.ring()

    def without(self) -> None:
        """There can be no subscription here."""
        self.known_by = KnownBy.WITHOUT

    @property
    def is_registered(self) -> bool:
        """True if this incarnation has ever said who it is."""
        return self._registered

    @property
    def silence(self) -> float:
        """How long the silence was that has just ended, seconds; 0: there was none that anybody could mind."""
        return self._last_silence if time.monotonic() - self._silence_ended < self._silent_after else 0.0

    def answer_lost(self) -> None:
        """A script of ours may have reached Redis, and what it said is not known."""
        self._answer_lost = True

    @property
    def unregistered(self) -> bool:
        """True if it has to say again who it is."""
        return self._unknown or self._told is not self._version

    @property
    def version(self) -> object:
        """The version of this incarnation's description; to be read before that."""
        return self._version

    def register_again(self) -> None:
        """Register again, because this incarnation's description has changed."""
        self._version = object()
        self._wake.ring()

    def registered(self, version: object, *, forgotten: bool = False) -> None:
        """Redis knows who this incarnation is: from now on it is a sign of trouble if it does not.

        Parameters:
          version: The version that was registered: it may have changed meanwhile.
          forgotten: True if Redis had lost what it knew of this incarnation, other than by its recovery.
        """
        self._told, self._unknown, self._registered = version, False, True
        self._ever_forgotten = self._ever_forgotten or forgotten
        self._settled = self._looked_into
        self.forgotten = self._ever_forgotten or self._losses[1] > self._settled[1]
        self.epoch = max(self.epoch, 1)

    @property
    def silent(self) -> bool:
        """True if we may be taken for dead soon, or already are."""
        return self.last_contact.age > self._silent_after

    @property
    def may_be_forgotten(self) -> bool:
        """Return True if Redis may not know where this worker's broker keeps what it fetches.

        Recovery may have forgotten the worker, or a queue is new.  The next beat decides that; then the worker
        registers again, unless the namespace refuses it.
        """
        return not self.refused and (self.unregistered or self.silent)

    def in_doubt(self, epoch: int, *, something_follows: bool = False) -> bool:
        """Return True if a message may have been taken from this worker since it was last looked up.

        Parameters:
          epoch: The epoch of that look-up.
          something_follows: True if it is about to have consequences that no script of ours fences: a retry, say.
        """
        silence = self.last_contact.age
        if epoch != self.epoch or silence > self._silent_after or (something_follows and silence > JUST_NOW):
            return True
        return self.known_by is not KnownBy.WITHOUT and min(silence, self._last_seen.age) > self._absent_after
