# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The middleware: its hooks, in the order of a message's life.

In a worker, `message.hooks` calls the tracker before other middleware.  A message takes this way:

1. It is enqueued: `message.enqueue` sets or removes its mark.
2. A worker fetches a copy.  ``before_process_message`` asks Redis if the copy may run here, and Redis records that it
   does (`message.start`).  `message.refuse` skips or puts off a copy that may not.
3. The actor runs.  ``after_process_message`` notes how it ended (`message.finish`).
4. Dramatiq acknowledges the copy, and the record is settled.  A success is settled before the ack, or in one write
   with it, when everything that follows from it has been enqueued (``before_ack``).  A failure is settled after it,
   when the broker holds the retry or the dead letter (``after_ack``, ``after_nack``).

If the process dies in between, another worker detects that (`liveness`), and `recovery` puts the message back.
docs/way.rst names the functions and scripts.
"""

from __future__ import annotations

from typing import Any

from dramatiq import Broker, Worker
from dramatiq.brokers.stub import StubBroker
from dramatiq.logging import get_logger

from .config.settings import documented, load_settings
from .errors import ConfigurationError
from .message.enqueue import Enqueues
from .message.hooks import Hooks
from .message.in_flight import new_context
from .metrics.process import ProcessMetrics, is_reported
from .metrics.throughput import Throughput
from .tracker import Tracker, trackers_of
from .worker import WorkerProcess

__all__ = ["InFlightTracker"]


@documented
class InFlightTracker(Tracker):
    """Tracks the messages that workers run, and recovers those whose worker died.

    ``broker.add_middleware(InFlightTracker())``; then ``track_inflight=True`` on each actor (or message) that is to be
    tracked.  Keyword arguments override environment variables, which override defaults.  Durations are in seconds.

    Parameters:
      settings: See docs/settings.rst.

    Raises:
      ConfigurationError: A setting is unknown, malformed or out of its range.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(load_settings(settings))
        self.logger = get_logger(__name__, type(self))
        self._enqueues = Enqueues(self.policies)
        # In a worker that tracks:
        self._runtime: WorkerProcess | None = None
        self._hooks: Hooks | None = None
        self._throughput: Throughput | None = None
        self._metrics: ProcessMetrics | None = None

    def healthy(self) -> bool:
        """Return True if this process proves in Redis that it is alive; for a liveness probe.

        False also where there is no worker, or it does not track.  A worker whose Redis is away for half a TTL is not
        healthy, though it goes on working.
        """
        runtime = self._runtime
        if runtime is None or runtime.lease.silent or runtime.lease.refused:
            return False
        return runtime.heartbeat.is_alive()

    # The application is loaded.

    def after_declare_actor(self, broker: Broker, actor: Any) -> None:
        """Give each enqueue an id before it begins, if the broker gives none."""
        self._enqueues.attach(broker)

    def after_declare_queue(self, broker: Broker, queue_name: str) -> None:
        """Register again, so that this queue is handed back, too, if the worker dies."""
        if self._runtime is not None:
            self._runtime.lease.register_again()

    # The worker boots.

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        """Make the `WorkerProcess` and register this incarnation, before the consumers start.

        Raises:
          ConfigurationError: There is no Redis to use, or the tracker is in use.
          SchemaError: The namespace is used by another version that this one cannot share it with.
        """
        settings = self.settings
        if not settings.enabled:
            self.logger.info("Messages in flight are not tracked: enabled (PROCESSING_ENABLED) is false.")
            return
        if self._runtime is not None and not self._runtime.left:
            raise ConfigurationError(
                "This InFlightTracker serves another worker of this process already, and it can serve one at a time: "
                "give each broker a tracker of its own, broker.add_middleware(InFlightTracker(...)), and run one "
                "worker of a broker in a process."
            )
        if isinstance(broker, StubBroker) and settings.redis_url is None and settings.client is None:
            self.logger.info("Messages in flight are not tracked: StubBroker has no Redis, and none is configured.")
            return
        self._forget()
        try:
            self._boot(broker, worker)
        except ConfigurationError:
            # Undo the work that others have begun: with AsyncIO's thread the process would never exit.
            broker.emit_after("worker_shutdown", worker)
            raise

    def _boot(self, broker: Broker, worker: Worker) -> None:
        if len(trackers_of(broker)) > 1:
            raise ConfigurationError(
                "There are two InFlightTrackers in this broker's middleware; each would take the other's messages for "
                "duplicates. Add one."
            )
        self.policies.prepare(broker)
        runtime = WorkerProcess(self.policies, broker, worker.worker_threads, lambda: _pause(worker))
        runtime.register()
        self._runtime, self._enqueues.deliveries = runtime, runtime.deliveries
        self._throughput = Throughput(broker, runtime.queues, runtime.store.workers)  # messages run during the boot
        self._hooks = Hooks(broker, self, runtime.table, runtime.starting.defer)
        self._hooks.attach()

    def after_worker_boot(self, broker: Broker, worker: Worker) -> None:
        """Start the threads: heartbeat, bookkeeping, recovery, the watch of other processes and the reports."""
        if self._runtime is not None:
            self._runtime.start()
            if self._throughput is not None:
                self._throughput.start()
            self._report(broker, self._runtime)

    def _report(self, broker: Broker, runtime: WorkerProcess) -> None:
        """Report metrics of this process where Dramatiq's Prometheus middleware reports its own."""
        if not is_reported(broker):
            return
        try:
            self._metrics = ProcessMetrics(
                runtime.table, runtime.lease, runtime.connectivity, runtime.recovery_thread, self.healthy
            )
            self._metrics.start()
        except Exception:
            self.logger.exception("This process cannot report its own metrics. Messages run and are tracked as usual.")

    # A message's life.

    def before_enqueue(self, broker: Broker, message: Any, delay: int | None) -> None:
        """Set or remove the mark of what is enqueued.

        Raises:
          MessageSkipped: A run that has lost its message enqueues it, or a delayed copy was given to another worker.
        """
        self._enqueues.begin(broker, message, delay)

    def after_enqueue(self, broker: Broker, message: Any, delay: int | None) -> None:
        """Note that a run has enqueued its own message again: itself, or as a retry."""
        self._enqueues.end(broker, message)

    def before_delay_message(self, broker: Broker, message: Any) -> None:
        """Remember under which id the broker knows a copy that waits in our memory for its time."""
        self._enqueues.delay(message)

    def before_process_message(self, broker: Broker, message: Any) -> None:
        """Ask whether this copy may run here, and record that it does.

        Raises:
          MessageSkipped: Another copy has run, is running, or will.
          PoisonMessage: It has killed too many workers.
        """
        new_context()
        if self._runtime is not None:
            self._runtime.starting.begin(message)
        if self._throughput is not None:
            self._throughput.begin()

    def after_process_message(
        self, broker: Broker, message: Any, *, result: Any = None, exception: BaseException | None = None
    ) -> None:
        """Note how the message ended.  If another run may own it, look it up, so that nothing follows twice."""
        if self._throughput is not None:
            self._throughput.count(message.queue_name, exception)
        if self._runtime is not None:
            self._runtime.ending.processed(message, result, exception)

    def after_skip_message(self, broker: Broker, message: Any) -> None:
        """Note that another middleware skipped the message after its start was recorded."""
        if self._throughput is not None:
            self._throughput.skip()
        if self._runtime is not None:
            self._runtime.ending.skipped(message)

    def before_ack(self, broker: Broker, message: Any) -> None:
        """Enqueue what Dramatiq could not; settle a success here unless the ack itself takes that along."""
        if self._runtime is not None:
            self._runtime.ending.before_ack(message)

    def after_ack(self, broker: Broker, message: Any) -> None:
        """Settle a failure, of which the broker holds the retry, and forget the message."""
        if self._runtime is not None:
            self._runtime.ending.after_ack(message)

    def before_nack(self, broker: Broker, message: Any) -> None:
        """Enqueue what follows from a failure first."""
        if self._runtime is not None:
            self._runtime.ending.before_nack(message)

    def after_nack(self, broker: Broker, message: Any) -> None:
        """Settle a failure, which the broker has dead-lettered, and forget the message."""
        if self._runtime is not None:
            self._runtime.ending.after_nack(message)

    # The worker shuts down.

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        """Stop to recover; continue to beat while the worker drains."""
        if self._runtime is not None:
            self._runtime.drain()

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        """Stop all threads, and unregister this incarnation."""
        if self._metrics is not None:
            self._metrics.stop()
            self._metrics = None
        if self._throughput is not None:
            self._throughput.stop()
            if self._runtime is not None and not self._runtime.connectivity.away:
                self._throughput.once()  # the last seconds
            self._throughput = None
        if self._runtime is not None:
            self._runtime.leave()
            if not self._runtime.table.entries():  # else Dramatiq has left threads behind that go on
                self._forget()

    def _forget(self) -> None:
        """Drop the runtime, and detach the hooks."""
        self._runtime = self._enqueues.deliveries = None
        if self._hooks is not None:
            self._hooks.detach()
            self._hooks = None


def _pause(worker: Worker) -> None:
    """Start nothing more.

    Running messages go on; the consumers as well, which acknowledge them, and keep the messages that they have.
    """
    for thread in worker.workers:
        thread.pause()
