# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The incident of a message whose worker died: for people, for actors, and for a callback."""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from .store.cause import in_words, times
from .store.records import DeadIncarnation, Orphan, moment

__all__ = ["Incident", "Kind"]


class Kind(enum.Enum):
    """The outcome for the message."""

    #: It is with its broker again, or another worker has taken it over.
    RECOVERED = "recovered"
    #: It goes to the dead-letter queue: it has killed its worker too often, or is never to run again.
    POISON = "poison"
    #: It cannot be decoded, and is kept whole in Redis.
    SET_ASIDE = "set_aside"


@dataclass(frozen=True, kw_only=True)
class Incident:
    """The incident of one message whose worker died.  Times are of Redis's clock; ``None``: not known."""

    kind: Kind
    message_id: str
    actor_name: str
    queue_name: str
    #: How often the message was running when its worker died.
    crashes: int
    #: How often it was cut off by the shutdown of its worker.
    drains: int
    #: ``None``: no limit.
    max_recoveries: int | None
    #: The run that was cut off.
    run: int
    #: The generation of the copy that runs next.
    generation: int
    #: The worker that died: empty where Redis has lost what it had said of itself.
    instance: str
    host: str
    pid: str
    incarnation: str
    #: When the run that was cut off had started, and the first of all.
    started: datetime | None
    first_started: datetime | None
    #: When the worker was given up.
    dead_since: datetime | None
    #: Why it has died, as far as is known: ``out_of_memory``, ``signal 9``, ``exit 1``, ``heartbeat``, ...
    cause: str
    #: The same in words, and whether the worker was shutting down.
    why: str
    #: The incident, in a sentence.
    reason: str

    @classmethod
    def of(cls, kind: Kind, orphan: Orphan, dead: DeadIncarnation) -> Incident:
        """Put together what the record and the dead incarnation say."""
        return cls(
            kind=kind,
            message_id=orphan.message_id,
            actor_name=orphan.actor,
            queue_name=orphan.queue,
            crashes=orphan.crashes,
            drains=orphan.drains,
            max_recoveries=orphan.limit if isinstance(orphan.limit, int) else None,
            run=orphan.run,
            generation=orphan.generation,
            instance=dead.instance,
            host=dead.host,
            pid=dead.pid,
            incarnation=dead.id,
            started=moment(orphan.started_ms),
            first_started=moment(orphan.first_ms),
            dead_since=moment(dead.dead_since_ms),
            cause=dead.cause.name,
            why=dead.why,
            reason=_reason(kind, orphan, dead),
        )

    def asdict(self) -> dict[str, Any]:
        """As JSON has it: times in ISO 8601, the kind as its value."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return value.value if isinstance(value, Kind) else value


def _reason(kind: Kind, orphan: Orphan, dead: DeadIncarnation) -> str:
    parts = []
    if orphan.crashes:
        causes = f" ({in_words(orphan.causes, orphan.crashes)})" if orphan.crashes > 1 else ""
        parts.append(f"its worker died while running it: {times(orphan.crashes)}{causes}")
    if orphan.drains:
        parts.append(f"{'' if parts else 'its worker '}was shut down while running it: {times(orphan.drains)}")
    said = ", and ".join(parts) or "its worker is gone"
    if dead.id:
        said += f", {'last ' if orphan.crashes + orphan.drains > 1 else ''}on {dead}"
        since = moment(dead.dead_since_ms)
        said += f" at {since:%Y-%m-%d %H:%M:%S} UTC ({dead.why})" if since else f" ({dead.why})"
    if kind is Kind.SET_ASIDE:
        return f"{said}; its payload cannot be decoded"
    if kind is Kind.RECOVERED:
        return said
    if orphan.limit == "once":
        return f"{said}; on_orphan is 'dead_letter': it may have run, and does not run again"
    return f"{said}; max_recoveries is {orphan.limit}, and the last time it had its process to itself"
