# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The states of a record: one table, which the scripts, the model and the page about the protocol agree with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from dramatiq_inflight.store.declarations import COMMON, DECLARATIONS
from dramatiq_inflight.store.states import SETTLED, TRANSITIONS, WAITING, State
from tests.model.scripts import MODEL, NOBODY, ONCE, TAKES, UNLIMITED, Call, Heart, Record, Redis, fresh_redis

pytestmark = pytest.mark.once

PROTOCOL = Path(__file__).parents[2] / "docs" / "protocol.rst"

#: A few values of each argument: together they lead a script everywhere that it can lead a record.
FEW: dict[str, tuple[Any, ...]] = {
    "me": (0,),
    "other": (1,),
    "dead": (0, 1, NOBODY),
    "generation": (1, 2),
    **dict.fromkeys(("run", "started"), (0, 1)),
    "origin": (1, 2),
    "copy": (0, 1),
    **dict.fromkeys(("crashes", "drains", "payload"), (0,)),
    "at_broker": (None, 0),
    "limit": (UNLIMITED,),
    "tries": (0, 1),
    "here": ("no",),
    "delivery": (None,),
    "held": (None, True, False),
    "kind": ("alive",),
    "subscribed": (True,),
    "seen": ((True, False),),
    "what": ("held", "consumed", "maybe"),
    "why": ("refused",),
    "state": ("released", "let_go", "dead_lettered"),
    **dict.fromkeys(("over", "leftovers", "due"), (True,)),
    **dict.fromkeys(("unacked", "again", "contended", "delay", "dead_letter", "force", "alone"), (False, True)),
    **dict.fromkeys(("redelivered", "duplicate", "forgotten", "tailored", "condemned"), (False,)),
}


def records() -> Iterator[Record | None]:
    """One of each kind."""
    yield None
    for owner, tailored, more, limit in product((0, 1), (0, 1), (1, 2), (UNLIMITED, ONCE)):
        for payload in (0, None):
            yield Record("running", owner, 1, more, 0, limit, more - 1, 0, 1, 0, 1, 1, 0, 0, tailored, payload=payload)
    for dead_letter, generation in product((0, 1), (1, 2)):
        waiting = Record("", run=1, generation=generation, contended=1, started=1, origin=1, payload=0)
        waiting = waiting._replace(dead_letter=dead_letter)
        for owner, deaths in product((NOBODY, 0, 1), (0, 2)):
            yield waiting._replace(state="recovering", owner=owner, deaths=deaths)
        for payload in (0, None):
            yield waiting._replace(state="requeued", copy=1, payload=payload)
    for state in sorted(SETTLED):
        yield Record(state.value, run=1, contended=1, origin=1)


def worlds() -> Iterator[Redis]:
    """With each of these records, the workers alive or dead."""
    for record, kind, waiting in product(records(), ("fresh", "expired"), ("later", "due")):
        if waiting == "later" or (record is not None and record.state in WAITING):
            redis = fresh_redis(2)._replace(record=record, waiting=waiting if record else "")
            yield redis._replace(hearts=(Heart(kind),) * 2)


def calls(script: str) -> Iterator[Call]:
    """A few calls of a script."""
    few = {**FEW, "state": ("completed", "dead_lettered")} if script == "close_unstarted" else FEW
    for values in product(*(few[name] for name in TAKES[script])):
        yield Call(script, values)


def state_of(record: Record | None) -> State | None:
    return State(record.state) if record else None


def test_the_model_makes_the_transitions_of_the_table_alone() -> None:
    """The real scripts do what the model does: see test_model.py."""
    made: dict[tuple[State | None, State | None], set[str]] = {}
    met = list(worlds())
    for script in MODEL:
        for call in calls(script):
            for redis in met:
                _, after = MODEL[script](redis, **call.named)
                change = state_of(redis.record), state_of(after.record)
                if change[0] is not change[1]:
                    made.setdefault(change, set()).add(script)
    assert made == TRANSITIONS


def test_the_table_names_states_and_scripts_that_there_are() -> None:
    assert set(State) == {State.RUNNING} | WAITING | SETTLED
    assert not WAITING & SETTLED
    for scripts in TRANSITIONS.values():
        assert scripts <= DECLARATIONS.keys()


def test_lua_has_the_same_states() -> None:
    said = {
        name: re.findall(r"(\w+) = true", states) for name, states in re.findall(r"local (\w+) = {(.*= true)}", COMMON)
    }
    assert set(said["SETTLED"]) == {state.value for state in SETTLED}
    assert set(said["WAITING"]) == {state.value for state in WAITING}
    assert said["STATES"] == [State.RUNNING.value]


def test_the_page_about_the_protocol_has_the_table() -> None:
    """Each line: from, to, by which scripts."""
    page = PROTOCOL.read_text("utf-8")
    rows = re.findall(r"^``(\w+)`` +``(\w+)`` +(``.*``)$", page, re.MULTILINE)
    said = {(before, after): set(re.findall(r"\w+", scripts)) for before, after, scripts in rows}
    assert len(said) == len(rows)
    names = {pair: tuple(state.value if state else "none" for state in pair) for pair in TRANSITIONS}
    assert said == {names[pair]: set(scripts) for pair, scripts in TRANSITIONS.items()}
