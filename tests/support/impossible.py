# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Transitions that the table of a run's states does not allow: each fails the test in which it happens.

A worker thread that raised would prove nothing: Dramatiq's hooks swallow exceptions, and go on.
"""

from __future__ import annotations

from pathlib import Path

from dramatiq_inflight.message import in_flight
from dramatiq_inflight.message.in_flight import Entry
from dramatiq_inflight.message.state import State, Transition

__all__ = ["in_log", "taken", "watch"]

#: A part of the log line of each.
DEFECT = "This is a defect of dramatiq_inflight"

_report = in_flight.impossible
_found: list[str] = []


def watch() -> None:
    """Note each from now on, in this process."""

    def note(entry: Entry, transition: Transition, state: State) -> None:
        _found.append(f"{transition.name} in: {state}")
        _report(entry, transition, state)

    in_flight.impossible = note


def taken() -> list[str]:
    """Return the findings since the last time."""
    found = _found[:]
    del _found[: len(found)]
    return found


def in_log(path: Path) -> list[str]:
    """The lines of the log of another process that report one."""
    return [line for line in path.read_text(errors="replace").splitlines() if DEFECT in line] if path.exists() else []
