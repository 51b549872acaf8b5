# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Every state that the world may come to, within bounds, and what must hold in each."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .scripts import MODEL, ONCE, SETTLED, Call, Redis
from .world import BUDGETS, Bounds, Delivery, Scripts, Step, World, first_world, steps

__all__ = ["Explored", "Violation", "explore"]


LOST = "It is lost: whatever happens from here, it neither completes nor is dead-lettered."


class Violation(Exception):
    """Something that must not happen, and how it comes about."""

    def __init__(self, what: str, trace: list[str]) -> None:
        super().__init__("\n".join([what, *(f"  {number:2}. {step}" for number, step in enumerate(trace, 1))]))
        self.what = what
        self.trace = trace


@dataclass
class Explored:
    """The result of an exploration."""

    states: int = 0
    transitions: int = 0
    #: The states of these from which nothing is left to do.
    ends: int = 0
    seconds: float = 0.0
    depth: int = 0
    #: Every execution of a script, with the state of Redis that it met; and how many steps lead there.
    executed: dict[tuple[Redis, Call], int] = field(default_factory=dict)


def explore(bounds: Bounds, scripts: Scripts = MODEL) -> Explored:
    """Go everywhere, nearest first.

    Raises:
      Violation: Something does not hold; with a shortest way to it.
    """
    began = time.monotonic()
    found = Explored()
    first = first_world(bounds)
    numbers = {first: 0}
    worlds, parents, depths = [first], [-1], [0]
    progress: list[list[int]] = []
    shared: dict[Any, Any] = {}
    good: list[int] = []
    number = 0
    while number < len(worlds):
        world = worlds[number]
        if is_good_end(world):
            good.append(number)
        ahead = []
        for step in steps(world, bounds, scripts):
            found.transitions += 1
            if step.call is not None:
                found.executed.setdefault((world.redis, step.call), depths[number] + 1)
            wrong = violated(world, step, bounds)
            if wrong:
                raise Violation(wrong, [*_trace(number, worlds, parents, bounds, scripts), step.what])
            at = numbers.get(step.after)
            if at is None:
                after = _share(step.after, shared)
                at = numbers[after] = len(worlds)
                worlds.append(after)
                parents.append(number)
                depths.append(depths[number] + 1)
            if step.progress:
                ahead.append(at)
        progress.append(ahead)
        found.ends += not ahead
        if not ahead and good[-1:] != [number]:
            raise Violation(LOST, _trace(number, worlds, parents, bounds, scripts))
        number += 1
    stuck = _first_stuck(progress, good)
    if stuck is not None:
        trace = _trace(stuck, worlds, parents, bounds, scripts)
        raise Violation(LOST, trace)
    found.states, found.depth, found.seconds = len(worlds), depths[-1], time.monotonic() - began
    return found


# The checks that must hold.


def is_good_end(world: World) -> bool:
    """The message is complete or dead-lettered, and nothing that would not go away by itself is left of it."""
    redis = world.redis
    return (
        (world.followed > 0 or bool(world.dead_letters) or world.discarded)
        and not world.queue
        and not any(worker.unacked or worker.deliveries for worker in world.workers)
        and (redis.record is None or redis.record.state in SETTLED)
        and redis.waiting == ""
        and not any(redis.running)
    )


def violated(world: World, step: Step, bounds: Bounds) -> str:
    """Return what does not hold in this step; empty if all does."""
    if _is_hasty(world, step.after):
        return "It was declared dead though it had shown itself."
    return _of_the_message(world, step, bounds)


def _of_the_message(world: World, step: Step, bounds: Bounds) -> str:
    before, after = world.redis.record, step.after.redis.record
    running = _running(step.after)
    if sum(not step.after.workers[number].suspected for number, _ in running) > 1:
        return "It runs twice at once, and nobody was taken for dead who lives."
    if len(running) > len(_running(world)):
        starter, delivery = next(one for one in running if one not in _running(world))
        again = delivery.copy.origin == world.completed != world.twin[0] and not _has_forgotten(world, starter)
        if again and not _has_two_enqueues(world, bounds):
            return "It runs again after it was complete."
        is_dead_letter = before is not None and before.state == "dead_lettered" and bool(world.dead_letters)
        is_dead_letter = is_dead_letter and not _is_retry_of_what_was_dead_lettered(world, delivery, bounds)
        # A second delivery of the very copy that was dead-lettered is like a replay of it.
        if is_dead_letter and _spent(world, bounds, "redeliveries") + _spent(world, bounds, "alarms") == 0:
            return "It runs again after it was dead-lettered, and nobody has replayed it."
    if step.after.followed > 1 and not _may_follow_twice(step.after, bounds):
        return "What follows from it was enqueued twice."
    if after is None:
        return ""
    convicted = after.dead_letter and not (before and before.dead_letter)
    by_an_operator = step.call is not None and step.call.script == "take"
    if convicted and bounds.limit != ONCE and not by_an_operator:
        assert before is not None
        if before.state == "running" and world.redis.hearts[before.owner].kind == "gone":
            return "It was convicted by a death that may be none."
        if not (before.alone and not isinstance(bounds.limit, str) and after.crashes > bounds.limit):
            return "It was convicted by a death that does not convict."
        if _spent(world, bounds, "alarms") == 0 and _spent(world, bounds, "crashes") <= bounds.limit:
            return "It was convicted by fewer deaths than that takes."
    if after.payload is None and (after.state == "recovering" or (after.state not in SETTLED and not after.copy)):
        return "The payload is gone from a record that needs it."
    if before is not None and after.state not in SETTLED and after.run < before.run:
        return "The number of the run has fallen."
    return ""


