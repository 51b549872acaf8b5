# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The application: its middleware, its actors, and its RedisBroker."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backend import DEFAULT_TIMEOUT

from ..config.policy import check_options
from ..errors import ConfigurationError
from .case import Case, Check
from .findings import Code, Finding

__all__ = ["CHECKS"]

NO_BROKER = Code(
    "no-broker",
    ("note",),
    "Middleware, actors and the broker's own settings were not looked at.",
    "Give the doctor the application's broker.",
)

NO_TRACKER = Code(
    "no-tracker",
    ("error",),
    "Nothing of this application is tracked.",
    "Add one: broker.add_middleware(InFlightTracker()).",
)

TWO_TRACKERS = Code(
    "two-trackers",
    ("error",),
    "Each would take the other's messages for duplicates: workers refuse to boot.",
    "Remove one.",
)

DISABLED = Code(
    "disabled",
    ("warning",),
    "Nothing of this application is tracked.",
    "Unset PROCESSING_ENABLED, or set it to true.",
)

NO_REDIS = Code(
    "no-redis",
    ("error",),
    "There is nothing to keep records in: workers refuse to boot; with a StubBroker they track nothing.",
    "Set redis_url (PROCESSING_REDIS_URL) or client.",
)

NOTHING_TRACKED = Code(
    "nothing-tracked",
    ("warning",),
    "Only messages are tracked that were sent with track_inflight=True.",
    "Set track_inflight=True on actors, or track_by_default (PROCESSING_TRACK_BY_DEFAULT).",
)

OPTIONS = Code(
    "options",
    ("error",),
    "Workers refuse to boot.",
    "Correct the option.",
)

UNKNOWN_HANDLER = Code(
    "unknown-handler",
    ("warning",),
    "The named actor is not called for its messages.",
    "Name an actor that the workers declare.",
)

RECOVERY_QUEUE = Code(
    "recovery-queue",
    ("note",),
    "Only workers that were started without -Q, or with it in their -Q, run the messages that are recovered to it.",
    "Start such a worker, or correct the name.",
)

BROKER_TIMEOUT = Code(
    "broker-timeout",
    ("warning",),
    "A dead connection that nobody notices (a lost host, a firewall) holds a worker's consumer for ever: it "
    "fetches nothing more, and looks healthy.",
    "Add ?socket_timeout=10 to the broker's URL, as in redis://host:6379/0?socket_timeout=10; Dramatiq ignores a "
    "socket_timeout= beside url=. Or give it to the client that the broker is given, or beside host= and port=.",
)

RESULTS_TIMEOUT = Code(
    "results-timeout",
    ("note",),
    "get_result(block=True) raises redis.TimeoutError when it has waited so long, though its timeout is longer. From "
    "redis-py 8 on a client has 5 seconds by default, and get_result waits for 10.",
    "Add ?socket_timeout=30, or more than you wait, to the backend's URL; Dramatiq ignores a socket_timeout= "
    "beside url=.",
)

BROKER_HEARTBEAT = Code(
    "broker-heartbeat",
    ("warning",),
    "Dramatiq's own maintenance gives a busy worker's messages to others, again and again: each copy is put off.",
    "Leave RedisBroker's heartbeat_timeout at its default, a minute.",
)


def _tracker(case: Case) -> Iterator[Finding]:
    trackers = case.trackers
    if not trackers:
        yield NO_TRACKER.error(f"There is no InFlightTracker in the middleware of the {type(case.broker).__name__}.")
        return
    if len(trackers) > 1:
        yield TWO_TRACKERS.error(f"There are {len(trackers)} InFlightTrackers in the broker's middleware.")
    if not trackers[0].settings.enabled:
        yield DISABLED.warning("The tracker is switched off (enabled, PROCESSING_ENABLED).")


def _tracked(case: Case) -> Iterator[Finding]:
    settings = case.trackers[0].settings
    actors = case.broker.actors.values()
    if not any(actor.options.get("track_inflight", settings.track_by_default) for actor in actors):
        yield NOTHING_TRACKED.warning(f"None of {len(actors)} actors is tracked.")


def _options(case: Case) -> Iterator[Finding]:
    settings = case.trackers[0].settings
    actors = case.broker.actors
    own_queues = {actor.queue_name for actor in actors.values()}
    for name, actor in sorted(actors.items()):
        try:
            policy = dataclasses.replace(settings.policy, **check_options(actor.options, f"actor {name!r}"))
        except ConfigurationError as wrong:
            yield OPTIONS.error(str(wrong))
            continue
        for option in ("on_recovery", "on_poison"):
            handler = getattr(policy, option)
            if handler is not None and handler not in actors:
                yield UNKNOWN_HANDLER.warning(f"{option} of actor {name!r} is {handler!r}, which is no actor here.")
        queue = policy.recovery_queue
        if queue is not None and queue not in own_queues:
            yield RECOVERY_QUEUE.note(f"recovery_queue of actor {name!r} is {queue!r}, where no actor has its own.")


def _timeout(case: Case) -> Iterator[Finding]:
    if _socket_timeout(case.redis_broker.client) is None:
        yield BROKER_TIMEOUT.warning("RedisBroker's client has no socket_timeout.")


def _results(case: Case) -> Iterator[Finding]:
    for middleware in case.broker.middleware:
        backend = middleware.backend if isinstance(middleware, Results) else None
        client = getattr(backend, "client", None)
        timeout = _socket_timeout(client) if isinstance(client, redis.Redis) else None
        if timeout is not None and timeout * 1000 <= DEFAULT_TIMEOUT:
            yield RESULTS_TIMEOUT.note(f"The result backend's client has a socket_timeout of {timeout:g} seconds.")


def _socket_timeout(client: Any) -> float | None:
    if isinstance(client, redis.RedisCluster):
        timeout: float | None = client.nodes_manager.connection_kwargs.get("socket_timeout")
    else:
        pool = client.connection_pool  # what is made here does not connect: its defaults are wanted
        timeout = pool.connection_class(**pool.connection_kwargs).socket_timeout
    return timeout


def _heartbeat(case: Case) -> Iterator[Finding]:
    timeout, interval = case.redis_broker.heartbeat_timeout, case.trackers[0].settings.beat_interval
    if timeout < interval * 1000:
        yield BROKER_HEARTBEAT.warning(
            f"RedisBroker's heartbeat_timeout is {timeout} ms, and this tracker beats every {interval:g} s.",
        )


def _has_tracker(case: Case) -> bool:
    return bool(case.trackers)


def _is_redis(case: Case) -> bool:
    return isinstance(case.broker, RedisBroker) and bool(case.trackers)


CHECKS = (
    Check(NO_TRACKER, "The tracker", "There is a tracker.", _tracker),
    Check(NOTHING_TRACKED, "Whether actors are tracked", "Actors are tracked.", _tracked, _has_tracker),
    Check(OPTIONS, "The options of the actors", "The options of the actors are right.", _options, _has_tracker),
    Check(BROKER_TIMEOUT, "RedisBroker's time-outs", "No command of the broker waits for ever.", _timeout, _is_redis),
    Check(RESULTS_TIMEOUT, "The result backend's time-out", "Results are waited for as long as asked.", _results),
    Check(
        BROKER_HEARTBEAT,
        "RedisBroker's heartbeat",
        "RedisBroker does not take messages from living workers.",
        _heartbeat,
        _is_redis,
    ),
)
