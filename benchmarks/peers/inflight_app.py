# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Dramatiq with this package."""

from __future__ import annotations

from benchmarks.peers import job
from benchmarks.peers.dramatiq_parts import make_broker, sender
from dramatiq_inflight import InFlightTracker

broker = make_broker()
broker.add_middleware(InFlightTracker())
send, gave_up = sender(broker, track_inflight=True)

if __name__ == "__main__":
    job.serve(send, gave_up)
