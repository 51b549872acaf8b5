# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Each fault of a network, at each moment of a message's life, with each broker: ``nox -s chaos -- matrix``.

Two workers have an address of Redis each, and the network of the first one fails.  A long message goes through the
moment on the first worker, if it can; short ones are sent all the time and show how long the workers are disturbed.
Needs no root, and no namespaces.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.cluster import Cluster
from tests.support.failover import (
    Load,
    behind_one_address,
    declared_dead,
    excuse_untracked,
    start_behind,
    tracked_again,
)
from tests.support.history import Event
from tests.support.network import FailoverPair
from tests.support.network_proxy import NetworkProxy
from tests.support.rabbitmq import shared
from tests.support.rounds import judge
from tests.support.workers import WorkerProcess

__all__ = ["BROKERS", "FAULTS", "MOMENTS", "Cell", "Matrix", "matrix"]

BROKERS = ("redis", "rabbitmq")

MOMENTS = ("boot", "start", "running", "finish", "ack", "recovery", "shutdown")

#: How long a fault that ends by itself lasts, seconds: a worker that is cut off for so long is not dead.
LASTS = 2.5

#: How often a short message is sent, and how long it runs, seconds.
EVERY, SHORT = 0.05, 0.05

#: How long everything may take to be as before, seconds.
PATIENCE = 60.0


def stall(network: NetworkProxy, pair: FailoverPair) -> None:
    """Hold back all bytes for a while, and deliver them later."""
    network.stall()
    time.sleep(LASTS)
    network.resume()


def swallow(network: NetworkProxy, pair: FailoverPair) -> None:
    """Drop without a word whatever is sent on the open connections."""
    network.swallow()


def reset(network: NetworkProxy, pair: FailoverPair) -> None:
    """Reset the open connections, again and again for a while."""
    for _ in range(5):
        network.reset()
        time.sleep(LASTS / 5)


def ignore(network: NetworkProxy, pair: FailoverPair) -> None:
    """Reset the open connections, and leave new ones without an answer for a while."""
    network.ignores = True
    network.reset()
    time.sleep(LASTS)
    network.ignores = False


def narrow(network: NetworkProxy, pair: FailoverPair) -> None:
    """Leave next to no bandwidth for a while."""
    network.bandwidth = 20_000
    time.sleep(LASTS)
    network.bandwidth = None


def switch(network: NetworkProxy, pair: FailoverPair) -> None:
    """Lead the address to the new primary; the open connections stay with the old one, and may only read."""
    pair.fail_over()


FAULTS: dict[str, Callable[[NetworkProxy, FailoverPair], None]] = {
    fault.__name__: fault for fault in (stall, swallow, reset, ignore, narrow, switch)
}


@dataclass
class Cell:
    """The effects of one fault at one moment."""

    broker: str
    fault: str
    moment: str
    #: How long after the fault's begin the disturbed worker last started something untracked, or nothing, seconds.
    tracked_after: float = 0.0
    #: How many short messages ran untracked, and the longest that one took to its end, seconds.
    untracked: int = 0
    longest: float = 0.0
    lost: int = 0
    doubled: int = 0
    repeated: int = 0
    declared_dead: int = 0
    crashes: int = 0
    errors: list[str] = field(default_factory=list)

    @property
    def is_right(self) -> bool:
        return not (self.lost or self.doubled or self.repeated or self.declared_dead or self.crashes or self.errors)

    @property
    def figures(self) -> tuple[object, ...]:
        wrong = (self.lost, self.doubled, self.repeated, self.declared_dead, self.crashes, len(self.errors))
        times = (f"{self.tracked_after:.1f}", self.untracked, f"{self.longest:.1f}")
        return (self.broker, self.fault, self.moment, *times, *wrong)


COLUMNS = (
    *("broker", "fault", "moment", "tracked s", "untracked", "longest s"),
    *("lost", "doubled", "repeated", "dead", "crashes", "errors"),
)


