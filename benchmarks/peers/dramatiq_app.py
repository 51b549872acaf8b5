# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Plain Dramatiq."""

from __future__ import annotations

from benchmarks.peers import job
from benchmarks.peers.dramatiq_parts import make_broker, sender

broker = make_broker()
send, gave_up = sender(broker)

if __name__ == "__main__":
    job.serve(send, gave_up)
