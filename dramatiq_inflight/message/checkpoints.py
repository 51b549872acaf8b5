# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""How far a message has come, kept for its next run: after a crash, a retry, or a shutdown.

A hash beside the record, written by whoever owns that, and deleted in the same step as the message is completed.  A
message without checkpoints costs nothing more.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn, TypeVar

import redis

from ..errors import CheckpointError, HandBack, MessageLost
from ..store.errors import encodable
from ..store.replies import Saved
from ..store.store import Store
from .in_flight import Entry
from .state import Phase

__all__ = ["LARGEST", "Checkpoints", "expect_hand_back", "expect_nothing"]

#: How large a checkpoint may be, encoded, bytes: it says where to go on, and is no store of results.
LARGEST = 64 * 1024

#: How long a note may be, characters.
LONGEST_NOTE = 200

#: The name of an iteration that has none.
ITEMS = "items"

T = TypeVar("T")


class Checkpoints:
    """The checkpoints of the messages that this process runs.

    Parameters:
      look_up: Called with an entry that may be lost: sees whether it is, and takes it back if nobody has started it.
      on_loss: Called with an entry whose message another run has by now.
    """

    def __init__(self, store: Store, look_up: Callable[[Entry], None], on_loss: Callable[[Entry], None]) -> None:
        self._store = store
        self._look_up = look_up
        self._on_loss = on_loss

    def save(self, entry: Entry, value: Any, progress: float | None, note: str) -> bool:
        """Keep a value.  False: Redis cannot be reached, and the one before counts.

        Raises:
          CheckpointError: It cannot be kept.
          MessageLost: Another run has the message.
        """
        fields = {"value": _encoded(value, "a checkpoint"), **_told(progress, note)}
        return self._save(entry, fields)

    def load(self, entry: Entry) -> Any:
        """The last value that any run has kept; ``None`` if there is none.

        Raises:
          redis.RedisError: Redis cannot be reached: to begin anew would be wrong.
        """
        raw = self._fields(entry).get("value")
        return None if raw is None else json.loads(raw)

    def iterate(
        self,
        entry: Entry,
        items: Iterable[T] | Callable[[Any], Iterable[T]],
        key: Callable[[T], Any] | None,
        every: float,
        name: str,
    ) -> Iterator[T]:
        """See `Current.iterate`."""
        if callable(items) is (key is None):
            raise TypeError("iterate takes items and no key, or a function that is given the last key, and key=...")
        if name in entry.progress.gone_through:
            raise CheckpointError(
                f"this run has gone through an iteration named {name!r} already, and another would begin at its end: "
                "give each a name of its own, iterate(..., name=...)."
            )
        fields = self._fields(entry)
        positions = json.loads(fields.get("iterations", "{}"))
        position = positions.get(name, {"done": 0, "key": None})
        done, last = int(position["done"]), position["key"]
        total = len(items) if isinstance(items, Sequence) else None
        ahead: Iterable[T]
        if callable(items):
            ahead = items(last)
        elif isinstance(items, Sequence):
            ahead = (items[at] for at in range(done, len(items)))
        else:
            ahead = itertools.islice(items, done, None)

        saved_at, saved = time.monotonic(), done

        def save() -> None:
            nonlocal saved_at, saved
            positions[name] = {"done": done, "key": last}
            told = {"iterations": _encoded(positions, "the place of an iteration")}
            if total and name == ITEMS:
                told["progress"] = f"{done / total:.4f}"
            if self._save(entry, told):
                saved = done
            saved_at = time.monotonic()

        try:
            for item in ahead:
                yield item
                done += 1
                entry.progress.moved_at = time.monotonic()
                if key is not None:
                    last = key(item)
                if entry.stopping or entry.state.lost or time.monotonic() - saved_at >= every:
                    save()
                if entry.stopping:
                    self.hand_back(entry)
            entry.progress.gone_through.add(name)
        finally:
            # At the end, and where the loop is left: also by an exception, as soon as nobody holds its frame.
            if (
                done > saved
                and entry.state.phase is Phase.RUNNING
                and not entry.state.lost
                and not _is_within_our_code()
            ):
                save()

    @property
    def ttl(self) -> float:
        """The heartbeat's TTL of this worker, seconds."""
        return self._store.scripts.ttl_ms / 1000

    def is_lost(self, entry: Entry) -> bool:
        """Look whether another run has the message, as far as Redis can be asked."""
        try:
            self._look_up(entry)
        except redis.RedisError:
            pass  # said once, by Connectivity
        return entry.state.lost

    @staticmethod
    def hand_back(entry: Entry) -> NoReturn:
        """Stop, and be enqueued again.

        Raises:
          HandBack: Always.
        """
        expect_hand_back(entry)
        raise HandBack(entry.copy.message_id)

    def _fields(self, entry: Entry) -> dict[str, str]:
        if entry.progress.kept is None:
            entry.progress.kept = self._store.messages.kept(entry.copy.message_id)
        return entry.progress.kept

    def _save(self, entry: Entry, fields: dict[str, str]) -> bool:
        if entry.state.lost:
            raise MessageLost(entry.copy.message_id)
        if entry.state.phase is not Phase.RUNNING:
            raise CheckpointError(f"message {entry.copy.message_id} does not run any more: nothing is kept of it.")
        try:
            saved = self._write(entry, fields)
            if saved is Saved.FENCED:
                # Let go by a false alarm, it is ours as long as nobody has started it.
                self._look_up(entry)
                saved = Saved.FENCED if entry.state.lost else self._write(entry, fields)
        except redis.RedisError:
            return False  # said once, by Connectivity
        if saved is Saved.FENCED:
            if not entry.state.lost and not entry.numbers.run:
                return False  # its start was not recorded, and the record is about another enqueue: for now
            if not entry.state.lost:
                self._on_loss(entry)
            raise MessageLost(entry.copy.message_id)
        if entry.progress.kept is not None:  # else there may be more in Redis
            entry.progress.kept.update(fields)
        return True

    def _write(self, entry: Entry, fields: dict[str, str]) -> Saved:
        with entry.mutex:
            entry.progress.moved_at = time.monotonic()  # it moves, though that may not be possible to keep
            return self._store.messages.checkpoint(entry.copy.message_id, entry.numbers.run, fields, entry.copy.origin)


