# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The real scripts driven by the model's own steps, and by any calls in any order."""

from __future__ import annotations

from collections.abc import Iterable

import hypothesis
import redis
from hypothesis.stateful import run_state_machine_as_test

from .explore import Explored
from .fuzz import any_calls, compare
from .mutations import Mutation, mutated
from .real import Real, texts
from .scripts import MODEL, NOBODY, Call, Heart, Redis
from .world import release

__all__ = ["Executed", "caught", "drive_any", "drive_steps", "merge"]

#: Executions of scripts that an exploration met, each with the state of Redis; the nearest first.
Executed = list[tuple[Redis, Call]]

#: As `fuzz.INCARNATIONS`.
WORKERS = 3


def merge(explored: list[Explored]) -> Executed:
    """All that explorations executed, once each."""
    steps: dict[tuple[Redis, Call], int] = {}
    for one in explored:
        for (state, call), depth in one.executed.items():
            key = (_widened(state), call)
            steps[key] = min(depth, steps.get(key, depth))
            if call.script == "suspect":  # nor is anybody declared dead before a connection was opened
                steps.setdefault((key[0], call.but(over=False)), depth)
            elif "due" in call.named and (state.record is None) == (call.script == "start"):  # and both ways are gone
                steps.setdefault((key[0], call.but(due=not call.named["due"])), depth)
                if call.script == "complete":  # but by whom, or of what, the record is not
                    for stranger in (call.but(due=False, me=WORKERS - 1), call.but(due=False, origin=9)):
                        steps.setdefault((key[0], stranger), depth)
                elif all(call.named["delivery"] or ()):  # and the broker has lost the payload
                    steps.setdefault((key[0], call.but(due=False, delivery=(True, False))), depth)
            elif call.script == "heartbeat":  # nor does another process beat on its behalf
                steps.setdefault((key[0], call.but(kind="attested")), depth)
            record = state.record
            if record and record.state == "recovering" and record.owner != NOBODY:
                aside = Call.of("set_aside", me=record.owner, dead=NOBODY, generation=record.generation)
                steps.setdefault((key[0], aside), depth)
            elif record and record.state == "running":  # and its starts are all known to who made them
                stranger = release(record.owner, record.run, record.origin, "let_go")
                steps.setdefault((key[0], stranger), depth)
    return sorted(steps, key=steps.__getitem__)


def _widened(state: Redis) -> Redis:
    """With a third worker, of whom nothing is known, where there are two."""
    missing = WORKERS - len(state.running)
    return state._replace(
        running=state.running + (False,) * missing,
        handed=state.handed + (False,) * missing,
        hearts=state.hearts + (Heart("none"),) * missing,
        entered=state.entered + (False,) * missing,
        noted=state.noted + (False,) * missing,
    )


def drive_steps(client: redis.Redis, executed: Executed, scripts: dict[str, str] | None = None) -> int:
    """Execute each step with the real scripts, from the same state of Redis.

    Returns: how many.

    Raises:
      AssertionError: A script answers, or leaves behind, what the model does not say; or it fails.
    """
    real = Real(client, WORKERS, scripts or texts())
    done = 0
    try:
        for state, call in executed:
            done += 1
            real.put(state)
            try:
                compare(state, real, call)
            except (AssertionError, redis.ResponseError, LookupError, ValueError) as error:
                raise Disagreement(done, call, error) from error
    finally:
        real.close()
    return done


class Disagreement(AssertionError):
    """Model and script are not of one mind."""

    def __init__(self, steps: int, call: Call, error: Exception) -> None:
        super().__init__(f"{error} (step {steps}, {call})")
        self.steps = steps
        self.said = str(error)


def drive_any(
    client: redis.Redis,
    executed: Executed,
    examples: int,
    *,
    seed: int | None = None,
    scripts: dict[str, str] | None = None,
    called: Iterable[str] = tuple(MODEL),
    calls: int = 20,
    shrink: bool = True,
) -> None:
    """Make any calls in any order, so many times over, each time from a record that an exploration met.

    Parameters:
      seed: The seed of the choices, or ``None`` for always the same ones.
      called: The names of the scripts to call.
      calls: How many calls at the most, each time.
    """
    states = list({(state.record, state.waiting): state for state, _ in executed}.values())
    machine = any_calls(client, scripts or texts(), states, called)
    if seed is not None:
        machine = hypothesis.seed(seed)(machine)
    run_state_machine_as_test(
        machine,
        settings=hypothesis.settings(
            max_examples=examples,
            stateful_step_count=calls,
            derandomize=seed is None,
            database=None,
            deadline=None,
            phases=[hypothesis.Phase.generate, *([hypothesis.Phase.shrink] if shrink else [])],
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )


#: Any calls in any order, until a mutation is noticed: the same as long as the model is.
SEEDS = (None, 1, 2, 3, 4)


def caught(client: redis.Redis, mutation: Mutation, executed: Executed, examples: int = 500) -> tuple[str, int] | None:
    """By what a mutation is noticed, and after how many steps (0: by any calls); ``None``: by nothing."""
    scripts = mutated(mutation)
    mine = [step for step in executed if mutation.script in ("common", step[1].script)]
    try:
        drive_steps(client, mine, scripts)
    except Disagreement as found:
        return found.said, found.steps
    called = MODEL if mutation.script == "common" else [mutation.script]
    for seed in SEEDS:
        try:
            drive_any(client, executed, examples, seed=seed, scripts=scripts, called=called, calls=3, shrink=False)
        except (AssertionError, redis.ResponseError, LookupError, ValueError) as error:
            return str(error).partition("\n")[0], 0
    return None
