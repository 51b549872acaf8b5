# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Living workers whose connections to the tracker's Redis fail again and again: none may be declared dead.

``python -m tests.support.living --minutes 30 [--rabbitmq] [--sentinel] [--seed 1] [--only cut pause] [--folder DIR]``

Three worker processes of two instances run messages of 5 seconds to two minutes at default settings.  Each instance has
a network of its own to the tracker's Redis; no fault touches the broker.  A living worker can come back from each fault
within its patience.

Fails if a message is lost or starts twice, a death is recorded, a worker is told that it was declared dead, or a worker
does not come back.
"""

from __future__ import annotations

import argparse
import contextlib
import inspect
import random
import re
import shutil
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import redis

from dramatiq_inflight.inspection.history import Event
from dramatiq_inflight.liveness import heartbeat
from dramatiq_inflight.recovery import sweep as recovery

from .cluster import Cluster, standalone
from .failover import is_tracked
from .lost_hosts import DEFAULTS
from .network import FailoverPair
from .network_proxy import Link, NetworkProxy
from .rabbitmq import shared
from .servers import CAN_BE_SLOW, RedisServer, find_server, wait_until
from .subscribers import Subscribers
from .topologies import Sentinels
from .workers import WorkerProcess

__all__ = ["Figures", "OneAddress", "Servers", "Watched", "live"]

#: The worker processes of each instance, and the threads of each process.
PROCESSES = {"one": 2, "two": 1}
THREADS = 3

#: How long a message takes, seconds; every eighth one takes longer than the TTL.
SECONDS, LONG, EVERY = (5.0, 60.0), (95.0, 120.0), 8

#: The pause after a fault, seconds: a worker judges others when it has been connected for six.
PAUSE = (2.0, 15.0)

#: How long it may take at the most until all are back, or all messages have ended, seconds.
SOON = 180.0

#: The lines by which a worker says that another one is dead, and that it was itself declared dead.
DEAD, TOLD = "is dead: ", "Redis no longer had this worker"
A_DEATH = re.compile(rf"Worker (.+?) {DEAD}(.+?)\.(?: |$)", re.MULTILINE)
A_LINE = re.compile(rf"^\[(.+?)\] \[PID (\d+)\] .*{TOLD}", re.MULTILINE)


@dataclass
class Figures:
    """The result of a run."""

    faults: Counter[str] = field(default_factory=Counter)
    #: How long it took until all were back after a fault, seconds.
    back: list[float] = field(default_factory=list)
    sent: int = 0
    #: How many messages took longer than the TTL.
    long: int = 0
    #: How many started while Redis was away.
    untracked: int = 0
    doubled: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    #: The deaths that were recorded: who died, and why.
    deaths: list[str] = field(default_factory=list)
    #: How often a worker was told that it had been declared dead.
    told: int = 0
    errors: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        times = sorted(self.back) or [float("nan")]
        return (
            f"{self.faults.total()} faults ({', '.join(f'{kind} {n}' for kind, n in sorted(self.faults.items()))}); "
            f"all were back after {times[len(times) // 2]:.2f} s (median), {times[-1]:.2f} s (longest); "
            f"{self.sent} messages ({self.long} longer than the TTL, {self.untracked} started untracked), "
            f"{len(self.doubled)} doubled, {len(self.lost)} lost; "
            f"{len(self.deaths)} deaths recorded, {self.told} workers told"
        )

    @contextlib.contextmanager
    def noting_errors(self) -> Iterator[None]:
        """Note that a condition did not come, or that a server did not answer."""
        try:
            yield
        except (AssertionError, redis.RedisError) as error:
            self.errors.append(f"{type(error).__name__}: {error}")

    @property
    def is_right(self) -> bool:
        """True if nobody was declared dead, and no message was lost or doubled."""
        return not (self.doubled or self.lost or self.deaths or self.told or self.errors)


class Servers(ABC):
    """The tracker's Redis: a primary, and others that can replace it."""

    def __init__(self) -> None:
        self._admins: dict[int, Any] = {}

    def admin(self) -> Any:
        """Return a client of the primary, whose connection lasts."""
        server = self.primary()
        return self._admins.setdefault(server.port, server.client())

    @abstractmethod
    def primary(self) -> RedisServer: ...

    @abstractmethod
    def way(self) -> tuple[list[NetworkProxy], dict[str, str]]:
        """Make a network to these servers, and the environment of a worker that uses it."""

    @abstractmethod
    def faults(self, nemesis: Nemesis) -> dict[str, Callable[[], str]]:
        """Return the faults that only these servers have."""

    @abstractmethod
    def kill(self) -> None: ...


