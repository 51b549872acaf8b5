# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The state of a run in its process: what its table allows, and what a transition does."""

from __future__ import annotations

import dataclasses
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from dramatiq.middleware import Shutdown

from dramatiq_inflight.delivery import Delivery
from dramatiq_inflight.message import state as transitions
from dramatiq_inflight.message.in_flight import Entry
from dramatiq_inflight.message.state import TRANSITIONS, Owner, Phase, Recorded, State, Transition
from tests.support import impossible
from tests.support.boundaries import interruptions
from tests.support.lab import copy_of
from tests.support.stepped import is_taken

#: All states that a run can come to.
STATES = sorted(
    {state for transition in TRANSITIONS for state in (*transition.moves, *transition.moves.values())}, key=str
)


def entry_in(phase: Phase) -> Entry:
    """An entry that has come there in the ordinary way."""
    entry = Entry(Delivery(copy_of("m")))
    steps = [entry.begin, lambda: entry.end(succeeded=True), entry.follow, entry.acknowledge, entry.leave_untold]
    for step in steps:
        if entry.state.phase is phase:
            break
        step()
    assert entry.state.phase is phase
    return entry


def ahead_of(state: State) -> set[State]:
    """The states that can come after a state, at any time."""
    found, ahead = set[State](), [state]
    while ahead:
        now = ahead.pop()
        later = {transition.moves[now] for transition in TRANSITIONS if now in transition.moves} - found
        found |= later
        ahead += later
    return found


@pytest.mark.parametrize("kind", [Phase, Owner, Recorded])
def test_a_run_can_come_to_every_value(kind: type[Phase] | type[Owner] | type[Recorded]) -> None:
    found = {value for state in STATES for value in (state.phase, state.owner, state.recorded)}
    assert set(kind) <= found


def test_the_docs_explain_every_value() -> None:
    page = (Path(__file__).parents[2] / "docs" / "protocol.rst").read_text("utf-8")
    for title, kind in (("where it is", Phase), ("its owner", Owner), ("recorded", Recorded)):
        (table,) = re.findall(rf"^=+  =+\n{title}  +means\n=+  =+\n(.*?)\n=+  =+\n", page, re.DOTALL | re.MULTILINE)
        assert re.findall(r"^(\w+(?: \w+)*)  ", table, re.MULTILINE) == [value.value for value in kind]


@pytest.mark.parametrize("transition", TRANSITIONS, ids=lambda transition: transition.name)
def test_each_transition_is_possible_and_a_method(transition: Transition) -> None:
    assert transition.moves
    assert callable(getattr(Entry, transition.name.replace(" ", "_")))


def test_every_state_leads_to_an_end_that_redis_has() -> None:
    """However it came about, the broker and Redis can still be told; or the copy does not run."""
    refused = {Phase.SKIPPED, Phase.POISONED, Phase.ELSEWHERE}
    for state in STATES:
        ends = {state, *ahead_of(state)}
        assert any(end.phase in refused or end.recorded is Recorded.END for end in ends), str(state)


@pytest.mark.parametrize("state", STATES, ids=str)
def test_what_is_over_stays_over(state: State) -> None:
    """A settled record, a message that is lost, a copy that does not run."""
    later = ahead_of(state)
    if state.recorded is Recorded.END:
        assert {each.recorded for each in later} == {Recorded.END}
    if state.owner is Owner.ANOTHER and state.phase is not Phase.STARTING:
        assert {each.owner for each in later} == {Owner.ANOTHER}
    if state.phase in (Phase.SKIPPED, Phase.POISONED, Phase.ELSEWHERE, Phase.UNTOLD):
        assert {each.phase for each in later} == {state.phase}


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.RUNNING])
def test_nothing_is_settled_before_its_end(phase: Phase) -> None:
    assert {state.recorded for state in STATES if state.phase is phase} == {Recorded.NOTHING, Recorded.RUN}


def test_an_impossible_transition_changes_nothing(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    entry = entry_in(Phase.ENDED)
    before = entry.state
    entry.begin()
    assert entry.state is before
    assert impossible.taken() == [f"begin in: {before}"]
    (line,) = caplog.messages
    assert line.startswith("Ignored the transition 'begin' of message m")
    (tmp_path / "log").write_text(f"before\n{line}\n")
    assert impossible.in_log(tmp_path / "log") == [line], "as it is looked for in a worker's log"


def test_an_interrupt_comes_before_an_transition_or_after_it() -> None:
    """And leaves no lock taken."""
    entries = [entry_in(Phase.RUNNING)]
    for _ in interruptions(lambda: entries[-1].end(succeeded=True), Shutdown):
        assert not is_taken(entries[-1]._changing)
        entries.append(entry_in(Phase.RUNNING))
    assert {entry.state.phase for entry in entries[:-1]} == {Phase.RUNNING, Phase.ENDING}


def test_transitions_of_two_threads_both_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bookkeeping is about to lose a message, and its worker's thread ends the run."""
    entry = entry_in(Phase.RUNNING)
    ends = threading.Thread(target=lambda: entry.end(succeeded=True))

    class Moves(dict[State, State]):
        """Looks the next state up, and has the other thread come in between that and its assignment, if it can."""

        def get(self, state: State, default: Any = None) -> Any:
            ends.start()
            ends.join(0.2)
            return super().get(state, default)

    monkeypatch.setattr(transitions, "LOSE", dataclasses.replace(transitions.LOSE, moves=Moves(transitions.LOSE.moves)))
    entry.lose()
    ends.join()
    assert (entry.state.phase, entry.state.lost) == (Phase.ENDING, True)
