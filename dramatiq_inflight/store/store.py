# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The records in Redis: nobody else changes them.

The keys are those of store/keys.py.  Every method that changes a record is one script, so it is atomic, and every
method raises ``redis.RedisError`` when Redis cannot be reached or refuses.
"""

from __future__ import annotations

from .messages import Messages
from .operations import Operations
from .recovery import Recovery
from .scripts import Scripts
from .workers import Workers

__all__ = ["Store"]


class Store:
    """All that an incarnation reads and writes of the tracker's keys.

    Attributes:
      messages: The records of messages.
      workers: The incarnations.
      recovery: What the dead have left.
      operations: What an operator does.
    """

    def __init__(self, scripts: Scripts) -> None:
        self.scripts = scripts
        self.client = scripts.client
        self.namespace = scripts.namespace
        self.keys = scripts.keys
        self.me = scripts.me
        self.messages = Messages(scripts)
        self.workers = Workers(scripts)
        self.recovery = Recovery(scripts)
        self.operations = Operations(scripts, self.messages, self.workers)
