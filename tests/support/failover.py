# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Failovers of a Redis behind one address, under load: ``python -m tests.support.failover --failovers 10``."""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .cluster import Cluster
from .history import Event, History
from .network import FailoverPair, through
from .network_proxy import NetworkProxy
from .rabbitmq import shared
from .rounds import Report, judge
from .servers import find_server
from .workers import WorkerProcess

__all__ = ["SETTINGS", "Figures", "behind_one_address", "fail_over_under_load"]

#: A failover takes less than the heartbeat's TTL; a death is seen by processes of the same host.
SETTINGS = {
    "PROCESSING_WATCH_PROCESSES": "true",
    "HEARTBEAT_INTERVAL": "1",
    "HEARTBEAT_TTL": "12",
    "dramatiq_restart_delay": "500",
}

#: How long the broker's own client waits for an answer, seconds (see operations.rst).
BROKER_TIMEOUT = 3.0

#: How often a message is sent, and how long it runs, seconds.
EVERY, SECONDS = 0.02, 0.1

#: How long it may take until a worker is as before, seconds.
PATIENCE = 120.0


@dataclass
class Figures:
    """The effects of the failovers."""

    failovers: int = 0
    #: For each failover and worker: until the first tracked start after which none was untracked, seconds.
    tracked_after: list[float] = field(default_factory=list)
    untracked: int = 0
    #: How often a worker that lives was declared dead.
    declared_dead: int = 0
    report: Report = field(default_factory=Report)
    errors: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        times = sorted(self.tracked_after) or [float("nan")]
        return (
            f"{self.failovers} failovers; tracked again after {times[len(times) // 2]:.1f} s (median), "
            f"{times[-1]:.1f} s (longest); {self.untracked} messages ran untracked; "
            f"{self.declared_dead} workers declared dead; {self.report}"
        )

    @property
    def is_right(self) -> bool:
        return self.report.is_right and not (self.errors or self.declared_dead)


@contextlib.contextmanager
def behind_one_address(folder: Path, settings: dict[str, str]) -> Iterator[tuple[Cluster, FailoverPair]]:
    """A cluster whose Redis is a primary with a replica."""
    binary = find_server()
    assert binary is not None, "no Redis or Valkey server here"
    folder.mkdir(parents=True, exist_ok=True)
    pair = FailoverPair(binary, folder).start()
    env = {**SETTINGS, **settings, "TEST_BROKER_URL": pair.url}
    cluster = Cluster(uuid.uuid4().hex[:8], folder, History(folder / "history"), env)
    try:
        yield cluster, pair
    finally:
        cluster.close()
        pair.kill()


class Load:
    """Short messages, all the time, from a sender whose network is all right."""

    def __init__(self, cluster: Cluster, every: float = EVERY, seconds: float = SECONDS) -> None:
        self.cluster = cluster
        self.every, self.seconds = every, seconds
        #: When each message was sent (``time.time``).
        self.sent: dict[str, float] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._send, daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _send(self) -> None:
        number = 0
        while not self._stopping.wait(self.every):
            number += 1
            with contextlib.suppress(Exception):  # a failover: whether it was sent is not known
                self.cluster.app.work.send(f"short-{number}", self.seconds)
                self.sent[f"short-{number}"] = time.time()

    def flows(self, since: float, pids: set[int | None]) -> bool:
        """Return whether some processes have each started a message tracked that was sent since then."""
        sent = {key for key, at in list(self.sent.items()) if at > since}
        starts = [event for event in self.cluster.history.events("start") if event.key in sent]
        return pids <= {event.pid for event in starts if is_tracked(event)}


def is_tracked(start: Event) -> bool:
    """Return whether a run was recorded; one that was not has the number 0."""
    said = start.extra or [0]
    return bool(said["run"] if isinstance(said, dict) else said[0])


def excuse_untracked(report: Report, history: History) -> Report:
    """Excuse messages that ran untracked beside another run: a worker without Redis works on, and knows of no other."""
    untracked = {event.key for event in history.events("start") if not is_tracked(event)}
    report.doubled = [key for key in report.doubled if key not in untracked]
    report.repeated = [key for key in report.repeated if key not in untracked]
    return report


def tracked_again(starts: list[Event], begun: float) -> tuple[float, int]:
    """How long after that the last untracked start is followed by a tracked one, seconds; how many are untracked."""
    untracked = [event for event in starts if event.at > begun and not is_tracked(event)]
    last = max((event.at for event in untracked), default=begun)
    tracked = [event.at for event in starts if is_tracked(event) and event.at > last]
    return min(tracked, default=begun) - begun, len(untracked)


def declared_dead(cluster: Cluster) -> int:
    """Return how often a worker that was declared dead came back."""
    return int(cluster.client.hget(cluster.prefix + "counts", "revived") or 0)


def start_behind(cluster: Cluster, network: NetworkProxy, *, wait: bool = True) -> WorkerProcess:
    """A worker whose Redis is behind a network."""
    return cluster.worker(wait=wait, env=through(cluster.env, network, timeout=BROKER_TIMEOUT))


def fail_over_under_load(cluster: Cluster, pair: FailoverPair, failovers: int) -> Figures:
    """Two workers under load, and so many failovers."""
    figures = Figures()
    workers = [start_behind(cluster, pair.proxy()) for _ in range(2)]
    pids = {worker.booted_pid() for worker in workers}
    history = cluster.history
    with Load(cluster) as load:
        cluster.wait(lambda: load.flows(0, pids), what="both work")
        try:
            for _ in range(failovers):
                at = pair.fail_over()
                figures.failovers += 1
                cluster.wait(lambda at=at: load.flows(at, pids), timeout=PATIENCE, what="both work, tracked")
                time.sleep(1)  # untracked starts that are still to come count
                for pid in pids:
                    mine = [event for event in history.events("start") if event.pid == pid and event.at > at]
                    seconds, untracked = tracked_again(mine, at)
                    figures.tracked_after.append(seconds)
                    figures.untracked += untracked
                pair.wait_ready()
            load.stop()
            cluster.wait(lambda: history.keys("end") >= load.sent.keys(), timeout=PATIENCE, what="all complete")
            cluster.wait(lambda: cluster.enqueued() == 0, timeout=PATIENCE, what="the broker is empty")
        except AssertionError as error:
            figures.errors.append(str(error))
    figures.report = excuse_untracked(judge(history, list(load.sent), {}), history)
    figures.declared_dead = declared_dead(cluster)
    return figures


def main() -> int:
    """Fail over as often as is asked for, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--failovers", type=int, default=10)
    parser.add_argument("--broker", choices=["redis", "rabbitmq", "both"], default="both")
    options = parser.parse_args()
    code = 0
    for broker in ("redis", "rabbitmq") if options.broker == "both" else (options.broker,):
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            settings = {"TEST_RABBITMQ_URL": stack.enter_context(shared(folder))} if broker == "rabbitmq" else {}
            cluster, pair = stack.enter_context(behind_one_address(folder / broker, settings))
            figures = fail_over_under_load(cluster, pair, options.failovers)
        print(f"{broker}: {figures}", flush=True)
        for text in figures.errors:
            print(f"    WRONG {text.splitlines()[0]}", flush=True)
        code = code if figures.is_right else 1
    return code


if __name__ == "__main__":
    sys.exit(main())
