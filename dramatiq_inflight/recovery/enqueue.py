# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Enqueue copies of claimed messages: none that cannot be enqueued keeps another one waiting.

A message that the broker, a middleware or the encoder refuses waits by itself, longer with every try.  A broker that
is away is found out by a few failures in a row, and is not tried for every message.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from dramatiq import Message
from dramatiq.errors import DecodeError

from ..brokers.errors import is_passing
from ..brokers.redis import EnqueueBatch
from ..delivery import own_enqueue
from ..incident import Incident, Kind
from ..store.records import DeadIncarnation, Enqueued, Orphan
from ..store.replies import Claim
from ..store.store import Store
from ..threads.mutex import Mutex
from .away import Failures
from .making import Making
from .summary import Swept

__all__ = ["NOBODY", "PuttingBack"]

#: The number of messages whose refusal is remembered.
MOST_REASONS = 10_000

#: Whose death it was, when it is the copy of a message that was lost.
NOBODY = DeadIncarnation("", "", "", "", "", "", [])


class Enqueue(Protocol):
    """As `dramatiq.Broker.enqueue`; the delay is in milliseconds."""

    def __call__(self, message: Message[object], *, delay: int | None = None) -> Message[object]: ...


class _Made(NamedTuple):
    """A copy that is ready to be enqueued."""

    orphan: Orphan
    message: Message[object]
    copy: Message[object]
    #: Seconds.
    delay: float
    #: Why it is dead-lettered, if it is.
    why: str


