# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""What the page and the JSON interface do to messages, with a line in the log about each act."""

from __future__ import annotations

import time
from collections.abc import Callable

from dramatiq.logging import get_logger

from ..inspection.inspector import Choice
from ..operations import Bulk, Done, Operations
from .board import Board

__all__ = ["Acts"]

logger = get_logger(__name__)

#: How long one request acts on dead letters, seconds; then it says how many are left.
LONGEST_ACT = 10.0


class Acts:
    """An operator's acts.

    Parameters:
      source: Where the acts come from, for the log.
    """

    def __init__(self, board: Board, operations: Operations, source: str) -> None:
        self._board = board
        self._source = source
        #: By the names of the acts.
        self._on_one: dict[str, Callable[..., Done]] = {
            "requeue": operations.requeue,
            "dead-letter": operations.dead_letter,
            "discard": operations.discard,
        }
        self._on_letters: dict[str, Callable[..., Bulk | None]] = {
            "requeue": operations.requeue_dead_letters,
            "discard": operations.purge,
        }

    def on_message(self, action: str, id: str, *, force: bool) -> Done:
        """Act on one message; see `Operations`."""
        done = self._on_one[action](id, force=force)
        self._board.refresh()
        logger.info("From %s: %s of message %r%s: %s.", self._source, action, id, " by force" * force, done.value)
        return done

    def on_letters(self, action: str, choice: Choice) -> Bulk | None:
        """Act on all dead letters that are chosen, for `LONGEST_ACT` at the most.

        Returns: None if somebody else acts on dead letters just now, or the broker cannot be asked.
        """
        ends = time.monotonic() + LONGEST_ACT
        bulk = self._on_letters[action](choice, lambda: time.monotonic() > ends)
        if bulk is not None:
            logger.info("From %s: %s of dead letters, %d done.", self._source, action, bulk.number)
            self._board.refresh()
        return bulk
