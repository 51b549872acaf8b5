# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Why a message was dead-lettered, as the history keeps it; RedisBroker's letter has the failure before, at most."""

from __future__ import annotations

import traceback
from typing import Any, NamedTuple

from ..store.errors import encodable, masked

__all__ = ["UNKNOWN", "Failure", "failure_of"]

#: How much is kept, characters: the history has 10,000 events or so.
LONGEST_WHY, LONGEST_TRACEBACK = 200, 2000


class Failure(NamedTuple):
    """An error, in one line, and the end of its traceback."""

    why: str = ""
    traceback: str = ""


#: The error is not known.
UNKNOWN = Failure()


def failure_of(message: Any) -> Failure:
    """Return the error with which Dramatiq rejects a message."""
    error = getattr(message, "_exception", None)
    if not isinstance(error, BaseException):
        return UNKNOWN
    try:
        lines = masked("".join(traceback.format_exception(error, limit=-30)))
        text = masked(" ".join(str(error).split()))
    except Exception:
        return Failure(type(error).__name__)  # its text cannot be made
    why = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return Failure(encodable(why[:LONGEST_WHY]), encodable(lines[-LONGEST_TRACEBACK:]))
