# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The parts of a worker in this process, which a tracker keeps to itself: tests get at them here, and nowhere else."""

from __future__ import annotations

from dramatiq_inflight import InFlightTracker
from dramatiq_inflight.message.in_flight import Entry, Table
from dramatiq_inflight.threads.mutex import Mutex
from dramatiq_inflight.tracker import Tracker
from dramatiq_inflight.worker import WorkerProcess

__all__ = ["entries_of", "lock_of", "runtime_if_any", "runtime_of"]


def runtime_if_any(tracker: Tracker) -> WorkerProcess | None:
    """Return the parts of the worker that a tracker serves; None before its boot and after its end."""
    assert isinstance(tracker, InFlightTracker)
    return tracker._runtime


def runtime_of(tracker: Tracker) -> WorkerProcess:
    """Return the parts of the worker that a tracker serves now."""
    runtime = runtime_if_any(tracker)
    assert runtime is not None, "the tracker serves no worker"
    return runtime


def entries_of(tracker: Tracker) -> list[Entry]:
    """Return the messages that a tracker's worker has in flight; none without a worker."""
    runtime = runtime_if_any(tracker)
    return runtime.table.entries() if runtime is not None else []


def lock_of(table: Table) -> Mutex:
    """Return the lock that a table is changed under."""
    return table._mutex