class OneAddress(Servers):
    """A primary and its replica behind one address, both with an append-only file."""

    def __init__(self, binary: str, folder: Path) -> None:
        super().__init__()
        self.pair = FailoverPair(binary, folder, persistent=True, args=CAN_BE_SLOW).start()

    def primary(self) -> RedisServer:
        return self.pair.primary

    def way(self) -> tuple[list[NetworkProxy], dict[str, str]]:
        proxy = self.pair.proxy()
        return [proxy], {"PROCESSING_REDIS_URL": proxy.url}

    def faults(self, nemesis: Nemesis) -> dict[str, Callable[[], str]]:
        def restart(killed: bool, emptied: bool) -> str:
            if emptied:
                nemesis.watched.note_loss()
            server, seconds = self.primary(), nemesis.random.uniform(0.0, 2.0)
            # Once its first replica is there, it is another server for those that came before: for half a minute nobody
            # can judge them. So they mostly come after it.
            first = nemesis.random.choice(["workers", "replica", "replica", "replica"])
            for proxy in self.pair.proxies:
                proxy.switch(server.port if first == "workers" else 0)
            if killed:
                server.kill()
            else:
                server.stop()
            if emptied:
                shutil.rmtree(server.folder)
            time.sleep(seconds)
            server.start()
            self.pair.wait_ready()
            for proxy in self.pair.proxies:
                proxy.switch(server.port)
            return f"{seconds:.1f} s, {first} first"

        def fail_over() -> str:
            how = nemesis.random.choice(["left", "cut", "reset"])
            self.pair.fail_over()
            for proxy in self.pair.proxies:
                if how != "left":
                    getattr(proxy, how)()
            self.pair.wait_ready()
            return f"connections {how}"

        return {
            "restart": lambda: restart(killed=False, emptied=False),
            "SIGKILL": lambda: restart(killed=True, emptied=False),
            "restart without data": lambda: restart(killed=False, emptied=True),
            "SIGKILL without data": lambda: restart(killed=True, emptied=True),
            "failover": fail_over,
        }

    def kill(self) -> None:
        self.pair.kill()


class BySentinel(Servers):
    """A primary and two replicas that sentinels look after; a worker asks these, and has a proxy to each server."""

    def __init__(self, binary: str, folder: Path) -> None:
        super().__init__()
        folder.mkdir(parents=True, exist_ok=True)
        self.sentinels = Sentinels(binary, folder, args=CAN_BE_SLOW).start()
        self._proxies: list[NetworkProxy] = []

    def primary(self) -> RedisServer:
        return self.sentinels.primary()

    def way(self) -> tuple[list[NetworkProxy], dict[str, str]]:
        proxies = [NetworkProxy(server.port) for server in self.sentinels.servers]
        self._proxies += proxies
        ports = ",".join(f"{proxy.target}:{proxy.port}" for proxy in proxies)
        return proxies, {"TEST_TRACKER_URL": f"{self.sentinels.url}?through={ports}"}

    def faults(self, nemesis: Nemesis) -> dict[str, Callable[[], str]]:
        def fail_over() -> str:
            self.sentinels.fail_over()
            self.sentinels.wait_ready()
            return "asked for"

        def kill() -> str:
            server = self.primary()
            server.kill()
            wait_until(lambda: self.primary() is not server, what="another server is the primary")
            server.start()
            self.sentinels.wait_ready()
            return "and a failover"

        return {"failover": fail_over, "SIGKILL": kill}

    def kill(self) -> None:
        for proxy in self._proxies:
            proxy.close()
        self.sentinels.kill()