@dataclass(kw_only=True)
class PuttingBack(Making):
    """Enqueues copies of claimed messages.

    Parameters:
      store: The records.
      enqueue: Puts a message on the broker, and returns it as enqueued.
      enqueue_batch: Does so with several in one write; None if the broker takes one at a time.
      tell: Tells whoever wants to know what happened to a message, which is given where it was looked into.
      in_company: Entered while payloads are decoded, which may kill this process: no message is alone in it meanwhile.
        False: one is, and has to be left alone.
    """

    store: Store
    enqueue: Enqueue
    enqueue_batch: EnqueueBatch | None = None
    tell: Callable[[Incident, Message[object] | None], None] = lambda incident, message: None
    in_company: Callable[[], AbstractContextManager[bool]] = lambda: nullcontext(True)
    #: Messages that were claimed here and not completed, with the dead incarnation's id: the next sweep's first work.
    leftovers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._mutex = Mutex()  # worker threads add to `leftovers`
        #: The logged reasons: why messages cannot be enqueued, by id, and why the broker cannot be reached.
        self._refusals: dict[str, str] = {}
        self._away = ""
        self._failures = Failures()

    def leave_over(self, message_id: str, dead: str) -> None:
        """Take over a message that was claimed elsewhere in this process: the next sweep puts it back.

        The record has the payload until then.
        """
        with self._mutex:
            self.leftovers[message_id] = dead

    def let_go(self) -> None:
        """Let go of what was claimed here and not brought to an end: this worker shuts down, and others can do it.

        Raises:
          redis.RedisError: Redis cannot be reached; the claims hold for a while.
        """
        with self._mutex:
            ids = list(self.leftovers)
        heads = self.store.messages.peek(ids) if ids else []
        mine = [
            (id, head.generation, "left_over")
            for id, head in zip(ids, heads, strict=True)
            if head is not None and head.owner == self.store.me
        ]
        if mine:
            self.store.recovery.return_claims(mine)

    def put_back(self, orphans: Sequence[Orphan], dead: DeadIncarnation, swept: Swept, *, reason: str = "") -> bool:
        """Enqueue a copy of each claimed orphan, tell whoever wants to know, and mark it.

        Parameters:
          dead: The incarnation that ran them; `NOBODY` if it is their copies that were lost.
          reason: Why those are dead-lettered that are, if not by the blame rule.

        Returns: whether all got to their end; the rest waits, each by itself.

        Raises:
          redis.RedisError: Redis cannot be reached; all that is not marked is left over for the next sweep.
        """
        self._failures.begin()
        return self._put_back(orphans, dead, swept, reason) == 0

    def _put_back(self, orphans: Sequence[Orphan], dead: DeadIncarnation, swept: Swept, reason: str = "") -> int:
        """Put back, and return how many did not get to their end."""
        with self._mutex:
            self.leftovers.update((orphan.message_id, dead.id) for orphan in orphans)
        copies: list[Enqueued] = []
        refused: list[tuple[Orphan, Exception]] = []
        away: list[tuple[Orphan, Exception]] = []
        broken: list[tuple[Orphan, Exception]] = []
        untried: list[Orphan] = []
        to_do = deque(sorted(orphans, key=lambda orphan: orphan.tries))
        while to_do:
            if self._failures.to_pass_over():
                untried.append(to_do.popleft())
                continue
            made = self._make(self._next(to_do), dead, reason, swept, refused)
            if not made:
                continue
            unsure = broken if len(made) > 1 else away
            begun, enqueued, passing = time.monotonic(), len(copies), len(unsure)
            for (orphan, message, copy, delay, why), result in zip(made, self._enqueue(made), strict=True):
                if isinstance(result, Exception):
                    (unsure if is_passing(result) else refused).append((orphan, result))
                    continue
                copy_id = str(result.options.get("redis_message_id") or "")
                copies.append(Enqueued(orphan, copy_id, copy.queue_name, delay))
                self._say(orphan, message, dead, why)
            if len(copies) > enqueued:
                self._failures.succeeded()
                to_do.extendleft(reversed(untried))
                untried.clear()
            else:
                self._failures.failed(time.monotonic() - begun, passing=len(unsure) > passing)
        if copies:
            self._away = ""
            self._mark(copies, dead, swept)
        if self._failures.reached:  # the broker is there: it was the messages
            refused, away = refused + away, []
        away += broken
        self._let_wait(refused, away, untried)
        swept.refused += len(refused)
        swept.failed = swept.failed or bool(away or untried)
        return len(refused) + len(away) + len(untried)

    def _next(self, to_do: deque[Orphan]) -> list[Orphan]:
        """Take what is enqueued next.

        It is a batch if the broker takes one, and is known to be there.  A message that was tried before goes by
        itself, or it could make a batch fail again and again.
        """
        batch = [to_do.popleft()]
        if self.enqueue_batch is not None and self._failures.none:
            while to_do and batch[0].tries == to_do[0].tries == 1:
                batch.append(to_do.popleft())
        return batch

    def _make(
        self,
        orphans: Sequence[Orphan],
        dead: DeadIncarnation,
        reason: str,
        swept: Swept,
        refused: list[tuple[Orphan, Exception]],
    ) -> list[_Made]:
        """Make the copies of some orphans; what cannot be decoded is refused, or set aside."""
        made = []
        for orphan in orphans:
            try:
                message = Message.decode(orphan.payload)
                made.append(_Made(orphan, message, *self.copy_of(message, orphan, dead, reason)))
            except DecodeError as error:
                if isinstance(error.error, MemoryError) or is_passing(error.error):  # of this process, or of a moment
                    refused.append((orphan, error.error))
                else:
                    self._set_aside(orphan, error, dead, swept)
            except Exception as error:
                refused.append((orphan, error))
        return made

    def _enqueue(self, made: Sequence[_Made]) -> list[Message[object] | Exception]:
        """Enqueue copies; return each as enqueued, or its error."""
        ready = [(one.copy, round(one.delay * 1000) or None) for one in made]
        with own_enqueue():
            if len(ready) > 1 and self.enqueue_batch is not None:
                return self.enqueue_batch(ready)
            try:
                return [self.enqueue(copy, delay=delay) for copy, delay in ready]
            except Exception as error:
                return [error]

    def _set_aside(self, orphan: Orphan, error: DecodeError, dead: DeadIncarnation, swept: Swept) -> None:
        why = f"its payload cannot be decoded: {type(error.error).__name__}"
        if self.store.recovery.set_aside(orphan, dead=dead.id, why=why):
            swept.set_aside += 1
            self.logger.error(
                "Cannot decode the payload of message %s (actor %r, %s). Set it aside; it does not run (%d set aside).",
                *(orphan.message_id, orphan.actor, error.error, self.store.messages.count_aside()),
            )
            self._tell(Incident.of(Kind.SET_ASIDE, orphan, dead), None)
        self._is_over(orphan.message_id)

    def _say(self, orphan: Orphan, message: Message[object], dead: DeadIncarnation, why: str) -> None:
        poison = orphan.verdict is Claim.POISONED
        if poison:
            self.logger.warning(
                "Moving message %s (actor %r) to the dead-letter queue: %s.",
                *(orphan.message_id, orphan.actor, why),
            )
        if dead.id:
            self._tell(Incident.of(Kind.POISON if poison else Kind.RECOVERED, orphan, dead), message)

    def _mark(self, copies: list[Enqueued], dead: DeadIncarnation, swept: Swept) -> None:
        self.store.recovery.confirm_copies(copies, dead=dead.id)
        for orphan, *_ in copies:
            self._is_over(orphan.message_id)
            if orphan.verdict is Claim.POISONED:
                swept.poisoned += 1
            else:
                swept.copied += 1

    def _let_wait(
        self,
        refused: list[tuple[Orphan, Exception]],
        away: list[tuple[Orphan, Exception]],
        untried: list[Orphan],
    ) -> None:
        """Let go of what was not enqueued, and log why: once for a message and cause, once while the broker is away."""
        if not (refused or away or untried):
            return
        self.store.recovery.return_claims(
            [
                *((orphan.message_id, orphan.generation, "refused") for orphan, _ in refused),
                *((orphan.message_id, orphan.generation, "away") for orphan, _ in away),
                *((orphan.message_id, orphan.generation, "untried") for orphan in untried),
            ]
        )
        for orphan, error in refused:
            self.leftovers.pop(orphan.message_id, None)
            if self._refusals.get(orphan.message_id) != _cause(error):
                if len(self._refusals) < MOST_REASONS:
                    self._refusals[orphan.message_id] = _cause(error)
                self.logger.warning(
                    "Could not enqueue a copy of message %s (queue %r, actor %r; %s: %s). Nothing is lost: "
                    "recovery tries again later and continues with other messages.",
                    *(orphan.message_id, orphan.queue, orphan.actor, type(error).__name__, error),
                )
        for orphan in (*(orphan for orphan, _ in away), *untried):
            self.leftovers.pop(orphan.message_id, None)
        for _, error in away:
            if self._away != _cause(error):
                self._away = _cause(error)
                self.logger.warning(
                    "Cannot reach the broker to enqueue copies (%s: %s). Nothing is lost: recovery tries again.",
                    *(type(error).__name__, error),
                )

    def _is_over(self, message_id: str) -> None:
        for kept in (self.leftovers, self._refusals):
            kept.pop(message_id, None)

    def _tell(self, incident: Incident, message: Message[object] | None) -> None:
        try:
            self.tell(incident, message)
        except Exception:
            self.logger.exception(
                "Could not report what happened to message %s. Recovery continues.", incident.message_id
            )


def _cause(error: BaseException) -> str:
    """Return the cause of an error, without the parts that differ from one time to the next."""
    inner = error.args[0] if error.args and isinstance(error.args[0], Exception) else None
    return f"{type(error).__name__} {type(inner).__name__}"
