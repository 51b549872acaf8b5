# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""At a shutdown, messages with ``hand_back`` are asked to stop, and interrupted if they do not."""

from __future__ import annotations

import threading

from dramatiq.logging import get_logger

from .checkpoints import expect_hand_back
from .errors import HandBack
from .table import Entry, Phase, Table

__all__ = ["HandingBack"]


class HandingBack:
    """Asks, once the worker shuts down, and interrupts each message when its time is over."""

    def __init__(self, table: Table) -> None:
        self.logger = get_logger(__name__, type(self))
        #: Whether it has begun.
        self.begun = False
        self._table = table
        self._mutex = threading.Lock()

    def begin(self) -> None:
        """Ask whatever runs."""
        self.begun = True
        for entry in self._table.entries():
            self.ask(entry)

    def ask(self, entry: Entry) -> None:
        """Ask a message that runs, if that has begun; interrupt it later.  One that starts just now asks itself."""
        if not self.begun or entry.policy.hand_back is None:
            return
        with self._mutex:
            if entry.stopping or entry.phase is not Phase.RUNNING:
                return
            entry.stopping = True
        self.logger.info("Message %s is asked to stop: this worker shuts down.", entry.copy.message_id)
        timer = threading.Timer(entry.policy.hand_back, self._interrupt, [entry])
        timer.daemon = True
        timer.start()

    def _interrupt(self, entry: Entry) -> None:
        if entry.strand is not None and entry.strand.interrupt(HandBack, lambda: expect_hand_back(entry)):
            self.logger.info("Message %s has not stopped: it is interrupted.", entry.copy.message_id)
