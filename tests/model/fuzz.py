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
from .scripts import (
    MODEL,
    NOBODY,
    ONCE,
    SETTLED,
    TAKES,
    UNLIMITED,
    WAITING,
    Call,
    Record,
    Redis,
    fresh_redis,
    with_heart,
)

__all__ = ["INCARNATIONS", "any_calls", "compare"]

INCARNATIONS = 3

who = st.integers(0, INCARNATIONS - 1)
run = st.sampled_from([0, 1, 1, 1, 2, 2, 3])
count = st.integers(0, 2)
rarely = st.sampled_from([False, False, False, True])

#: The values of an argument, by its name.
BY_NAME: dict[str, Any] = {
    **dict.fromkeys(("me", "other"), who),
    "dead": st.sampled_from([NOBODY, 0, 1, 2, 0, 1, 2]),
    "generation": st.integers(1, 3),
    **dict.fromkeys(("run", "started"), run),
    "origin": st.sampled_from([0, 1, 1, 1, 2]),
    "copy": st.sampled_from([0, 1, 1, 2, 3]),
    **dict.fromkeys(("crashes", "drains", "payload"), count),
    "limit": st.sampled_from([1, 1, 1, UNLIMITED, ONCE, 0, 2]),
    "tries": st.sampled_from([0, 0, 1, 1, 2]),
    "here": st.sampled_from(["no", "no", "running", "ended", "handed_back"]),
    "alone": st.sampled_from([True, False, None]),
    "delivery": st.sampled_from([None, None, (True, True), (True, True), (True, False), (False, True), (False, False)]),
    "held": st.sampled_from([None, True, True, False]),
    "kind": st.sampled_from(["alive", "alive", "draining", "attested"]),
    "subscribed": st.sampled_from([True, True, False]),
    "seen": st.sampled_from([(True, False), (True, False), (True, True), (False, False)]),
    **dict.fromkeys(("unacked", "delay", "over", "leftovers", "dead_letter", "force", "due"), st.booleans()),
    **dict.fromkeys(("redelivered", "duplicate", "forgotten", "tailored", "condemned", "again", "contended"), rarely),
}

#: The values for one script, where they differ.
OF_SCRIPT: dict[tuple[str, str], Any] = {
    ("release", "state"): st.sampled_from(["released", "let_go", "dead_lettered"]),
    ("close_unstarted", "state"): st.sampled_from(["completed", "dead_lettered"]),
    ("reassert", "alone"): st.booleans(),
    **dict.fromkeys(((name, "at_broker") for name in ("claim", "take", "defer")), st.sampled_from([None, 0, 1])),
    **dict.fromkeys((("mark_dead", "dead"), ("forget", "dead"), ("return_to_broker", "dead")), who),
    ("return_claims", "why"): st.sampled_from(["refused", "away", "left_over", "untried"]),
    ("extend_deadlines", "what"): st.sampled_from(["held", "consumed", "maybe"]),
}


def _calls(script: str) -> Any:
    """Any call of a script, with all that it takes."""
    args = (OF_SCRIPT[script, name] if (script, name) in OF_SCRIPT else BY_NAME[name] for name in TAKES[script])
    return st.builds(Call, st.just(script), st.tuples(*args))


def compare(model: Redis, real: Real, call: Call) -> tuple[Any, Redis]:
    """Run a call on both sides, and see that answer, state and expiry are the same.

    Returns: the answer, and the next state.

    Raises:
      AssertionError: They are not.
    """
    expected, after = MODEL[call.script](model, **call.named)
    answer = real.call(call)
    assert answer == expected, f"{call.script} answered {answer}, the model says {expected}"
    state, expiry = real.get()
    assert state == after, f"{call.script}: " + difference(state, after)
    kind = "gone" if after.record is None else after.record.state
    due = "soon" if kind in SETTLED else "later" if kind in WAITING else "gone" if kind == "gone" else "never"
    assert expiry == due, f"{call.script}: the record expires {expiry}, the model says {due}"
    return expected, after


def difference(real: Redis, model: Redis) -> str:
    """Return the difference of two states of Redis, in words."""
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
    calls = st.one_of(*map(_calls, called))
    # Nobody looks at itself in this way: the two would be one subscription, and not two that may differ.
    calls = calls.filter(lambda call: call.script != "suspect" or call.named["me"] != call.named["other"])

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

        @rule(who=who)
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
