# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The explored bounds, and the variants of the protocol that lose messages: each must yield a counterexample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from .scripts import MODEL, NO_COPY, UNLIMITED, WAITING, Redis, save_settled
from .world import Bounds, Scripts

__all__ = ["LARGE", "SMALL", "VARIANTS", "Variant", "in_words"]

ALL_EVIDENCE = ("expired", "proven", "gone")

#: In the ordinary tests.
SMALL = [
    Bounds(failures=1, losses=1),
    Bounds(failures=1),
    Bounds(crashes=0, failures=1, redeliveries=1),
    Bounds(limit=0, company=True),
    Bounds(alarms=1),
    Bounds(redeliveries=1, evidence=ALL_EVIDENCE),
    Bounds(limit=0, replays=1),
    Bounds(drains=1, limit=0),
    Bounds(tailored=True, redeliveries=1),
    Bounds(tailored=True, refusals=1),
    Bounds(delays=1, redeliveries=1),
    Bounds(answers=1),
    Bounds(workers=3, crashes=2),
    Bounds("other", failures=1),
    Bounds("other", alarms=1),
    Bounds("other", delays=1, evidence=ALL_EVIDENCE),
    Bounds("other", losses=1),
    Bounds("other", refusals=1),
    Bounds("other", delays=1, limit=0, replays=1),
    Bounds("other", delays=1, retries=0, failures=1, replays=1),
    Bounds("other", delays=1, drains=1, handbacks=1, crashes=0),
    Bounds("other", limit=0, replays=1, evidence=("expired", "gone")),
    Bounds(limit=0, evidence=("gone",)),
    Bounds("other", evidence=("gone",), drains=1),
    Bounds(cuts=1, alarms=1, crashes=0, evidence=("gone",)),
    Bounds("other", cuts=1, alarms=1, crashes=0, limit=0, evidence=("gone",)),
    Bounds(restarts=1, evidence=("expired", "gone")),
    Bounds("other", drains=1),
    Bounds("other", answers=1),
    Bounds(drains=1, handbacks=1, limit=0),
    Bounds("other", drains=1, handbacks=1, losses=1),
    Bounds(handbacks=1, answers=1, prefetch=2, workers=1, crashes=0),
    Bounds("other", handbacks=1, answers=1, prefetch=2, workers=1, crashes=0),
    Bounds(crashes=0, redeliveries=1, failures=1, retries=0),
    Bounds("other", crashes=0, redeliveries=1, failures=1, retries=0),
    Bounds(crashes=0, redeliveries=1, failures=1, retries=0, prefetch=2, workers=1),
    Bounds("other", crashes=0, redeliveries=1, failures=1, retries=0, prefetch=2, workers=1),
    Bounds(operators=1),
    Bounds("other", operators=1),
    Bounds(failures=1, limit=0),
    Bounds("other", failures=1, limit=0),
]

#: In the session of nox besides.
LARGE = [
    Bounds(failures=1, redeliveries=1),
    Bounds(workers=3, crashes=2, company=True),
    Bounds(alarms=1, drains=1, company=True),
    Bounds(answers=1, alarms=1),
    Bounds(redeliveries=1, prefetch=2),
    Bounds(redeliveries=1, prefetch=2, workers=1, crashes=0, failures=1, losses=1),
    Bounds("other", failures=1, losses=1),
    Bounds("other", delays=1, losses=1, evidence=ALL_EVIDENCE),
    Bounds("other", alarms=1, redeliveries=1),
    Bounds("other", refusals=1, delays=1),
    Bounds("other", refusals=1, limit=0, replays=1),
    Bounds("other", drains=1, handbacks=1, answers=1),
    Bounds(handbacks=1, answers=1, prefetch=2, crashes=0),
    Bounds(redeliveries=1, handbacks=1, answers=1, prefetch=2, workers=1, crashes=0),
    Bounds("other", redeliveries=1, handbacks=1, answers=1, prefetch=2, workers=1, crashes=0),
    Bounds(operators=1, failures=1, losses=1),
    Bounds("other", operators=1, alarms=1),
    Bounds(cuts=1, alarms=1, limit=0, crashes=0, evidence=("gone",)),
    Bounds("other", cuts=1, alarms=1, evidence=("expired", "gone")),
    Bounds("other", restarts=1, cuts=1, crashes=0, evidence=("expired", "gone")),
    Bounds(workers=3, crashes=2, limit=0, evidence=("gone",)),
]


class Variant(NamedTuple):
    """The protocol as it is not."""

    bounds: Bounds
    scripts: Scripts