class Watched:
    """The signs of a false judgement: in the history, which may be lost with Redis's data, and in the workers' logs."""

    def __init__(self, subscribers: Subscribers) -> None:
        self.subscribers = subscribers
        self._losses: list[float] = []
        self._events: dict[tuple[int, str], dict[str, str]] = {}

    def collect(self) -> None:
        """Read the history."""
        found = self.subscribers.events("died", "revived")
        self._events |= {(len(self._losses), id): event for id, event in found.items()}

    def note_loss(self) -> None:
        """Read the history, which is lost now."""
        self.collect()
        self._losses.append(time.time())

    def judge(self, workers: list[WorkerProcess], figures: Figures) -> None:
        """Add the deaths that were recorded or logged, and how often a worker was told of its own."""
        self.collect()
        logs = [worker.output() for worker in workers]
        died = [
            f"{event['worker']}: {Event.of('0-0', event).why}"
            for event in self._events.values()
            if event["event"] == "died"
        ]
        logged = [f"{worker}: {why}" for log in logs for worker, why in A_DEATH.findall(log)]
        figures.deaths = max(died, logged, key=len)
        revived = sum(event["event"] == "revived" for event in self._events.values())
        figures.told = max(revived, sum(self._count_told(log) for log in logs))

    def _count_told(self, log: str) -> int:
        """Return how often; the first line of each process after a loss of Redis's data tells of that."""
        told, excused = 0, set()
        for text, pid in A_LINE.findall(log):
            at = datetime.strptime(text, "%Y-%m-%d %H:%M:%S,%f").timestamp()
            loss = (pid, sum(lost <= at for lost in self._losses))
            told += loss[1] == 0 or loss in excused
            excused.add(loss)
        return told


