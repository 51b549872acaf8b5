# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The protocol of the table, as a model: every interleaving of runs, rollbacks, deaths and lost answers.

A job of two steps runs as often as it is delivered: the first step under `fence`, with a checkpoint, the second under
`once`.  A frozen run is one that has no turn.  The last test holds the rule of the model against the databases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dramatiq_inflight.effects.statements import Claim
from dramatiq_inflight.effects.transactions import transaction_on
from tests.support.databases import Database

RUNS = 3


class Row(NamedTuple):
    fence: int
    done: bool
    checkpoint: int


class Run(NamedTuple):
    """A run of the job: where it is, what its claim found, and how it ended."""

    #: ``first``, ``second``: before the transaction of that step; else in it, its claim granted.
    at: str = "first"
    #: Whether the effect of the step is written.
    written: bool = False
    checkpoint: int = 0
    #: ``""``: it goes on (or is frozen); ``failed``, ``done``.
    end: str = ""


class State(NamedTuple):
    row: Row | None = None
    #: Which run has locked the row.
    lock: int | None = None
    runs: tuple[Run, ...] = ()
    #: How often each step was committed.
    effects: tuple[int, int] = (0, 0)
    #: The fences that were committed, one after the other: whether they fell.
    fell: bool = False


class Rules(NamedTuple):
    """The protocol."""

    #: Whether a claim is granted.
    grants: Callable[[Row | None, int], bool] = lambda row, fence: row is None or (not row.done and row.fence <= fence)
    #: Whether a claim waits for the transaction that has the row.
    waits: bool = True
    #: Whether the checkpoint commits with the step.
    together: bool = True
    #: Whether the second step says that the key is done.
    completes: bool = True


def steps(state: State, rules: Rules) -> Iterator[State]:
    """Yield the steps that may happen next."""
    if len(state.runs) < RUNS and not any(run.end == "done" for run in state.runs[-1:]):
        yield state._replace(runs=(*state.runs, Run()))  # the message is delivered, whoever still runs it
    for me, run in enumerate(state.runs):
        if run.end:
            continue
        if run.at in ("first", "second"):
            yield from claim(state, me, run, rules)
        else:
            yield from go_on(state, me, run, rules)
            yield leave(state, me, run._replace(end="failed"))  # an error, a death, or the server's time-out


def changed(state: State, me: int, run: Run) -> State:
    return state._replace(runs=state.runs[:me] + (run,) + state.runs[me + 1 :])


def leave(state: State, me: int, run: Run) -> State:
    """The end of a transaction."""
    return changed(state._replace(lock=None if state.lock == me else state.lock), me, run)


def claim(state: State, me: int, run: Run, rules: Rules) -> Iterator[State]:
    if state.lock is not None and rules.waits:
        return  # it waits
    if rules.grants(state.row, me):
        checkpoint = state.row.checkpoint if state.row else 0
        inside = run._replace(at=f"in {run.at}", written=False, checkpoint=checkpoint)
        yield changed(state._replace(lock=me), me, inside)
    elif state.row is not None and state.row.done:
        yield changed(state, me, run._replace(end="done"))  # AlreadyDone: acknowledged as a success
    else:
        yield changed(state, me, run._replace(end="failed"))


def go_on(state: State, me: int, run: Run, rules: Rules) -> Iterator[State]:
    first = run.at == "in first"
    if not run.written:
        yield changed(state, me, run._replace(written=True))
        return
    skipped = first and run.checkpoint > 0
    kept = max(run.checkpoint, int(first)) if rules.together else run.checkpoint
    row = Row(me, not first and rules.completes, kept)
    a, b = state.effects
    committed = state._replace(
        row=row,
        effects=(a + (first and not skipped), b + (not first)),
        fell=state.fell or (state.row is not None and state.row.fence > me),
    )
    yield leave(committed, me, run._replace(at="second") if first else run._replace(end="done"))
    yield leave(committed, me, run._replace(end="failed"))  # the answer to the commit is lost


def wrong(state: State) -> str:
    """Return what is wrong with a state; empty if nothing is."""
    if max(state.effects) > 1:
        return "doubled"
    if any(run.end == "done" for run in state.runs) and state.effects != (1, 1):
        return "lost"
    if state.fell:
        return "a lower fence has committed after a higher one"
    return ""


def fails_to_end(state: State, rules: Rules) -> bool:
    """Return whether a new run cannot end the job, once the transactions of the others are over."""
    runs = tuple(run._replace(end=run.end or "failed") for run in state.runs)
    state = state._replace(lock=None, runs=(*runs, Run()))
    while not state.runs[-1].end:
        state = next(iter(step for step in steps(state, rules) if step.runs[:-1] == runs))
    return state.runs[-1].end != "done" or state.effects != (1, 1)


def explore(rules: Rules) -> tuple[set[str], int]:
    """All states that can be reached; what is wrong with any."""
    seen, ahead, found = {State()}, [State()], set[str]()
    while ahead:
        state = ahead.pop()
        if said := wrong(state):
            found.add(said)
            continue
        if fails_to_end(state, rules):
            found.add("stuck")
        for after in steps(state, rules):
            if after not in seen:
                seen.add(after)
                ahead.append(after)
    return found, len(seen)


def test_no_interleaving_loses_or_doubles() -> None:
    found, states = explore(Rules())
    assert found == set()
    assert states > 1000


@pytest.mark.parametrize(
    ("rules", "found"),
    [
        (Rules(grants=lambda row, fence: row is None or row.fence <= fence), "doubled"),
        (
            Rules(grants=lambda row, fence: row is None or not row.done),
            "a lower fence has committed after a higher one",
        ),
        (Rules(waits=False), "doubled"),
        (Rules(together=False), "doubled"),
        (Rules(completes=False), "doubled"),
        (Rules(grants=lambda row, fence: row is None or (not row.done and row.fence < fence)), "stuck"),
    ],
    ids=["done is not looked at", "fences are not", "no lock", "checkpoint apart", "never done", "its own is refused"],
)
def test_each_rule_is_needed(rules: Rules, found: str) -> None:
    assert found in explore(rules)[0]


CLAIMS = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 4), st.booleans(), st.booleans()), min_size=1, max_size=12
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(claims=CLAIMS)
def test_a_database_grants_what_the_model_grants(database: Database, claims: list[tuple[str, int, bool, bool]]) -> None:
    """Claims of two keys, one after the other: by which fence, whether it is the last step, and whether it commits."""
    database.write("DELETE FROM inflight_effects")
    rows: dict[str, Row] = {}
    with database.connected() as connection:
        for key, fence, done, commits in claims:
            transaction = transaction_on(connection)
            transaction.begin()
            found = transaction.dialect.claim(transaction.execute, Claim(key, fence, done, 10))
            before = rows.get(key)
            assert found.granted == Rules().grants(before, fence)
            if not found.granted:
                assert before is not None
                assert found.done == before.done
            if found.granted and commits:
                transaction.commit()
                rows[key] = Row(fence, done, 0)
            else:
                transaction.rollback(ValueError())
