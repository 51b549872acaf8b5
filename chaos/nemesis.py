# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The nemesis: breaks things, one after another and at once, as a seed has it, and notes what it did and when."""

from __future__ import annotations

import itertools
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import redis

from tests.support.history import History
from tests.support.rabbitmq import RabbitServer
from tests.support.servers import RedisServer, wait_until
from tests.support.topologies import Sentinels

from .pods import Pod, Supervisor
from .times import HEARTBEAT_TTL

__all__ = ["FAULTS", "Nemesis", "Redis", "faults_of"]

#: Longest pause between two faults, seconds.
PAUSE = 2.5

#: How long a pod has to shut down before it is killed, seconds.
PATIENCE = 12.0

#: By how much a pod's clock is off, seconds: Dramatiq's own heartbeats are believed for a minute.
SKEW = (75, 240)

#: Each kind of fault, and the part that it breaks; one fault at a time breaks a part.
FAULTS = {
    "kill process": ("a worker process is killed", "pod"),
    "kill pod": ("all processes of a pod are killed", "pod"),
    "freeze process": ("a worker process is stopped for less than the TTL", "pod"),
    "freeze pod": ("all processes of a pod are stopped for more than the TTL: the stated weakness", "pod"),
    "deploy": ("a pod gets SIGTERM and is replaced", "pod"),
    "cut redis": ("a pod is cut off from Redis for less than the TTL", "pod"),
    "cut redis long": ("a pod is cut off from Redis for more than the TTL: the stated weakness", "pod"),
    "skew clock": ("a pod is killed, and comes back with a clock that is minutes off", "pod"),
    "cut broker": ("a pod is cut off from RabbitMQ", "pod"),
    "redis kill": ("Redis is killed, and comes back with what it had appended to its file", "redis"),
    "redis memory": ("Redis has no memory left, and refuses to write", "redis"),
    "redis stall": ("Redis is stopped for some seconds", "redis"),
    "redis failover": ("the primary is killed, and a replica takes over", "redis"),
    "rabbitmq restart": ("RabbitMQ is restarted", "rabbitmq"),
    "rabbitmq close": ("all connections to RabbitMQ are reset", "rabbitmq"),
}


def faults_of(broker: str, sentinel: bool, skew: bool) -> list[str]:
    """The kinds that a run can have."""
    left_out = {"redis kill", "redis stall"} if sentinel else {"redis failover"}
    if broker == "redis":
        left_out |= {"cut broker", "rabbitmq restart", "rabbitmq close"}
    if not skew:
        left_out.add("skew clock")
    return [kind for kind in FAULTS if kind not in left_out]


class Redis(Protocol):
    """The server that is primary now."""

    def __call__(self) -> RedisServer: ...


