# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The documents of ``--json``: the fields of the package's own views, under their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import fields
from datetime import datetime
from typing import Any

from ..inspection.history import Event
from ..inspection.inspector import MessageView, Overview, Tally, WorkerView
from .text import iso

__all__ = ["STATES", "event", "overview", "view", "worker_states"]

#: The states of a worker, in the order in which they are shown.
STATES = ("alive", "draining", "silent", "dead")


def view(of: MessageView | WorkerView | Tally | Event | Any) -> dict[str, Any]:
    """The fields of one view; times in ISO 8601."""
    return {field.name: _value(getattr(of, field.name)) for field in fields(of)}


def event(of: Event) -> dict[str, Any]:
    """One event: its ``kind`` as it is written, and ``text``, what happened in a few words."""
    document = view(of)
    document["kind"] = document.pop("name")
    return {**document, "text": of.text}


def overview(of: Overview, namespace: str, events: Iterable[Event]) -> dict[str, Any]:
    """All at a glance."""
    return {
        "at": iso(of.at),
        "namespace": namespace,
        "workers": worker_states(of.workers),
        "running": of.running,
        "waiting": of.waiting,
        "aside": of.aside,
        "oldest": of.oldest,
        "in_flight": [view(tally) for tally in of.tallies],
        "events": [event(one) for one in events],
    }


def worker_states(workers: Iterable[WorkerView]) -> dict[str, int]:
    """Return how many there are in each state."""
    counted = Counter(worker.state for worker in workers)
    return {state: counted[state] for state in STATES}


def _value(value: Any) -> Any:
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, tuple):
        return list(value)
    return value
