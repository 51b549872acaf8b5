# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Read Redis for an `Inspector`, in a few round trips, however many messages there are."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import redis

from ..config.settings import Settings
from ..errors import SchemaError
from ..store.connection import bounded_client
from ..store.keys import Keys
from ..store.records import AT_A_TIME, DRAINING, batches
from ..store.schema import FIELDS, SCHEMA, Held, Refusal
from ..version import __version__
from .history import Event
from .parsing import progressed, text, worker_view
from .views import MessageView, WorkerView

__all__ = ["Instances", "Reader"]


class Reader:
    """Reads one namespace's keys; see `Inspector` for its parameters."""

    def __init__(self, client: redis.Redis, namespace: str = Settings.namespace) -> None:
        self.namespace = namespace
        self._client: Any = bounded_client(client)
        self._keys = Keys(namespace)

    def _read(self, pipeline: Any) -> list[Any]:
        """Return the answers of a pipeline, if this version can read them."""
        pipeline.hmget(self._keys.schema, FIELDS)
        *found, raw = pipeline.execute()
        held = Held.of(raw)
        if held.schema > SCHEMA:
            raise SchemaError(Refusal(held.schema).text(self.namespace, __version__, SCHEMA, held.version))
        return list(found)

    def _look(self, *, messages: bool = True) -> tuple[int, list[WorkerView], dict[str, list[tuple[str, float]]]]:
        """The time, the workers, and what each runs (with its start)."""
        pipeline = self._client.pipeline(transaction=False)
        pipeline.zrangebyscore(self._keys.heartbeats, 0, "+inf")
        now, (members,) = self._timed(pipeline)
        ids = [text(member) for member in members if not member.startswith(b"*")]
        running: dict[str, list[tuple[str, float]]] = {}
        if messages:
            replies = batches(
                self._client, lambda pipe, id: pipe.zrange(self._keys.running(id), 0, -1, withscores=True), ids
            )
            running = {
                id: [(text(message), score) for message, score in reply] for id, reply in zip(ids, replies, strict=True)
            }
        workers = self._workers(ids, now)
        workers.sort(key=lambda view: (view.instance, view.booted.timestamp() if view.booted else 0.0, view.id))
        return now, workers, running

    def _waiting(self) -> dict[str, float]:
        """Return the messages that wait for their copy, with their deadlines."""
        found: dict[str, float] = {}
        for at in itertools.count(0, AT_A_TIME):
            batch = self._client.zrange(self._keys.waiting, at, at + AT_A_TIME - 1, withscores=True)
            found.update((text(id), score) for id, score in batch)
            if len(batch) < AT_A_TIME:
                break
        return found

    def _now(self) -> int:
        return self._timed(self._client.pipeline(transaction=False))[0]

    def _timed(self, pipeline: Any) -> tuple[int, list[Any]]:
        """The time by the server that has the namespace, milliseconds; and what a pipeline has found."""
        if isinstance(self._client, redis.RedisCluster):  # there a pipeline takes no command without a key
            node: Any = self._client.get_node_from_key(self._keys.heartbeats)
            time: Any = self._client.time(target_nodes=node)
            found = self._read(pipeline)
        else:
            pipeline.time()
            *found, time = self._read(pipeline)
        seconds, micro = time
        return seconds * 1000 + micro // 1000, found

    def _workers(self, ids: Sequence[str], now: int) -> list[WorkerView]:
        def ask(pipe: Any, id: str) -> None:
            pipe.hgetall(self._keys.incarnation(id))
            pipe.zmscore(self._keys.heartbeats, [id, DRAINING + id])
            pipe.zcard(self._keys.running(id))

        replies = list(batches(self._client, ask, ids))
        return [worker_view(id, replies[3 * i : 3 * i + 3], now) for i, id in enumerate(ids)]

    def _with_progress(self, views: list[MessageView]) -> list[MessageView]:
        def ask(pipe: Any, id: str) -> None:
            pipe.hmget(self._keys.checkpoint(id), "at", "progress", "note")

        replies = batches(self._client, ask, [view.id for view in views])
        return [progressed(view, *reply) for view, reply in zip(views, replies, strict=True)]


class Instances:
    """Which instance and process an incarnation was: events of messages name the incarnation alone."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._known: dict[str, tuple[str, str]] = {}

    def learn(self, events: Iterable[Event]) -> None:
        unknown: dict[str, None] = {}
        for event in events:
            if event.instance:
                self._known[event.worker] = event.instance, event.pid
            elif event.worker:
                unknown[event.worker] = None
        ids = [id for id in unknown if id not in self._known]
        for view in self._reader._workers(ids, 0) if ids else ():
            self._known[view.id] = view.instance, view.pid

    def complete(self, event: Event) -> Event:
        instance, pid = self._known.get(event.worker, ("", ""))
        if event.instance or not instance:
            return event
        return dataclasses.replace(event, instance=instance, pid=pid)
