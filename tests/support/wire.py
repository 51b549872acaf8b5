# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The commands of one store: noted, or cut off."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import redis

from dramatiq_inflight.liveness.lease import KnownBy
from dramatiq_inflight.store.ruled import ruled
from dramatiq_inflight.store.store import Store
from dramatiq_inflight.store.transport import Call
from dramatiq_inflight.worker import WorkerProcess

from .servers import wait_until

__all__ = ["cut_off", "note_scripts", "note_writes"]


def note_writes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Note each write of the tracker's connections from now on: a round trip."""
    sent: list[Any] = []
    connection: Any = ruled(redis.Connection)
    send = connection.plain_send

    def noting(self: Any, *args: Any, **more: Any) -> None:
        sent.append(args)
        send(self, *args, **more)

    monkeypatch.setattr(connection, "plain_send", noting)
    return sent


def note_scripts(store: Store) -> list[tuple[str, Sequence[Any]]]:
    """Note the name and the keys of each script that a store sends from now on."""
    names = {script: name for name, script in store.scripts.loaded.items()}
    noted, exchange = list[tuple[str, Sequence[Any]]](), store.scripts.wire.exchange

    def noting(calls: Sequence[Call]) -> list[Any]:
        noted.extend((names[call.script], call.keys) for call in calls if call.script in names)
        return exchange(calls)

    store.scripts.wire.exchange = noting  # type: ignore[method-assign]
    return noted


def cut_off(runtime: WorkerProcess) -> threading.Event:
    """Let a worker's store reach nothing as long as the event is set that this returns."""
    wait_until(lambda: runtime.lease.known_by is KnownBy.ENTERED, what="it is seen in Redis")
    store, away = runtime.store, threading.Event()
    away.set()

    def unless_away(method: Callable[..., Any]) -> Callable[..., Any]:
        def sometimes(*args: Any, **options: Any) -> Any:
            if away.is_set():
                raise redis.ConnectionError("cut off")
            return method(*args, **options)

        return sometimes

    store.scripts.wire.exchange = unless_away(store.scripts.wire.exchange)  # type: ignore[method-assign]
    store.client.execute_command = unless_away(store.client.execute_command)  # type: ignore[method-assign]
    return away
