# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The middleware: what happens at each hook, in the order of a message's life.

A worker fetches a copy of a message.  ``before_process_message`` asks Redis whether it may run here, and records that
it does.  The actor runs.  ``after_process_message`` notes how it ended.  When Dramatiq acknowledges the copy, the
record is settled: a success just before (``before_ack``), when everything that follows from it has been enqueued; a
failure just after (``after_ack``, ``after_nack``), when the broker holds the retry or the dead letter.

If the process dies in between, its heartbeat expires, and `recovery` puts the message back.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from typing import Any, NoReturn

import redis
from dramatiq import Broker, Worker
from dramatiq.brokers.stub import StubBroker
from dramatiq.common import q_name
from dramatiq.logging import get_logger
from dramatiq.middleware import Callbacks, GroupCallbacks, Middleware, Pipelines, Retries
from dramatiq.worker import ConsumerThread

from .errors import ConfigurationError, MessageSkipped, PoisonMessage
from .records import OPTION, Claim, Copy, Mark, Orphan, Start, Started, mark_of
from .runtime import Runtime
from .settings import check_max_recoveries, load_settings
from .table import Entry, Phase, current_entry, is_own_enqueue, own_enqueue

__all__ = ["InFlightTracker"]

#: A duplicate is put off for longer and longer, but for no longer than this, seconds.
LONGEST_DEFERRAL = 900.0

#: What Dramatiq's middleware does after a success, by the message's options: taken out of a run that lost its message.
CONTINUATIONS = ("pipe_target", "group_completion_uuid", "group_completion_callbacks", "on_success", "on_failure")


