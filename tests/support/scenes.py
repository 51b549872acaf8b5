# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""An afternoon of an imagined application, written straight to Redis: for pictures, and for measuring the web page."""

from __future__ import annotations

import dataclasses
import json
import random
import time
from typing import Any

from dramatiq import Message

from dramatiq_inflight.store.cause import OUT_OF_MEMORY
from dramatiq_inflight.store.keys import Keys
from dramatiq_inflight.store.records import Head

__all__ = ["Scene"]

#: How long a heartbeat is believed, milliseconds.
TTL = 90_000

#: What the event of a death says of its cause.
OUT = {"cause": OUT_OF_MEMORY.number}


class Scene:
    """Writes what workers would have written, at times of the past.  All events first: their order is their time."""

    def __init__(self, client: Any, namespace: str, *, seed: int = 1) -> None:
        self.client = client
        self.keys = Keys(namespace)
        self.random = random.Random(seed)
        self.now = int(time.time() * 1000)
        self.events: list[tuple[int, dict[str, str | int]]] = []

    def id(self) -> str:
        return "-".join(f"{self.random.getrandbits(4 * n):0{n}x}" for n in (8, 4, 4, 4, 12))

    def event(self, minutes: float, event: str, **values: Any) -> None:
        """Something that happened so many minutes ago."""
        self.events.append((round(self.now - minutes * 60_000), {"event": event, **values}))

    def worker(self, minutes: float, event: str, instance: str, pid: int, **values: Any) -> None:
        self.event(minutes, event, worker=f"{instance}-{pid}", instance=instance, host=instance, pid=pid, **values)

    def message(self, minutes: float, event: str, id: str, worker: str, **values: Any) -> None:
        values = {"queue": "media", "run": 1, **values}
        self.event(minutes, event, message=id, worker=worker, **values)

    def write_events(self) -> None:
        pipeline = self.client.pipeline(transaction=False)
        for at, event in sorted(self.events, key=lambda one: one[0]):
            pipeline.xadd(self.keys.history, event, id=f"{at}-*")
        pipeline.execute()

    def lives(self, instance: str, pid: int, *, booted: float, left: float = 0.8) -> str:
        """A worker process that is there: since so many minutes, with that much of its heartbeat left."""
        id = f"{instance}-{pid}"
        said = {"instance": instance, "host": instance, "pid": str(pid), "booted": str(int(self.now - booted * 60_000))}
        self.client.hset(self.keys.incarnation(id), mapping=said)
        self.client.zadd(self.keys.heartbeats, {id: int(self.now + left * TTL)})
        return id

    def runs(self, worker: str, actor: str, queue: str, *, seconds: float, state: str = "running", **more: Any) -> str:
        """A message that a worker runs, or that waits."""
        id = self.id()
        started = int(self.now - seconds * 1000)
        head = Head(state, worker, 1, 1, 0, 3, 0, 0, started, started, "", "", queue, actor, 0, 0, 0, 0, 0, 0)
        head = dataclasses.replace(head, **more)
        kwargs = {"customer": f"c-{self.random.randrange(10_000)}", "attempt": 1}
        payload = Message(queue, actor, (self.random.randrange(100_000),), kwargs, {}, id, started).encode()
        fields = [getattr(head, field.name) for field in dataclasses.fields(Head)]
        self.client.set(self.keys.record(id), json.dumps(fields).encode() + b"\n" + payload)
        if state == "running":
            self.client.zadd(self.keys.running(worker), {id: started})
        else:
            self.client.zadd(self.keys.waiting, {id: self.now + 300_000})
        return id

    def afternoon(self) -> None:
        """Some pods, a deploy, a pod out of memory, a message that kills its workers, and a node that is just gone."""
        for instance in ("mail-0", "mail-1"):
            for pid in (7, 8):
                self.worker(340, "joined", instance, pid)
                self.worker(22 if instance == "mail-0" else 20, "left", instance, pid, running=0)
                self.worker(21.2 if instance == "mail-0" else 19.2, "joined", instance, pid + 30)
        for instance, since in (("billing-0", 300), ("billing-1", 200), ("media-0", 350)):
            for pid in (7, 8):
                self.worker(since, "joined", instance, pid)
        self._out_of_memory()
        self._poison()
        self.write_events()
        for instance, booted in (("mail-0", 21.2), ("mail-1", 19.2)):
            for pid in (37, 38):
                worker = self.lives(instance, pid, booted=booted, left=self.random.uniform(0.7, 1))
                for _ in range(self.random.randrange(3, 7)):
                    self.runs(
                        worker, self.random.choice(["send_newsletter", "send_receipt"]), "mail", seconds=self._age(40)
                    )
        for pid in (7, 8):
            worker = self.lives("billing-0", pid, booted=300, left=0.9 - pid / 40)
            for _ in range(3):
                self.runs(worker, "charge", "billing", seconds=self._age(15))
            gone = self.lives("billing-1", pid, booted=200, left=-0.05)
            for _ in range(2):
                self.runs(gone, "charge", "billing", seconds=self.random.uniform(96, 140))
        for instance, pid, booted in (("media-0", 7, 350), ("media-0", 21, 33.5), ("media-1", 44, 5.4)):
            worker = self.lives(instance, pid, booted=booted, left=self.random.uniform(0.65, 1))
            for _ in range(4):
                self.runs(worker, self.random.choice(["resize", "transcode"]), "media", seconds=self._age(900))
        self.runs("", "transcode", "media", seconds=310, state="requeued", crashes=2, generation=3)
        self.client.hset(self.keys.aside, self.id(), b"\x80\x04 what an older version has pickled" * 20)
        self.minutes()

    def minutes(self) -> None:
        """What the workers have reported of the last hour: half an hour ago a card company was away."""
        usual = {"mail": (400, 180), "billing": (90, 900), "media": (25, 14_000)}
        for ago in range(60):
            minute = {}
            for queue, (number, took) in usual.items():
                ended = int(number * self.random.uniform(0.7, 1.2))
                failed = int(ended * (0.3 if queue == "billing" and 29 < ago < 36 else 0.005))
                minute[queue] = [ended, 3, failed, int(ended * took * self.random.uniform(0.8, 1.3))]
            self.client.hset(self.keys.throughput, str(self.now // 60_000 - ago), json.dumps(minute))

    def _age(self, most: float) -> float:
        return self.random.uniform(0.2, most)

    def _out_of_memory(self) -> None:
        self.worker(34, "died", "media-0", 8, **OUT)
        for _ in range(7):
            values = {"actor": "resize", "by": "media-0-7", "how": "handed back"}
            self.message(33.98, "recovered", self.id(), "media-0-8", **values)
        self.worker(33.97, "cleared", "media-0", 8, after=1830)
        self.worker(33.5, "joined", "media-0", 21)

    def _poison(self) -> None:
        poison, pid, at = self.id(), 40, 17.0
        self.worker(120, "joined", "media-1", pid)
        for crashes in range(1, 5):
            worker = f"media-1-{pid}"
            self.worker(at, "died", "media-1", pid, **OUT)
            values = {"by": "media-0-7", "crashes": crashes, "run": crashes}
            if crashes < 4:
                self.message(at - 0.02, "recovered", poison, worker, actor="transcode", how="handed back", **values)
            else:
                self.message(at - 0.02, "poison", poison, worker, actor="transcode", **values)
                self.message(at - 0.05, "dead_lettered", poison, "media-0-7", actor="transcode", **values)
            self.worker(at - 0.04, "cleared", "media-1", pid, after=140)
            pid += 1
            self.worker(at - 0.6, "joined", "media-1", pid)
            at -= 3.6
        for _ in range(3):
            pid += 1

    def crowd(self, instances: int, messages: int) -> None:
        """Very many of everything: instances with two processes, messages in flight, and a full history."""
        for number in range(10_000):
            instance = f"pod-{number % instances:04d}"
            kind = ("joined", "left", "died", "cleared")[number % 4]
            self.worker(60 * 20 * (1 - number / 10_000), kind, instance, number, **OUT if kind == "died" else {})
        self.write_events()
        workers = [self.lives(f"pod-{n:04d}", pid, booted=500) for n in range(instances) for pid in (7, 8)]
        for number in range(messages):
            self.runs(
                workers[number % len(workers)], f"actor_{number % 20}", f"queue-{number % 5}", seconds=self._age(600)
            )
