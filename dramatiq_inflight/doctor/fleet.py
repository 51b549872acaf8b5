# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The worker processes: whether there are any, and whether they agree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import timedelta

from ..config.settings import LONGEST_INTERVAL_PER_TTL
from ..inspection.history import EventKind, revivals
from ..inspection.inspector import WorkerView
from ..store.schema import SCHEMA
from ..version import __version__
from .case import Case, Check
from .findings import Code, Finding

__all__ = ["CHECKS"]

#: How long the recovery of a dead worker may take to begin, where somebody lives who could, seconds.
PATIENCE = 120.0

#: How many are named.
NAMED = 5

#: How far to look back for false alarms, and at how many events.
A_DAY, MOST = timedelta(days=1), 10_000

TTL_SHORT = Code(
    "ttl-short",
    ("warning",),
    "A single lost heartbeat can make a living worker look dead: its messages run twice.",
    "Set HEARTBEAT_TTL to three times HEARTBEAT_INTERVAL or more.",
)

TTL_DIFFERS = Code(
    "ttl-differs",
    ("warning", "note"),
    "A death that no process sees is known after the TTL of the worker that died: for some messages sooner than "
    "for others.",
    "Set the same HEARTBEAT_TTL and HEARTBEAT_INTERVAL everywhere. During a deployment it passes. If only the doctor's "
    "own environment differs, nothing is wrong with the workers; run the doctor, and recover, where they run.",
)

HEARTBEAT_ONLY = Code(
    "heartbeat-only",
    ("warning",),
    "Their deaths are known when their heartbeat has expired, and not within seconds.",
    "Allow SUBSCRIBE, PUBSUB and INFO, and the namespace's channels (docs/brokers.rst). A proxy that keeps "
    "subscriptions to itself, and a Redis Cluster before 7.0, cannot do it. It passes while a worker boots.",
)

NEWER_SCHEMA = Code(
    "schema",
    ("error",),
    "This version can read nothing there, and its workers refuse to boot. Nothing is lost by that.",
    "Use the version that the workers have. To finish an upgrade, or to go back: docs/upgrading.rst.",
)

VERSIONS_DIFFER = Code(
    "versions-differ",
    ("warning",),
    "Versions that cannot share the namespace refuse to boot; the older ones lack the fixes of the newer.",
    "Nothing during a deployment; else update the older ones.",
)

INSTANCE_SHARED = Code(
    "instance-shared",
    ("warning",),
    "Logs, dead letters and metrics do not show which of them is meant.",
    "Give each container its own PROCESSING_INSTANCE_ID, or none: it is the host name then.",
)

INSTANCE_NOT_EXCLUSIVE = Code(
    "instance-not-exclusive",
    ("error",),
    "Each that boots declares the other dead, though it lives: all its messages run twice.",
    "Give each container its own PROCESSING_INSTANCE_ID, or unset PROCESSING_INSTANCE_EXCLUSIVE.",
)

NO_WORKERS = Code(
    "no-workers",
    ("warning",),
    "Nothing runs, and nobody recovers the messages of dead workers.",
    "Start workers; or check that namespace (PROCESSING_NS) and Redis are those of the workers.",
)

NAMESPACE_EMPTY = Code(
    "namespace-empty",
    ("warning",),
    "No worker has ever been here, or none for a month: this is likely the wrong place, and nothing is tracked in it.",
    "Check that namespace (PROCESSING_NS) and Redis (PROCESSING_REDIS_URL) are those of the workers.",
)

REVIVED = Code(
    "revived",
    ("warning",),
    "Its messages were recovered while it went on, so they may have run twice at once.",
    "Its log says how long it was not heard of, and why. If it was frozen (a suspended machine, code that holds "
    'the GIL): heartbeat="process", or a longer HEARTBEAT_TTL. docs/effects.rst has the way to write only once.',
)

NOT_RECOVERED = Code(
    "not-recovered",
    ("error", "warning"),
    "Its messages wait for a worker that can recover them.",
    "Start workers of its application. A worker cannot recover messages that its application does not declare, "
    "nor those that another RedisBroker's namespace or another virtual host keeps: its log names them.",
)


def _living(case: Case) -> list[WorkerView]:
    return [worker for worker in case.overview.workers if worker.is_alive]


def _alive(case: Case) -> Iterator[Finding]:
    if _living(case):
        return
    namespace = case.inspector.namespace
    if not case.overview.workers and not case.inspector.history(limit=1):
        yield NAMESPACE_EMPTY.warning(f"There is nothing in the namespace {namespace!r}.")
    else:
        yield NO_WORKERS.warning(f"No worker is alive in the namespace {namespace!r}.")


