# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Redis itself: its version, what it keeps, and whether it is the right one."""

from __future__ import annotations

import time
from collections.abc import Iterator

from .case import CannotTell, Case, Check
from .findings import Code, Finding

__all__ = ["CHECKS"]

#: The oldest Redis whose commands suffice.
OLDEST = (6, 2)

#: How full the memory may be.
NEARLY, ALMOST = 0.8, 0.95

#: How far clocks may be apart, seconds.
APART = 5.0

#: How far a heartbeat may lie ahead of the clock that has written it, milliseconds.
AHEAD = 1000

REDIS_UNREACHABLE = Code(
    "redis-unreachable",
    ("error",),
    "Nothing is tracked, and nobody recovers the messages of dead workers. Work continues.",
    "Check the address (PROCESSING_REDIS_URL, or the RedisBroker's own), the network, the user and the password.",
)

REDIS_LOADING = Code(
    "redis-loading",
    ("error",),
    "Redis reads its data from disk and answers nothing until then: messages that start meanwhile are not tracked.",
    "Wait. If it takes long, let a replica take over instead of restarting the primary.",
)

REDIS_VERSION = Code(
    "redis-version",
    ("error",),
    "The scripts use commands that it does not have: no message can be tracked.",
    "Use Redis 6.2 or newer, or Valkey.",
)

EVICTION = Code(
    "eviction",
    ("error", "warning"),
    "When its memory is full, Redis deletes records: messages of dead workers are not recovered, and completed "
    "messages may run again.",
    "Set maxmemory-policy noeviction.",
)

EVICTED = Code(
    "evicted",
    ("warning",),
    "Records, queues or results may be among them: their messages are not tracked any more, or lost.",
    "Set maxmemory-policy noeviction, and keep caches in another Redis.",
)

MEMORY_FULL = Code(
    "memory-full",
    ("error", "warning"),
    "When its memory is full, Redis refuses all writes: messages are neither tracked nor enqueued.",
    "Raise maxmemory, or find out what fills it (redis-cli --bigkeys).",
)

PERSISTENCE = Code(
    "persistence",
    ("warning",),
    "A restart of Redis forgets all records, and all queues of a RedisBroker on it. Living workers write theirs "
    "again; the messages of dead workers are lost.",
    "Set appendonly yes.",
)

PERSISTENCE_SNAPSHOTS = Code(
    "persistence-snapshots",
    ("warning",),
    "A restart of Redis goes back to the last snapshot, minutes ago: messages that were enqueued or started since "
    "are forgotten, and messages that have completed since run again.",
    "Set appendonly yes.",
)

PERSISTENCE_FAILING = Code(
    "persistence-failing",
    ("error",),
    "Redis refuses writes (stop-writes-on-bgsave-error), or has nothing on disk when it restarts.",
    "Repair its disk: its log says what is wrong.",
)

FSYNC = Code(
    "fsync",
    ("warning",),
    "When the host of Redis dies, the writes of the last half minute or so are forgotten: messages that have "
    "completed then run again.",
    "Set appendfsync everysec, or always.",
)

READ_ONLY_REPLICA = Code(
    "read-only-replica",
    ("error",),
    "It takes no writes: nothing is tracked.",
    "Connect to the primary: by its sentinels, Sentinel([...]).master_for(name), if there are any.",
)

MIN_REPLICAS = Code(
    "min-replicas",
    ("warning",),
    "A primary that was replaced takes writes when it comes back, and forgets them when it learns that it is a "
    "replica: messages that have completed then run again.",
    "Set min-replicas-to-write 1.",
)

CLUSTER_CLIENT = Code(
    "cluster-client",
    ("error",),
    "Keys of other nodes cannot be reached: no message can be tracked, unless by luck.",
    "Give the tracker (client), or the RedisBroker, a redis.RedisCluster.",
)

CLUSTER = Code(
    "cluster",
    ("note",),
    "The finish of a message and its ack are two writes: a worker that is killed in between leaves a message "
    "that is remembered as complete, and skipped.",
    "Nothing: it is as it should be.",
)

CLOCK = Code(
    "clock",
    ("note",),
    "Nothing depends on the clocks of workers. But dead letters and logs do not agree on when a thing happened.",
    "Let both keep time by NTP.",
)

CLOCK_BACK = Code(
    "clock-back",
    ("note",),
    "Heartbeats that were written by the clock from before are valid for longer, by as much as it went back: a "
    "death that no process sees is known later.",
    "Nothing: it passes. Let the hosts of Redis keep time by NTP.",
)


def _version(case: Case) -> Iterator[Finding]:
    if "valkey_version" in case.info:
        return  # the first one was 7.2
    said = str(case.info.get("redis_version", ""))
    numbers = said.split(".")
    if len(numbers) < 2 or not all(number.isdigit() for number in numbers[:2]):
        raise CannotTell("it says none")
    if (int(numbers[0]), int(numbers[1])) < OLDEST:
        yield REDIS_VERSION.error(f"This is Redis {said}.")


