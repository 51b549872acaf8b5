# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Metrics of a whole namespace, for Prometheus: ``pip install dramatiq_inflight[metrics]``.

One exporter tells it for all workers, read from Redis at each scrape::

    serve(Inspector.of(broker))  # or: registry.register(InFlightCollector(inspector))

The events are counted in Redis by the scripts themselves: the totals are exact, whichever worker has died since, and
whenever the exporter was started.  See metrics/process.py for the metrics that each process has of itself.

``prometheus_client`` decides at its first import how it keeps numbers, and Dramatiq's Prometheus middleware sets that
when a worker process has booted.  So this module imports it when it is used, and may be imported by an application.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from dramatiq.errors import ConnectionClosed
from dramatiq.logging import get_logger

from ..errors import SchemaError
from ..inspection.history import Count, EventKind
from ..inspection.inspector import Inspector, Overview, QueueView
from ..store.cause import CauseKind

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

__all__ = ["InFlightCollector", "serve"]

PREFIX = "dramatiq_inflight_"

#: How many pairs of queue and actor are told apart, if it is not said otherwise.
MOST_SERIES = 500

#: The queue and actor of all that are not told apart.
OTHERS = ("", "(others)")

#: Longer names of queues and actors are cut.
LONGEST_NAME = 128

#: The states of a worker process.
STATES = ("alive", "draining", "silent", "dead")


class InFlightCollector:
    """Tells what is in flight in a namespace, and what happened: a collector for ``prometheus_client``.

    When Redis cannot be reached, or refuses, it tells that it is not up, and nothing else.

    Parameters:
      inspector: An inspector of the namespace.
      max_series: How many pairs of queue and actor are told apart at the most; the rest are told as one, which is
        called ``(others)``.  Actors are few as a rule; but whoever can enqueue can make up names.
    """

    def __init__(self, inspector: Inspector, *, max_series: int = MOST_SERIES) -> None:
        self.logger = get_logger(__name__, type(self))
        self._inspector = inspector
        self._max_series = max_series
        self._up = True

    def describe(self) -> Iterable[Metric]:
        """Nothing: a registry need not ask Redis to know the names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All metrics, as of now: one look at the namespace."""
        from prometheus_client.metrics_core import GaugeMetricFamily  # noqa: PLC0415  see above

        begun = time.monotonic()
        try:
            seen = self._inspector.overview()
            metrics = [*self._metrics(seen, self._inspector.counts()), *self._of_queues(seen)]
        except Exception as error:  # a scrape must not end in a traceback, whatever is in Redis
            if self._up:
                # Not its text, but our own: it may hold what was sent.
                why = str(error) if isinstance(error, SchemaError) else type(error).__name__
                self.logger.error("Cannot read Redis (%s). dramatiq_inflight_up is 0.", why)
            self._up = False
            yield GaugeMetricFamily(PREFIX + "up", UP, 0)
            return
        if not self._up:
            self.logger.info("Redis can be read again.")
        self._up = True
        yield GaugeMetricFamily(PREFIX + "up", UP, 1)
        yield GaugeMetricFamily(
            PREFIX + "scrape_duration_seconds", "How long it took to read all this.", time.monotonic() - begun
        )
        yield from metrics

    def _metrics(self, seen: Overview, counts: list[Count]) -> Iterator[Metric]:
        from prometheus_client.metrics_core import (  # noqa: PLC0415  see above
            CounterMetricFamily,
            GaugeMetricFamily,
            SummaryMetricFamily,
        )

        weights: dict[tuple[str, str], int] = defaultdict(int)
        for tally in seen.tallies:
            weights[_names(tally.queue, tally.actor)] += tally.running + tally.waiting
        for count in counts:
            if count.kind not in WORKERS and count.kind != TOOK:
                weights[_names(count.queue, count.actor)] += count.number
        shown = frozenset(sorted(weights, key=lambda names: (-weights[names], names))[: self._max_series])

        def label(queue: str, actor: str) -> tuple[str, str]:
            names = _names(queue, actor)
            return names if names in shown else OTHERS

        in_flight: dict[tuple[str, str, str], float] = defaultdict(float)
        oldest: dict[tuple[str, str], float] = defaultdict(float)
        for tally in seen.tallies:
            names = label(tally.queue, tally.actor)
            in_flight[(*names, "running")] += tally.running
            in_flight[(*names, "waiting")] += tally.waiting
            oldest[names] = max(oldest[names], tally.oldest)
        yield _family(
            GaugeMetricFamily(
                PREFIX + "messages",
                "Messages that run, or wait for the copy that recovery has enqueued to start (of the first 1,000).",
                labels=("queue", "actor", "state"),
            ),
            in_flight,
        )
        yield _family(
            GaugeMetricFamily(
                PREFIX + "oldest_seconds",
                "For how long the oldest message has been running.",
                labels=("queue", "actor"),
            ),
            oldest,
        )
        for name, text, value in (
            ("running", "Messages that run.", seen.running),
            ("waiting", "Messages that wait for their copy to start.", seen.waiting),
            ("overdue", "Messages that wait, and are past their deadline: recovery looks after them.", seen.overdue),
            ("aside", "Messages that could not be read or decoded, and are kept until somebody decides.", seen.aside),
            (
                "unrecovered_seconds",
                "For how long the dead worker has been dead that waits longest.",
                _longest_dead(seen),
            ),
        ):
            yield GaugeMetricFamily(PREFIX + name, text, value)
        workers = {(state,): sum(worker.state == state for worker in seen.workers) for state in STATES}
        yield _family(
            GaugeMetricFamily(PREFIX + "workers", "Worker processes, by their state.", labels=("state",)),
            workers,
        )

        of_all = {(kind.value,): 0 for kind in EventKind}  # from 0, so that the first one is an increase
        of_messages: dict[tuple[str, str, str], float] = defaultdict(float)
        for count in counts:
            if count.kind == TOOK:
                continue
            kind = _clean(count.kind)
            of_all[(kind,)] = of_all.get((kind,), 0) + count.number
            if kind not in WORKERS:
                of_messages[(kind, *label(count.queue, count.actor))] += count.number
        yield _family(
            CounterMetricFamily(PREFIX + "all_events", "What happened, and how often.", labels=("event",)), of_all
        )
        yield _family(
            CounterMetricFamily(
                PREFIX + "events", "What happened to messages, and how often.", labels=("event", "queue", "actor")
            ),
            of_messages,
        )
        deaths = {(kind.value,): 0 for kind in CauseKind}
        for count in counts:
            if count.cause:
                deaths[(count.cause,)] += count.number
        yield _family(
            CounterMetricFamily(
                PREFIX + "deaths", "Worker processes that have died, by cause as far as it is known.", labels=("cause",)
            ),
            deaths,
        )
        took = sum(count.number for count in counts if count.kind == TOOK)
        yield SummaryMetricFamily(
            PREFIX + "recovery_seconds",
            "From a worker's death to the end of its recovery.",
            count_value=of_all[("cleared",)],
            sum_value=took / 1000,
        )

    def _of_queues(self, seen: Overview) -> Iterator[Metric]:
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily  # noqa: PLC0415  see above

        try:
            queues = self._inspector.queues(seen)
        except ConnectionClosed:
            queues = None  # RabbitMQ is away; the rest is known
        for name, text, value in QUEUES:
            values = {(_clean(queue.name),): value(queue) for queue in queues or ()}
            known = {labels: number for labels, number in values.items() if number is not None}
            yield _family(GaugeMetricFamily(f"{PREFIX}queue_{name}", text, labels=("queue",)), known)
        ended = {(_clean(queue),): number for queue, number in self._inspector.ended().items()}
        text = "Messages whose run has ended, tracked or not."
        yield _family(CounterMetricFamily(PREFIX + "queue_ended", text, labels=("queue",)), ended)


