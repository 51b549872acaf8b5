# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The worker processes: whether there are any, and whether they agree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from ..config.settings import LONGEST_INTERVAL_PER_TTL
from ..inspection.inspector import WorkerView
from ..store.schema import SCHEMA
from ..version import __version__
from .case import Case, Check
from .findings import Finding, error, warning

__all__ = ["CHECKS"]

#: How long the recovery of a dead worker may take to begin, where somebody lives who could, seconds.
PATIENCE = 120.0

#: How many are named.
NAMED = 5


def _living(case: Case) -> list[WorkerView]:
    return [worker for worker in case.overview.workers if worker.is_alive]


def _alive(case: Case) -> Iterator[Finding]:
    if _living(case):
        return
    namespace = case.inspector.namespace
    if not case.overview.workers and not case.inspector.history(limit=1):
        yield warning("namespace-empty", f"There is nothing in the namespace {namespace!r}.")
    else:
        yield warning("no-workers", f"No worker is alive in the namespace {namespace!r}.")


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
        yield (error if running else warning)(
            "not-recovered", f"Dead or silent workers are not recovered (messages running: {running}): {names}."
        )


def _times(case: Case) -> Iterator[Finding]:
    settings = case.settings
    times = {(worker.heartbeat_ttl, worker.heartbeat_interval) for worker in _living(case) if worker.heartbeat_ttl}
    if settings is not None and settings.enabled:
        times.add((settings.heartbeat_ttl, settings.beat_interval))
        if settings.heartbeat_interval > settings.heartbeat_ttl * LONGEST_INTERVAL_PER_TTL:
            yield warning(
                "ttl-short",
                f"HEARTBEAT_TTL is {settings.heartbeat_ttl:g} s, HEARTBEAT_INTERVAL {settings.heartbeat_interval:g} s.",
            )
    if len(times) > 1:
        said = _list(f"{ttl:g} s ({interval:g} s)" for ttl, interval in sorted(times))
        who = "Workers and this application" if settings is not None else "Workers"
        yield warning("ttl-differs", f"{who} do not agree about HEARTBEAT_TTL (and how often to beat): {said}.")


def _connections(case: Case) -> Iterator[Finding]:
    if case.settings is not None and not case.settings.connection_timeout:
        return
    blind = [worker for worker in _living(case) if not worker.is_seen]
    if blind:
        names = _list(f"{worker.instance or '?'} (incarnation {worker.id})" for worker in blind)
        yield warning(
            "heartbeat-only",
            f"Redis does not see the connections of {len(blind)} worker{'s' * (len(blind) != 1)}: {names}.",
        )


def _versions(case: Case) -> Iterator[Finding]:
    versions = sorted({worker.version or "one that does not say" for worker in _living(case)})
    if len(versions) > 1:
        yield warning("versions-differ", f"Workers have different versions of the package: {_list(versions)}.")


def _schema(case: Case) -> Iterator[Finding]:
    in_use = case.inspector.schema()
    if in_use > SCHEMA:
        yield error(
            "schema", f"The namespace has schema {in_use}; dramatiq_inflight {__version__} reads up to {SCHEMA}."
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
            yield error(
                "instance-not-exclusive",
                f"{len(places)} containers have the instance id {instance!r}, which is said to be of one alone.",
            )
        elif len(hosts) > 1:
            yield warning("instance-shared", f"{len(hosts)} hosts have the instance id {instance!r}.")


def _list(names: Iterator[str] | list[str]) -> str:
    names = list(names)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


CHECKS = (
    Check("schema", "The schema of the namespace", "This version can read the namespace.", _schema),
    Check("no-workers", "Whether workers are alive", "Workers are alive.", _alive),
    Check("not-recovered", "Whether dead workers are recovered", "No dead worker waits to be recovered.", _dead),
    Check("ttl-differs", "The times of the workers", "The workers agree about their times.", _times),
    Check("heartbeat-only", "How deaths are known", "Redis sees the connection of each worker.", _connections),
    Check("versions-differ", "The versions of the workers", "The workers have one version of the package.", _versions),
    Check("instance-shared", "The instance ids of the workers", "No two hosts have one instance id.", _instances),
)
