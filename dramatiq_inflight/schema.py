# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The version of what is written in Redis, and who can share a namespace.

A schema is all that one version of the package writes there and another one reads: the fields of a record and what
they mean, the sets beside it, what incarnations say of themselves and to each other, the history, and the message
option.  Whatever can be left out, and whatever readers that do not know it can pass over, is added without another
schema.  Each incarnation says which schema it writes and which ones it can read; the namespace says which one is in
use: the newest that anybody may have written there.  What follows from that is register.lua's; see docs/upgrading.rst.

This module imports nothing of the package: the heartbeat's own process has it, too.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["OURS", "SCHEMA", "Held", "Refusal", "Schema", "number"]

#: What this version writes.
SCHEMA = 1


class Schema(NamedTuple):
    """What one version writes, and the oldest and the newest that it can read."""

    writes: int
    oldest: int
    newest: int

    def said(self) -> dict[str, str]:
        """What an incarnation says of itself."""
        return {
            "schema": str(self.writes),
            "schema_oldest": str(self.oldest),
            "schema_newest": str(self.newest),
        }

    def reads(self, schema: int) -> bool:
        """Whether it can read that one; 0: nothing was written yet."""
        return schema == 0 or self.oldest <= schema <= self.newest

    def __str__(self) -> str:
        read = f"schema {self.oldest}" if self.oldest == self.newest else f"schemas {self.oldest} to {self.newest}"
        return f"writes schema {self.writes} and reads {read}"


#: What this version can do.
OURS = Schema(SCHEMA, oldest=1, newest=1)


class Held(NamedTuple):
    """What a namespace says of its schema; 0 and empty: it says nothing."""

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

    #: The newest schema that may have been written there.
    in_use: int
    #: A living incarnation that could not read what we write; empty: it is we who cannot read what is there.
    blocker: str
    #: That may be dead: it is worth asking again, every second or so; 0: it lives.  Seconds.
    wait: float = 0.0

    def text(self, namespace: str, version: str, ours: Schema, held: Held, holders: list[str] | None) -> str:
        """What is said of it: both versions, the namespace, who holds it, and what to do.

        Parameters:
          version: Of this package.
          holders: The workers that write what is in use, or that stand in the way, in words; ``None``: it is not known.
        """
        by = f", first by dramatiq_inflight {held.version}" if held.version else ""
        who = ", ".join((holders or [])[:NAMED])
        if holders and len(holders) > NAMED:
            who += f" and {len(holders) - NAMED} more"
        me = f"dramatiq_inflight {version} {ours}"
        where = f"namespace {namespace!r}"
        if self.blocker:
            return (
                f"{me}, and {where} has workers that cannot read that: {who or self.blocker}. Nothing was changed. "
                "Let those workers end first, or finish the rollback: workers of both versions cannot share a "
                "namespace (docs/upgrading.rst)."
            )
        held_by = f"; it is written by {who}" if who else ""
        if holders == []:
            held_by = "; no worker that writes it is registered there now"
        if self.in_use > ours.newest:
            todo = "Finish the rollout: start workers of the newer version only. To go back, see docs/upgrading.rst."
        elif self.in_use < ours.oldest:
            todo = "Start workers of a version in between first, which recover what older ones have left."
        else:
            todo = "Start workers of this version first, or use the version that the workers have."
        return f"{me}, and {where} has schema {self.in_use}{by}{held_by}. Nothing was changed. {todo}"


#: How many workers are named.
NAMED = 3


def number(text: str) -> int:
    """A number that somebody else has written; 0: it is none."""
    return int(text) if text.isdecimal() and len(text) < 15 else 0
