# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""How Redis bears its load."""

from __future__ import annotations

import time
from collections.abc import Iterator

from .case import Case, Check
from .findings import Finding, note, warning

__all__ = ["CHECKS"]

#: How long a round trip may take, at its best, seconds.
SLOW_TRIP = 0.05

#: How many are tried.
TRIPS = 5

#: How long a script may take, and how long it must not, microseconds.
SLOW_SCRIPT, TOO_SLOW_SCRIPT = 5_000, 50_000


def _latency(case: Case) -> Iterator[Finding]:
    took = []
    for _ in range(TRIPS):
        begun = time.monotonic()
        case.server.ping()
        took.append(time.monotonic() - begun)
    if min(took) > SLOW_TRIP:
        yield warning("latency", f"A round trip to Redis takes {min(took) * 1000:.0f} ms at its best.")


def _slow_scripts(case: Case) -> Iterator[Finding]:
    prefix = case.inspector._keys.prefix.encode()
    took = []
    for entry in case.server.slowlog_get(1000):
        command = entry["command"]
        command = command.encode(errors="replace") if isinstance(command, str) else command
        if command[:4].upper() == b"EVAL" and prefix in command and entry["duration"] >= SLOW_SCRIPT:
            took.append(entry["duration"])
    if took:
        say = warning if max(took) >= TOO_SLOW_SCRIPT else note
        yield say("slow-scripts", f"{len(took)} scripts of the tracker were slow, up to {max(took) / 1000:.0f} ms.")


def _rejected(case: Case) -> Iterator[Finding]:
    number = int(case.info["rejected_connections"])
    if number:
        yield warning("rejected-connections", f"Redis has rejected {number} connections since it was started.")


CHECKS = (
    Check("latency", "How fast Redis answers", "Redis answers fast.", _latency),
    Check("slow-scripts", "Whether scripts were slow", "No script of the tracker was slow.", _slow_scripts),
    Check("rejected-connections", "Whether Redis has rejected anybody", "Redis has rejected nobody.", _rejected),
)
