# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The version of what is written in Redis, and who can share a namespace.

A schema is all that one version of the package writes there and another one reads: the fields of a record and what
they mean, the sets beside it, what incarnations say of themselves and to each other, the history, and the message
option.  Whatever can be left out, and whatever readers that do not know it can pass over, is added without another
schema.  The namespace says which schema is in use.  Workers of one schema share a namespace; a newer version takes over
from an older one that is gone: see register.lua and docs/upgrading.rst.

This module imports nothing of the package: the heartbeat's own process has it, too.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["SCHEMA", "Held", "Refusal", "number"]

#: The schema that this version writes.  It reads that and every older one.
SCHEMA = 1


class Held(NamedTuple):
    """The schema of a namespace; 0 and empty if it has none yet."""

    schema: int
    #: The version of the package that was the first to write it.
    version: str

    @classmethod
    def of(cls, raw: list[bytes | None]) -> Held:
        """Read the values of `FIELDS`."""
        schema, version = (value.decode(errors="replace") if value else "" for value in raw)
        return cls(number(schema), version)


#: The fields of the namespace's own word, in the order of `Held`.
FIELDS = ("schema", "version")


class Refusal(NamedTuple):
    """Why a namespace cannot be shared."""

    #: The schema that is in use.
    in_use: int
    #: An incarnation that may write it still; empty: it is newer than ours, or nobody is there who raises it.
    blocker: str = ""
    #: That may be dead: it is worth asking again, every second or so; 0: it lives.  Seconds.
    wait: float = 0.0

    def text(self, namespace: str, version: str, schema: int, first: str, blocker: str = "") -> str:
        """Both versions, the namespace, who holds it, and what to do.

        Parameters:
          version: The version of this package, which writes `schema`.
          first: The version of the package that was the first to write the schema in use; empty if not known.
          blocker: The workers in the way, in words.
        """
        by = f", first by dramatiq_inflight {first}" if first else ""
        if self.in_use > schema:
            todo = "Finish the rollout: start workers of the newer version only. To go back, see docs/upgrading.rst."
        elif self.blocker:
            todo = f"Let the workers of the older version end first: {blocker or self.blocker} is there."
        else:
            todo = "Start workers of this version first, or use the version that the workers have."
        me = f"dramatiq_inflight {version} writes schema {schema}"
        return f"{me}, and namespace {namespace!r} has schema {self.in_use}{by}. Nothing was changed. {todo}"


def number(text: str) -> int:
    """A number that somebody else has written; 0: it is none."""
    return int(text) if text.isdecimal() and len(text) < 15 else 0
