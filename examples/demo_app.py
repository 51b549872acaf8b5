# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The application of the demo: that of app.py, with one more actor, which takes its time and keeps a diary."""

from __future__ import annotations

import json
import os
import time

import dramatiq

from .app import broker

__all__ = ["SECONDS", "broker", "deliver"]

#: How long each message takes.
SECONDS = 1.5


@dramatiq.actor(broker=broker, track_inflight=True)
def deliver(order_id: int) -> None:
    """Deliver an order."""
    note("start", order_id)
    time.sleep(SECONDS)
    note("end", order_id)


def note(what: str, order_id: int) -> None:
    """Append a line to the diary: one write, so that the lines of several processes do not mix."""
    line = json.dumps([time.time(), os.environ["PROCESSING_INSTANCE_ID"], os.getpid(), what, order_id]) + "\n"
    diary = os.open(os.environ["DEMO_DIARY"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(diary, line.encode())
    finally:
        os.close(diary)
