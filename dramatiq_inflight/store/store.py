# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The tracker's keys in Redis, which no other part of the package changes.

The keys are declared in `store.keys`.  Every method that changes a record is one script, so it is atomic, and every
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
      recovery: The records that dead incarnations left; the sweeps are in `recovery.sweep`.
      operations: The changes that an operator makes; `operations.Operations` uses it.
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
