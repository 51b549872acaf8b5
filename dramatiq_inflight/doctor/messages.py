# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The messages: those that wait, that are set aside, and that have killed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

from ..inspection.history import EventKind
from .case import Case, Check
from .findings import Code, Finding

__all__ = ["CHECKS"]

#: How long past its deadline a message may wait: all workers look after it every few seconds or so.
LATE = 60.0

#: How far to look back.
A_DAY = timedelta(days=1)

#: How many are looked at.
MOST = 1000

OVERDUE = Code(
    "overdue",
    ("warning",),
    "They were recovered, their copies have not started, and nobody looks after them.",
    "Start workers that fetch from their queues; see in their logs why recovery fails.",
)

REFUSED = Code(
    "refused",
    ("warning",),
    "They do not run until that works. Each is tried again by itself, after 15 minutes at the longest.",
    "The workers' logs say why. Make room in the queue, correct what refuses them, or bring the broker back; "
    "or discard them (Operations).",
)

SET_ASIDE = Code(
    "set-aside",
    ("warning",),
    "They do not run until somebody decides.",
    "Mend the encoder, or deploy the version that knows it; if a payload kills the process that decodes it, give "
    "that process more memory. Then requeue or discard them (Operations).",
)

POISON = Code(
    "poison",
    ("warning",),
    "They have killed their workers too often, and are in the dead-letter queue.",
    "Their dead letters say why. A message that takes too much memory may run elsewhere: recovery_queue.",
)


def _overdue(case: Case) -> Iterator[Finding]:
    seen = case.overview
    if seen.most_overdue > LATE:
        yield OVERDUE.warning(
            f"Messages that wait past their deadline: {seen.overdue}, the first for {seen.most_overdue:.0f} seconds.",
        )


def _refused(case: Case) -> Iterator[Finding]:
    found = case.inspector.messages(state="recovering", limit=MOST)
    refused = [view for view in found if not view.worker and view.tries > 1]
    if refused:
        queues = Counter((view.queue, view.actor) for view in refused)
        most = ", ".join(f"{n} of queue {queue!r} and actor {actor!r}" for (queue, actor), n in queues.most_common(3))
        worst = max(refused, key=lambda view: view.tries)
        yield REFUSED.warning(
            f"Messages of dead workers that cannot be enqueued: {most}{' and others' * (len(queues) > 3)}; message "
            f"{worst.id} was tried {worst.tries - 1} times.",
        )


def _aside(case: Case) -> Iterator[Finding]:
    if case.overview.aside:
        yield SET_ASIDE.warning(f"Messages set aside, as they cannot be read or decoded: {case.overview.aside}.")


def _poison(case: Case) -> Iterator[Finding]:
    events = case.inspector.history(kinds=[EventKind.POISON], since=A_DAY, limit=MOST)
    if events:
        actors = Counter(event.actor for event in events)
        most = ", ".join(f"{number} of actor {actor!r}" for actor, number in actors.most_common(3))
        yield POISON.warning(f"Poison messages in the last day: {most}{' and others' * (len(actors) > 3)}.")


CHECKS = (
    Check(OVERDUE, "Whether recovered messages start", "No message waits past its deadline.", _overdue),
    Check(REFUSED, "Whether messages cannot be enqueued", "No message is refused by the broker.", _refused),
    Check(SET_ASIDE, "Whether messages are set aside", "No message is set aside.", _aside),
    Check(POISON, "Whether there was poison", "No message was poison in the last day.", _poison),
)