class Matrix:
    """The moments of one fault with one broker, one after the other."""

    def __init__(self, cluster: Cluster, pair: FailoverPair, broker: str, fault: str) -> None:
        self.cluster = cluster
        self.history = cluster.history
        self.pair = pair
        self.broker, self.fault = broker, fault
        self.network, self.other = pair.proxy(), pair.proxy()
        self.load = Load(cluster, EVERY, SHORT)
        self.keys: list[str] = []
        self.deaths: dict[int, list[tuple[float, float]]] = {}
        self._victim: WorkerProcess | None = None
        self._begun = 0.0

    def play(self, moments: Sequence[str]) -> Iterator[Cell]:
        """Play one moment after the other.  Yields the effects of each."""
        start_behind(self.cluster, self.other)
        with self.load:
            for moment in moments:
                yield self._cell(moment)

    def _cell(self, moment: str) -> Cell:
        cell = Cell(self.broker, self.fault, moment)
        key, gate = f"{moment}-{uuid.uuid4().hex[:4]}", self.cluster.folder / f"gate-{moment}"
        revived = declared_dead(self.cluster)
        short = len(self.load.sent)
        try:
            if moment != "boot" and (self._victim is None or self._victim.process.poll() is not None):
                self._victim = start_behind(self.cluster, self.network)
            fault = threading.Thread(target=self._break, daemon=True)
            getattr(self, "_" + moment)(key, gate, fault)
            gate.touch()
            fault.join()
            ended = time.time()
            self.cluster.wait(lambda: self._flows(ended), timeout=PATIENCE, what="what was sent since ends")
            expected = {k for k in self.keys if k.startswith(key)}
            self.cluster.wait(
                lambda: self.history.keys("end") >= expected | set(list(self.load.sent)[:-40]),
                timeout=PATIENCE,
                what="all that was sent before ends",
            )
        except AssertionError as error:
            cell.errors.append(str(error))
        self.pair.wait_ready()
        self._measure(cell, key, list(self.load.sent)[short:-40], declared_dead(self.cluster) - revived)
        return cell

    # The moments.  Each begins the fault, and comes back when the message has been through it.

    def _boot(self, key: str, gate: Path, fault: threading.Thread) -> None:
        before = len(self.network.links)
        self._victim = start_behind(self.cluster, self.network, wait=False)
        self.cluster.wait(lambda: len(self.network.links) > before, what="the worker connects")
        fault.start()
        self._victim.wait_ready()

    def _start(self, key: str, gate: Path, fault: threading.Thread) -> None:
        self._send_long(key, gate)
        fault.start()
        self._wait_for("start", key)

    def _running(self, key: str, gate: Path, fault: threading.Thread) -> None:
        self._run_on_victim(key, gate)
        fault.start()
        fault.join()

    def _finish(self, key: str, gate: Path, fault: threading.Thread) -> None:
        self._run_on_victim(key, gate)
        fault.start()
        gate.touch()
        self._wait_for("end", key)

    def _ack(self, key: str, gate: Path, fault: threading.Thread) -> None:
        self._run_on_victim(key, gate)
        gate.touch()
        self._wait_for("end", key)
        fault.start()

    def _recovery(self, key: str, gate: Path, fault: threading.Thread) -> None:
        """Kill a third worker, whose network is all right; the others recover its messages."""
        third = start_behind(self.cluster, self.other)
        self._run_on(third, key, gate)
        pid = third.booted_pid()
        assert pid is not None
        fault.start()
        third.kill()
        self.deaths[pid] = [(third.started_at, third.killed_at)]
        gate.touch()
        self.cluster.wait(
            lambda: {event.key for event in self._longs(key) if event.pid == pid} <= self.history.keys("end"),
            timeout=PATIENCE,
            what="what was cut off ends",
        )

    def _shutdown(self, key: str, gate: Path, fault: threading.Thread) -> None:
        """Stop the worker in order: its messages end by themselves."""
        assert self._victim is not None
        self._run_on_victim(key, gate)
        fault.start()
        self._victim.process.terminate()
        gate.touch()
        self._victim.process.wait(timeout=PATIENCE)

    # The steps of the moments.

    def _break(self) -> None:
        self._begun = time.time()
        FAULTS[self.fault](self.network, self.pair)

    def _send_long(self, key: str, gate: Path) -> None:
        self.keys.append(key)
        self.cluster.app.gated.send(key, str(gate))

    def _run_on_victim(self, key: str, gate: Path) -> None:
        assert self._victim is not None
        self._run_on(self._victim, key, gate)

    def _run_on(self, worker: WorkerProcess, key: str, gate: Path) -> None:
        """Send messages until one of them runs on a worker."""
        pid = worker.booted_pid()
        self._send_long(key, gate)
        self._wait_for("start", key)
        for n in range(200):
            if any(event.pid == pid for event in self._longs(key)):
                return
            self._send_long(f"{key}-{n}", gate)
            time.sleep(0.1)
        raise AssertionError(f"none of {key} runs on the worker that is to have one")

    def _longs(self, key: str) -> list[Event]:
        return [event for event in self.history.events("start") if str(event.key).startswith(key)]

    def _wait_for(self, what: str, key: str) -> None:
        self.cluster.wait(lambda: key in self.history.keys(what), timeout=PATIENCE, what=f"{what} of {key}")

    def _flows(self, since: float) -> bool:
        """Return whether messages that were sent since then run, tracked, on each worker that is there."""
        living = [worker for worker in self.cluster.workers if worker.process.poll() is None]
        return self.load.flows(since, {worker.booted_pid() for worker in living})

    def _measure(self, cell: Cell, key: str, shorts: Sequence[str], revived: int) -> None:
        expected = [k for k in self.keys if k.startswith(key)]
        report = excuse_untracked(judge(self.history, [*expected, *shorts], self.deaths), self.history)
        cell.lost, cell.doubled, cell.repeated = len(report.lost), len(report.doubled), len(report.repeated)
        cell.declared_dead = revived
        starts = self.history.events("start")
        cell.crashes = sum(
            isinstance(event.extra, dict) and event.extra["crashes"] > 0
            for event in starts
            if event.key in expected and cell.moment != "recovery"
        )
        pid = self._victim.booted_pid() if self._victim is not None else None
        mine = [
            event for event in starts if event.pid == pid and event.at > self._begun and event.key in self.load.sent
        ]
        cell.tracked_after, cell.untracked = tracked_again(mine, self._begun)
        ends = {event.key: event.at for event in self.history.events("end")}
        cell.longest = max((ends[k] - self.load.sent[k] for k in shorts if k in ends), default=0.0)