class Nemesis:
    """Breaks connections, one way after another.

    Every kind comes once before any comes again.

    Parameters:
      ways: The proxies of each instance.
      only: The kinds, if not all.

    Raises:
      KeyError: There is no such kind here.
    """

    def __init__(
        self,
        seed: int,
        servers: Servers,
        ways: dict[str, list[NetworkProxy]],
        watched: Watched,
        only: Sequence[str] = (),
    ) -> None:
        self.random = random.Random(seed)
        self.servers, self.ways, self.watched = servers, ways, watched
        self.kinds: dict[str, Callable[[], str]] = {
            "cut": lambda: self._cut("cut"),
            "reset": lambda: self._cut("reset"),
            "close normal": lambda: self._close("normal"),
            "close pubsub": lambda: self._close("pubsub"),
            "close both": lambda: self._close("normal", "pubsub"),
            "close one": self._close_one,
            "swallow the end": self._swallow,
            "proxy down": self._down,
            "slow passes": self._slow,
            "pause": self._pause,
            "maxclients": self._maxclients,
            **servers.faults(self),
        }
        self.kinds = {kind: self.kinds[kind] for kind in only or self.kinds}

    def rage(self, until: float, figures: Figures) -> None:
        """Break things until then (``time.monotonic``); wait after each fault until all workers are back."""
        bag: list[str] = []
        while time.monotonic() < until:
            bag = bag or self.random.sample(sorted(self.kinds), len(self.kinds))
            kind = bag.pop()
            print(f"{datetime.now():%H:%M:%S} {kind}", end="", flush=True)
            detail = self.kinds[kind]()
            figures.faults[kind] += 1
            over = time.monotonic()
            wait_until(self.watched.subscribers.are_back, timeout=SOON, what=f"all are back after {kind} ({detail})")
            figures.back.append(time.monotonic() - over)
            print(f" ({detail}): all are back after {figures.back[-1]:.2f} s", flush=True)
            self.watched.collect()
            time.sleep(min(self.random.uniform(*PAUSE), max(until - time.monotonic(), 0.0)))

    def _victims(self) -> tuple[str, list[NetworkProxy]]:
        """Choose one instance, while the other can judge it, or both."""
        name = self.random.choice([*self.ways, *self.ways, "both"])
        return name, self.ways.get(name) or [proxy for way in self.ways.values() for proxy in way]

    def _cut(self, how: str) -> str:
        name, proxies = self._victims()
        for proxy in proxies:
            getattr(proxy, how)()
        return name

    def _close(self, *types: str) -> str:
        name, proxies = self._victims()
        self._kill(proxies, *types)
        return name

    def _close_one(self) -> str:
        name, proxies = self._victims()
        kind = self.random.choice(["normal", "pubsub"])
        self._kill(proxies, kind, most=1)
        return f"{name}, {kind}"

    def _kill(self, proxies: list[NetworkProxy], *types: str, most: int | None = None) -> list[Link]:
        """Let the server close connections that come through some proxies, all at once.

        Returns: the links that it closes.
        """
        client = self.servers.admin()
        links = {link.source: link for proxy in proxies for link in proxy.open_links()}
        lines = [line for kind in types for line in client.client_list(_type=kind)]
        addresses = [line["addr"] for line in lines if int(line["addr"].rpartition(":")[2]) in links]
        self.random.shuffle(addresses)
        addresses = addresses[:most]
        pipeline = client.pipeline()
        for address in addresses:
            pipeline.client_kill_filter(addr=address)
        pipeline.execute()
        return [links[int(address.rpartition(":")[2])] for address in addresses]

    def _swallow(self) -> str:
        """The workers are not told that their connections are closed."""
        name, proxies = self._victims()
        types = self.random.choice([("pubsub",), ("pubsub", "normal")])
        for proxy in proxies:
            proxy.keeps_open = True
        killed = self._kill(proxies, *types)
        wait_until(lambda: all(link.swallows or link.closed for link in killed), what="the proxies have noticed")
        for proxy in proxies:
            proxy.keeps_open = False
        return f"{name}, {' and '.join(types)}"

    def _down(self) -> str:
        name, proxies = self._victims()
        seconds = self.random.uniform(0.2, 1.5)
        threads = [threading.Thread(target=proxy.down, args=(seconds,)) for proxy in proxies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return f"{name}, {seconds:.1f} s"

    def _slow(self) -> str:
        """Each pass of the server takes long, and after some of them connections are lost."""
        name, proxies = self._victims()
        types = self.random.choice([("pubsub",), ("pubsub", "normal")])
        seconds, lasts = 0.05 * (1.2 / 0.05) ** self.random.random(), self.random.uniform(10.0, 20.0)
        with self.servers.primary().slow(seconds):
            ends = time.monotonic() + lasts
            time.sleep(3 * seconds)
            self._kill(proxies, *types)
            time.sleep(max(ends - time.monotonic(), 0.0))
        return f"{seconds:.2f} s each for {lasts:.0f} s, {name}, {' and '.join(types)} closed"

    def _pause(self) -> str:
        """The server answers nobody, and connections may be lost meanwhile."""
        name, proxies = self._victims()
        how = self.random.choice(["left", "cut", "reset"])
        milliseconds = self.random.randrange(200, 1500)
        self.servers.admin().execute_command("CLIENT", "PAUSE", milliseconds, "ALL")
        for proxy in proxies:
            if how != "left":
                getattr(proxy, how)()
        return f"{milliseconds} ms, {name} {how}"

    def _maxclients(self) -> str:
        """The server takes no more connections, and some are lost."""
        name, proxies = self._victims()
        seconds, client = self.random.uniform(2.0, 8.0), self.servers.admin()
        before = client.config_get("maxclients")["maxclients"]
        client.config_set("maxclients", 1)
        self._kill(proxies, "pubsub")
        time.sleep(seconds)
        client.config_set("maxclients", before)
        return f"{seconds:.1f} s, {name}"


class Sender(threading.Thread):
    """Sends messages, so that all threads of the workers are busy, until `stop`."""

    def __init__(self, cluster: Cluster, seed: int, longest: float) -> None:
        super().__init__(daemon=True)
        self.cluster, self.longest = cluster, longest
        self.random = random.Random(seed)
        self.sent: dict[str, float] = {}
        self._stopping = threading.Event()

    def run(self) -> None:
        threads = THREADS * sum(PROCESSES.values())
        while not self._stopping.wait(0.2):
            while len(self.sent) < self.cluster.history.count("end") + threads + len(PROCESSES):
                number = len(self.sent)
                seconds = round(self.random.uniform(*(LONG if number % EVERY == 1 else SECONDS)), 1)
                seconds = min(seconds, self.longest)
                self.cluster.app.work.send(f"m{number}", seconds)
                self.sent[f"m{number}"] = seconds

    def stop(self) -> None:
        """Send no more."""
        self._stopping.set()
        self.join()


def live(
    cluster: Cluster,
    servers: Servers,
    seconds: float,
    seed: int,
    *,
    only: Sequence[str] = (),
    longest: float = LONG[1],
) -> Figures:
    """Break the connections of living workers for so long, and let all messages end.

    Parameters:
      only: The kinds of faults, if not all.
      longest: How long a message may take, seconds.
    """
    for line, module in ((DEAD, recovery), (TOLD, heartbeat)):  # a line that nobody writes would never be counted
        assert line in inspect.getsource(module), line
    figures, history = Figures(), cluster.history
    ways, workers = {}, []
    for name, processes in PROCESSES.items():
        ways[name], env = servers.way()
        env["PROCESSING_INSTANCE_ID"] = name
        workers.append(cluster.worker(threads=THREADS, processes=processes, env=env))
    subscribers = Subscribers(cluster.prefix, servers.admin, sum(PROCESSES.values()))
    watched = Watched(subscribers)
    nemesis = Nemesis(seed, servers, ways, watched, only)
    sender = Sender(cluster, seed, longest)
    sender.start()
    with figures.noting_errors():
        wait_until(subscribers.can_judge, timeout=SOON, what="all can judge")
        nemesis.rage(time.monotonic() + seconds, figures)
        assert sender.is_alive(), "the sender has failed"
    sender.stop()
    with figures.noting_errors():
        wait_until(lambda: history.keys("end") >= sender.sent.keys(), timeout=SOON, what="all messages end")
        wait_until(lambda: cluster.enqueued() == 0, timeout=SOON, what="the broker is empty")
        wait_until(subscribers.can_judge, timeout=SOON, what="all can judge at the end")
    codes = {worker.log.name: worker.process.poll() for worker in workers}
    figures.errors += [f"{name}: the worker has ended ({code})" for name, code in codes.items() if code is not None]
    watched.judge(workers, figures)
    starts = Counter(event.key for event in history.events("start"))
    figures.sent, figures.long = len(sender.sent), sum(seconds > LONG[0] for seconds in sender.sent.values())
    figures.untracked = sum(not is_tracked(event) for event in history.events("start"))
    figures.doubled = sorted(key for key, number in starts.items() if number > 1)
    figures.lost = sorted(sender.sent.keys() - history.keys("end"))
    return figures


@contextlib.contextmanager
def _made(kind: type[OneAddress] | type[BySentinel], folder: Path) -> Iterator[Servers]:
    binary = find_server()
    assert binary is not None, "no Redis or Valkey server here"
    servers = kind(binary, folder)
    try:
        yield servers
    finally:
        servers.kill()


def main() -> int:
    """Run for so long, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rabbitmq", action="store_true", help="the broker is a RabbitMQ")
    parser.add_argument("--sentinel", action="store_true", help="the tracker's Redis is behind sentinels")
    parser.add_argument(
        "--only", nargs="+", default=(), metavar="KIND", help="kinds of faults, as the output names them"
    )
    parser.add_argument("--folder", type=Path, help="where the logs and the history stay; it must not exist")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()), "living")
        folder.mkdir(parents=True)
        rabbitmq = {"TEST_RABBITMQ_URL": stack.enter_context(shared(folder))} if options.rabbitmq else {}
        cluster = stack.enter_context(standalone(lambda url: {**DEFAULTS, **rabbitmq}, folder))
        servers = stack.enter_context(_made(BySentinel if options.sentinel else OneAddress, folder / "tracker"))
        figures = live(cluster, servers, 60 * options.minutes, options.seed, only=options.only)
    print(f"seed {options.seed}: {figures}")
    for line in [*figures.errors, *figures.deaths]:
        print(line)
    for key in figures.doubled + figures.lost:
        print(key, [f"{event.at:.3f} {event.pid} {event.what}" for event in cluster.history.by_key()[key]])
    return 0 if figures.is_right else 1


if __name__ == "__main__":
    sys.exit(main())
