# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Every code with what follows from it and what to do about it."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["CODES"]


class Meaning(NamedTuple):
    """What a code means, whatever the case."""

    consequence: str
    remedy: str


#: All codes.
CODES: Final[dict[str, Meaning]] = {
    # Redis.
    "redis-unreachable": Meaning(
        "Nothing is tracked, and nobody recovers what dead workers have left. Work goes on.",
        "Check the address (PROCESSING_REDIS_URL, or the RedisBroker's own), the network, the user and the password.",
    ),
    "redis-loading": Meaning(
        "Redis reads its data from disk and answers nothing until then: what starts meanwhile is not tracked.",
        "Wait. If it takes long, let a replica take over instead of restarting the primary.",
    ),
    "redis-version": Meaning(
        "The scripts use commands that it does not have: no message can be tracked.",
        "Use Redis 6.2 or newer, or Valkey.",
    ),
    "eviction": Meaning(
        "When its memory is full, Redis deletes records: messages of dead workers are not recovered, and what has "
        "completed may run again.",
        "Set maxmemory-policy noeviction.",
    ),
    "evicted": Meaning(
        "Records, queues or results may be among them: those messages are not tracked any more, or lost.",
        "Set maxmemory-policy noeviction, and keep caches in another Redis.",
    ),
    "memory-full": Meaning(
        "When its memory is full, Redis refuses all writes: messages are neither tracked nor enqueued.",
        "Raise maxmemory, or find out what fills it (redis-cli --bigkeys).",
    ),
    "persistence": Meaning(
        "A restart of Redis forgets all records, and all queues of a RedisBroker on it. Living workers write theirs "
        "again; what dead ones have left is lost.",
        "Set appendonly yes.",
    ),
    "persistence-snapshots": Meaning(
        "A restart of Redis goes back to the last snapshot, minutes ago: what was enqueued or started since is "
        "forgotten, and what has completed since runs again.",
        "Set appendonly yes.",
    ),
    "persistence-failing": Meaning(
        "Redis refuses writes (stop-writes-on-bgsave-error), or has nothing on disk when it restarts.",
        "See to its disk: its log says what is wrong.",
    ),
    "fsync": Meaning(
        "When the host of Redis dies, what was written in the last half minute or so is forgotten: what has completed "
        "then runs again.",
        "Set appendfsync everysec, or always.",
    ),
    "read-only-replica": Meaning(
        "It takes no writes: nothing is tracked.",
        "Connect to the primary: by its sentinels, Sentinel([...]).master_for(name), if there are any.",
    ),
    "min-replicas": Meaning(
        "A primary that was replaced takes writes when it comes back, and forgets them when it learns that it is a "
        "replica: what has completed then runs again.",
        "Set min-replicas-to-write 1.",
    ),
    "cluster-client": Meaning(
        "Keys of other nodes cannot be reached: no message can be tracked, unless by luck.",
        "Give the tracker (client), or the RedisBroker, a redis.RedisCluster.",
    ),
    "cluster": Meaning(
        "The finish of a message and its ack are two writes: a worker that is killed in between leaves a message that "
        "is remembered as complete, and skipped.",
        "Nothing: it is as it should be.",
    ),
    "clock": Meaning(
        "Nothing depends on the clocks of workers. But dead letters and logs do not agree on when a thing happened.",
        "Let both keep time by NTP.",
    ),
    "clock-back": Meaning(
        "Heartbeats that were written by the clock from before are believed for longer, by as much as it went back: a "
        "death that nobody sees is known later.",
        "Nothing: it passes. Let the hosts of Redis keep time by NTP.",
    ),
    "rights": Meaning(
        "Messages are not tracked, or not recovered, or nobody can read what has happened.",
        "Give the user what docs/brokers.rst lists.",
    ),
    "history": Meaning(
        "Nobody can tell what has happened, and the counts of the metrics stand still. Messages are recovered as ever.",
        "Let the tracker's user write streams and hashes (XADD, HINCRBY), and delete keys of another kind that are in "
        "the place of {namespace}:history and {namespace}:counts.",
    ),
    "latency": Meaning(
        "Every tracked message waits for it once, at its start.",
        "Let Redis be near the workers, on a host that is not overloaded; look for slow commands of others (SLOWLOG).",
    ),
    "slow-scripts": Meaning(
        "Redis does nothing else meanwhile: all its clients wait.",
        "See what the host of Redis does besides: swapping, huge pages, a fork for a snapshot, other tenants. The "
        "scripts take about a millisecond for a batch of 50.",
    ),
    "rejected-connections": Meaning(
        "Workers were turned away: what they started then was not tracked.",
        "Raise maxclients, and the limit of open files that it needs.",
    ),
    # Workers.
    "ttl-short": Meaning(
        "A single lost heartbeat can make a living worker look dead: its messages run twice.",
        "Set HEARTBEAT_TTL to three times HEARTBEAT_INTERVAL or more.",
    ),
    "ttl-differs": Meaning(
        "A death that nobody sees is known after the TTL of the worker that died: for some messages sooner than for "
        "others.",
        "Set the same HEARTBEAT_TTL and HEARTBEAT_INTERVAL everywhere. During a deployment it passes.",
    ),
    "heartbeat-only": Meaning(
        "Their deaths are known when their heartbeat has expired, and not within seconds.",
        "Allow SUBSCRIBE, PUBSUB and INFO, and the namespace's channels (docs/brokers.rst). A proxy that keeps "
        "subscriptions to itself, and a Redis Cluster before 7.0, cannot do it. It passes while a worker boots.",
    ),
    "schema": Meaning(
        "This version can read nothing there, and its workers refuse to boot. Nothing is lost by that.",
        "Use the version that the workers have. To finish an upgrade, or to go back: docs/upgrading.rst.",
    ),
    "versions-differ": Meaning(
        "Those that cannot share the namespace refuse to boot; but the older ones lack what the newer mend.",
        "Nothing during a deployment; else update the older ones.",
    ),
    "instance-shared": Meaning(
        "Nobody can tell from logs, dead letters and metrics which of them is meant.",
        "Give each container its own PROCESSING_INSTANCE_ID, or none: it is the host name then.",
    ),
    "instance-not-exclusive": Meaning(
        "Each that boots takes the other for dead, though it lives: all its messages run twice.",
        "Give each container its own PROCESSING_INSTANCE_ID, or unset PROCESSING_INSTANCE_EXCLUSIVE.",
    ),
    "no-workers": Meaning(
        "Nothing runs, and nobody recovers what dead workers have left.",
        "Start workers; or see whether namespace (PROCESSING_NS) and Redis are those that the workers have.",
    ),
    "namespace-empty": Meaning(
        "No worker has ever been here, or none for a month: this is likely the wrong place, and nothing is tracked in "
        "it.",
        "See whether namespace (PROCESSING_NS) and Redis (PROCESSING_REDIS_URL) are those that the workers have.",
    ),
    "not-recovered": Meaning(
        "What it was running waits for somebody to recover it.",
        "Start workers of its application. A worker cannot recover what its application does not declare, nor what "
        "another RedisBroker's namespace or another virtual host keeps: its log names that.",
    ),
    # Messages.
    "overdue": Meaning(
        "They were recovered, their copies have not started, and nobody looks after them.",
        "Start workers that fetch from their queues; see in their logs why recovery fails.",
    ),
    "refused": Meaning(
        "They do not run until that works. Each is tried again by itself, after 15 minutes at the longest.",
        "The workers' logs say why. Make room in the queue, correct what refuses them, or bring the broker back; or "
        "discard them (Operations).",
    ),
    "set-aside": Meaning(
        "They do not run until somebody decides.",
        "Mend the encoder, or deploy the version that knows it; if a payload kills whoever decodes it, give that "
        "process more memory. Then requeue or discard them (Operations).",
    ),
    "poison": Meaning(
        "They have killed their workers too often, and are in the dead-letter queue.",
        "Their dead letters say why. A message that takes too much memory may run elsewhere: recovery_queue.",
    ),
    # The application.
    "no-broker": Meaning(
        "Middleware, actors and the broker's own settings were not looked at.",
        "Give the doctor the application's broker.",
    ),
    "no-tracker": Meaning(
        "Nothing of this application is tracked.",
        "Add one: broker.add_middleware(InFlightTracker()).",
    ),
    "two-trackers": Meaning(
        "Each would take the other's messages for duplicates: workers refuse to boot.",
        "Remove one.",
    ),
    "disabled": Meaning(
        "Nothing of this application is tracked.",
        "Unset PROCESSING_ENABLED, or set it to true.",
    ),
    "no-redis": Meaning(
        "There is nothing to keep records in: workers refuse to boot; with a StubBroker they track nothing.",
        "Set redis_url (PROCESSING_REDIS_URL) or client.",
    ),
    "nothing-tracked": Meaning(
        "Only messages are tracked that were sent with track_inflight=True.",
        "Set track_inflight=True on actors, or track_by_default (PROCESSING_TRACK_BY_DEFAULT).",
    ),
    "options": Meaning(
        "Workers refuse to boot.",
        "Correct the option.",
    ),
    "unknown-handler": Meaning(
        "Nobody is told of what happens to its messages.",
        "Name an actor that the workers declare.",
    ),
    "recovery-queue": Meaning(
        "Only workers that were started without -Q, or with it in their -Q, run what is recovered to it.",
        "See that there is such a worker; or correct the name.",
    ),
    "broker-timeout": Meaning(
        "A connection that is dead without anybody knowing (a lost host, a firewall) holds a worker's consumer for "
        "ever: it fetches nothing more, and looks healthy.",
        "RedisBroker(..., socket_timeout=10).",
    ),
    "broker-heartbeat": Meaning(
        "Dramatiq's own maintenance gives a busy worker's messages to others, again and again: each copy is put off.",
        "Leave RedisBroker's heartbeat_timeout at its default, a minute.",
    ),
    # RabbitMQ.
    "confirm-delivery": Meaning(
        "A message that RabbitMQ did not take is lost without anybody knowing; of recovery's copies another is made "
        "when their deadline has passed.",
        "RabbitmqBroker(..., confirm_delivery=True).",
    ),
    "rabbitmq-unreachable": Meaning(
        "Nothing is fetched, and recovery cannot enqueue.",
        "Check the address, the network, the user and the password.",
    ),
    "rabbitmq-heartbeat": Meaning(
        "RabbitMQ may notice a lost connection, and deliver again, after the tracker has forgotten that a message is "
        "complete (three minutes): it runs again.",
        "Use a heartbeat of 60 seconds or less in the broker's URL.",
    ),
    "consumer-timeout": Meaning(
        "RabbitMQ cuts off a consumer that holds a message for longer than consumer_timeout (30 minutes by default), "
        "and delivers it again and again: each copy is put off until the run ends.",
        "Set RabbitMQ's consumer_timeout above your longest run; it cannot be asked from here.",
    ),
    # The doctor.
    "unchecked": Meaning(
        "It may be wrong, or all right.",
        "Let the doctor ask as a user who may (INFO, CONFIG GET, SLOWLOG GET), or look yourself.",
    ),
}
