# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The protocol as a model, explored within small bounds, and the real scripts beside it: see docs/model.rst."""

from __future__ import annotations

import fcntl
import inspect
import pickle
from pathlib import Path

import pytest
import redis

from tests.model.bounds import SMALL, VARIANTS
from tests.model.drive import Executed, caught, drive_any, drive_steps, merge
from tests.model.explore import Explored, Violation, explore
from tests.model.mutations import MUTATIONS, Mutation, mutated
from tests.model.scripts import MODEL, TAKES
from tests.model.world import Bounds

pytestmark = pytest.mark.once

#: The mutations that the ordinary tests run: of most scripts one that a step of the model notices, whatever
#: hypothesis comes upon.
NAMES = {
    "start": "no copy is stale",
    "complete": "a late success settles nothing",
    "release": "its origin may run again",
    "shorten_retention": "what is contended is forgotten",
    "clear_alone": "it stays alone",
    "claim": "the payload is forgotten",
    "confirm_copies": "it is not seen whether the claim holds",
    "reassert": "another's record is overwritten",
    "defer": "any copy will do",
    "extend_deadlines": "any copy will do",
    "close_unstarted": "the crashes stay",
    "set_aside": "anybody's claim is set aside",
    "forget": "what is left is forgotten",
    "heartbeat": "a shutdown is not told",
    "mark_dead": "a proof leaves a doubt",
    "enter": "whoever is not seen enters",
    "suspect": "a sign of life does not matter",
    "common": "the settled never expire",
}
FEW = [m for m in MUTATIONS if NAMES.get(m.script) == m.name]


#: In how many parts the scripts are driven, each of which a process of the run takes.
PARTS = 8


@pytest.fixture(scope="module")
def explored(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> list[Explored]:
    """Explored once; the processes of the run share the work."""
    folder = tmp_path_factory.getbasetemp()
    if worker_id != "master":
        folder = folder.parent
    found: dict[int, Explored] = {}
    for wait in (False, True):  # for what another process explores just now, when nothing else is left
        for number, bounds in enumerate(SMALL):
            one = None if number in found else _explored_once(folder / f"explored-{number}", bounds, wait=wait)
            if one is not None:
                found[number] = one
    return [found[number] for number in range(len(SMALL))]


def _explored_once(path: Path, bounds: Bounds, *, wait: bool) -> Explored | None:
    """Explore, unless another process has, or does so and is not waited for."""
    with path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return None
        file.seek(0)
        if data := file.read():
            kept: Explored = pickle.loads(data)
            return kept
        found = explore(bounds)
        pickle.dump(found, file)
        return found


@pytest.fixture(scope="module")
def executed(explored: list[Explored]) -> Executed:
    return merge(explored)


def test_nothing_is_lost_or_doubled_within_small_bounds(explored: list[Explored]) -> None:
    """Every interleaving: an invariant that does not hold is raised, with the way to it."""
    for found in explored:
        print(f"{found.states} states, {found.transitions} transitions, {found.seconds:.1f} s")
    assert sum(found.states for found in explored) > 30_000
    assert all(found.ends > 0 for found in explored)


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_that_lose_messages_are_found_out(name: str) -> None:
    """That the model can fail at all."""
    with pytest.raises(Violation, match=r"lost|nobody has replayed it|shown itself|may be none|payload is gone"):
        explore(VARIANTS[name].bounds, VARIANTS[name].scripts)


@pytest.mark.parametrize("part", range(PARTS))
def test_the_real_scripts_do_every_step_of_the_model(client: redis.Redis, executed: Executed, part: int) -> None:
    """Answer, record, indexes, heartbeats and expiry, from every state in which an exploration has met a script."""
    steps = drive_steps(client, executed[part::PARTS])
    assert steps > 3000


def test_the_real_scripts_do_as_the_model_does_whatever_comes(client: redis.Redis, executed: Executed) -> None:
    """Any calls in any order: also those that the protocol would not make."""
    drive_any(client, executed, 60)


@pytest.mark.parametrize("mutation", FEW, ids=lambda mutation: mutation.script)
def test_mutations_of_the_scripts_are_caught(mutation: Mutation, client: redis.Redis, executed: Executed) -> None:
    """One of each script; ``nox -s model -- --mutations`` runs them all."""
    assert caught(client, mutation, executed) is not None


@pytest.mark.parametrize("script", MODEL)
def test_the_model_takes_what_the_script_declares(script: str) -> None:
    """All of it, but for what is of no use to it and what it only sees: see `TAKES`."""
    assert tuple(inspect.signature(MODEL[script]).parameters) == ("redis", *TAKES[script])


def test_every_mutation_changes_a_script() -> None:
    """The text that each replaces is there exactly once."""
    assert len(FEW) == len(NAMES)
    for mutation in MUTATIONS:
        mutated(mutation)