def _dead(case: Case) -> Iterator[Finding]:
    at, others = case.overview.at, bool(_living(case))

    def is_left(worker: WorkerView) -> bool:
        # One whose connections are closed may be back until its heartbeat would have expired.
        patience = PATIENCE + worker.heartbeat_ttl if others else 0.0
        return worker.dead_since is not None and (at - worker.dead_since).total_seconds() > patience

    left = [worker for worker in case.overview.workers if is_left(worker)]
    if left:
        running = sum(worker.running for worker in left)
        names = _list(f"{worker.instance or '?'} (incarnation {worker.id})" for worker in left)
        yield (NOT_RECOVERED.error if running else NOT_RECOVERED.warning)(
            f"Dead or silent workers are not recovered (messages running: {running}): {names}."
        )


def _revived(case: Case) -> Iterator[Finding]:
    events = case.inspector.history(kinds=[EventKind.REVIVED, EventKind.RECOVERED], since=A_DAY, limit=MOST)
    found = revivals(events)
    if found:
        names = _list(f"{one.instance or '?'} (process {one.pid}, {one.recovered} messages)" for one in found)
        recovered = sum(one.recovered for one in found)
        yield REVIVED.warning(
            f"Workers that were declared dead in the last day, and live: {len(found)}; {recovered} of their messages "
            f"were recovered: {names}."
        )


def _times(case: Case) -> Iterator[Finding]:
    settings = case.settings
    times = {(worker.heartbeat_ttl, worker.heartbeat_interval) for worker in _living(case) if worker.heartbeat_ttl}
    own = set[tuple[float, float]]()
    if settings is not None and settings.enabled:
        own.add((settings.heartbeat_ttl, settings.beat_interval))
        if settings.heartbeat_interval > settings.heartbeat_ttl * LONGEST_INTERVAL_PER_TTL:
            yield TTL_SHORT.warning(
                f"HEARTBEAT_TTL is {settings.heartbeat_ttl:g} s, HEARTBEAT_INTERVAL {settings.heartbeat_interval:g} s.",
            )
    said = _list(f"{ttl:g} s ({interval:g} s)" for ttl, interval in sorted(times | own))
    if len(times) > 1:
        yield TTL_DIFFERS.warning(f"Workers do not agree about HEARTBEAT_TTL (and how often to beat): {said}.")
    elif times and own - times:
        yield TTL_DIFFERS.note(f"The workers agree about HEARTBEAT_TTL; the doctor's own environment differs: {said}.")


def _connections(case: Case) -> Iterator[Finding]:
    if case.settings is not None and not case.settings.connection_timeout:
        return
    blind = [worker for worker in _living(case) if not worker.is_seen]
    if blind:
        names = _list(f"{worker.instance or '?'} (incarnation {worker.id})" for worker in blind)
        yield HEARTBEAT_ONLY.warning(
            f"Redis does not see the connections of {len(blind)} worker{'s' * (len(blind) != 1)}: {names}.",
        )


def _versions(case: Case) -> Iterator[Finding]:
    versions = sorted({worker.version or "one that does not say" for worker in _living(case)})
    if len(versions) > 1:
        yield VERSIONS_DIFFER.warning(f"Workers have different versions of the package: {_list(versions)}.")


def _schema(case: Case) -> Iterator[Finding]:
    in_use = case.inspector.schema()
    if in_use > SCHEMA:
        yield NEWER_SCHEMA.error(
            f"The namespace has schema {in_use}; dramatiq_inflight {__version__} reads up to {SCHEMA}."
        )


def _instances(case: Case) -> Iterator[Finding]:
    by_instance: dict[str, list[WorkerView]] = defaultdict(list)
    for worker in _living(case):
        if worker.instance:
            by_instance[worker.instance].append(worker)
    for instance, workers in sorted(by_instance.items()):
        hosts = {worker.host for worker in workers}
        places = {worker.place or worker.host for worker in workers}
        if len(places) > 1 and any(worker.instance_exclusive for worker in workers):
            yield INSTANCE_NOT_EXCLUSIVE.error(
                f"{len(places)} containers have the instance id {instance!r}, which is said to be of one alone.",
            )
        elif len(hosts) > 1:
            yield INSTANCE_SHARED.warning(f"{len(hosts)} hosts have the instance id {instance!r}.")


def _list(names: Iterator[str] | list[str]) -> str:
    names = list(names)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


CHECKS = (
    Check(NEWER_SCHEMA, "The schema of the namespace", "This version can read the namespace.", _schema),
    Check(NO_WORKERS, "Whether workers are alive", "Workers are alive.", _alive),
    Check(NOT_RECOVERED, "Whether dead workers are recovered", "No dead worker waits to be recovered.", _dead),
    Check(REVIVED, "Whether workers were declared dead that live", "None was in the last day.", _revived),
    Check(TTL_DIFFERS, "The times of the workers", "The workers agree about their times.", _times),
    Check(HEARTBEAT_ONLY, "How deaths are known", "Redis sees the connection of each worker.", _connections),
    Check(VERSIONS_DIFFER, "The versions of the workers", "The workers have one version of the package.", _versions),
    Check(INSTANCE_SHARED, "The instance ids of the workers", "No two hosts have one instance id.", _instances),
)
