# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""`once` and `fence`: blocks that own a transaction, and claim a key first thing in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final

from ..errors import AlreadyDone, Busy, ConfigurationError, InFlightError, MessageLost, Overtaken, Unfenced
from ..message.in_flight import Entry, entry_here
from .statements import TABLE, Claim, Row, is_conflict
from .transactions import Transaction, transaction_on

__all__ = ["Effect", "fence", "once"]

#: How long a transaction may wait and stand idle outside of a worker, seconds: as long as the default TTL.
TIMEOUT: Final = 90.0

#: The longest key, characters: MySQL indexes no more.
LONGEST_KEY: Final = 255


class Effect:
    """The effect that a block works on."""

    def __init__(self, claim: Claim, found: Row) -> None:
        #: The key that the block has claimed.
        self.key = claim.key
        #: The fence of its run; 0 where it has none.
        self.fence = claim.fence
        self._found = found.result
        self._value: bytes | None = None
        self._over = False

    @property
    def last_checkpoint(self) -> Any:
        """The value that an earlier block of this key has kept last, or None."""
        return None if self._found is None else json.loads(self._found)

    def checkpoint(self, value: Any) -> None:
        """Keep how far the job has come, in the transaction of the block: both commit, or neither does.

        Parameters:
          value: Anything that JSON can hold.

        Raises:
          TypeError, ValueError: JSON cannot hold it.
          InFlightError: The block is over.
        """
        if self._over:
            raise InFlightError(f"The block of {self.key!r} is over: what it has not kept is not kept.")
        self._value = json.dumps(value, allow_nan=False, separators=(",", ":")).encode()

    #: In the block of `once`: keep the result, which a later run of the message has for its own.
    set_result = checkpoint


class _Block:
    """Claims a key, and commits it with what is written within the block.

    Used with ``with``; on an async connection of SQLAlchemy with ``async with``.
    """

    _done: bool

    def __init__(self, connection: Any, *, key: str | None = None, timeout: float | None = None) -> None:
        self._connection = connection
        self._key = key
        self._timeout = timeout
        self._entered: Any = None

    def __enter__(self) -> Effect:
        return self._enter(self._connection)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._exit(error)

    async def __aenter__(self) -> Effect:
        if not hasattr(self._connection, "run_sync"):
            raise ConfigurationError(
                f"The connection is a {type(self._connection).__module__}.{type(self._connection).__qualname__}; "
                "`async with` is for an AsyncConnection or AsyncSession of SQLAlchemy alone."
            )
        effect: Effect = await self._connection.run_sync(self._enter)
        return effect

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._connection.run_sync(lambda _: self._exit(error))

    def _enter(self, connection: Any) -> Effect:
        entry = entry_here()
        claim = self._claim(entry)
        entered = _transact(transaction_on(connection), claim, entry)
        effect: Effect = entered.__enter__()
        self._entered = entered
        return effect

    def _exit(self, error: BaseException | None) -> None:
        entered, self._entered = self._entered, None
        entered.__exit__(type(error) if error is not None else None, error, error and error.__traceback__)

    def _claim(self, entry: Entry | None) -> Claim:
        key = self._key
        if key is None:
            if entry is None:
                raise ConfigurationError(
                    "There is no tracked message here, whose id would be the key: name one, key=..., or track the "
                    "actor."
                )
            key = entry.copy.message_id
        if not isinstance(key, str) or not 1 <= len(key) <= LONGEST_KEY or key != key.strip() or "\0" in key:
            raise ConfigurationError(
                f"The key is {key!r:.300}; it must be a string of 1 to {LONGEST_KEY} characters, no space at its ends, "
                "no NUL."
            )
        timeout = self._timeout
        if timeout is None:
            timeout = entry.progress.checkpoints.ttl if entry is not None else TIMEOUT
        if not timeout > 0:
            raise ConfigurationError(f"timeout is {timeout!r}; it must be a number of seconds above 0.")
        if entry is not None and entry.state.lost:
            raise MessageLost(entry.copy.message_id)
        return Claim(key, entry.numbers.started_ms if entry is not None else 0, self._done, timeout)


class once(_Block):
    """Commit an effect, and that it is done, in one transaction: whichever run commits first has done it.

    The block begins the transaction, and commits it at its end.  Leave it by an exception, and nothing was written.

    Parameters:
      connection: A connection of psycopg 3, sqlite3, PyMySQL, mysqlclient, SQLAlchemy 2 or Django; not in a
        transaction.
      key: The name of the effect, or None for the id of the message that runs here.
      timeout: How long the block may wait for another transaction, and stand idle between two statements, seconds;
        None: the heartbeat's TTL of this worker, outside of one 90.

    Raises:
      AlreadyDone: An earlier run has committed it.  Let it through: the message is acknowledged as a success.
      Busy: The database has chosen another transaction; the message runs again.
      Unfenced, Overtaken, MessageLost: As for `fence`, where this key was fenced before.
      ConfigurationError: There is a transaction already, or the key or the connection is none.
    """

    _done = True


