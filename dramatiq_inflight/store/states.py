# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The states of a record, and which script may change one into which other."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

__all__ = ["SETTLED", "TRANSITIONS", "WAITING", "State"]


class State(enum.StrEnum):
    """The state of a message in its record."""

    RUNNING = "running"
    #: Its run was given up: a recoverer is to enqueue a copy, or has failed to.
    RECOVERING = "recovering"
    #: Its copy is with the broker.
    REQUEUED = "requeued"
    #: Its enqueue has failed, and what comes next is with the broker.
    RELEASED = "released"
    #: Nobody runs it; whatever copy there is may run.
    LET_GO = "let_go"
    COMPLETED = "completed"
    DEAD_LETTERED = "dead_lettered"


#: These wait for their copy, and have the payload and a deadline.
WAITING: Final = frozenset({State.RECOVERING, State.REQUEUED})

#: These are over: without a payload, and soon forgotten.
SETTLED: Final = frozenset({State.RELEASED, State.LET_GO, State.COMPLETED, State.DEAD_LETTERED})

#: The scripts that change a record's state; ``None``: there is no record.  All others leave it as it is.  A settled
#: record expires.  One that cannot be read is as if there were none; recovery sets it aside when it comes upon it.
TRANSITIONS: Final[Mapping[tuple[State | None, State | None], frozenset[str]]] = {
    pair: frozenset(scripts.split())
    for pair, scripts in {
        (None, State.RUNNING): "reassert start",
        (None, State.COMPLETED): "complete",
        (State.RUNNING, None): "claim complete release return_to_broker",
        (State.RUNNING, State.RECOVERING): "claim start take",
        (State.RUNNING, State.REQUEUED): "await_copy return_to_broker",
        (State.RUNNING, State.RELEASED): "complete release",
        (State.RUNNING, State.LET_GO): "claim release return_to_broker",
        (State.RUNNING, State.COMPLETED): "close_unstarted complete discard",
        (State.RUNNING, State.DEAD_LETTERED): "close_unstarted release",
        (State.RECOVERING, None): "claim set_aside",
        (State.RECOVERING, State.RUNNING): "reassert start",
        (State.RECOVERING, State.REQUEUED): "confirm_copies",
        (State.RECOVERING, State.COMPLETED): "close_unstarted complete discard",
        (State.RECOVERING, State.DEAD_LETTERED): "close_unstarted",
        (State.REQUEUED, State.RUNNING): "reassert start",
        (State.REQUEUED, State.RECOVERING): "claim take",
        (State.REQUEUED, State.LET_GO): "claim",
        (State.REQUEUED, State.COMPLETED): "close_unstarted complete discard extend_deadlines",
        (State.REQUEUED, State.DEAD_LETTERED): "close_unstarted extend_deadlines",
        (State.RELEASED, State.RUNNING): "reassert start",
        (State.LET_GO, State.RUNNING): "reassert start",
        (State.LET_GO, State.COMPLETED): "complete",
        (State.COMPLETED, State.RUNNING): "reassert start",
        (State.DEAD_LETTERED, State.RUNNING): "reassert start",
    }.items()
}
