# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The states of a record, and which script may change one into which other."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

__all__ = ["SETTLED", "TRANSITIONS", "WAITING", "State"]


class State(str, enum.Enum):
    """What a record says of its message."""

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
        (None, State.RUNNING): "start mend",
        (None, State.COMPLETED): "finish",
        (State.RUNNING, None): "finish release hand_back",
        (State.RUNNING, State.RECOVERING): "claim start take",
        (State.RUNNING, State.REQUEUED): "hand_back hand_over",
        (State.RUNNING, State.RELEASED): "finish release",
        (State.RUNNING, State.LET_GO): "hand_back release",
        (State.RUNNING, State.COMPLETED): "discard finish settle",
        (State.RUNNING, State.DEAD_LETTERED): "release settle",
        (State.RECOVERING, None): "claim set_aside",
        (State.RECOVERING, State.RUNNING): "mend start",
        (State.RECOVERING, State.REQUEUED): "requeued",
        (State.RECOVERING, State.COMPLETED): "discard finish settle",
        (State.RECOVERING, State.DEAD_LETTERED): "settle",
        (State.REQUEUED, State.RUNNING): "mend start",
        (State.REQUEUED, State.RECOVERING): "claim take",
        (State.REQUEUED, State.COMPLETED): "discard finish postpone settle",
        (State.REQUEUED, State.DEAD_LETTERED): "postpone settle",
        (State.RELEASED, State.RUNNING): "mend start",
        (State.LET_GO, State.RUNNING): "mend start",
        (State.LET_GO, State.COMPLETED): "finish",
        (State.COMPLETED, State.RUNNING): "mend start",
        (State.DEAD_LETTERED, State.RUNNING): "mend start",
    }.items()
}