def _bumping_start(redis: Redis, **named: Any) -> tuple[Any, Redis]:
    """A take-over with a generation more, after which the copy that it came by is as old as any other."""
    answer, after = MODEL["start"](redis, **named)
    before, record = redis.record, after.record
    if answer[0] == "run" and before and record and before.state == "running" and before.owner != record.owner:
        after = after._replace(record=record._replace(generation=record.generation + 1, copy=NO_COPY))
    return answer, after


def _poison_completes(redis: Redis, **named: Any) -> tuple[Any, Redis]:
    """A start that meets a poison message, and settles its record before it is rejected."""
    answer, after = MODEL["start"](redis, **named)
    if answer[0] == "poisoned" and after.record and after.record.state in WAITING:
        after = save_settled(after, after.record._replace(state="completed"))._replace(waiting="")
    return answer, after


def _any_copy_is_a_replay(redis: Redis, **named: Any) -> tuple[Any, Redis]:
    """A start that does not see which copy was dead-lettered."""
    record, tries = redis.record, named["tries"]
    if record is not None and record.state == "dead_lettered":
        redis = redis._replace(record=record._replace(tries=tries))
    return MODEL["start"](redis, **named)


def _unshaken(script: str) -> Callable[..., tuple[Any, Redis]]:
    """A script of its own that leaves a suspicion as it is."""

    def changed(redis: Redis, **named: Any) -> tuple[Any, Redis]:
        answer, after = MODEL[script](redis, **named)
        return answer, after._replace(noted=redis.noted)

    return changed


def _convicting_claim(redis: Redis, **named: Any) -> tuple[Any, Redis]:
    """A claim that takes closed connections for a proof."""
    hearts = tuple(heart._replace(kind="proven") if heart.kind == "gone" else heart for heart in redis.hearts)
    answer, after = MODEL["claim"](redis._replace(hearts=hearts), **named)
    return answer, after._replace(hearts=redis.hearts)


def _deferral_without_payload(redis: Redis, **named: Any) -> tuple[Any, Redis]:
    """A deferral that leaves the payload to the broker, which is about to forget it."""
    before, (answer, after) = redis.record, MODEL["defer"](redis, **named)
    if before is None or after.record is None:
        return answer, after
    return answer, after._replace(record=after.record._replace(payload=before.payload))


VARIANTS = {
    "R6: a beat does not end a suspicion": Variant(
        Bounds(cuts=1, alarms=1, crashes=0, evidence=("gone",)), {**MODEL, "heartbeat": _unshaken("heartbeat")}
    ),
    "R7: closed connections convict": Variant(
        Bounds("other", cuts=1, alarms=1, crashes=0, limit=0, evidence=("gone",)), {**MODEL, "claim": _convicting_claim}
    ),
    "I5: a take-over bumps the generation": Variant(
        Bounds(workers=3, crashes=2, limit=UNLIMITED), {**MODEL, "start": _bumping_start}
    ),
    "I6: a success is settled before what follows was enqueued": Variant(Bounds("other", hasty=True), MODEL),
    "I7: a poison verdict is a completion": Variant(
        Bounds(workers=3, crashes=2, limit=0), {**MODEL, "start": _poison_completes}
    ),
    "another copy of what was dead-lettered is a replay": Variant(
        Bounds("other", delays=1, limit=0), {**MODEL, "start": _any_copy_is_a_replay}
    ),
    "a success of which nothing follows completes the message": Variant(Bounds(alarms=1, silent_success=True), MODEL),
    "I2: a copy that is put off takes the payload with it": Variant(
        Bounds(redeliveries=1, limit=0), {**MODEL, "defer": _deferral_without_payload}
    ),
    "a copy that was given to another worker is acknowledged": Variant(
        Bounds(redeliveries=1, prefetch=2, acks_elsewhere=True), MODEL
    ),
    "a stranded failure is acknowledged before recovery is told": Variant(
        Bounds(failures=1, losses=1, acks_stranded=True), MODEL
    ),
}


def in_words(bounds: Bounds) -> str:
    """Return the bounds that differ from the usual ones, shortly."""
    usual = Bounds()
    fields = [name for name in bounds._fields if name != "broker" and getattr(bounds, name) != getattr(usual, name)]
    return ", ".join([bounds.broker, *(f"{name} {_value(getattr(bounds, name))}" for name in fields)])


def _value(value: object) -> str:
    return "+".join(map(str, value)) if isinstance(value, tuple) else str(value)
