# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Redis itself: its version, what it keeps, and whether it is the right one."""

from __future__ import annotations

import time
from collections.abc import Iterator

from .case import CannotTell, Case, Check
from .findings import Finding, error, note, warning

__all__ = ["CHECKS"]

#: The oldest Redis whose commands suffice.
OLDEST = (6, 2)

#: How full the memory may be.
NEARLY, ALMOST = 0.8, 0.95

#: How far clocks may be apart, seconds.
APART = 5.0

#: How far a heartbeat may lie ahead of the clock that has written it, milliseconds.
AHEAD = 1000


def _version(case: Case) -> Iterator[Finding]:
    if "valkey_version" in case.info:
        return  # the first one was 7.2
    said = str(case.info.get("redis_version", ""))
    numbers = said.split(".")
    if len(numbers) < 2 or not all(number.isdigit() for number in numbers[:2]):
        raise CannotTell("it says none")
    if (int(numbers[0]), int(numbers[1])) < OLDEST:
        yield error("redis-version", f"This is Redis {said}.")


def _eviction(case: Case) -> Iterator[Finding]:
    policy = str(case.info.get("maxmemory_policy") or case.config("maxmemory-policy"))
    if policy == "noeviction":
        return
    if int(case.info.get("maxmemory", 0)):
        yield error("eviction", f"maxmemory-policy is {policy}.")
    else:
        yield warning("eviction", f"maxmemory-policy is {policy}; there is no maxmemory now.")


def _evicted(case: Case) -> Iterator[Finding]:
    number = int(case.info["evicted_keys"])
    if number:
        yield warning("evicted", f"Redis has evicted {number} keys since it was started.")


def _memory(case: Case) -> Iterator[Finding]:
    most = int(case.info.get("maxmemory", 0))
    if not most:
        return
    share = int(case.info["used_memory"]) / most
    if share >= NEARLY:
        yield (error if share >= ALMOST else warning)("memory-full", f"Redis has {share:.0%} of its maxmemory in use.")


def _persistence(case: Case) -> Iterator[Finding]:
    info = case.info
    failed = [
        name
        for name in ("rdb_last_bgsave_status", "aof_last_write_status", "aof_last_bgrewrite_status")
        if info.get(name, "ok") != "ok"
    ]
    if failed:
        yield error("persistence-failing", f"Redis could not write its data to disk ({', '.join(failed)}).")
    if int(info["aof_enabled"]):
        return
    if case.config("save"):
        yield warning("persistence-snapshots", "Redis keeps snapshots, and no append-only file.")
    else:
        yield warning("persistence", "Redis keeps nothing on disk.")


def _fsync(case: Case) -> Iterator[Finding]:
    if case.config("appendfsync") == "no":
        yield warning("fsync", "appendfsync is no: Redis leaves it to the system when its data is on disk.")


def _role(case: Case) -> Iterator[Finding]:
    if case.info["role"] != "master":
        yield error("read-only-replica", "This Redis is a replica.")


def _replicas(case: Case) -> Iterator[Finding]:
    # It says how many replicas are good only where it is told to mind.
    if "min_slaves_good_slaves" not in case.info:
        yield warning("min-replicas", "Redis has replicas, and min-replicas-to-write is 0.")


def _cluster(case: Case) -> Iterator[Finding]:
    if case.is_cluster:
        yield note("cluster", "This is a Redis Cluster.")
    elif int(case.info.get("cluster_enabled", 0)):
        yield error("cluster-client", "This is a node of a Redis Cluster, and the client does not know it.")


def _clock(case: Case) -> Iterator[Finding]:
    seconds, micro = case.server.time()
    now = seconds + micro / 1e6
    apart = now - time.time()
    if abs(apart) > APART:
        which = "ahead of" if apart > 0 else "behind"
        yield note("clock", f"The clock of Redis is {abs(apart):.0f} seconds {which} this machine's.")
    last = case.server.zscore(case.inspector._keys.heartbeats, "*last")
    if last and float(last) > now * 1000 + AHEAD:
        yield note("clock-back", f"The clock of Redis went back, by {float(last) / 1000 - now:.0f} seconds or more.")


def _has_aof(case: Case) -> bool:
    return bool(int(case.info["aof_enabled"]))


def _has_replicas(case: Case) -> bool:
    return bool(int(case.info.get("connected_slaves", 0)))


CHECKS = (
    Check("redis-version", "The version of Redis", "Redis is new enough.", _version),
    Check("read-only-replica", "Whether Redis takes writes", "Redis is no replica.", _role),
    Check("eviction", "The eviction policy", "Redis evicts nothing.", _eviction),
    Check("evicted", "Whether Redis has evicted keys", "Redis has evicted nothing.", _evicted),
    Check("memory-full", "The memory of Redis", "Redis has memory.", _memory),
    Check("persistence", "Whether Redis keeps its data", "Redis keeps its data in an append-only file.", _persistence),
    Check("fsync", "When Redis writes to disk", "Redis sees to it that its data is on disk.", _fsync, _has_aof),
    Check("min-replicas", "The replicas of Redis", "A replaced primary takes no writes.", _replicas, _has_replicas),
    Check("cluster-client", "Whether this is a Redis Cluster", "The client is of the right kind.", _cluster),
    Check("clock", "The clock of Redis", "The clock of Redis agrees with this machine's.", _clock),
)
