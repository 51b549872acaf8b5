# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The changes that an operator makes to the records."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TypeVar, cast

from redis.exceptions import LockError
from redis.lock import Lock

from .messages import Messages
from .records import Orphan
from .recovery import orphan_of
from .scripts import Part, Scripts, ms
from .workers import BEAT, Workers

__all__ = ["Operations"]

T = TypeVar("T")


class Operations(Part):
    """Takes messages from whoever has them, or gives them up."""

    def __init__(self, scripts: Scripts, messages: Messages, workers: Workers) -> None:
        super().__init__(scripts)
        self._messages = messages
        self._workers = workers

    def take(self, message_id: str, *, hold: float, condemn: bool, force: bool) -> Orphan | str:
        """Take a message from whoever has it, to enqueue a copy; or why not: see take.lua.

        Parameters:
          hold: How long the claim holds, seconds.
          condemn: The copy is to be dead-lettered.
          force: Also from a living worker that runs it.
        """
        owner = self._owner(message_id)
        row = self.scripts.execute(
            "take",
            record_key=self.keys.record(message_id),
            running=self.keys.running(owner),
            id=message_id,
            expected_owner=owner,
            hold=ms(hold),
            dead_letter=condemn,
            force=force,
        )
        if force and owner:
            self._workers.wake([owner], BEAT)  # it hears of that with its beat
        return row[0].decode() if len(row) == 1 else cast("Orphan", orphan_of(message_id, row))

    def discard(self, message_id: str, *, force: bool = False) -> str:
        """Give a message up; or why not: see discard.lua.

        Parameters:
          force: Also one that runs on a living worker.
        """
        owner = self._owner(message_id)
        answer = self.scripts.execute(
            "discard",
            record_key=self.keys.record(message_id),
            running=self.keys.running(owner),
            checkpoint=self.keys.checkpoint(message_id),
            id=message_id,
            expected_owner=owner,
            force=force,
        )
        if force and owner:
            self._workers.wake([owner], BEAT)
        return str(answer, "utf-8")

    def one_at_a_time(self, replay: Callable[[Callable[[], bool]], T], ttl: float) -> T | None:
        """To read a dead letter, enqueue it and drop it are three steps: two operators at once would double it.

        Parameters:
          replay: Is given a function, which it calls now and then if it takes long; False: others may have begun.
          ttl: How long it may take between two such calls, and how long others are waited for, seconds.

        Returns: what `replay` does; ``None`` if others have taken too long.
        """
        lock = Lock(self.client, self.keys.replay, timeout=ttl, blocking_timeout=ttl)
        if not lock.acquire():
            return None
        try:
            kept = [time.monotonic()]

            def keep() -> bool:
                if time.monotonic() - kept[0] > ttl / 10:
                    try:
                        lock.reacquire()
                    except LockError:
                        return False
                    kept[0] = time.monotonic()
                return True

            return replay(keep)
        finally:
            with contextlib.suppress(LockError):  # it has taken longer than that
                lock.release()

    def note_requeued(self, message_id: str, queue: str, actor: str, copy_id: str) -> None:
        """Record that a message was enqueued anew, from a dead-letter queue or from what was set aside.

        Parameters:
          copy_id: The broker's id of the new copy; empty if the broker has none.
        """
        self.scripts.execute(
            "note_act", event="requeued", id=message_id, queue=queue, actor=actor, copy=copy_id, number=1
        )

    def note_discarded(self, message_id: str, queue: str, actor: str, number: int = 1) -> None:
        """Record that dead letters were discarded.

        Parameters:
          message_id: The id of the one; empty if there are several.
        """
        self.scripts.execute(
            "note_act", event="discarded", id=message_id, queue=queue, actor=actor, copy="", number=number
        )

    def _owner(self, message_id: str) -> str:
        (head,) = self._messages.peek([message_id])
        return head.owner if head is not None else ""
