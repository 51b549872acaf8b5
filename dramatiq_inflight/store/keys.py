# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The names of the tracker's keys in Redis, all under one hash tag, so that every script runs on Redis Cluster::

    {namespace}:record:<message id>        string   what is known of one message, and its payload (see common.lua)
    {namespace}:running:<incarnation>      zset     ids of the messages it runs, by the time of their start
    {namespace}:incarnation:<incarnation>  hash     who it is, and where its broker keeps what it has fetched
    {namespace}:heartbeats                 zset     incarnations by the time until which they are believed to live
    {namespace}:checkpoint:<message id>    hash     how far its runs have come, for the next one
    {namespace}:waiting                    zset     ids of records that wait for their copy, by deadline
    {namespace}:handed                     zset     incarnations whose messages were handed back, by when
    {namespace}:aside                      hash     records that could not be read or decoded, by message id
    {namespace}:lock                       string   the recovery lock
    {namespace}:replay                     string   the lock of an operator who replays a dead letter
    {namespace}:place:<hash>               set      incarnations in one place, which can see each other's processes
    {namespace}:suspects                   hash     incarnations of which no connection is seen, and since when
    {namespace}:schema                     hash     which version of all this is in use (see store/schema.py)
    {namespace}:history                    stream   what happened, for people (see inspection/history.py)
    {namespace}:counts                     hash     how often it ever did
    {namespace}:throughput                 hash     which messages ended in each queue, by minute, and in all

Two channels are no keys: ``{namespace}:in:<incarnation>``, which it is subscribed to as long as it lives, and
``{namespace}:probe:<incarnation>``, for a moment.

Times are milliseconds of Redis's own clock.  The record is the truth; the sets beside it are indexes, and an entry too
many in them does no harm.
"""

from __future__ import annotations

import hashlib

__all__ = ["Keys"]


class Keys:
    """The keys of one namespace."""

    def __init__(self, namespace: str) -> None:
        self.prefix = prefix = f"{{{namespace}}}:"
        self.heartbeats = prefix + "heartbeats"
        self.waiting = prefix + "waiting"
        self.handed = prefix + "handed"
        self.aside = prefix + "aside"
        self.lock = prefix + "lock"
        self.replay = prefix + "replay"
        self.schema = prefix + "schema"
        self.suspects = prefix + "suspects"
        self.history = prefix + "history"
        self.counts = prefix + "counts"
        self.throughput = prefix + "throughput"
        #: The keys of which the namespace has one, by name.
        self.shared = {name: key for name, key in vars(self).items() if name != "prefix"}

    def record(self, message_id: str) -> str:
        """Return the key of one message's record."""
        return f"{self.prefix}record:{message_id}"

    def checkpoint(self, message_id: str) -> str:
        """Return how far the runs of a message have come."""
        return f"{self.prefix}checkpoint:{message_id}"

    def running(self, incarnation: str) -> str:
        """Return the key of an incarnation's running messages."""
        return f"{self.prefix}running:{incarnation}"

    def incarnation(self, incarnation: str) -> str:
        """Return the key of an incarnation's own description."""
        return f"{self.prefix}incarnation:{incarnation}"

    def channel(self, incarnation: str) -> str:
        """Return the channel that an incarnation is subscribed to as long as it lives."""
        return f"{self.prefix}in:{incarnation}"

    def probe(self, incarnation: str) -> str:
        """Return the channel that an incarnation subscribes to anew before it declares another one dead."""
        return f"{self.prefix}probe:{incarnation}"

    def place(self, place: str) -> str | None:
        """Return the key of the incarnations in a place; None where processes cannot be told apart."""
        return f"{self.prefix}place:{hashlib.sha256(place.encode()).hexdigest()[:16]}" if place else None
