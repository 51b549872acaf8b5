# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The drawings of the documentation, by name: ``python -m docs.pictures`` writes them beside this file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dramatiq_inflight.message.state import TRANSITIONS, Owner, Phase, Recorded
from dramatiq_inflight.store.states import TRANSITIONS as OF_RECORDS

from . import states
from .record import drawn_record
from .sequence import Box, Death, Sent, drawn
from .states import Machine

__all__ = ["FOLDER", "PICTURES", "write"]

FOLDER = Path(__file__).parent

WHO = ("your application", "broker: the queue", "worker", "Redis: the tracker")
APP, QUEUE, WORKER, REDIS = range(4)

A, BROKER, RECORDS, B = range(4)


def _moves(kind: str) -> dict[str, dict[str, str]]:
    """By transition, what it does to one of the three answers."""
    moves: dict[str, Mapping[Any, Any]] = {transition.name: getattr(transition, kind) for transition in TRANSITIONS}
    return {name: {a.value: b.value for a, b in each.items()} for name, each in moves.items() if each}


PICTURES = {
    "message": drawn(
        "The way of a message",
        WHO,
        [
            Sent(APP, QUEUE, "enqueue"),
            Sent(QUEUE, WORKER, "fetch"),
            Sent(WORKER, REDIS, "start: may this copy run?"),
            Sent(REDIS, WORKER, "run; the record is mine", answer=True),
            Box(WORKER, "the actor runs"),
            Sent(WORKER, REDIS, "heartbeat, every 30 s"),
            Sent(WORKER, QUEUE, "enqueue what follows"),
            Sent(WORKER, REDIS, "complete: settle the record"),
            Sent(WORKER, QUEUE, "acknowledge"),
        ],
    ),
    "death": drawn(
        "What happens at a death",
        ("worker A", "broker: the queue", "Redis: the tracker", "worker B"),
        [
            Sent(BROKER, A, "fetch"),
            Sent(A, RECORDS, "start: run 1, recorded"),
            Death(A, "SIGKILL"),
            Sent(RECORDS, B, "A is dead: seen or expired"),
            Sent(B, RECORDS, "claim: one crash more"),
            Sent(B, BROKER, "back into the queue, exactly once"),
            Sent(BROKER, B, "fetch"),
            Sent(B, RECORDS, "start: run 2"),
            Box(B, "the actor runs again"),
            Sent(B, RECORDS, "complete: settle the record"),
            Sent(A, RECORDS, "complete, if A was only frozen: fenced, no effect", answer=True),
        ],
    ),
    # From the tables that the package goes by.
    "record": drawn_record("The states of a record", OF_RECORDS),
    "run": states.drawn(
        "The state of a run in its process",
        [
            Machine("where it is", [phase.value for phase in Phase], _moves("phase")),
            Machine("its owner", [owner.value for owner in Owner], _moves("owner")),
            Machine("recorded", [recorded.value for recorded in Recorded], _moves("recorded")),
        ],
    ),
}


def write() -> None:
    """Draw them all."""
    for name, drawing in PICTURES.items():
        (FOLDER / f"{name}.svg").write_text(drawing, "utf-8")