UP = "1: Redis can be read."

#: Metrics of each queue of the application: the name, the help, and the value; None if the broker has none.
QUEUES: tuple[tuple[str, str, Callable[[QueueView], float | None]], ...] = (
    ("depth", "Messages that no worker has fetched.", lambda queue: queue.depth),
    ("delayed", "Messages that wait for their time, retries included.", lambda queue: queue.delayed),
    ("unacked", "Messages that workers have fetched and not acknowledged.", lambda queue: queue.unacked),
    ("dead_letters", "Dead letters.", lambda queue: queue.dead_letters),
    ("oldest_seconds", "For how long the message waits that waits longest.", lambda queue: queue.oldest),
)

#: A count among the events that is no event: how long recoveries took in all, milliseconds.
TOOK = "cleared_ms"

#: The names of the events that are about worker processes.
WORKERS = frozenset(kind.value for kind in EventKind if kind.of_worker)


def serve(inspector: Inspector, *, host: str = "127.0.0.1", port: int = 9192, max_series: int = MOST_SERIES) -> None:
    """Serve the metrics of a namespace over HTTP, until the process is interrupted.

    Dramatiq's Prometheus middleware has the same port by default: beside workers on one host, choose another.

    Raises:
      ImportError: There is no ``prometheus_client``.
      OSError: It cannot listen there.
    """
    try:
        from prometheus_client import CollectorRegistry, start_http_server  # noqa: PLC0415  see above
    except ImportError as error:
        raise ImportError('The exporter needs prometheus_client: pip install "dramatiq_inflight[metrics]"') from error

    registry = CollectorRegistry(auto_describe=False)
    registry.register(InFlightCollector(inspector, max_series=max_series))
    server, thread = start_http_server(port, host, registry)
    try:
        thread.join()
    except KeyboardInterrupt:
        pass
    finally:
        server.shutdown()
        server.server_close()


def _family(family: Any, samples: dict[Any, Any]) -> Any:
    for labels, value in samples.items():
        family.add_metric(labels, value)
    return family


def _longest_dead(seen: Overview) -> float:
    return max(
        ((seen.at - worker.dead_since).total_seconds() for worker in seen.workers if worker.dead_since), default=0.0
    )


def _names(queue: str, actor: str) -> tuple[str, str]:
    return _clean(queue), _clean(actor)


def _clean(name: str) -> str:
    """A name as a label: whoever can enqueue can make it up, and half a surrogate pair would break the whole scrape."""
    if len(name) > LONGEST_NAME:
        name = name[: LONGEST_NAME - 1] + "…"
    # And a terminal that shows the scrape is not to be cleared by a name.
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
