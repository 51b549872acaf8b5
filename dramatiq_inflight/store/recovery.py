# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Recovery in the records: what there is to recover, and what becomes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.lock import Lock

from .cause import causes_of
from .records import Due, Enqueued, Orphan
from .replies import Claim, Requeued, Returned
from .scripts import BATCH, Part, ms

__all__ = ["Recovery", "orphan_of"]

#: After how many deaths in a row of those that had it in hand a payload is set aside.
DEADLY_AFTER = 3

#: How long what could not be enqueued waits at first, and at the longest, seconds.
FIRST_PAUSE, LONGEST_PAUSE = 10.0, 900.0


class Recovery(Part):
    """Changes what dead incarnations have left."""

    def lock(self, ttl: float) -> Lock:
        """The recovery lock, which saves work and protects nothing; not yet acquired."""
        return Lock(self.client, self.keys.lock, timeout=ttl, blocking=False, thread_local=False)

    def find_due(self, *, skip_dead: int = 0, skip_overdue: int = 0) -> Due:
        """Return what is to be recovered, a batch of each kind, and pass over so many that are to be left."""
        dead, overdue, next_ms = self.scripts.execute(
            "find_due", limit=BATCH, skip_dead=skip_dead, skip_overdue=skip_overdue
        )
        next_in = next_ms / 1000 if next_ms >= 0 else None
        return Due([id.decode() for id in dead], [id.decode() for id in overdue], next_in)

    def return_to_broker(self, dead: str, held: Sequence[tuple[str, bool]]) -> list[Returned] | None:
        """Let go of a dead worker's records.

        Parameters:
          held: At most `BATCH` pairs of message id and whether the broker still holds its copy.

        Returns: what became of each, of the first at least; ``None`` if the incarnation is back, and nothing was done.
        """
        reply = self.scripts.execute(
            "return_to_broker",
            running=self.keys.running(dead),
            dead=dead,
            first_deadline=self.scripts.deadline_ms,
            rows=[{"record_key": self.keys.record(id), "id": id, "held": has} for id, has in held],
        )
        return [Returned(result.decode()) for result in reply[1:]] if reply[0] else None

    def claim(self, ids: Sequence[str], *, dead: str, hold: float, leftovers: bool = False) -> list[Orphan | Claim]:
        """Take at most `BATCH` orphans, to enqueue a copy of each: as many as one script may copy, and one at least.

        Parameters:
          dead: The dead incarnation that ran them; empty for records past their deadline.
          hold: How long the claim holds, seconds.
          leftovers: Also what this incarnation has claimed before, and did not bring to an end.
        """
        reply = self.scripts.execute(
            "claim",
            running=self.keys.running(dead),
            dead=dead,
            hold=ms(hold),
            leftovers=leftovers,
            deadly_after=DEADLY_AFTER,
            rows=[{"record_key": self.keys.record(id), "id": id} for id in ids],
        )
        return [orphan_of(id, row) for id, row in zip(ids, reply, strict=True)]

    def confirm_copies(self, copies: Sequence[Enqueued], *, dead: str) -> list[Requeued]:
        """The copies of claimed orphans, at most `BATCH`, are with the broker."""
        reply = self.scripts.execute(
            "confirm_copies",
            running=self.keys.running(dead),
            first_deadline=self.scripts.deadline_ms,
            dead=dead,
            rows=[
                {
                    "record_key": self.keys.record(orphan.message_id),
                    "id": orphan.message_id,
                    "generation": orphan.generation,
                    "copy": copy_id,
                    "queue": queue,
                    "delay": round(delay * 1000),
                }
                for orphan, copy_id, queue, delay in copies
            ],
        )
        return [Requeued(result.decode()) for result in reply]

    def return_claims(self, claims: Sequence[tuple[str, int, str]]) -> None:
        """Claimed orphans could not be enqueued: each waits by itself.

        Parameters:
          claims: At most `BATCH` triples of message id, generation, and ``refused``, ``away``, ``left_over`` or
            ``untried``.
        """
        self.scripts.execute(
            "return_claims",
            first_wait=ms(FIRST_PAUSE),
            longest_wait=ms(LONGEST_PAUSE),
            rows=[
                {"record_key": self.keys.record(id), "id": id, "generation": generation, "why": why}
                for id, generation, why in claims
            ],
        )

    def extend_deadlines(self, answers: Sequence[tuple[str, str, str]]) -> list[str]:
        """Records past their deadline: at most `BATCH` triples of message id, copy id, and what the broker says of it.

        Returns: for each ``postponed``, ``settled``, ``due`` (another copy is to be made), ``later`` (not looked at) or
        ``gone``.
        """
        reply = self.scripts.execute(
            "extend_deadlines",
            wait=self.scripts.deadline_ms,
            rows=[
                {"record_key": self.keys.record(id), "id": id, "copy": copy, "what": what} for id, copy, what in answers
            ],
        )
        return [result.decode() for result in reply]

    def set_aside(self, orphan: Orphan, *, dead: str, why: str = "") -> bool:
        """Keep a claimed payload that cannot be decoded where people look for it.

        Parameters:
          why: The error, for the history.
        """
        answer = self.scripts.execute(
            "set_aside",
            record_key=self.keys.record(orphan.message_id),
            running=self.keys.running(dead),
            id=orphan.message_id,
            generation=orphan.generation,
            why=why,
        )
        return bool(answer == b"aside")


def orphan_of(message_id: str, row: list[Any]) -> Orphan | Claim:
    """Return the orphan that a claim brought, from a script's answer."""
    answer = Claim(row[0].decode())
    if len(row) == 1:
        return answer
    run, generation, crashes, limit, started, first, drains, tries = row[1:9]
    origin, queue, actor, causes = (text.decode(errors="replace") for text in row[9:13])
    return Orphan(
        message_id=message_id,
        verdict=answer,
        run=run,
        generation=generation,
        crashes=crashes,
        limit=limit.decode() if isinstance(limit, bytes) else limit,
        started_ms=started,
        first_ms=first or started,
        drains=drains,
        tries=tries,
        origin=origin,
        queue=queue,
        actor=actor,
        causes=causes_of(causes),
        payload=row[13],
    )