def matrix(
    folder: Path, faults: Sequence[str], moments: Sequence[str], brokers: Sequence[str], rabbitmq_url: str = ""
) -> Iterator[Cell]:
    """Each cell, as soon as it is known."""
    for broker in brokers:
        for fault in faults:
            settings = {"TEST_RABBITMQ_URL": rabbitmq_url} if broker == "rabbitmq" else {}
            with behind_one_address(folder / f"{broker}-{fault}", settings) as (cluster, pair):
                yield from Matrix(cluster, pair, broker, fault).play(moments)


def main(args: Sequence[str]) -> int:
    """Play what is asked for, and print a line a cell."""
    parser = argparse.ArgumentParser(prog="python -m chaos matrix", description=__doc__)
    for name, all_of_them in (("faults", tuple(FAULTS)), ("moments", MOMENTS), ("brokers", BROKERS)):
        parser.add_argument(f"--{name}", nargs="+", choices=all_of_them, default=all_of_them)
    parser.add_argument("--keep", type=Path, help="a folder for histories and logs")
    options = parser.parse_args(args)
    wrong = 0
    with contextlib.ExitStack() as stack:
        folder = Path(options.keep or stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        url = stack.enter_context(shared(folder)) if "rabbitmq" in options.brokers else ""
        _print(COLUMNS)
        for cell in matrix(folder, options.faults, options.moments, options.brokers, url):
            _print(cell.figures)
            for text in cell.errors:
                print(f"    {text.splitlines()[0]}", flush=True)
            wrong += not cell.is_right
    print(f"{wrong} cells are wrong" if wrong else "Nothing went wrong.")
    return 1 if wrong else 0


def _print(figures: Sequence[object]) -> None:
    print("  ".join(f"{figure:>9}" for figure in figures), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
