# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The data in Redis, as an `Inspector` shows it.  Whatever is damaged, or of another version, breaks nothing."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from ..store.cause import PROVEN_MS, Cause
from ..store.records import Head, moment
from ..store.schema import number
from .dead_letters import DeadLetterView
from .views import MessageView, WorkerView

__all__ = ["dead_letter_view", "message_view", "progressed", "text", "texts", "worker_view"]


def worker_view(id: str, replies: Sequence[Any], now: int) -> WorkerView:
    """One incarnation.

    Parameters:
      replies: Return the view of a worker from its description, its heartbeat, whether it shuts down, and its number of
        messages.
    """
    raw, (deadline, draining), running = replies
    said = texts(raw)
    if deadline is None or deadline < PROVEN_MS or "noticed" in said:
        state = "dead"
    elif deadline <= now or "left" in said:
        state = "silent"
    else:
        state = "alive" if draining is None else "draining"
    cause = Cause.of_deadline(deadline, "left" in said)
    is_over = "left" in said or (state == "dead" and (deadline or 0) <= now)
    since = said.get("gone") or said.get("left") or (deadline if deadline and deadline >= PROVEN_MS else 0)
    return WorkerView(
        id=id,
        instance=said.get("instance", ""),
        host=said.get("host", ""),
        pid=said.get("pid", ""),
        state=state,
        booted=moment(number(said.get("booted", ""))),
        expires_in_ms=int((deadline or 0) - now),
        running=int(running),
        cause=cause.name if is_over else "",
        why=cause.why(draining is not None) if is_over else "",
        queues=_names(said.get("queues", "[]")),
        dead_since=moment(int(since)) if state in ("silent", "dead") else None,
        version=said.get("version", ""),
        schema=number(said.get("schema", "")),
        heartbeat_ttl=number(said.get("ttl", "")) / 1000,
        heartbeat_interval=number(said.get("interval", "")) / 1000,
        instance_exclusive=said.get("exclusive") == "1",
        place=said.get("place", ""),
        is_seen="life" in said,
    )


def message_view(
    id: str, head: Head, now: int, owner: WorkerView | None, deadline: float | None, *, state: str = ""
) -> MessageView:
    """One message.

    Parameters:
      owner: The incarnation that has it, where that is known.
      deadline: Its time among those that wait; ``None``: it does not.
      state: Another than the record's.
    """
    return MessageView(
        id=id,
        state=state or head.state,
        queue=head.queue,
        actor=head.actor,
        worker=head.owner,
        instance=owner.instance if owner else "",
        pid=owner.pid if owner else "",
        worker_alive=owner.is_alive if owner else False,
        started=moment(head.started),
        first_started=moment(head.first or head.started),
        age=max(0.0, (now - head.started) / 1000) if head.started else 0.0,
        run=head.run,
        generation=head.generation,
        crashes=head.crashes,
        drains=head.drains,
        max_recoveries=head.limit if isinstance(head.limit, int) else None,
        alone=head.alone == 1,
        dead_letter=head.dead_letter == 1,
        tries=head.tries,
        due=moment(int(deadline)) if deadline is not None else None,
    )


def dead_letter_view(letter: DeadLetterView, now: int) -> MessageView:
    """A dead letter of which there is no record."""
    never = (0, 0, 0, 0, 0, 0)
    head = Head("dead_lettered", "", 0, 0, 0, "unlimited", 0, 0, 0, 0, "", "", letter.queue, letter.actor, *never)
    return message_view(letter.id, head, now, None, None)


def progressed(view: MessageView, at: bytes | None, progress: bytes | None, note: bytes | None) -> MessageView:
    """With what its last checkpoint said; `at`: when that was kept."""
    if at is None:
        return view
    return dataclasses.replace(
        view,
        checkpointed=moment(int(at)),
        progress=float(progress) if progress else None,
        note=text(note or b""),
    )


def texts(raw: dict[bytes, bytes]) -> dict[str, str]:
    """A hash of Redis."""
    return {text(name): text(value) for name, value in raw.items()}


def text(raw: bytes) -> str:
    """Damaged text is shown."""
    return raw.decode(errors="replace")


def _names(text: str) -> tuple[str, ...]:
    try:
        return tuple(map(str, json.loads(text)))
    except (ValueError, TypeError):
        return ()
