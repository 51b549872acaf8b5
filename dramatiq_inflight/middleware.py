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
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import redis
from dramatiq import Broker, Worker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.common import q_name
from dramatiq.logging import get_logger
from dramatiq.middleware import (
    Callbacks,
    GroupCallbacks,
    Interrupt,
    Middleware,
    Pipelines,
    Retries,
    Shutdown,
    SkipMessage,
    TimeLimit,
    TimeLimitExceeded,
)
from dramatiq.results import Results
from dramatiq.worker import ConsumerThread

from .checkpoints import expect_nothing
from .continuations import begin_enqueue, end_enqueue, enqueue_what_is_left, has_more_to_do, remove_continuations
from .errors import ConfigurationError, HandBack, MessageLost, MessageSkipped, PoisonMessage
from .home import store_at_home
from .incident import Incident, Kind
from .interrupt import Strand
from .policy import OPTIONS, Policy, check_options
from .process_metrics import ProcessMetrics, is_reported
from .records import OPTION, Claim, Copy, DeadIncarnation, Mark, Orphan, Start, Started, is_copy, mark_of
from .runtime import Runtime
from .settings import load_settings
from .table import Entry, Phase, current_entry, is_own_enqueue, own_enqueue

__all__ = ["BEFORE", "InFlightTracker", "tracker_of"]

#: What the tracker comes after: it must not go on where a message was taken from its worker.
BEFORE = (Retries, Pipelines, GroupCallbacks, Callbacks, Results)

#: How long a duplicate is put off at first, at the most, in challenges: a little longer than they take.
QUESTIONS = 3