def _is_hasty(before: World, after: World) -> bool:
    """Return whether one is declared dead by its connections that has shown itself since it was suspected."""
    return any(
        now.kind == "gone" and then.kind != "gone" and (worker.shown or worker.connected)
        for worker, then, now in zip(before.workers, before.redis.hearts, after.redis.hearts, strict=True)
    )


def _running(world: World) -> list[tuple[int, Delivery]]:
    return [
        (number, delivery)
        for number, worker in enumerate(world.workers)
        for delivery in worker.deliveries
        if delivery.phase == "running"
    ]


def _has_forgotten(world: World, number: int) -> bool:
    """Redis may have lost its data since it was last known: its copies in memory may be the last, and run."""
    return world.workers[number].revived and not world.redis.handed[number]


def _has_two_enqueues(world: World, bounds: Bounds) -> bool:
    """Return whether it was retried or replayed, and the first enqueue was given to another worker while it ran.

    Both are with the broker then, and a failure does not remember the first.
    """
    others = _spent(world, bounds, "failures") + _spent(world, bounds, "replays")
    return others > 0 and _spent(world, bounds, "alarms") + _spent(world, bounds, "redeliveries") > 0


def _is_retry_of_what_was_dead_lettered(world: World, delivery: Delivery, bounds: Bounds) -> bool:
    """Return True if a failure had enqueued this retry, and then lost its own enqueue before it was released.

    Its worker was killed in that moment, or an operator took the message.  The retry is another enqueue, with an origin
    and an attempt of its own, and was with the broker before the verdict.
    """
    (dead,) = world.dead_letters
    is_retry = delivery.copy.origin != dead.origin and delivery.copy.attempt == dead.attempt + 1
    return is_retry and _spent(world, bounds, "crashes") + _spent(world, bounds, "operators") > 0


def _may_follow_twice(world: World, bounds: Bounds) -> bool:
    """A worker killed before its acknowledgement, or taken for dead, may have a successor that does it again."""
    return _has_two_enqueues(world, bounds) or any(worker.suspected or not worker.alive for worker in world.workers)


def _spent(world: World, bounds: Bounds, budget: str) -> int:
    spent: int = getattr(bounds, budget) - world.left[BUDGETS.index(budget)]
    return spent


# How.


def _first_stuck(progress: list[list[int]], good: list[int]) -> int | None:
    """The first state from which no good end can be reached without a fault."""
    back: list[list[int]] = [[] for _ in progress]
    for number, ahead in enumerate(progress):
        for at in ahead:
            back[at].append(number)
    reaches = bytearray(len(progress))
    todo = list(good)
    for number in todo:
        reaches[number] = 1
    while todo:
        for number in back[todo.pop()]:
            if not reaches[number]:
                reaches[number] = 1
                todo.append(number)
    at = reaches.find(0)
    return at if at >= 0 else None


def _share(world: World, shared: dict[Any, Any]) -> World:
    """The same world, of parts that many have in common: it takes a tenth of the memory."""
    workers = tuple(shared.setdefault(worker, worker) for worker in world.workers)
    redis = shared.setdefault(world.redis, world.redis)
    return world._replace(redis=redis, workers=shared.setdefault(workers, workers))


def _trace(number: int, worlds: list[World], parents: list[int], bounds: Bounds, scripts: Scripts) -> list[str]:
    """Return how a state comes about."""
    trace = []
    while parents[number] >= 0:
        parent, world = parents[number], worlds[number]
        ways: Iterator[Step] = steps(worlds[parent], bounds, scripts)
        trace.append(next(step.what for step in ways if step.after == world))
        number = parent
    return trace[::-1]
