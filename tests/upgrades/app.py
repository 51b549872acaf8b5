# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""An application whose package is of another version: an older one, unpacked, or one that writes another schema.

It uses nothing that the first release did not have.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path
from typing import Any

#: The folder of a released package; empty: the present one.
PACKAGE = os.environ.get("TEST_PACKAGE", "")
if PACKAGE:
    sys.path.insert(0, PACKAGE)

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import AsyncIO, CurrentMessage, Middleware, default_middleware

from tests.support.history import History

tracker = importlib.import_module("dramatiq_inflight")
assert tracker.__file__ is not None
assert not PACKAGE or tracker.__file__.startswith(PACKAGE), tracker.__file__
if os.environ.get("TEST_SCHEMA"):  # what a later version writes
    scripting = importlib.import_module("dramatiq_inflight.store.scripts")
    scripting.SCHEMA = int(os.environ["TEST_SCHEMA"])  # type: ignore[attr-defined]

history = History(Path(os.environ["TEST_HISTORY"]))
broker = RedisBroker(
    url=os.environ["TEST_BROKER_URL"],
    namespace=os.environ["TEST_BROKER_NAMESPACE"],
    middleware=[middleware() for middleware in default_middleware],
    maintenance_chance=0,
)


class Recorder(Middleware):
    """Notes boots and acknowledgements."""

    def after_worker_boot(self, broker: Any, worker: Any) -> None:
        history.write("package", None, extra=tracker.__file__)
        history.write("boot", None, extra=os.getpgid(0))

    def after_ack(self, broker: Any, message: Any) -> None:
        if not message.queue_name.endswith(".DQ"):
            history.write("acked", message.args[0], message.message_id)

    def after_nack(self, broker: Any, message: Any) -> None:
        history.write("nacked", message.args[0], message.message_id)


broker.add_middleware(CurrentMessage())
broker.add_middleware(AsyncIO())  # its thread keeps a process that does not end it
broker.add_middleware(Recorder())
broker.add_middleware(tracker.InFlightTracker())
dramatiq.set_broker(broker)


@dramatiq.actor(track_inflight=True, max_recoveries=None)
def work(key: Any, seconds: float) -> None:
    """Works for a while."""
    message = CurrentMessage.get_current_message()
    assert message is not None
    history.write("start", key, message.message_id)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(0.02)
    history.write("end", key, message.message_id)


@dramatiq.actor(track_inflight=True, max_recoveries=None)
def cut_off(key: Any) -> None:
    """Its first run goes on until its worker is killed."""
    message = CurrentMessage.get_current_message()
    current = tracker.current()
    assert message is not None
    history.write("start", key, message.message_id)
    while current is None or not current.recovered:
        time.sleep(0.02)
    history.write("end", key, message.message_id)