class fence(_Block):
    """Let no run write after a later run of its message has written: one transaction of a job of several.

    The block begins the transaction, and commits it at its end.  The last transaction of the job is a block of `once`.

    Parameters:
      connection, key, timeout: As for `once`.

    Raises:
      AlreadyDone: An earlier run has done the whole job.
      Overtaken: A run with a higher fence has written, and Redis does not say that this run is lost; the message runs
        again.
      Unfenced: Redis was away when this run started, so that it has no fence; the message runs again.
      MessageLost: A run with a higher fence has written, and this one is lost.
      Busy: The database has chosen another transaction; the message runs again.
      ConfigurationError: As for `once`, or no tracked message runs here.
    """

    _done = False

    def _claim(self, entry: Entry | None) -> Claim:
        claim = super()._claim(entry)
        if entry is None:
            raise ConfigurationError("There is no tracked message here, whose run has a fence: track the actor.")
        if not claim.fence:
            raise Unfenced(f"Redis was away when this run of message {entry.copy.message_id} started.")
        return claim


@contextmanager
def _transact(transaction: Transaction, claim: Claim, entry: Entry | None) -> Iterator[Effect]:
    """The block: bounds, begin, claim; then what the user writes; then the value, and commit."""
    restore: Callable[[], None] | None = None
    begun = False
    if entry is not None:
        if _open(claim) in entry.progress.gone_through:
            raise ConfigurationError(
                f"A block of {claim.key!r} is open in this run, which this one would wait for: give each effect of a "
                "message a key of its own, key=..."
            )
        entry.progress.gone_through.add(_open(claim))
    try:
        transaction.begin()
        begun = True
        restore = transaction.dialect.bound(transaction.execute, claim.timeout)
        found = transaction.dialect.claim(transaction.execute, claim)
        if not found.granted:
            raise _Refused(found)
        effect = Effect(claim, found)
        yield effect
        effect._over = True
        if effect._value is not None or (claim.done and found.result is not None):  # a checkpoint is no result
            column = transaction.dialect.key
            sql = f"UPDATE {TABLE} SET result = :value WHERE {column} = :key"
            transaction.execute(sql, value=effect._value, key=claim.key)
        if not transaction.is_whole():
            raise InFlightError(
                "The transaction of the block has failed, or was ended within it: the effect and its completion would "
                "not commit together."
            )
        restore()
        transaction.commit()
        if entry is not None and claim.done:
            entry.progress.gone_through.add(_mark(claim))
    except BaseException as error:
        if begun:
            _undo(transaction, restore, error)
        if isinstance(error, _Refused):
            raise _refusal(error.found, claim, entry) from None
        if isinstance(error, Exception) and is_conflict(error):
            raise Busy(f"The database has refused the transaction of {claim.key!r}: {error}") from error
        raise
    finally:
        if entry is not None:
            entry.progress.gone_through.discard(_open(claim))


class _Refused(Exception):
    """A claim was not granted."""

    def __init__(self, found: Row) -> None:
        super().__init__()
        self.found = found


def _refusal(found: Row, claim: Claim, entry: Entry | None) -> BaseException:
    """Return the error of a claim that was not granted.  The transaction is over by now."""
    if found.done:
        if entry is not None and _mark(claim) in entry.progress.gone_through:
            return ConfigurationError(
                f"This run has done {claim.key!r} itself, and was about to do something else under that key: give each "
                "effect of a message a key of its own, key=..."
            )
        return AlreadyDone(claim.key, None if found.result is None else json.loads(found.result))
    if entry is None:
        return Overtaken(f"A run has fenced {claim.key!r}, and there is none here.")
    if not claim.fence:
        return Unfenced(f"Redis was away when this run of message {entry.copy.message_id} started.")
    if entry.progress.checkpoints.is_lost(entry):
        return MessageLost(entry.copy.message_id)
    return Overtaken(f"A run with a higher fence than {claim.fence} has claimed {claim.key!r}.")


def _mark(claim: Claim) -> str:
    return f"done:{claim.key}"


def _open(claim: Claim) -> str:
    return f"open:{claim.key}"


def _undo(transaction: Transaction, restore: Callable[[], None] | None, error: BaseException) -> None:
    for step in (restore or (lambda: None), lambda: transaction.rollback(error)):
        try:
            step()
        except Exception:
            pass  # the connection is gone, and with it the transaction, and what was set
