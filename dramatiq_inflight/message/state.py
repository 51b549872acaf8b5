# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The state of a run in this process, and the one table of what changes it.

A state is three answers at once: where the run is (`Phase`), who owns its message (`Owner`), and what Redis has
recorded of it (`Recorded`).  `TRANSITIONS` lists what may happen, with the states that it leads from and to.  Anything
else is a defect of this package: see `in_flight.Entry`, whose methods are the transitions.

``docs/pictures/run.svg`` is drawn from `TRANSITIONS`.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

__all__ = [
    "ACKNOWLEDGE",
    "BEGIN",
    "END",
    "FOLLOW",
    "GIVE_AWAY",
    "HAND_BACK",
    "LEAVE_UNTOLD",
    "LOSE",
    "RECORD_COPY",
    "RECORD_END",
    "RECORD_RUN",
    "RECORD_START",
    "REFUSE_COPY",
    "REJECT",
    "SKIP",
    "START",
    "TAKE_BACK",
    "TRANSITIONS",
    "WITHDRAW",
    "Owner",
    "Phase",
    "Recorded",
    "State",
    "Transition",
]


class Phase(enum.Enum):
    """Where a copy of a message is on its way through this process."""

    #: The worker asks Redis whether the copy may run.
    STARTING = "starting"
    #: The actor runs.
    RUNNING = "running"
    #: The actor has ended; the hooks behind it enqueue what follows.
    ENDING = "ending"
    #: All of these hooks have run; the broker has not been told yet.
    ENDED = "ended"
    #: Dramatiq acknowledges the copy.
    ACKING = "acking"
    #: The broker was told, and Redis could not be: bookkeeping tries again.
    UNTOLD = "untold"
    #: The copy does not run, and is acknowledged.
    SKIPPED = "skipped"
    #: The copy does not run, and is rejected as poison.
    POISONED = "poisoned"
    #: The copy does not run, and is not acknowledged: the broker has given it to another worker.
    ELSEWHERE = "elsewhere"


class Owner(enum.Enum):
    """The owner of the message, as far as this process knows."""

    #: This run; while it starts, the start script decides.
    THIS_RUN = "this run"
    #: The copy that this run enqueues in its own place.
    NEXT_COPY = "next copy"
    #: The broker: it took this delivery back, and whichever worker fetches it next may run it.
    BROKER = "broker"
    #: Another run: this one must change nothing any more.
    ANOTHER = "another"


class Recorded(enum.Enum):
    """The record of the run in Redis, as far as this process knows."""

    #: Nothing that was answered.
    NOTHING = "nothing"
    #: That it runs here.
    RUN = "run"
    #: That it has stopped, and a copy takes its place.
    COPY = "copy"
    #: How it ended: from now on its record must not be written again.
    END = "end"


@dataclass(frozen=True, eq=False, slots=True)
class State:
    """One combination of the three.  There is one object of each, so they are compared by identity."""

    phase: Phase
    owner: Owner
    recorded: Recorded
    #: True if another run owns the message.
    lost: bool = field(init=False)
    #: True if the run has stopped, and the message is enqueued again.
    handed_back: bool = field(init=False)
    #: True if the copy was not consumed: there is a copy of the same origin.
    may_run_again: bool = field(init=False)
    #: True if Redis has recorded how the run ended, or that a copy takes its place.
    told: bool = field(init=False)
    #: True if the actor has ended, and the broker is still to be told.
    has_ended: bool = field(init=False)

    def __post_init__(self) -> None:
        facts = {
            "lost": self.owner is Owner.ANOTHER,
            "handed_back": self.owner is Owner.NEXT_COPY,
            "may_run_again": self.owner in (Owner.NEXT_COPY, Owner.BROKER),
            "told": self.recorded in (Recorded.COPY, Recorded.END),
            "has_ended": self.phase in (Phase.ENDING, Phase.ENDED, Phase.ACKING),
        }
        for name, fact in facts.items():  # computed once: each message asks for them several times
            object.__setattr__(self, name, fact)

    def __str__(self) -> str:
        return f"{self.phase.value}, owner: {self.owner.value}, recorded: {self.recorded.value}"


S = TypeVar("S", Phase, Owner, Recorded)


def _to(to: S, *sources: S) -> dict[S, S]:
    return dict.fromkeys(sources, to)


def _stays(*states: S) -> dict[S, S]:
    return {state: state for state in states}


@dataclass(frozen=True, eq=False)
class Transition:
    """Something that happens to a run.

    Parameters:
      phase, owner, recorded: From which values it leads to which.  One that is empty does not matter, and stays.
    """

    name: str
    phase: Mapping[Phase, Phase] = field(default_factory=dict)
    owner: Mapping[Owner, Owner] = field(default_factory=dict)
    recorded: Mapping[Recorded, Recorded] = field(default_factory=dict)
    #: The same by whole states: those that a run can come to.
    moves: dict[State, State] = field(default_factory=dict, repr=False)


