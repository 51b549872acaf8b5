# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The drawings of the documentation, by name: ``python -m docs.pictures`` writes them beside this file."""

from __future__ import annotations

from pathlib import Path

from .sequence import Box, Death, Sent, drawn

__all__ = ["FOLDER", "PICTURES", "write"]

FOLDER = Path(__file__).parent

WHO = ("your application", "broker: the queue", "worker", "Redis: the tracker")
APP, QUEUE, WORKER, REDIS = range(4)

A, BROKER, RECORDS, B = range(4)

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
            Sent(WORKER, REDIS, "finish: settle the record"),
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
            Sent(B, RECORDS, "finish: settle the record"),
            Sent(A, RECORDS, "finish, if A was only frozen: fenced, no effect", answer=True),
        ],
    ),
}


def write() -> None:
    """Draw them all."""
    for name, drawing in PICTURES.items():
        (FOLDER / f"{name}.svg").write_text(drawing, "utf-8")
