# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The application: its middleware, its actors, and its RedisBroker."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import redis
from dramatiq.brokers.redis import RedisBroker

from ..config.policy import check_options
from ..errors import ConfigurationError
from .case import Case, Check
from .findings import Finding, error, note, warning

__all__ = ["CHECKS"]


def _tracker(case: Case) -> Iterator[Finding]:
    trackers = case.trackers
    if not trackers:
        yield error("no-tracker", f"There is no InFlightTracker in the middleware of the {type(case.broker).__name__}.")
        return
    if len(trackers) > 1:
        yield error("two-trackers", f"There are {len(trackers)} InFlightTrackers in the broker's middleware.")
    if not trackers[0].settings.enabled:
        yield warning("disabled", "The tracker is switched off (enabled, PROCESSING_ENABLED).")


def _tracked(case: Case) -> Iterator[Finding]:
    settings = case.trackers[0].settings
    actors = case.broker.actors.values()
    if not any(actor.options.get("track_inflight", settings.track_by_default) for actor in actors):
        yield warning("nothing-tracked", f"None of {len(actors)} actors is tracked.")


def _options(case: Case) -> Iterator[Finding]:
    settings = case.trackers[0].settings
    actors = case.broker.actors
    own_queues = {actor.queue_name for actor in actors.values()}
    for name, actor in sorted(actors.items()):
        try:
            policy = dataclasses.replace(settings.policy, **check_options(actor.options, f"actor {name!r}"))
        except ConfigurationError as wrong:
            yield error("options", str(wrong))
            continue
        for option in ("on_recovery", "on_poison"):
            handler = getattr(policy, option)
            if handler is not None and handler not in actors:
                yield warning("unknown-handler", f"{option} of actor {name!r} is {handler!r}, which is no actor here.")
        queue = policy.recovery_queue
        if queue is not None and queue not in own_queues:
            yield note("recovery-queue", f"recovery_queue of actor {name!r} is {queue!r}, where no actor has its own.")


def _timeout(case: Case) -> Iterator[Finding]:
    client: Any = case.redis_broker.client
    if isinstance(client, redis.RedisCluster):
        timeout = client.nodes_manager.connection_kwargs.get("socket_timeout")
    else:
        pool = client.connection_pool  # what is made here does not connect: its defaults are wanted
        timeout = pool.connection_class(**pool.connection_kwargs).socket_timeout
    if timeout is None:
        yield warning("broker-timeout", "RedisBroker's client has no socket_timeout.")


def _heartbeat(case: Case) -> Iterator[Finding]:
    timeout, interval = case.redis_broker.heartbeat_timeout, case.trackers[0].settings.beat_interval
    if timeout < interval * 1000:
        yield warning(
            "broker-heartbeat",
            f"RedisBroker's heartbeat_timeout is {timeout} ms, and this tracker beats every {interval:g} s.",
        )


def _has_tracker(case: Case) -> bool:
    return bool(case.trackers)


def _is_redis(case: Case) -> bool:
    return isinstance(case.broker, RedisBroker) and bool(case.trackers)


CHECKS = (
    Check("no-tracker", "The tracker", "There is a tracker.", _tracker),
    Check("nothing-tracked", "Whether actors are tracked", "Actors are tracked.", _tracked, _has_tracker),
    Check("options", "The options of the actors", "The options of the actors are right.", _options, _has_tracker),
    Check("broker-timeout", "RedisBroker's time-outs", "No command of the broker waits for ever.", _timeout, _is_redis),
    Check("broker-heartbeat", "RedisBroker's heartbeat", "RedisBroker leaves the living alone.", _heartbeat, _is_redis),
)