P, O, R = Phase, Owner, Recorded  # noqa: E741  this is a table

#: Loops are of two kinds.  An interrupt makes a step begin again (`interrupt.uninterrupted`), so a transition may come
#: twice.  And bookkeeping may find that the message is lost at any moment, also while the worker's thread ends the run.
TRANSITIONS = (
    # The start.
    RECORD_START := Transition(
        "record start",
        phase=_stays(P.STARTING),
        owner=_to(O.THIS_RUN, O.THIS_RUN, O.ANOTHER),
        recorded=_to(R.RUN, R.NOTHING, R.RUN),
    ),
    BEGIN := Transition("begin", phase=_to(P.RUNNING, P.STARTING)),
    SKIP := Transition("skip", phase=_to(P.SKIPPED, P.STARTING)),
    REJECT := Transition("reject", phase=_to(P.POISONED, P.STARTING)),
    GIVE_AWAY := Transition("give away", phase=_to(P.ELSEWHERE, P.STARTING)),
    # The start may have been recorded, and a copy was enqueued in its place.
    WITHDRAW := Transition(
        "withdraw",
        phase=_to(P.ENDED, P.STARTING),
        owner={O.THIS_RUN: O.BROKER, **_stays(O.ANOTHER)},
    ),
    # The end.  One that was interrupted as it started may have been recorded, and ends as a failure.
    END := Transition("end", phase=_to(P.ENDING, P.STARTING, P.RUNNING, P.ENDING, P.ENDED)),
    FOLLOW := Transition("follow", phase=_to(P.ENDED, P.ENDING, P.ENDED)),
    ACKNOWLEDGE := Transition("acknowledge", phase=_to(P.ACKING, P.ENDED, P.ACKING)),
    LEAVE_UNTOLD := Transition("leave untold", phase=_to(P.UNTOLD, P.ENDED, P.ACKING)),
    # The owner.
    LOSE := Transition("lose", owner=_to(O.ANOTHER, *Owner)),
    HAND_BACK := Transition(
        "hand back",
        phase=_stays(P.ENDING),
        owner={**_to(O.NEXT_COPY, O.THIS_RUN, O.NEXT_COPY), **_stays(O.ANOTHER)},
    ),
    TAKE_BACK := Transition(
        "take back",
        phase=_stays(P.ENDED),
        owner={**_to(O.BROKER, O.THIS_RUN, O.BROKER), **_stays(O.NEXT_COPY, O.ANOTHER)},
    ),
    # The record.
    RECORD_RUN := Transition(
        "record run",
        phase=_stays(P.STARTING, P.RUNNING, P.ENDING, P.ENDED, P.ACKING, P.UNTOLD),
        recorded=_to(R.RUN, R.NOTHING, R.RUN),
    ),
    RECORD_COPY := Transition(
        "record copy",
        phase=_stays(P.ENDED, P.ACKING),
        owner=_stays(O.NEXT_COPY, O.ANOTHER),
        recorded=_to(R.COPY, R.NOTHING, R.RUN, R.COPY),
    ),
    # The broker refused the copy for good.
    REFUSE_COPY := Transition("refuse copy", phase=_stays(P.ENDED, P.ACKING), recorded=_to(R.RUN, R.COPY)),
    RECORD_END := Transition("record end", phase=_stays(P.ENDED, P.ACKING, P.UNTOLD), recorded=_to(R.END, *Recorded)),
)


def _after(transition: Transition, state: State, states: Mapping[tuple[Phase, Owner, Recorded], State]) -> State | None:
    """The state that a transition leads to; None if it is not allowed."""
    phase = transition.phase.get(state.phase) if transition.phase else state.phase
    owner = transition.owner.get(state.owner) if transition.owner else state.owner
    recorded = transition.recorded.get(state.recorded) if transition.recorded else state.recorded
    return None if phase is None or owner is None or recorded is None else states[phase, owner, recorded]


def _explore(transitions: Iterable[Transition]) -> State:
    """Work out the moves of each transition, from the state in which every run begins.  Return that one."""
    states = {each: State(*each) for each in itertools.product(Phase, Owner, Recorded)}
    first = states[Phase.STARTING, Owner.THIS_RUN, Recorded.NOTHING]
    seen, ahead = {first}, [first]
    while ahead:
        state = ahead.pop()
        for transition in transitions:
            after = _after(transition, state, states)
            if after is None:
                continue
            transition.moves[state] = after
            if after not in seen:
                seen.add(after)
                ahead.append(after)
    return first


#: The state in which every run begins.
START = _explore(TRANSITIONS)
