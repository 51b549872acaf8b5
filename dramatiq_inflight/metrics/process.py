# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Metrics of each worker process, beside those of Dramatiq's Prometheus middleware, on the same server.

There is nothing to set up: the tracker looks whether that middleware is in its broker's.  It reports by the files of
prometheus_client's multiprocess mode, from which Dramatiq's exposition server reads all there is.  A collector that is
asked at a scrape cannot report there, so a thread writes the numbers every second.  No message waits for it, and it
tells the truth about a heartbeat thread that hangs.

``prometheus_client`` decides at its first import whether it is in that mode: it is imported when Dramatiq's middleware
has set it, never with this module.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dramatiq import Broker

from ..liveness.lease import Connectivity, Lease
from ..message.in_flight import Table
from ..recovery.thread import RecoveryThread
from ..threads.service import Service

__all__ = ["ProcessMetrics", "is_reported"]

#: How often the numbers are written, seconds.
INTERVAL = 1.0

#: How often it is looked whether other processes have ended without a word, in intervals.
ROUNDS = 30

#: The files of the gauges that are of living processes alone, and of this module alone as far as Dramatiq is concerned.
LIVING = "gauge_liveall_"


def is_reported(broker: Broker) -> bool:
    """Return whether Dramatiq's Prometheus middleware is in a broker's."""
    module = sys.modules.get("dramatiq.middleware.prometheus")
    return module is not None and any(isinstance(m, module.Prometheus) for m in broker.middleware)


class ProcessMetrics(Service):
    """Writes what this process has to tell, until it is stopped.

    Parameters:
      healthy: True if the process keeps itself alive in Redis.
    """

    def __init__(
        self,
        table: Table,
        lease: Lease,
        connectivity: Connectivity,
        recovery: RecoveryThread,
        healthy: Callable[[], bool],
    ) -> None:
        super().__init__("metrics", "The report of this process's metrics")
        import prometheus_client as prom  # noqa: PLC0415  see above

        self._lease = lease
        self._is_healthy = healthy
        self._rounds = 0
        self.registry: Any = prom.CollectorRegistry()
        prefix = "dramatiq_inflight_process_"

        def gauge(name: str, text: str) -> Any:
            return prom.Gauge(prefix + name, text, registry=self.registry, multiprocess_mode="liveall")

        def counter(name: str, text: str) -> Any:
            return prom.Counter(prefix + name, text, registry=self.registry)

        self._healthy = gauge("healthy", "1: the process keeps itself alive in Redis.")
        self._heard = gauge("last_heartbeat_timestamp_seconds", "When the process last renewed its heartbeat.")
        self._counters: list[tuple[Any, Callable[[], int]]] = [
            (
                counter("messages_total", "Tracked messages that were started."),
                lambda: table.started,
            ),
            (
                counter("redis_errors_total", "Commands of the tracker that did not reach Redis, or were refused."),
                lambda: connectivity.failures,
            ),
            (
                counter("sweeps_total", "Times that recovery has looked for what is due."),
                lambda: recovery.sweeps,
            ),
        ]
        self._told = [0] * len(self._counters)

    def run_once(self) -> float:
        """Write the numbers, and sometimes remove those of processes that have died."""
        self._rounds += 1
        self.write()
        if self._rounds % ROUNDS == 1:
            forget_the_dead()
        return INTERVAL

    def write(self) -> None:
        """Write the numbers as they are now."""
        self._healthy.set(self._is_healthy())
        self._heard.set(time.time() - self._lease.last_contact.age)
        for i, (counter, read) in enumerate(self._counters):
            now = read()
            counter.inc(now - self._told[i])
            self._told[i] = now


def forget_the_dead() -> None:
    """Remove what processes told of themselves that were killed: nobody else does, and they would seem healthy."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if not folder or os.name != "posix":  # elsewhere no process can be asked for without harm
        return
    for file in Path(folder).glob(f"{LIVING}*.db"):
        pid = file.stem.removeprefix(LIVING)
        if pid.isdigit() and not _exists(int(pid)):
            file.unlink(missing_ok=True)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # somebody else's
    return True
