# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Any calls in any order, from any state: beyond what the protocol does, the scripts still do what the model says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import redis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from .real import Real
from .scripts import MODEL, NOBODY, ONCE, SETTLED, UNLIMITED, WAITING, Call, Record, Redis, fresh_redis, with_heart

__all__ = ["INCARNATIONS", "any_calls", "compare"]

INCARNATIONS = 3

me = st.integers(0, INCARNATIONS - 1)
generation = st.integers(1, 3)
run = st.sampled_from([0, 1, 1, 1, 2, 2, 3])
origin = st.sampled_from([0, 1, 1, 1, 2])
name = st.sampled_from([0, 1, 1, 2, 3])
crashes = st.integers(0, 2)
limit = st.sampled_from([1, 1, 1, UNLIMITED, ONCE, 0, 2])
flag = st.booleans()
rarely = st.sampled_from([False, False, False, True])
here = st.sampled_from(["no", "no", "running", "ended", "handed_back"])
attempt = st.integers(0, 2)
tries = st.sampled_from([0, 0, 1, 1, 2])
delivery = st.sampled_from([None, None, None, (True, True), (False, True), (False, False)])
dead = st.sampled_from([NOBODY, 0, 1, 2, 0, 1, 2])
alone = st.sampled_from([True, False, None])

#: What each script is called with.
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "start": (
        *(me, generation, origin, name, rarely, rarely, here, limit, attempt),
        *(rarely, alone, rarely, rarely, tries, delivery),
    ),
    "accompany": (me, run, origin),
    "finish": (me, generation, origin, name, run, run, rarely, rarely, flag, delivery),
    "acked": (run,),
    "release": (me, run, rarely, st.sampled_from(["released", "let_go", "dead_lettered"]), origin),
    "hand_over": (me, run, origin, attempt, flag),
    "put_off": (name,),
    "hold": (generation,),
    "settle": (generation, origin, rarely, st.sampled_from(["completed", "dead_lettered"]), tries),
    "mend": (
        *(me, run, generation, origin, name, limit, run, crashes, crashes, flag, rarely, attempt),
        *(st.sampled_from([None, True, False]), tries),
    ),
    "beat": (me, rarely),
    "attest": (me,),
    "enter": (me, st.sampled_from([True, True, False])),
    "suspect": (me, me, st.sampled_from([(True, False), (True, False), (True, True), (False, False)]), flag),
    "prove": (me,),
    "reap": (me,),
    "hand_back": (me, st.sampled_from([None, True, True, False])),
    "claim": (me, dead, flag),
    "requeued": (me, dead, generation, st.sampled_from([0, 1, 2, 3])),
    "refused": (me, generation, st.sampled_from(["refused", "away", "left_over", "untried"])),
    "postpone": (name, st.sampled_from(["held", "consumed", "maybe"])),
    "set_aside": (me, dead, generation),
    "take": (me, flag, flag),
    "discard": (flag,),
}


def compare(model: Redis, real: Real, call: Call) -> tuple[Any, Redis]:
    """Run a call on both sides, and see that answer, state and expiry are the same.

    Returns: the answer, and the next state.

    Raises:
      AssertionError: They are not.
    """
    expected, after = MODEL[call.script](model, *call.args)
    answer = real.call(call)
    assert answer == expected, f"{call.script} answered {answer}, the model says {expected}"
    state, expiry = real.get()
    assert state == after, f"{call.script}: " + difference(state, after)
    kind = "gone" if after.record is None else after.record.state
    due = "soon" if kind in SETTLED else "later" if kind in WAITING else "gone" if kind == "gone" else "never"
    assert expiry == due, f"{call.script}: the record expires {expiry}, the model says {due}"
    return expected, after


def difference(real: Redis, model: Redis) -> str:
    """What differs between two states of Redis, in words."""
    parts = []
    for field in model._fields:
        ours, theirs = getattr(real, field), getattr(model, field)
        if ours == theirs:
            continue
        if field == "record" and ours and theirs:
            parts += [
                f"record.{name} is {getattr(ours, name)!r}, the model says {getattr(theirs, name)!r}"
                for name in ours._fields
                if getattr(ours, name) != getattr(theirs, name)
            ]
        else:
            parts.append(f"{field} is {ours!r}, the model says {theirs!r}")
    return "; ".join(parts)


def any_calls(
    client: redis.Redis, scripts: Mapping[str, str], states: Sequence[Redis], called: Iterable[str] = tuple(MODEL)
) -> type[RuleBasedStateMachine]:
    """A hypothesis test that makes any calls in any order.

    Parameters:
      states: Where to begin.
      called: The names of the scripts to call.
    """
    calls = st.one_of(*(st.builds(Call, st.just(script), st.tuples(*ARGUMENTS[script])) for script in called))
    # Nobody looks at itself in this way: the two would be one subscription, and not two that may differ.
    calls = calls.filter(lambda call: call.script != "suspect" or call.args[0] != call.args[1])

    real = Real(client, INCARNATIONS, scripts)  # one for all: each begins with a state of its own

    class AnyCalls(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.real = real
            self.state = fresh_redis(INCARNATIONS)

        @initialize(state=st.sampled_from(states))
        def begin(self, state: Redis) -> None:
            self.state = state
            self.real.put(state)

        @rule(several=st.lists(calls, min_size=1, max_size=8))
        def call(self, several: list[Call]) -> None:
            for call in several:
                _, self.state = compare(self.state, self.real, call)

        @rule(who=me)
        def time_passes(self, who: int) -> None:
            heart = self.state.hearts[who]
            later = {"fresh": "expired", "gone": "proven"}.get(heart.kind)
            if later:
                self._pass_time(with_heart(self.state, who, heart._replace(kind=later)))

        @precondition(lambda self: self.state.waiting == "later")
        @rule()
        def deadline_comes(self) -> None:
            self._pass_time(self.state._replace(waiting="due"))

        @rule(record=st.sampled_from([None, Record("damaged")]))
        def record_is_lost(self, record: Record | None) -> None:
            if self.state.record:
                self._pass_time(self.state._replace(record=record))

        def _pass_time(self, state: Redis) -> None:
            self.state = state
            self.real.pass_time(state)

    return AnyCalls
