# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The tests' application, which loads until a file is there, and boots until a message runs."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from dramatiq.middleware import Middleware

from tests.support.app import broker, history

__all__ = ["broker"]


class Waits(Middleware):
    """The last of the hooks of a boot."""

    def after_worker_boot(self, broker: Any, worker: Any) -> None:
        while not history.events("start"):
            time.sleep(0.01)


history.write("loading", None, extra=os.getpgid(0))
while not Path(os.environ["TEST_LOADED"]).exists():
    time.sleep(0.01)
broker.add_middleware(Waits())