class Nemesis:
    """Draws faults and carries them out, each in a thread of its own.

    Every kind comes once before any comes again, so that no seed leaves one out.

    Parameters:
      sentinels: The Redis that fails over; ``None`` if there is one Redis, which is `server`.
    """

    def __init__(
        self,
        seed: int,
        kinds: list[str],
        pods: list[Pod],
        supervisor: Supervisor,
        history: History,
        *,
        server: Redis,
        sentinels: Sentinels | None,
        rabbitmq: RabbitServer | None,
    ) -> None:
        self.random = random.Random(seed)
        self.kinds = kinds
        self.pods = pods
        self.supervisor = supervisor
        self.history = history
        self.server = server
        self.sentinels = sentinels
        self.rabbitmq = rabbitmq
        self.counts: Counter[str] = Counter()
        self.errors: list[str] = []
        self._numbers = itertools.count(1)
        self._busy: set[str] = set()
        self._threads: list[threading.Thread] = []
        self._actions: dict[str, Callable[..., None]] = {
            kind: getattr(self, "_" + kind.replace(" ", "_")) for kind in kinds
        }

    def rage(self, until: float) -> None:
        """Break things until then (``time.monotonic``), and wait until all is mended."""
        bag: list[str] = []
        while time.monotonic() < until:
            if not bag:
                bag = self.random.sample(self.kinds, len(self.kinds))
            # The first one whose part is whole.
            kind = next((kind for kind in bag if self._part(kind) is not None), None)
            if kind is not None:
                bag.remove(kind)
                part = self._part(kind)
                assert part is not None
                self._do(kind, part)
            time.sleep(self.random.uniform(0.1, PAUSE))
        for thread in self._threads:
            thread.join(timeout=60)
            if thread.is_alive():
                self.errors.append(f"a fault was not over after a minute: {thread.name}")

    def _part(self, kind: str) -> str | None:
        """Return the part that this would break; ``None`` if it is broken already."""
        part = FAULTS[kind][1]
        if part != "pod":
            return None if part in self._busy else part
        whole = [
            pod.name
            for pod in self.pods
            if pod.name not in self._busy
            and any(who.startswith(pod.boot_name + ":") for who in self.supervisor.workers)
        ]
        return self.random.choice(whole) if whole else None

    def _do(self, kind: str, part: str) -> None:
        pod = next((pod for pod in self.pods if pod.name == part), None)
        args = () if pod is None else (pod,)
        choose = random.Random(self.random.random())

        def carry_out() -> None:
            try:
                self._actions[kind](choose, *args)
                self.counts[kind] += 1
            except Exception as error:
                self.errors.append(f"{kind} {part}: {type(error).__name__}: {error}")
            finally:
                self._busy.discard(part)

        self._busy.add(part)
        self._threads.append(threading.Thread(target=carry_out, name=f"{kind} {part}", daemon=True))
        self._threads[-1].start()

    @contextmanager
    def _noted(self, kind: str, part: str, **more: Any) -> Iterator[None]:
        """It is noted before it is done, and when it is over."""
        number = next(self._numbers)
        self.history.write("fault", number, extra={"kind": kind, "part": part, **more})
        yield
        self.history.write("mended", number)

    def _worker_of(self, choose: random.Random, pod: Pod) -> tuple[str, int]:
        return choose.choice(
            [(w, pid) for w, pid in self.supervisor.workers.items() if w.startswith(pod.boot_name + ":")]
        )

    # Acts on pods.

    def _kill_process(self, choose: random.Random, pod: Pod) -> None:
        who, pid = self._worker_of(choose, pod)
        with self._noted("kill process", pod.name, who=who):
            pod.signal(signal.SIGKILL, [pid])

    def _kill_pod(self, choose: random.Random, pod: Pod) -> None:
        with self._noted("kill pod", pod.name, boot=pod.boot_name):
            pod.signal(signal.SIGKILL)

    def _skew_clock(self, choose: random.Random, pod: Pod) -> None:
        pod.offset = choose.choice((-1, 1)) * choose.randint(*SKEW)
        with self._noted("skew clock", pod.name, boot=pod.boot_name, seconds=pod.offset):
            pod.signal(signal.SIGKILL)

    def _freeze_process(self, choose: random.Random, pod: Pod) -> None:
        who, pid = self._worker_of(choose, pod)
        with self._noted("freeze process", pod.name, who=who):
            self._freeze(pod, [pid], choose.uniform(0.3, 0.5 * HEARTBEAT_TTL))

    def _freeze_pod(self, choose: random.Random, pod: Pod) -> None:
        with self._noted("freeze pod", pod.name, boot=pod.boot_name):
            self._freeze(pod, pod.everything(), choose.uniform(1.2, 2) * HEARTBEAT_TTL)

    def _freeze(self, pod: Pod, pids: list[int], seconds: float) -> None:
        pod.signal(signal.SIGSTOP, pids)
        time.sleep(seconds)
        pod.signal(signal.SIGCONT, pids)

    def _deploy(self, choose: random.Random, pod: Pod) -> None:
        boot, process = pod.boot_name, pod.process
        with self._noted("deploy", pod.name, boot=boot):
            pod.offset = 0
            pod.signal(signal.SIGTERM)
            try:
                wait_until(lambda: process is None or process.poll() is not None, timeout=PATIENCE)
            except AssertionError:
                if pod.process is process:
                    with self._noted("kill pod", pod.name, boot=boot):  # as a pod that does not end in time is
                        pod.signal(signal.SIGKILL)

    def _cut_redis(self, choose: random.Random, pod: Pod) -> None:
        self._cut(pod, "cut redis", "redis", choose.uniform(0.2, 0.2 * HEARTBEAT_TTL))

    def _cut_redis_long(self, choose: random.Random, pod: Pod) -> None:
        self._cut(pod, "cut redis long", "redis", choose.uniform(1.2, 2) * HEARTBEAT_TTL)

    def _cut_broker(self, choose: random.Random, pod: Pod) -> None:
        self._cut(pod, "cut broker", "broker", choose.choice((choose.uniform(0.3, 2), choose.uniform(6, 9))))

    def _cut(self, pod: Pod, kind: str, network: str, seconds: float) -> None:
        with self._noted(kind, pod.name):
            pod.cut(network)
            time.sleep(seconds)
            pod.mend(network)

    # Acts on servers.

    def _redis_kill(self, choose: random.Random) -> None:
        server = self.server()
        with self._noted("redis kill", "redis"):
            server.kill()
            time.sleep(choose.uniform(0.1, 4))
            server.start()

    def _redis_stall(self, choose: random.Random) -> None:
        server = self.server()
        with self._noted("redis stall", "redis"):
            server.pause()
            time.sleep(choose.uniform(0.5, 4))
            server.resume()

    def _redis_memory(self, choose: random.Random) -> None:
        server = self.server()
        with self._noted("redis memory", "redis"):
            client: Any = server.client()
            client.config_set("maxmemory", "1")
            time.sleep(choose.uniform(0.5, 4))
            try:
                client.config_set("maxmemory", "0")
            except redis.ConnectionError:
                pass  # it was killed meanwhile; its successor has memory
            client.close()

    def _redis_failover(self, choose: random.Random) -> None:
        assert self.sentinels is not None
        before = self.sentinels.primary()
        with self._noted("redis failover", "redis"):
            before.kill()
            wait_until(lambda: self.sentinels is not None and self.sentinels.primary() is not before, timeout=30)
            time.sleep(choose.uniform(0.1, 1))
        before.start()
        wait_until(lambda: self._follows(before), timeout=30, what="the old primary is a replica")

    @staticmethod
    def _follows(server: RedisServer) -> bool:
        said: Any = server.client().info("replication")
        return bool(said["role"] == "slave" and said.get("master_link_status") == "up")

    def _rabbitmq_restart(self, choose: random.Random) -> None:
        assert self.rabbitmq is not None
        with self._noted("rabbitmq restart", "rabbitmq"):
            if choose.random() < 0.5:
                self.rabbitmq.stop()
            self.rabbitmq.remove()
            self.rabbitmq.start()

    def _rabbitmq_close(self, choose: random.Random) -> None:
        assert self.rabbitmq is not None
        with self._noted("rabbitmq close", "rabbitmq"):
            subprocess.run(["ss", "-K", "sport", "=", str(self.rabbitmq.port)], check=True, capture_output=True)
