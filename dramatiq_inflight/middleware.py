# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The middleware: who does what at each hook, in the order of a message's life.

In a worker, `message.hooks` calls the tracker ahead of other middleware.

A message is enqueued: it gets a mark (`message.enqueue`).  A worker fetches a copy of it.  ``before_process_message``
asks Redis whether it may run here, and records that it does (`message.start`; a copy that may not: `message.refuse`).
The actor runs.  ``after_process_message`` notes how it ended (`message.finish`).  When Dramatiq acknowledges the copy,
the record is settled: a success just before (``before_ack``), when everything that follows from it has been enqueued; a
failure just after (``after_ack``, ``after_nack``), when the broker holds the retry or the dead letter.

If the process dies in between, its heartbeat expires, and `recovery` puts the message back.
"""

from __future__ import annotations

from typing import Any

from dramatiq import Broker, Worker
from dramatiq.brokers.stub import StubBroker
from dramatiq.logging import get_logger

from .config.settings import load_settings
from .errors import ConfigurationError
from .message.enqueue import Enqueues
from .message.hooks import Hooks
from .message.in_flight import new_context
from .metrics.process import ProcessMetrics, is_reported
from .tracker import Tracker, trackers_of
from .worker import Runtime

__all__ = ["InFlightTracker"]


class InFlightTracker(Tracker):
    """Tracks the messages that workers run, and recovers those whose worker died.

    ``broker.add_middleware(InFlightTracker())``; then ``track_inflight=True`` on each actor (or message) that is to be
    tracked.  Every setting is a keyword argument, or an environment variable, or a default;
    durations are in seconds.

    Parameters:
      instance_id: The pod, container or host (``PROCESSING_INSTANCE_ID``; the host name).
      namespace: Prefix of every key in Redis (``PROCESSING_NS``; ``dramatiq_processing``).
      heartbeat_interval: How often each process proves that it lives (``HEARTBEAT_INTERVAL``; 30).
      heartbeat_ttl: How long that is believed (``HEARTBEAT_TTL``; 90).
      heartbeat: ``"thread"``, or ``"process"``: a small process beside each worker process beats on its behalf, which C
        code that holds the GIL cannot starve, and sees its death (``PROCESSING_HEARTBEAT``; thread).
      connection_timeout: How long a worker may have no connection to Redis before it is declared dead; 0: its heartbeat
        alone decides (``PROCESSING_CONNECTION_TIMEOUT``; 2).
      recovery_lock_ttl: How long a recoverer that makes no progress keeps others out (``RECOVERY_LOCK_TTL``; 300).
      recovery_interval: Longest pause between two sweeps; 0: only at boot (``PROCESSING_RECOVERY_INTERVAL``; the
        heartbeat interval).
      max_recoveries: How often a message may be running when its worker dies, and still run again; ``None``: always
        (``PROCESSING_MAX_RECOVERIES``; 3).  Its last chance it gets alone in its process, so that no message pays for
        another.
      on_orphan: ``"requeue"``, or ``"dead_letter"``: what was running when its worker died, or was cut off by a
        shutdown, never runs again (``PROCESSING_ON_ORPHAN``; ``requeue``).
      recovery_queue: The queue that recovered messages go to (``PROCESSING_RECOVERY_QUEUE``; their own).
      recovery_delay: How long a recovered message waits after its first crash; doubles with every further one, up to
        an hour (``PROCESSING_RECOVERY_DELAY``; 0).
      on_recovery: The actor that is sent every recovered message, as a dict, and what happened
        (``PROCESSING_ON_RECOVERY``).
      on_poison: The same for messages that are dead-lettered (``PROCESSING_ON_POISON``).
      interrupt_on_loss: Whether to raise `MessageLost` in a message's thread once another worker has taken the message
        (``PROCESSING_INTERRUPT_ON_LOSS``; false).
      hand_back: How long a message may go on when its worker shuts down, before it is interrupted and enqueued again;
        ``None``: to its end (``PROCESSING_HAND_BACK``; ``None``).
      stall_timeout: How long a message may run without a checkpoint until that is reported; ``None``: for ever
        (``PROCESSING_STALL_TIMEOUT``; ``None``).
      remember_completed: How long a completion is remembered at the least, so that what is delivered again does not run
        (``PROCESSING_REMEMBER_COMPLETED``; 0).
      alone_timeout: How long a message on its last chance waits for the others in its process to end, and how long they
        then wait for it, at the most; doubles with every crash beyond ``max_recoveries``
        (``PROCESSING_ALONE_TIMEOUT``; 600).
      alone_in: ``"container"`` gives it all worker processes of its container; ``"auto"`` does so where the kernel
        kills these as a whole when the container is out of memory (``PROCESSING_ALONE_IN``; auto).
      callback: Called with an `Incident` for every message whose worker died, in the process that recovers it.
      fence_ttl: How long settled records are remembered (``PROCESSING_FENCE_TTL``; 7 days).
      track_by_default: Whether to track actors that do not say (``PROCESSING_TRACK_BY_DEFAULT``; false).
      redis_url: A Redis apart from the broker's (``PROCESSING_REDIS_URL``).
      client: The same, as a ``redis.Redis``.
      instance_exclusive: Whether no two containers ever have this instance id at once, as in a pod with one worker
        container: a new container then proves the old one dead at once (``PROCESSING_INSTANCE_EXCLUSIVE``; false).
      health_file: A file that is touched at each successful heartbeat, for a liveness probe
        (``PROCESSING_HEALTH_FILE``).
      watch_processes: Whether worker processes on the same host watch each other, so that a death is known at once
        (``PROCESSING_WATCH_PROCESSES``; true).
      enabled: False: the middleware does nothing (``PROCESSING_ENABLED``; true).

    Those from ``max_recoveries`` to ``remember_completed`` are defaults: actors and messages have options of the same
    names.

    Raises:
      ConfigurationError: A setting is unknown, malformed or out of its range.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(load_settings(settings))
        self.logger = get_logger(__name__, type(self))
        self._enqueues = Enqueues(self.policies)
        # In a worker that tracks:
        self._runtime: Runtime | None = None
        self._hooks: Hooks | None = None
        self._metrics: ProcessMetrics | None = None

    def healthy(self) -> bool:
        """Whether this process keeps itself alive in Redis: for a liveness probe.

        False also where there is no worker, or it does not track.  A worker whose Redis is away for half a TTL is not
        healthy, though it goes on working.
        """
        runtime = self._runtime
        if runtime is None or runtime.lease.silent or runtime.lease.refused:
            return False
        return runtime.heartbeat.is_alive()

    # The application is loaded.

    def after_declare_actor(self, broker: Broker, actor: Any) -> None:
        """Where a broker gives no ids, give each enqueue one before it begins."""
        self._enqueues.attach(broker)

    def after_declare_queue(self, broker: Broker, queue_name: str) -> None:
        """A queue more to be handed back, should this worker die."""
        if self._runtime is not None:
            self._runtime.lease.register_again()

    # The worker boots.

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        """Become an incarnation, before the consumers start.

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
            # What others have begun: with AsyncIO's thread the process would never exit.
            broker.emit_after("worker_shutdown", worker)
            raise

    def _boot(self, broker: Broker, worker: Worker) -> None:
        if len(trackers_of(broker)) > 1:
            raise ConfigurationError(
                "There are two InFlightTrackers in this broker's middleware; each would take the other's messages for "
                "duplicates. Add one."
            )
        self.policies.prepare(broker)
        runtime = Runtime(self.policies, broker, worker.worker_threads, lambda: _pause(worker))
        runtime.register()
        self._runtime, self._enqueues.deliveries = runtime, runtime.deliveries
        self._hooks = Hooks(broker, self, runtime.table, runtime.starting.put_off)
        self._hooks.attach()

    def after_worker_boot(self, broker: Broker, worker: Worker) -> None:
        """Start to beat and to recover."""
        if self._runtime is not None:
            self._runtime.start()
            self._report(broker, self._runtime)

    def _report(self, broker: Broker, runtime: Runtime) -> None:
        """Tell of this process where Dramatiq's Prometheus middleware does."""
        if not is_reported(broker):
            return
        try:
            self._metrics = ProcessMetrics(runtime, self.healthy)
            self._metrics.start()
        except Exception:
            self.logger.exception("This process reports no metrics of its own; it works all the same.")

    # A message's life.

    def before_enqueue(self, broker: Broker, message: Any, delay: int | None) -> None:
        """Mark what is enqueued.

        Raises:
          MessageSkipped: It is enqueued by a run that has lost its message.
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

    def after_process_message(
        self, broker: Broker, message: Any, *, result: Any = None, exception: BaseException | None = None
    ) -> None:
        """Note how the message ended; if it may have been taken from us, see to it that nothing follows twice."""
        if self._runtime is not None:
            self._runtime.ending.processed(message, result, exception)

    def after_skip_message(self, broker: Broker, message: Any) -> None:
        """Another middleware has skipped the message after we had recorded its start."""
        if self._runtime is not None:
            self._runtime.ending.skipped(message)

    def before_ack(self, broker: Broker, message: Any) -> None:
        """Settle a success: everything that follows from it has been enqueued."""
        if self._runtime is not None:
            self._runtime.ending.before_ack(message)

    def after_ack(self, broker: Broker, message: Any) -> None:
        """Settle a failure: the broker holds the retry."""
        if self._runtime is not None:
            self._runtime.ending.after_ack(message)

    def before_nack(self, broker: Broker, message: Any) -> None:
        """Enqueue what follows from a failure first."""
        if self._runtime is not None:
            self._runtime.ending.before_nack(message)

    def after_nack(self, broker: Broker, message: Any) -> None:
        """Settle a failure: the broker has dead-lettered the copy."""
        if self._runtime is not None:
            self._runtime.ending.after_nack(message)

    # The worker shuts down.

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        """Stop recovering; go on beating while the worker drains."""
        if self._runtime is not None:
            self._runtime.drain()

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        """Leave in order."""
        if self._metrics is not None:
            self._metrics.stop()
            self._metrics = None
        if self._runtime is not None:
            self._runtime.leave()
            if not self._runtime.table.entries():  # else Dramatiq has left threads behind that go on
                self._forget()

    def _forget(self) -> None:
        """Be as before the boot."""
        self._runtime = self._enqueues.deliveries = None
        if self._hooks is not None:
            self._hooks.detach()
            self._hooks = None


def _pause(worker: Worker) -> None:
    """Start nothing more.  What runs goes on; the consumers as well, which acknowledge it, and keep what they have."""
    for thread in worker.workers:
        thread.pause()
