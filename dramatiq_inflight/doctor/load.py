# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""How Redis bears its load."""

from __future__ import annotations

import time
from collections.abc import Iterator

from .case import Case, Check
from .findings import Code, Finding

__all__ = ["CHECKS"]

#: How long a round trip may take, at its best, seconds.
SLOW_TRIP = 0.05

#: How many are tried.
TRIPS = 5

#: How long a script may take, and how long it must not, microseconds.
SLOW_SCRIPT, TOO_SLOW_SCRIPT = 5_000, 50_000

LATENCY = Code(
    "latency",
    ("warning",),
    "Every tracked message waits for it once, at its start.",
    "Let Redis be near the workers, on a host that is not overloaded; look for slow commands of others (SLOWLOG).",
)

SLOW_SCRIPTS = Code(
    "slow-scripts",
    ("warning", "note"),
    "Redis does nothing else meanwhile: all its clients wait.",
    "See what the host of Redis does besides: swapping, huge pages, a fork for a snapshot, other tenants. The "
    "scripts take about a millisecond for a batch of 50.",
)

REJECTED_CONNECTIONS = Code(
    "rejected-connections",
    ("warning",),
    "Workers were turned away: messages that they started then were not tracked.",
    "Raise maxclients, and the limit of open files that it needs.",
)


def _latency(case: Case) -> Iterator[Finding]:
    took = []
    for _ in range(TRIPS):
        begun = time.monotonic()
        case.server.ping()
        took.append(time.monotonic() - begun)
    if min(took) > SLOW_TRIP:
        yield LATENCY.warning(f"A round trip to Redis takes {min(took) * 1000:.0f} ms at its best.")


def _slow_scripts(case: Case) -> Iterator[Finding]:
    prefix = case.inspector._keys.prefix.encode()
    took = []
    for entry in case.server.slowlog_get(1000):
        command = entry["command"]
        command = command.encode(errors="replace") if isinstance(command, str) else command
        if command[:4].upper() == b"EVAL" and prefix in command and entry["duration"] >= SLOW_SCRIPT:
            took.append(entry["duration"])
    if took:
        say = SLOW_SCRIPTS.warning if max(took) >= TOO_SLOW_SCRIPT else SLOW_SCRIPTS.note
        yield say(f"{len(took)} scripts of the tracker were slow, up to {max(took) / 1000:.0f} ms.")


def _rejected(case: Case) -> Iterator[Finding]:
    number = int(case.info["rejected_connections"])
    if number:
        yield REJECTED_CONNECTIONS.warning(f"Redis has rejected {number} connections since it was started.")


CHECKS = (
    Check(LATENCY, "How fast Redis answers", "Redis answers fast.", _latency),
    Check(SLOW_SCRIPTS, "Whether scripts were slow", "No script of the tracker was slow.", _slow_scripts),
    Check(REJECTED_CONNECTIONS, "Whether Redis has rejected anybody", "Redis has rejected nobody.", _rejected),
)