#: A duplicate is put off for longer and longer, but for no longer than this, seconds.
LONGEST_DEFERRAL = 900.0


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
      heartbeat: ``"thread"``, or ``"process"``: a small process beside each worker process beats on its behalf, which C
        code that holds the GIL cannot starve, and sees its death (``PROCESSING_HEARTBEAT``; thread).
      challenge_timeout: How long a worker may take to answer, twice, when one of its messages is delivered again
        (``PROCESSING_CHALLENGE_TIMEOUT``; 10, with a heartbeat process 2).
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
      on_stall: ``"report"``, or ``"recover"``: it is interrupted, counted as a crash, and runs again
        (``PROCESSING_ON_STALL``; ``report``).
      remember_completed: How long a completion is remembered at the least, so that what is delivered again does not run
        (``PROCESSING_REMEMBER_COMPLETED``; 0).
      alone_timeout: How long a message on its last chance waits for the others in its process to end, and how long they
        then wait for it, at the most; doubles with every crash beyond ``max_recoveries``
        (``PROCESSING_ALONE_TIMEOUT``; 600).
      alone_in: What it has to itself: its ``"process"``, or all worker processes of its ``"container"``; ``"auto"``: of
        the container, where the kernel kills that as a whole when it is out of memory (``PROCESSING_ALONE_IN``; auto).
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
        self.logger = get_logger(__name__, type(self))
        self.settings = load_settings(settings)
        self._runtime: Runtime | None = None
        self._metrics: ProcessMetrics | None = None
        self._delayed: dict[str, tuple[str, str]] = {}
        self._marks_early = False
        self._policies: dict[str, Policy] = {}  # by actor

    @property
    def actor_options(self) -> set[str]:
        """The options of actors (and messages) that this middleware knows."""
        return {"track_inflight", *OPTIONS}

    def healthy(self) -> bool:
        """Whether this process keeps itself alive in Redis: for a liveness probe.

        False also where there is no worker, or it does not track.  A worker whose Redis is away for half a TTL is not
        healthy, though it goes on working.
        """
        runtime = self._runtime
        return runtime is not None and runtime.heartbeat.is_alive() and not runtime.lease.silent

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
        options = check_options(actor.options, f"actor {actor.actor_name!r}")
        self._policies[actor.actor_name] = dataclasses.replace(self.settings.policy, **options)

    def after_declare_actor(self, broker: Broker, actor: Any) -> None:
        """Where a broker gives no ids, give each enqueue one before it begins.

        Not in ``before_enqueue``: RabbitmqBroker calls that again with each attempt, and other people's brokers may
        have encoded the message by then.
        """
        if isinstance(broker, (RedisBroker, StubBroker)) or self._marks_early:
            return
        self._marks_early = True
        enqueue = broker.enqueue

        def marking(message: Any, *, delay: int | None = None) -> Any:
            if not is_own_enqueue():
                message = message.copy()  # two threads may enqueue one message object
                self._mark(broker, message)
                entry = current_entry.get()
                if entry is not None and entry.phase is Phase.ENDED:
                    begin_enqueue(entry, message, delay)  # RabbitmqBroker may fail before its hook
            return enqueue(message, delay=delay)

        broker.enqueue = marking  # type: ignore[method-assign]

    def after_declare_queue(self, broker: Broker, queue_name: str) -> None:
        """A queue more to be handed back, should this worker die."""
        if self._runtime is not None:
            self._runtime.lease.register_again()

    def before_worker_boot(self, broker: Broker, worker: Worker) -> None:
        """Become an incarnation, before the consumers start.

        Raises:
          ConfigurationError: There is no Redis to use, or the tracker is in use.
        """
        settings = self.settings
        if not settings.enabled:
            self.logger.info("Messages in flight are not tracked: PROCESSING_ENABLED is off.")
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
        if sum(isinstance(m, InFlightTracker) for m in broker.middleware) > 1:
            raise ConfigurationError(
                "There are two InFlightTrackers in this broker's middleware; each would take the other's messages for "
                "duplicates. Add one."
            )
        after = broker.middleware[broker.middleware.index(self) + 1 :]
        late = [m for m in after if isinstance(m, BEFORE)]
        if late:
            self.logger.warning(
                "InFlightTracker should come after %s in the broker's middleware: a worker that was taken for dead "
                "cannot keep what comes after it from going on.",
                ", ".join(type(m).__name__ for m in late),
            )
        self.prepare(broker)
        self._runtime = Runtime(settings, broker, worker.worker_threads, self.policy_of)
        self._runtime.register()

    def prepare(self, broker: Broker) -> None:
        """Know the policies of all actors, also of those that were declared before this middleware was added.

        Raises:
          ConfigurationError: One of their options is wrong.
        """
        for actor in list(broker.actors.values()):
            self._prepare(broker, actor)

    def _prepare(self, broker: Broker, actor: Any) -> None:
        if actor.actor_name not in self._policies:  # it was declared before this middleware was added
            self.before_declare_actor(broker, actor)
        policy = self._policies[actor.actor_name]
        if policy.recovery_queue is not None:
            broker.declare_queue(policy.recovery_queue)  # so that workers consume it
        for option in ("on_recovery", "on_poison"):
            name = getattr(policy, option)
            if name is not None and name not in broker.actors:
                self.logger.warning(
                    "%s of actor %r is %r, which is no actor here: nobody will be told.",
                    *(option, actor.actor_name, name),
                )

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
        try:
            entered = runtime.gate.enter(lambda: _stopped_clock(broker, message))
        except NOT_BEGUN:
            entered = False
        if not entered:
            entry = Entry(Copy.of(message))
            runtime.table.reserve(message, entry)
            self._to_another(runtime, message, entry)
        if self._tracks(broker, message):
            self._start(runtime, broker, message)
        elif runtime.is_elsewhere(message.queue_name, message.options.get("redis_message_id", "")):
            message.options["store_results"] = False
            current_entry.set(Entry(Copy.of(message), given_away=True))
            raise MessageSkipped(SKIPS[Start.ELSEWHERE])

    def before_delay_message(self, broker: Broker, message: Any) -> None:
        """Remember under which id the broker knows a copy that waits in our memory for its time."""
        if self._runtime is not None and self._runtime.queues is not None:
            self._delayed[message.message_id] = message.queue_name, message.options.get("redis_message_id", "")

    def before_enqueue(self, broker: Broker, message: Any, delay: int | None) -> None:
        """Mark what is enqueued, unless that is done already.

        Raises:
          MessageSkipped: See `_mark`.
        """
        if not self._marks_early:
            self._mark(broker, message)
        entry = current_entry.get()
        if entry is not None and entry.phase is Phase.ENDED:
            begin_enqueue(entry, message, delay)

    def _mark(self, broker: Broker, message: Any) -> None:
        """Keep copies apart: what is enqueued anew is no copy of what was, and a zombie doubles nothing.

        What a run enqueues of its own message after it has lost it is void: it does not run.  What comes after such a
        run enqueues nothing (Dramatiq logs that as a failure).  A delayed copy that was given to others is not moved to
        its queue.

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
        self._give_origin(broker, message)
        entry = current_entry.get()
        if entry is None or not (entry.lost or entry.handed_back):
            return
        if entry.handed_back:
            raise MessageSkipped(f"nothing follows from message {entry.copy.message_id} yet: it is enqueued again")
        if entry.phase is Phase.ENDED:
            raise MessageSkipped(f"nothing follows from message {entry.copy.message_id} here: another worker has it")
        if message.message_id == entry.copy.message_id:
            message.options[OPTION] = {"void": True}

    def _give_origin(self, broker: Broker, message: Any) -> None:
        """What is enqueued anew has a mark of its own, with an id where the broker gives none."""
        mark = mark_of(message)
        kept: Mark = {"generation": mark["generation"]} if "generation" in mark else {}
        if "home" in mark:
            kept["home"] = mark["home"]
        entry = current_entry.get()
        run = entry.run if entry is not None and entry.copy.message_id == message.message_id else 0
        if run := max(run, mark.get("run", 0)):
            kept["run"] = run  # the record of one that has failed may be gone when its retry starts
        has_ids = isinstance(broker, (RedisBroker, StubBroker))
        if self.settings.enabled and not has_ids and self._tracks(broker, message):
            kept["origin"] = secrets.token_hex(8)
        if kept:
            message.options[OPTION] = kept
        elif mark:
            del message.options[OPTION]

    def after_enqueue(self, broker: Broker, message: Any, delay: int | None) -> None:
        """Note that a run has enqueued its own message again: itself, or as a retry."""
        entry = current_entry.get()
        if entry is None:
            return
        end_enqueue(entry, message)
        if message.message_id == entry.copy.message_id:
            entry.enqueued_again = True

    def after_process_message(
        self, broker: Broker, message: Any, *, result: Any = None, exception: BaseException | None = None
    ) -> None:
        """Note how the message ended; if it may have been taken from us, see to it that nothing follows twice."""
        runtime = self._runtime
        entry = runtime.table.get(message) if runtime is not None else None
        if runtime is None or entry is None or entry.phase not in (Phase.RUNNING, Phase.ENDED):
            return
        self._end(entry, succeeded=exception is None)
        if self._is_lost(runtime, entry):
            entry.cut_short = has_more_to_do(broker, message)
            remove_continuations(message)
            message.options["store_results"] = False
            # Nor is it retried or dead-lettered: its new owner answers for it.
            message.options["throws"] = BaseException
            message.failed, message.fail = False, lambda: None
        elif _is_to_go_on(entry, exception):
            self._hand_back(broker, message, entry)
        elif exception is None:
            store_at_home(broker, message, "after_process_message", result=result)

    def _end(self, entry: Entry, *, succeeded: bool) -> None:
        """The actor has ended, and what Redis was being told of it has arrived: it may have been given up by that."""
        while True:
            try:
                entry.end(succeeded=succeeded)
                break
            except (HandBack, MessageLost):
                continue  # too late: there is nothing to interrupt
        expect_nothing(entry)
        with entry.mutex:
            pass

    def _hand_back(self, broker: Broker, message: Any, entry: Entry) -> None:
        """The message has stopped because its worker shuts down: it is enqueued again before it is acknowledged."""
        # Of the same origin: should we be killed before the ack, the broker has both, and one of them runs.
        mark: Mark = {**mark_of(message), "generation": max(entry.generation, entry.copy.generation)}
        if entry.copy.origin:
            mark["origin"] = entry.copy.origin
        for of_this_delivery in ("deferrals", "duplicate"):
            mark.pop(of_this_delivery, None)  # type: ignore[misc]
        copy = message.copy(options={OPTION: mark})
        entry.to_follow, entry.handed_back = {copy.message_id: (copy, None)}, True
        entry.retry_begun = True  # should that not be possible, recovery does it
        # It has not failed, and has not succeeded either.
        remove_continuations(message)
        message.options["store_results"] = False
        message.options["throws"] = BaseException
        message.failed, message.fail = False, lambda: None
        self.logger.info("Message %s stops here, and is enqueued again.", message.message_id)

    def _is_lost(self, runtime: Runtime, entry: Entry) -> bool:
        """Whether another worker has the message, as far as Redis can be asked."""
        if runtime.lease.in_doubt(entry):
            try:
                runtime.heartbeat.look_up(entry)
            except redis.RedisError:
                pass  # the heartbeat learns it when Redis is back
        return entry.lost

    def after_skip_message(self, broker: Broker, message: Any) -> None:
        """Another middleware has skipped the message after we had recorded its start."""
        entry = self._runtime.table.get(message) if self._runtime is not None else None
        if entry is not None and entry.phase is Phase.RUNNING:
            entry.end(succeeded=not message.failed)
            store_at_home(broker, message, "after_skip_message")

    def before_ack(self, broker: Broker, message: Any) -> None:
        """A success is settled now: everything that follows from it has been enqueued.

        Where the broker is on the tracker's Redis, it is settled a moment later: in the same write as the ack.
        Elsewhere it is remembered until the ack was sent.  A failure of which nothing comes next is handed over.
        """
        runtime = self._runtime
        if runtime is None:
            return
        entry = runtime.table.get(message)
        if entry is not None:
            if entry.phase is Phase.RUNNING:
                # An interrupt has hit Dramatiq's own code behind the actor, and no hook was called: it has failed, and
                # nothing comes next.
                self._end(entry, succeeded=False)
                entry.retry_begun = not self._is_lost(runtime, entry)
            if entry.handed_back:
                try:
                    runtime.heartbeat.hand_back(entry)
                except redis.RedisError:
                    pass  # its copy waits until its release is told
            enqueue_what_is_left(broker, entry, lambda: self._is_lost(runtime, entry))
            entry.acking_since = time.monotonic()
        if entry is None:
            self._settle_unseen(runtime, broker, message, "completed")
        elif self._is_stranded(entry):
            # Before the ack: killed in between, it would be taken for one of which the broker holds what comes next.
            self._strand(runtime, message, entry)
        elif entry.to_finish and not runtime.finishes_with_ack:
            entry.contended = entry.contended or runtime.deliveries.is_lost(message)
            try:
                runtime.heartbeat.finish(entry, runtime.broker_keys(entry.copy.queue), unacked=True)
            except redis.RedisError:
                pass  # after_ack leaves it to the heartbeat

    def after_ack(self, broker: Broker, message: Any) -> None:
        """A failure is settled now: the broker holds the retry."""
        runtime = self._runtime
        if runtime is None:
            return
        entry = runtime.table.get(message)
        if entry is not None and entry.told and entry.succeeded and not runtime.finishes_with_ack:
            runtime.deliveries.acked(message, entry)
        try:
            if entry is not None and entry.phase is Phase.ENDED and not entry.succeeded and not entry.told:
                self._let_go(runtime, entry)
        finally:
            self._forget(runtime, message, entry)

    def _is_stranded(self, entry: Entry) -> bool:
        """Whether a failure is about to be acknowledged, and nothing comes next."""
        if entry.phase is not Phase.ENDED or entry.succeeded or entry.lost or entry.told or entry.enqueued_again:
            return False
        return entry.retry_begun  # else nobody wanted one: an acknowledged failure is over

    def _strand(self, runtime: Runtime, message: Any, entry: Entry) -> None:
        entry.stranded = True
        try:
            entry.payload = message.encode()
        except Exception:
            self.logger.exception(
                "Message %s cannot be encoded any more; it is recovered as it came.", message.message_id
            )
        # However long that takes: acknowledged before Redis knows of it, it would be lost with this process.
        self._patiently(
            f"Redis could not be told that message {message.message_id} has failed",
            lambda: runtime.heartbeat.let_go(entry),
        )

    def before_nack(self, broker: Broker, message: Any) -> None:
        """What follows from a failure is enqueued first."""
        runtime = self._runtime
        entry = runtime.table.get(message) if runtime is not None else None
        if runtime is not None and entry is not None:
            enqueue_what_is_left(broker, entry, lambda: self._is_lost(runtime, entry))

    def after_nack(self, broker: Broker, message: Any) -> None:
        """The broker has dead-lettered the copy."""
        runtime = self._runtime
        if runtime is None:
            return
        entry = runtime.table.get(message)
        if entry is None:
            self._settle_unseen(runtime, broker, message, "dead_lettered")
        elif entry.phase is Phase.POISONED:
            self._settle(runtime, entry.copy, "dead_lettered")
        elif entry.phase is Phase.ENDED:
            entry.succeeded, entry.dead_lettered = False, True
            self._let_go(runtime, entry)
        self._forget(runtime, message, entry)
        store_at_home(broker, message, "after_nack")

    # The worker's shutdown.

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

    # The start.

    def _start(self, runtime: Runtime, broker: Broker, message: Any) -> None:
        copy = Copy.of(message)
        entry = Entry(copy, generation=copy.generation, epoch=runtime.lease.epoch)
        here = runtime.table.reserve(message, entry)
        self._look_at_delivery(runtime, message, entry)
        started = None
        try:
            entry.policy = self.policy_of(message)
            entry.message = message
            if entry.policy.hand_back is not None and runtime.handing_back.begun:
                self._to_another(runtime, message, entry)  # or it would be handed back to us
            entry.alone = runtime.always_alone
            started = self._ask(runtime, message, entry, here, seen_to=runtime.always_alone)
            if started is not None and started.answer is Start.LAST_CHANCE:
                self._be_alone(runtime, message, entry, started)
                started = self._ask(runtime, message, entry, here, seen_to=True)
        except SkipMessage:
            raise
        except Exception:
            # Dramatiq would swallow it, and run the actor.
            if started is None and not is_copy(message) and entry.policy.on_orphan != "dead_letter":
                runtime.table.skip(entry)
                raise
            self.logger.exception("Message %s is put off for an unexpected reason.", message.message_id)
            self._put_off(runtime, message, entry, runtime.settings.heartbeat_ttl, "its start failed")
        except BaseException:
            runtime.table.skip(entry)
            raise
        if started is None:
            never_again = entry.policy.on_orphan == "dead_letter"
            if here != "no" or copy.duplicate or mark_of(message).get("reason") or never_again:
                why = "its start cannot be recorded, because Redis is away"
                self._put_off(runtime, message, entry, runtime.settings.heartbeat_ttl, why)
            entry.encoded()  # as it came: the actor may change its arguments, and the heartbeat writes the record
            self._run(runtime, entry)
        else:
            self._act_on(runtime, message, entry, started)

    def _look_at_delivery(self, runtime: Runtime, message: Any, entry: Entry) -> None:
        if runtime.queues is None:  # else the start asks the broker
            if runtime.deliveries.is_lost(message):
                self._skip(message, entry, SKIPS[Start.ELSEWHERE])
            if getattr(message, "redelivered", False):
                entry.contended = True  # whoever had it before may have it in memory still
        if mark_of(message).get("void"):
            self._skip(message, entry, "it was enqueued by a worker that had lost the message")

    def _ask(self, runtime: Runtime, message: Any, entry: Entry, here: str, *, seen_to: bool) -> Started | None:
        """Ask Redis whether the copy may run.  ``None``: it cannot be reached.

        Parameters:
          seen_to: Whether it was seen to it that the message is alone, as far as that is possible.
        """
        # Where the tracker has a Redis of its own and that is away, do not wait for it at every message: the heartbeat
        # tries every second, and mends.  A copy that was made by recovery, or put off, must ask.
        if runtime.connectivity.away and runtime.queues is None and not is_copy(message):
            return None
        broker_keys = runtime.broker_keys(entry.copy.queue)

        def start(payload: bytes) -> Started:
            return runtime.registry.start(
                entry.copy,
                payload,
                limit=entry.policy.limit,
                here=here,
                forgotten=runtime.lease.forgotten,
                alone=entry.alone if seen_to else None,
                tailored=entry.policy.tailored,
                broker_keys=broker_keys,
            )

        try:
            with entry.mutex:  # whoever wants to come in must not be let in between the look at `alone` and the start
                # Where the script can have the payload from the broker, it need not be encoded, nor sent.
                started = start(entry.payload if broker_keys else entry.encoded())
                return start(entry.encoded()) if started.answer is Start.PAYLOAD else started
        except redis.RedisError:
            return None  # said once, by Connectivity

    def _be_alone(self, runtime: Runtime, message: Any, entry: Entry, started: Started) -> None:
        """Wait until the message has the process to itself; not for ever."""
        allowed = max(entry.policy.limit, 1)
        # Longer with every crash that did not convict it, so that a crash loop ends whatever its rhythm is.
        timeout = runtime.settings.alone_timeout * 2.0 ** min(started.crashes - allowed, 16)
        self.logger.warning(
            "Message %s (actor %r) has %d of %d crashes that it may have: it runs alone in this process, which starts "
            "nothing else meanwhile.",
            *(message.message_id, message.actor_name, started.crashes, entry.policy.limit),
        )
        entry.alone = True
        try:
            runtime.registry.hold(entry.copy, timeout)
        except redis.RedisError:
            pass  # its start will tell
        try:
            alone = runtime.gate.enter_alone(
                timeout,
                lambda: runtime.heartbeat.accompany(entry),
                lambda: _stopped_clock(runtime.broker, message),
            )
        except NOT_BEGUN:
            alone = None
        if alone is None:
            self._to_another(runtime, message, entry)
        if not alone:
            entry.alone = False
            self.logger.warning(
                "Message %s could not be alone within %g seconds: it runs beside others, and would not be convicted.",
                *(message.message_id, timeout),
            )

    def _act_on(self, runtime: Runtime, message: Any, entry: Entry, started: Started) -> None:
        if started.answer is Start.RUN:
            entry.written, entry.run, entry.generation = True, started.run, started.generation
            entry.crashes, entry.drains = started.crashes, started.drains
            entry.started_ms, entry.first_ms = started.started_ms, started.first_ms
            if started.owner:
                self._taken_over(runtime, entry, started)
            self._run(runtime, entry)
        elif started.answer in (Start.DUPLICATE, Start.WAITING):
            entry.copy = dataclasses.replace(entry.copy, duplicate=started.answer is Start.DUPLICATE)
            wait = started.wait_ms / 1000
            if started.owner:
                runtime.challenge(started.owner, entry.copy.message_id)
                # Should this process die before it has its answer, the copy asks anew.
                wait = min(wait, QUESTIONS * runtime.settings.patience("thread"))
            self._put_off(runtime, message, entry, wait, "it is running already")
        elif started.answer is Start.POISONED:
            self._reject(message, entry, mark_of(message).get("reason") or "it has killed its worker too often")
        elif started.answer in (Start.CLAIMED, Start.CONVICTED):
            self._put_back(runtime, entry, started)
            self._skip(message, entry, SKIPS[started.answer])
        else:
            entry.given_away = started.answer is Start.ELSEWHERE
            self._skip(message, entry, SKIPS[started.answer])

    def _run(self, runtime: Runtime, entry: Entry) -> None:
        if entry.policy.may_interrupt:
            entry.strand = Strand()
        entry.checkpoints = runtime.checkpoints
        # All that others go by is there before it counts as running: from then on it may be interrupted.
        entry.moved_at = time.monotonic()
        current_entry.set(entry)
        runtime.table.run(entry)
        runtime.handing_back.ask(entry)  # should the shutdown have begun meanwhile
        if entry.policy.stall_timeout is not None:
            runtime.stalls.watch()

    # What the hooks have in common.

    def _tracks(self, broker: Broker, message: Any) -> bool:
        actor = broker.actors.get(message.actor_name)
        if actor is None:
            return False
        track = message.options.get("track_inflight", actor.options.get("track_inflight"))
        return self.settings.track_by_default if track is None else bool(track)

    def policy_of(self, message: Any) -> Policy:
        """What is to become of a message: its own options, over its actor's, over the tracker's."""
        policy = self._policies.get(message.actor_name, self.settings.policy)
        if OPTIONS.isdisjoint(message.options):
            return policy
        for option in OPTIONS.intersection(message.options):
            try:
                checked = check_options({option: message.options[option]}, f"message {message.message_id}")
                policy = dataclasses.replace(policy, **checked)
            except ConfigurationError as error:
                self.logger.error("%s The actor's own is used.", error)
        return policy

    def _put_off(
        self, runtime: Runtime, message: Any, entry: Entry, wait: float, why: str, *, counted: bool = True
    ) -> NoReturn:
        """Enqueue a duplicate again with a delay: the broker keeps a durable copy until the owner has finished."""
        _stop_clocks(runtime.broker, message)  # for good: this copy does not run
        deferrals = mark_of(message).get("deferrals", 0)
        delay = min(wait * 2 ** min(deferrals, 16), max(LONGEST_DEFERRAL, wait))
        if entry.copy.duplicate:
            delay += 0.5  # when the owner's heartbeat has expired, not just before
        mark: Mark = {
            **mark_of(message),
            "generation": entry.copy.generation,
            "deferrals": deferrals + counted,
        }
        if entry.copy.origin:
            mark["origin"] = entry.copy.origin
        if entry.copy.duplicate:
            mark["duplicate"] = True
        deferred = message.copy(options={OPTION: mark})
        self._patiently(
            f"The copy of message {message.message_id} could not be put off",
            lambda: runtime.broker.enqueue(deferred, delay=int(delay * 1000)),
        )
        if runtime.queues is not None:
            # Whoever asks the broker about this copy must know.  Where the tracker's Redis is another, nobody asks.
            self._patiently(
                f"Redis could not be told that message {message.message_id} was put off",
                lambda: runtime.registry.put_off(entry.copy, delay),
            )
        elif not runtime.connectivity.away:
            try:
                runtime.registry.put_off(entry.copy, delay)  # for the history alone
            except redis.RedisError:
                pass
        self._skip(message, entry, f"{why}; this copy is put off for {delay:.1f} seconds")

    def _to_another(self, runtime: Runtime, message: Any, entry: Entry) -> NoReturn:
        """This worker shuts down before the copy can begin: put it off, without the next time being any later.

        Not if it was taken back meanwhile: that would be a second copy.
        """
        if runtime.is_elsewhere(message.queue_name, entry.copy.broker_copy_id, always=True):
            entry.given_away = True
            self._skip(message, entry, SKIPS[Start.ELSEWHERE])
        why = "this worker shuts down before it can begin"
        self._put_off(runtime, message, entry, TO_ANOTHER, why, counted=False)

    def _patiently(self, failure: str, step: Callable[[], object]) -> None:
        """Do it before the message is acknowledged, whatever that takes: Dramatiq is as patient with its own acks."""
        while True:
            try:
                with own_enqueue():
                    step()
                return
            except Interrupt:
                continue  # the message does not run: there is nothing to interrupt, but a copy to be kept
            except Exception as error:
                self.logger.warning("%s (%s: %s); trying again.", failure, type(error).__name__, error)
            try:
                time.sleep(1)
            except Interrupt:
                pass

    def _put_back(self, runtime: Runtime, entry: Entry, started: Started) -> None:
        """The start has claimed the message for us: its copy is enqueued by recovery."""
        # Not in this thread, which may be interrupted at any moment.
        runtime.recovery.leave_over(entry.copy.message_id, started.owner)
        runtime.recovery_thread.wake()

    def _taken_over(self, runtime: Runtime, entry: Entry, started: Started) -> None:
        """This copy takes the place of one whose worker is dead."""
        try:
            dead = runtime.registry.incarnation(started.owner)
        except redis.RedisError:
            dead = DeadIncarnation(started.owner, "", "", "", "", "", [])
        self.logger.warning("Message %s is taken over from worker %s: %s.", entry.copy.message_id, dead, dead.why)
        runtime.recovery.tell(Incident.of(Kind.RECOVERED, _orphan(entry, started), dead), None)

    def _skip(self, message: Any, entry: Entry, why: str) -> NoReturn:
        assert self._runtime is not None
        self._runtime.table.skip(entry)
        if entry.given_away:
            current_entry.set(entry)  # its ack is left out
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

    def _forget(self, runtime: Runtime, message: Any, entry: Entry | None) -> None:
        """The broker is done with this copy, and so is this thread."""
        if entry is not None:
            if entry.phase is Phase.ENDED and not entry.told and not entry.lost:
                entry.phase = Phase.UNTOLD
            runtime.table.forget(message)
            if current_entry.get() is entry:
                current_entry.set(None)
        # Last: its record must not say that it is alone when others come in.
        runtime.gate.leave(told=entry is None or entry.phase is not Phase.UNTOLD)

    def _settle_unseen(self, runtime: Runtime, broker: Broker, message: Any, state: str) -> None:
        """The broker is rid of a copy that never came to us: it was too old, or has no actor here."""
        if message.queue_name != q_name(message.queue_name):
            return  # moved from a delay queue to its queue
        if self._tracks(broker, message) or message.actor_name not in broker.actors:
            self._settle(runtime, Copy.of(message), state)

    def _settle(self, runtime: Runtime, copy: Copy, state: str) -> None:
        try:
            runtime.registry.settle(copy, state, runtime.broker_keys(copy.queue))
        except redis.RedisError:
            pass  # the record keeps its deadline, and recovery asks the broker then


def tracker_of(broker: Broker) -> InFlightTracker:
    """The tracker in a broker's middleware.

    Raises:
      ConfigurationError: There is none.
    """
    for middleware in broker.middleware:
        if isinstance(middleware, InFlightTracker):
            return middleware
    raise ConfigurationError(
        "There is no InFlightTracker in the broker's middleware; add one: broker.add_middleware(InFlightTracker())."
    )


@contextmanager
def _stopped_clock(broker: Broker, message: Any) -> Iterator[None]:
    """While a message waits to begin, its time limit does not run."""
    clocks = _stop_clocks(broker, message)
    yield
    for clock in clocks:
        try:
            clock.before_process_message(broker, message)
        except Exception:
            pass  # a time limit that is no number: Dramatiq has said so when the message came


def _stop_clocks(broker: Broker, message: Any) -> list[TimeLimit]:
    if message.actor_name not in broker.actors:
        return []  # none was started
    clocks = [m for m in broker.middleware if isinstance(m, TimeLimit)]
    for clock in clocks:
        clock.after_process_message(broker, message)
    return clocks


def _is_to_go_on(entry: Entry, exception: BaseException | None) -> bool:
    """Whether a run has stopped because its worker shuts down, and is to be enqueued again for that."""
    # Of an async actor that takes more than a second to clean up Dramatiq says so by an error of its own.
    for raised in (exception, exception.__cause__ if exception is not None else None):
        if isinstance(raised, HandBack) or (isinstance(raised, Shutdown) and entry.policy.hand_back is not None):
            return True
    return False


def _orphan(entry: Entry, started: Started) -> Orphan:
    copy = entry.copy
    return Orphan(
        message_id=copy.message_id,
        verdict=Claim.CLAIMED,
        run=started.run,
        generation=started.generation,
        crashes=started.crashes,
        limit=entry.policy.limit,
        started_ms=started.started_ms,
        first_ms=started.first_ms or started.started_ms,
        drains=started.drains,
        origin=copy.origin,
        queue=copy.queue,
        actor=copy.actor,
        payload=b"",
    )


#: Interrupts that say nothing against a message whose actor has not begun: it is put off, and has not failed.
NOT_BEGUN = (Shutdown, TimeLimitExceeded)

#: How long a message is put off that is for another worker, because this one shuts down, seconds.
TO_ANOTHER = 2.0

#: Why a copy is skipped.
SKIPS = {
    Start.CLAIMED: "its worker died; a copy of it is enqueued",
    Start.CONVICTED: "it has killed its worker too often; a copy is dead-lettered with the reason",
    Start.STALE: "recovery has enqueued a newer copy",
    Start.COMPLETED: "it has completed",
    Start.SUPERSEDED: "it has been enqueued again since",
    Start.ENDING: "it has just ended here",
    Start.ELSEWHERE: "the broker has given it to another worker",
}
