# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Checks of the rights of the Redis user, and that the history is written."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import redis

from .case import CannotTell, Case, Check, text
from .findings import Code, Finding

__all__ = ["CHECKS", "PROBES"]

#: The commands of the scripts and the store, each harmless, and possible after those before it.  The
#: first of the arguments is a kind of key, where there is one.
PROBES: tuple[tuple[str, Sequence[Any]], ...] = (
    ("SET", ("string", "x", "PX", 60_000)),
    ("GET", ("string",)),
    ("GETRANGE", ("string", 0, 0)),
    ("STRLEN", ("string",)),
    ("EXISTS", ("string",)),
    ("PEXPIRE", ("string", 60_000)),
    ("HSET", ("hash", "a", 1)),
    ("HSETNX", ("hash", "a", 1)),
    ("HINCRBY", ("hash", "a", 1)),
    ("HGET", ("hash", "a")),
    ("HMGET", ("hash", "a")),
    ("HGETALL", ("hash",)),
    ("HEXISTS", ("hash", "a")),
    ("HSTRLEN", ("hash", "a")),
    ("HKEYS", ("hash",)),
    ("HLEN", ("hash",)),
    ("PEXPIRE", ("hash", 60_000)),
    ("HDEL", ("hash", "b")),
    ("ZADD", ("zset", 1, "a")),
    ("PEXPIRE", ("zset", 60_000)),
    ("ZSCORE", ("zset", "a")),
    ("ZMSCORE", ("zset", "a")),
    ("ZCARD", ("zset",)),
    ("ZCOUNT", ("zset", 0, 1)),
    ("ZRANGE", ("zset", 0, 0)),
    ("ZRANGEBYSCORE", ("zset", 0, 1)),
    ("ZREM", ("zset", "b")),
    ("ZREMRANGEBYSCORE", ("zset", 8, 9)),
    ("SADD", ("set", "a")),
    ("PEXPIRE", ("set", 60_000)),
    ("SISMEMBER", ("set", "a")),
    ("SMEMBERS", ("set",)),
    ("SREM", ("set", "b")),
    ("XADD", ("stream", "MAXLEN", "~", 10, "*", "a", 1)),
    ("PEXPIRE", ("stream", 60_000)),
    ("XREVRANGE", ("stream", "+", "-", "COUNT", 1)),
    ("TIME", ()),
    ("SCRIPT", ("LOAD", "return 1")),
    ("EVALSHA", ("0" * 40, 0)),
    *(("DEL", (kind,)) for kind in ("string", "hash", "zset", "set", "stream")),
)

#: The kinds of keys among the arguments.
KINDS = ("string", "hash", "zset", "set", "stream")

#: The history is kept for longer than this after the last event.
KEPT = timedelta(days=29)

NO_RIGHTS = Code(
    "rights",
    ("error",),
    "Messages are not tracked, or not recovered, or nobody can read what has happened.",
    "Give the user the permissions in docs/brokers.rst.",
)

NO_HISTORY = Code(
    "history",
    ("warning",),
    "Nobody can tell what has happened, and the counts of the metrics stand still. Messages are recovered as ever.",
    "Let the tracker's user write streams and hashes (XADD, HINCRBY), and delete keys of another kind that "
    "are in the place of {namespace}:history and {namespace}:counts.",
)


def _rights(case: Case) -> Iterator[Finding]:
    refused = _dry_run(case)
    if refused is None:
        refused = _probe(case)
    if refused:
        yield NO_RIGHTS.error(f"The user of Redis may not use {', '.join(dict.fromkeys(refused))} in the namespace.")


def _commands(case: Case) -> list[tuple[str, tuple[Any, ...]]]:
    """The probes on keys of their own."""
    prefix = f"{case.inspector._keys.prefix}doctor:{secrets.token_hex(8)}:"
    return [
        (command, (prefix + args[0], *args[1:]) if args and args[0] in KINDS else tuple(args))
        for command, args in PROBES
    ]


def _dry_run(case: Case) -> list[str] | None:
    """Ask Redis which commands it would refuse; ``None`` if it does not say, or not to this user."""
    commands = _commands(case)
    try:
        user = text(case.server.execute_command("ACL", "WHOAMI"))
        pipeline = case.server.pipeline(transaction=False)
        for command, args in commands:
            pipeline.execute_command("ACL", "DRYRUN", user, command, *args)
        replies = pipeline.execute()
    except redis.ResponseError:
        return None
    return [command for (command, _), reply in zip(commands, replies, strict=True) if text(reply) != "OK"]


def _probe(case: Case) -> list[str]:
    """Try it out, in keys that are deleted, and expire should this process die before that."""
    commands = _commands(case)
    pipeline = case.server.pipeline(transaction=False)
    for command, args in commands:
        pipeline.execute_command(command, *args)
    replies = pipeline.execute(raise_on_error=False)
    if any(isinstance(reply, redis.exceptions.ReadOnlyError) for reply in replies):
        raise CannotTell("this Redis takes no writes")
    return [
        command
        for (command, _), reply in zip(commands, replies, strict=True)
        if isinstance(reply, redis.exceptions.NoPermissionError)
    ]


def _history(case: Case) -> Iterator[Finding]:
    history, counts = case.inspector._keys.history, case.inspector._keys.counts
    for key, kind in ((history, "stream"), (counts, "hash")):
        found = text(case.server.type(key))
        if found not in (kind, "none"):
            yield NO_HISTORY.warning(f"The key of the {kind} {key.rpartition(':')[2]!r} is a {found}.")
            return
    at = case.overview.at
    recent = [worker for worker in case.overview.workers if worker.booted and at - worker.booted < KEPT]
    if recent and not case.server.exists(history):
        yield NO_HISTORY.warning("Workers have joined, and the history is empty.")


CHECKS = (
    Check(NO_RIGHTS, "What the user of Redis may do", "The user of Redis may do all that is needed.", _rights),
    Check(NO_HISTORY, "Whether the history is written", "The history is written.", _history),
)