def _eviction(case: Case) -> Iterator[Finding]:
    policy = str(case.info.get("maxmemory_policy") or case.config("maxmemory-policy"))
    if policy == "noeviction":
        return
    if int(case.info.get("maxmemory", 0)):
        yield EVICTION.error(f"maxmemory-policy is {policy}.")
    else:
        yield EVICTION.warning(f"maxmemory-policy is {policy}; there is no maxmemory now.")


def _evicted(case: Case) -> Iterator[Finding]:
    number = int(case.info["evicted_keys"])
    if number:
        yield EVICTED.warning(f"Redis has evicted {number} keys since it was started.")


def _memory(case: Case) -> Iterator[Finding]:
    most = int(case.info.get("maxmemory", 0))
    if not most:
        return
    share = int(case.info["used_memory"]) / most
    if share >= NEARLY:
        yield (MEMORY_FULL.error if share >= ALMOST else MEMORY_FULL.warning)(
            f"Redis has {share:.0%} of its maxmemory in use."
        )


def _persistence(case: Case) -> Iterator[Finding]:
    info = case.info
    failed = [
        name
        for name in ("rdb_last_bgsave_status", "aof_last_write_status", "aof_last_bgrewrite_status")
        if info.get(name, "ok") != "ok"
    ]
    if failed:
        yield PERSISTENCE_FAILING.error(f"Redis could not write its data to disk ({', '.join(failed)}).")
    if int(info["aof_enabled"]):
        return
    if case.config("save"):
        yield PERSISTENCE_SNAPSHOTS.warning("Redis keeps snapshots, and no append-only file.")
    else:
        yield PERSISTENCE.warning("Redis keeps nothing on disk.")


def _fsync(case: Case) -> Iterator[Finding]:
    if case.config("appendfsync") == "no":
        yield FSYNC.warning("appendfsync is no: Redis leaves it to the system when its data is on disk.")


def _role(case: Case) -> Iterator[Finding]:
    if case.info["role"] != "master":
        yield READ_ONLY_REPLICA.error("This Redis is a replica.")


def _replicas(case: Case) -> Iterator[Finding]:
    # It says how many replicas are good only where it is told to mind.
    if "min_slaves_good_slaves" not in case.info:
        yield MIN_REPLICAS.warning("Redis has replicas, and min-replicas-to-write is 0.")


def _cluster(case: Case) -> Iterator[Finding]:
    if case.is_cluster:
        yield CLUSTER.note("This is a Redis Cluster.")
    elif int(case.info.get("cluster_enabled", 0)):
        yield CLUSTER_CLIENT.error("This is a node of a Redis Cluster, and the client does not know it.")


def _clock(case: Case) -> Iterator[Finding]:
    seconds, micro = case.server.time()
    now = seconds + micro / 1e6
    apart = now - time.time()
    if abs(apart) > APART:
        which = "ahead of" if apart > 0 else "behind"
        yield CLOCK.note(f"The clock of Redis is {abs(apart):.0f} seconds {which} this machine's.")
    last = case.server.zscore(case.inspector._keys.heartbeats, "*last")
    if last and float(last) > now * 1000 + AHEAD:
        yield CLOCK_BACK.note(f"The clock of Redis went back, by {float(last) / 1000 - now:.0f} seconds or more.")


def _has_aof(case: Case) -> bool:
    return bool(int(case.info["aof_enabled"]))


def _has_replicas(case: Case) -> bool:
    return bool(int(case.info.get("connected_slaves", 0)))


CHECKS = (
    Check(REDIS_VERSION, "The version of Redis", "Redis is new enough.", _version),
    Check(READ_ONLY_REPLICA, "Whether Redis takes writes", "Redis is no replica.", _role),
    Check(EVICTION, "The eviction policy", "Redis evicts nothing.", _eviction),
    Check(EVICTED, "Whether Redis has evicted keys", "Redis has evicted nothing.", _evicted),
    Check(MEMORY_FULL, "The memory of Redis", "Redis has memory.", _memory),
    Check(PERSISTENCE, "Whether Redis keeps its data", "Redis keeps its data in an append-only file.", _persistence),
    Check(FSYNC, "When Redis writes to disk", "Redis sees to it that its data is on disk.", _fsync, _has_aof),
    Check(MIN_REPLICAS, "The replicas of Redis", "A replaced primary takes no writes.", _replicas, _has_replicas),
    Check(CLUSTER_CLIENT, "Whether this is a Redis Cluster", "The client is of the right kind.", _cluster),
    Check(CLOCK, "The clock of Redis", "The clock of Redis agrees with this machine's.", _clock),
)