class InFlightTracker(Middleware):
    """Tracks the messages that workers run, and recovers those whose worker died.

    ``broker.add_middleware(InFlightTracker())`` after the other middleware; then ``track_inflight=True`` on each actor
    (or message) that is to be tracked.  Every setting is a keyword argument, or an environment variable, or a default;
    durations are in seconds.

    Parameters:
      instance_id: The pod, container or host (``PROCESSING_INSTANCE_ID``; the host name).
      namespace: Prefix of every key in Redis (``PROCESSING_NS``; ``dramatiq_processing``).
      heartbeat_interval: How often each process proves that it lives (``HEARTBEAT_INTERVAL``; 30).
      heartbeat_ttl: How long that is believed (``HEARTBEAT_TTL``; 90).
      recovery_lock_ttl: How long a recoverer that makes no progress keeps others out (``RECOVERY_LOCK_TTL``; 300).
      recovery_interval: Longest pause between two sweeps; 0: only at boot (``PROCESSING_RECOVERY_INTERVAL``; the
        heartbeat interval).
      max_recoveries: How often a message may be running when its worker dies, and still run again; ``None``: always
        (``PROCESSING_MAX_RECOVERIES``; 3).  Also an actor and a message option.
      fence_ttl: How long settled records are remembered (``PROCESSING_FENCE_TTL``; 7 days).
      track_by_default: Whether to track actors that do not say (``PROCESSING_TRACK_BY_DEFAULT``; false).
      redis_url: A Redis apart from the broker's (``PROCESSING_REDIS_URL``).
      client: The same, as a ``redis.Redis``.
      enabled: False: the middleware does nothing (``PROCESSING_ENABLED``; true).

    Raises:
      ConfigurationError: A setting is unknown, malformed or out of its range.
    """

    def __init__(self, **settings: Any) -> None:
        self.logger = get_logger(__name__, type(self))
        self.settings = load_settings(settings)
        self._runtime: Runtime | None = None
        self._delayed: dict[str, tuple[str, str]] = {}

    @property
    def actor_options(self) -> set[str]:
        """The options of actors (and messages) that this middleware knows."""
        return {"track_inflight", "max_recoveries"}

    # The worker's boot.

    def before_declare_actor(self, broker: Broker, actor: Any) -> None:
        """Check the actor's options.

        Raises:
          ConfigurationError: One of them is wrong.
        """
        track = actor.options.get("track_inflight")
        if track is not None and not isinstance(track, bool):
            raise ConfigurationError(
                f"track_inflight of actor {actor.actor_name!r} is {track!r}; it must be True or False."
            )
        if "max_recoveries" in actor.options:
            check_max_recoveries(actor.options["max_recoveries"], f"max_recoveries of actor {actor.actor_name!r}")

    def after_declare_queue(self, broker: Broker, queue_name: str) -> None:
        """A queue more to be handed back, should this worker die."""
        if self._runtime is not None:
            self._runtime.lease.register_again()

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        """Become an incarnation, before the consumers start.

        Raises:
          ConfigurationError: There is no Redis to use.
        """
        settings = self.settings
        if not settings.enabled:
            self.logger.info("Messages in flight are not tracked: PROCESSING_ENABLED is off.")
            return
        if isinstance(broker, StubBroker) and settings.redis_url is None and settings.client is None:
            self.logger.info("Messages in flight are not tracked: StubBroker has no Redis, and none is configured.")
            return
        after = broker.middleware[broker.middleware.index(self) + 1 :]
        late = [m for m in after if isinstance(m, (Retries, Pipelines, GroupCallbacks, Callbacks))]
        if late:
            self.logger.warning(
                "InFlightTracker should come after %s in the broker's middleware: a worker that was taken for dead "
                "cannot keep what comes after it from going on.",
                ", ".join(type(m).__name__ for m in late),
            )
        self._runtime = Runtime(settings, broker)
        self._runtime.register()

    def after_worker_boot(self, broker: Broker, worker: Worker) -> None:
        """Start to beat and to recover."""
        if self._runtime is not None:
            self._runtime.start()

    # A message's life.

    def before_process_message(self, broker: Broker, message: Any) -> None:
        """Ask whether this copy may run here, and record that it does.

        Raises:
          MessageSkipped: Another copy has run, is running, or will.
          PoisonMessage: It has killed too many workers.
        """
        current_entry.set(None)
        runtime = self._runtime
        if runtime is None:
            return
        if self._tracks(broker, message):
            self._start(runtime, broker, message)
        elif runtime.is_elsewhere(message.queue_name, message.options.get("redis_message_id", "")):
            message.options["store_results"] = False
            raise MessageSkipped(SKIPS[Start.ELSEWHERE])

    def before_delay_message(self, broker: Broker, message: Any) -> None:
        """Remember under which id the broker knows a copy that waits in our memory for its time."""
        if self._runtime is not None and self._runtime.queues is not None:
            self._delayed[message.message_id] = message.queue_name, message.options.get("redis_message_id", "")

    def before_enqueue(self, broker: Broker, message: Any, delay: int | None) -> None:
        """Keep copies apart: what is enqueued anew is no copy of what was, and a zombie doubles nothing.

        What a run enqueues of its own message after it has lost it (its retry) is void: it does not run.  A delayed
        copy that was given to others is not moved to its queue.

        Raises:
          MessageSkipped: That is so; Dramatiq then drops what the consumer has in memory, and fetches anew.
        """
        if is_own_enqueue():
            return
        if isinstance(threading.current_thread(), ConsumerThread):
            delivery = self._delayed.pop(message.message_id, None)
            if delivery is not None and self._runtime is not None and self._runtime.is_elsewhere(*delivery):
                raise MessageSkipped(f"delayed message {message.message_id} was given to another worker meanwhile")
            return
        mark = mark_of(message)
        if mark:
            message.options[OPTION] = {"generation": mark.get("generation", 1)}
        entry = current_entry.get()
        if entry is not None and entry.lost and message.message_id == entry.copy.message_id:
            message.options[OPTION] = {"void": True}

    def after_enqueue(self, broker: Broker, message: Any, delay: int | None) -> None:
        """Note that a run has enqueued its own message again: itself, or as a retry."""
        entry = current_entry.get()
        if entry is not None and message.message_id == entry.copy.message_id:
            entry.enqueued_again = True

    def after_process_message(
        self, broker: Broker, message: Any, *, result: Any = None, exception: BaseException | None = None
    ) -> None:
        """Note how the message ended; if it may have been taken from us, see to it that nothing follows twice."""
        runtime = self._runtime
        entry = runtime.table.get(message) if runtime is not None else None
        if runtime is None or entry is None or entry.phase not in (Phase.RUNNING, Phase.ENDED):
            return
        entry.end(succeeded=exception is None)
        if runtime.lease.in_doubt(entry):
            try:
                runtime.heartbeat.look_up(entry)
            except redis.RedisError:
                return
        if entry.lost:
            for option in CONTINUATIONS:
                message.options.pop(option, None)
            message.options["store_results"] = False

    def after_skip_message(self, broker: Broker, message: Any) -> None:
        """Another middleware has skipped the message after we had recorded its start."""
        entry = self._runtime.table.get(message) if self._runtime is not None else None
        if entry is not None and entry.phase is Phase.RUNNING:
            entry.end(succeeded=not message.failed)

    def before_ack(self, broker: Broker, message: Any) -> None:
        """A success is settled now: everything that follows from it has been enqueued.

        Where the broker is on the tracker's Redis, it is settled a moment later: in the same write as the ack.
        """
        runtime = self._runtime
        if runtime is None:
            return
        entry = runtime.table.get(message)
        if entry is not None:
            entry.acking_since = time.monotonic()
        if entry is None:
            self._settle_unseen(runtime, broker, message, "completed")
        elif entry.to_finish and not runtime.finishes_with_ack:
            try:
                runtime.heartbeat.finish(entry, runtime.broker_keys(entry.copy.queue))
            except redis.RedisError:
                pass  # after_ack leaves it to the heartbeat

    def after_ack(self, broker: Broker, message: Any) -> None:
        """A failure is settled now: the broker holds the retry."""
        runtime = self._runtime
        entry = runtime.table.get(message) if runtime is not None else None
        if runtime is None or entry is None:
            return
        if entry.phase is Phase.ENDED and not entry.succeeded:
            # Without Retries an acknowledged failure is over.  With it, no retry means that it could not be enqueued.
            if not entry.enqueued_again and any(isinstance(m, Retries) for m in broker.middleware):
                entry.stranded, entry.payload = True, message.encode()
            self._let_go(runtime, entry)
        self._forget(runtime, message, entry)

    def after_nack(self, broker: Broker, message: Any) -> None:
        """The broker has dead-lettered the copy."""
        runtime = self._runtime
        if runtime is None:
            return
        entry = runtime.table.get(message)
        if entry is None:
            self._settle_unseen(runtime, broker, message, "dead_lettered")
            return
        if entry.phase is Phase.POISONED:
            self._settle(runtime, entry.copy, "dead_lettered")
        elif entry.phase is Phase.ENDED:
            entry.succeeded = False
            self._let_go(runtime, entry)
        self._forget(runtime, message, entry)

    # The worker's shutdown.

    def before_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        """Stop recovering; go on beating while the worker drains."""
        if self._runtime is not None:
            self._runtime.drain()

    def after_worker_shutdown(self, broker: Broker, worker: Worker) -> None:
        """Leave in order."""
        if self._runtime is not None:
            self._runtime.leave()

    # The start.

    def _start(self, runtime: Runtime, broker: Broker, message: Any) -> None:
        copy = Copy.of(message)
        entry = Entry(copy, generation=copy.generation, epoch=runtime.lease.epoch)
        here = runtime.table.reserve(message, entry)
        if mark_of(message).get("void"):
            self._skip(message, entry, "it was enqueued by a worker that had lost the message")
        started = None
        try:
            entry.limit = self._max_recoveries(broker, message)
            entry.payload = message.encode()
            # Where the tracker has a Redis of its own and that is away, do not wait for it at every message: the
            # heartbeat tries every second, and mends.  A copy that was made by recovery, or put off, must ask.
            if not (runtime.connectivity.away and runtime.queues is None and not mark_of(message)):
                started = runtime.registry.start(
                    copy,
                    entry.payload,
                    limit=entry.limit,
                    here=here,
                    forgotten=runtime.lease.revived,
                    broker_keys=runtime.broker_keys(copy.queue),
                )
        except redis.RedisError:
            pass  # said once, by Connectivity
        except BaseException:
            runtime.table.skip(entry)
            raise
        if started is None:
            if here != "no" or copy.duplicate or mark_of(message).get("reason"):
                self._put_off(runtime, message, entry, runtime.settings.heartbeat_ttl)
            self._run(runtime, entry)
        else:
            self._act_on(runtime, message, entry, started)

    def _act_on(self, runtime: Runtime, message: Any, entry: Entry, started: Started) -> None:
        if started.answer is Start.RUN:
            entry.written, entry.run, entry.generation = True, started.run, started.generation
            entry.crashes, entry.started_ms, entry.first_ms = started.crashes, started.started_ms, started.first_ms
            self._run(runtime, entry)
        elif started.answer in (Start.DUPLICATE, Start.WAITING):
            entry.copy = dataclasses.replace(entry.copy, duplicate=started.answer is Start.DUPLICATE)
            self._put_off(runtime, message, entry, started.wait_ms / 1000)
        elif started.answer is Start.POISONED:
            self._reject(message, entry, mark_of(message).get("reason") or "it has killed its worker too often")
        elif started.answer is Start.CONVICTED:
            self._convict(runtime, entry, started)
            self._skip(message, entry, "it has killed its worker too often; a copy is dead-lettered with the reason")
        else:
            self._skip(message, entry, SKIPS[started.answer])

    def _run(self, runtime: Runtime, entry: Entry) -> None:
        runtime.table.run(entry)
        current_entry.set(entry)

    # What the hooks have in common.

    def _tracks(self, broker: Broker, message: Any) -> bool:
        actor = broker.actors.get(message.actor_name)
        if actor is None:
            return False
        track = message.options.get("track_inflight", actor.options.get("track_inflight"))
        return self.settings.track_by_default if track is None else bool(track)

    def _max_recoveries(self, broker: Broker, message: Any) -> int | None:
        actor = broker.actors[message.actor_name]
        default: int | None = actor.options.get("max_recoveries", self.settings.max_recoveries)
        if "max_recoveries" not in message.options:
            return default
        try:
            return check_max_recoveries(
                message.options["max_recoveries"], f"max_recoveries of message {message.message_id}"
            )
        except ConfigurationError as error:
            self.logger.error("%s The actor's own is used.", error)
            return default

    def _put_off(self, runtime: Runtime, message: Any, entry: Entry, wait: float) -> NoReturn:
        """Enqueue a duplicate again with a delay: the broker keeps a durable copy until the owner has finished."""
        deferrals = mark_of(message).get("deferrals", 0)
        delay = min(wait * 2 ** min(deferrals, 16), max(LONGEST_DEFERRAL, wait))
        if entry.copy.duplicate:
            delay += 0.5  # when the owner's heartbeat has expired, not just before
        mark: Mark = {**mark_of(message), "generation": entry.copy.generation, "deferrals": deferrals + 1}
        if entry.copy.origin:
            mark["origin"] = entry.copy.origin
        if entry.copy.duplicate:
            mark["duplicate"] = True
        deferred = message.copy(options={OPTION: mark})
        while True:
            try:
                with own_enqueue():
                    runtime.broker.enqueue(deferred, delay=int(delay * 1000))
                break
            except Exception as error:
                # Not acknowledged before it is with the broker again: as patient as Dramatiq is with its own acks.
                self.logger.warning(
                    "The duplicate of message %s could not be put off (%s: %s); trying again.",
                    *(message.message_id, type(error).__name__, error),
                )
                time.sleep(1)
        self._skip(message, entry, f"it is running already; this copy is put off for {delay:.1f} seconds")

    def _convict(self, runtime: Runtime, entry: Entry, started: Started) -> None:
        """The start has claimed the message for us: enqueue the copy that is dead-lettered, with the reason."""
        copy = entry.copy
        orphan = Orphan(
            message_id=copy.message_id,
            verdict=Claim.POISONED,
            run=started.run,
            generation=started.generation,
            crashes=started.crashes,
            limit=entry.limit,
            started_ms=started.started_ms,
            first_ms=started.first_ms,
            origin=copy.origin,
            queue=copy.queue,
            actor=copy.actor,
            payload=entry.payload,
        )
        try:
            complete = runtime.recovery.put_back([orphan], dead="", why="found by the worker that got it next")
        except redis.RedisError:
            complete = False
        if not complete:
            runtime.recovery_thread.wake()

    def _skip(self, message: Any, entry: Entry, why: str) -> NoReturn:
        assert self._runtime is not None
        self._runtime.table.skip(entry)
        # Results stores None for a skipped message: it would replace the result of the copy that runs.
        message.options["store_results"] = False
        self.logger.info("Message %s is not run here: %s.", message.message_id, why)
        raise MessageSkipped(why)

    def _reject(self, message: Any, entry: Entry, reason: str) -> NoReturn:
        assert self._runtime is not None
        self._runtime.table.skip(entry, Phase.POISONED)
        message.fail()
        raise PoisonMessage(f"message {message.message_id} is poison: {reason}")

    def _let_go(self, runtime: Runtime, entry: Entry) -> None:
        try:
            runtime.heartbeat.let_go(entry)
        except redis.RedisError:
            pass  # _forget leaves it to the heartbeat

    def _forget(self, runtime: Runtime, message: Any, entry: Entry) -> None:
        if entry.phase is Phase.ENDED and not entry.told and not entry.lost:
            entry.phase = Phase.UNTOLD
        runtime.table.forget(message)
        if current_entry.get() is entry:
            current_entry.set(None)

    def _settle_unseen(self, runtime: Runtime, broker: Broker, message: Any, state: str) -> None:
        """The broker is rid of a copy that never came to us: it was too old, or has no actor here."""
        if message.queue_name != q_name(message.queue_name):
            return  # moved from a delay queue to its queue
        if self._tracks(broker, message) or message.actor_name not in broker.actors:
            self._settle(runtime, Copy.of(message), state)

    def _settle(self, runtime: Runtime, copy: Copy, state: str) -> None:
        try:
            runtime.registry.settle(copy, state)
        except redis.RedisError:
            pass  # the record keeps its deadline, and recovery asks the broker then


#: Why a copy is skipped.
SKIPS = {
    Start.STALE: "recovery has enqueued a newer copy",
    Start.COMPLETED: "it has completed",
    Start.SUPERSEDED: "it has been enqueued again since",
    Start.ENDING: "it has just ended here",
    Start.ELSEWHERE: "the broker has given it to another worker",
}
