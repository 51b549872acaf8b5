# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Errors of Redis: whether they are about its state, what to check, and their texts without credentials."""

from __future__ import annotations

import re

import redis
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
)

__all__ = ["comes_and_goes", "encodable", "masked", "says_wrong_server", "what_to_check"]

#: This server does not serve, or serves somebody else: a new connection may reach another, or bring new credentials.
WRONG_SERVER = (ReadOnlyError, BusyLoadingError, ClusterDownError, AuthenticationError, NoPermissionError)

#: The same, where redis-py has no error for it.  Before version 7 Redis hides all of these in a sentence of its own, if
#: it is a script that fails.
WRONG_SERVER_REPLIES = re.compile(
    r"(^|: -)(READONLY|LOADING|MASTERDOWN|CLUSTERDOWN|NOAUTH|WRONGPASS|NOPERM|NOREPLICAS|UNBLOCKED) "
)

#: Errors that come and go: Redis is slow, full, or about to be another one's replica.
PASSING = (redis.TimeoutError, OutOfMemoryError, ReadOnlyError)

#: The same: the disk is full, too few replicas follow, or somebody's script runs for long.
PASSING_REPLIES = re.compile(r"(^|: -)(BUSY|MISCONF|NOREPLICAS|OOM|READONLY) ")


def says_wrong_server(error: redis.RedisError) -> bool:
    """Return whether an answer says that this connection leads to the wrong server, or that its credentials are old."""
    return isinstance(error, WRONG_SERVER) or bool(WRONG_SERVER_REPLIES.search(str(error)))


def comes_and_goes(error: redis.RedisError) -> bool:
    """Return whether an answer of Redis is about its present state, not about what it was asked."""
    return isinstance(error, PASSING) or bool(PASSING_REPLIES.search(str(error)))


#: The advice where nothing better is known.
ADDRESS = "that a Redis runs there, and that host and port are right"

#: The advice by the text of an error, or of its cause.
CHECKS = (
    (
        ("certificate", "ssl", "tls"),
        "TLS: rediss:// if that port speaks it and redis:// if not, the certificate, and the host's name in it",
    ),
    (("name or service", "name resolution", "nodename", "getaddrinfo", "no address"), "the host's name"),
    (("closed by server", "connection reset"), "whether that port speaks TLS: then it takes rediss://"),
    (("timed out", "timeout"), "host and port, and a firewall on the way"),
)


def what_to_check(error: redis.RedisError) -> str:
    """Return what is likely wrong where Redis could not be used from the start."""
    if isinstance(error, AuthenticationError):
        return "the user and the password"
    if isinstance(error, NoPermissionError):
        return "the rights of the user, docs/brokers.rst"
    said, cause = str(error).lower(), error.__cause__ or error.__context__
    said += f" {type(cause).__name__} {cause}".lower() if cause is not None else ""
    return next((check for words, check in CHECKS if any(word in said for word in words)), ADDRESS)


def _without_credentials(word: re.Match[str]) -> str:
    """Return a word without what is between its first ``scheme://`` and its last ``@``."""
    begin, end = re.search(r"\w://", word[0]), word[0].rfind("@")
    return f"{word[0][: begin.end()]}***{word[0][end:]}" if begin is not None and begin.end() <= end else word[0]


def masked(text: str) -> str:
    """A text without the credentials of the URLs in it, in linear time: the text is anybody's."""
    if "://" in text:
        text = re.sub(r"\S+", _without_credentials, text)
    # Parsers of URLs quote the password, if that holds characters that should have been escaped.
    text = re.sub(r"(integer value as |netloc )'.*'", r"\1'***'", text)
    return re.sub(r"(?i)([?&](?:user(?:name)?|pass(?:word)?)=)[^&\s'\"]*", r"\1***", text)


def encodable(text: str) -> str:
    """Return a text that Redis, an address and a page take: half a surrogate pair is written as Python escapes it."""
    return text.encode("utf-8", "backslashreplace").decode()