def _is_within_our_code() -> bool:
    """True if this package's own code is being executed further up in this thread: it may hold any of its locks.

    The garbage collector closes a generator in whatever thread allocates next.
    """
    frame: FrameType | None = sys._getframe(2)  # past `Checkpoints.iterate`
    while frame is not None:
        root, _, part = (frame.f_globals.get("__package__") or "").partition(".")
        if root == "dramatiq_inflight" and part.partition(".")[0] != "effects":
            return True
        frame = frame.f_back
    return False


def expect_hand_back(entry: Entry) -> None:
    """Have Dramatiq log what is about to be raised as expected, not as a failure."""
    if entry.throws is None:
        options = entry.delivery.message.options
        entry.throws = (options.get("throws"),)
        options["throws"] = HandBack


def expect_nothing(entry: Entry) -> None:
    """It has ended: what comes of it, by whatever was raised, is decided and encoded without that."""
    if entry.throws is not None:
        options, (before,) = entry.delivery.message.options, entry.throws
        if before is None:
            options.pop("throws", None)
        else:
            options["throws"] = before
        entry.throws = None


def _encoded(value: Any, what: str) -> str:
    try:
        text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{what} must be JSON-able: numbers, texts, lists, dicts, None ({error}).") from error
    size = len(text.encode())
    if size > LARGEST:
        raise CheckpointError(
            f"{what} has {size:,} bytes as JSON; it may have {LARGEST:,}. Keep where to go on, and results where they "
            "belong."
        )
    return text


def _told(progress: float | None, note: str) -> dict[str, str]:
    """Return the progress and note for people; a value that is not given anew does not hold any more."""
    if progress is not None and not (isinstance(progress, (int, float)) and 0 <= progress <= 1):
        raise CheckpointError(f"progress is {progress!r}; it must be a number from 0 to 1.")
    if not isinstance(note, str):
        raise CheckpointError(f"note is {note!r:.300}; it must be a text.")
    if len(note) > LONGEST_NOTE:  # the name of a file, say: no reason for a job to fail
        note = note[: LONGEST_NOTE - 1] + "…"
    return {"progress": "" if progress is None else f"{progress:.4f}", "note": encodable(note)}
