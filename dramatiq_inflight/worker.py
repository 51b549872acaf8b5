# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""One worker process: makes its parts, and starts and stops its threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import redis
from dramatiq import Broker
from dramatiq.logging import get_logger

from .brokers.deliveries import Deliveries
from .brokers.location import queues_of, tracker_client
from .config.policies import Policies
from .errors import SchemaError
from .isolation.container import Siblings, die_together
from .isolation.gate import Gate
from .liveness.heartbeat import Heartbeat
from .liveness.identity import Incarnation
from .liveness.lease import Connectivity, Lease
from .liveness.pidfd import Process
from .liveness.presence import Presence
from .liveness.process_watch import Watch
from .liveness.sidecar import HeartbeatProcess
from .message.checkpoints import Checkpoints
from .message.finish import Ending
from .message.in_flight import Table
from .message.reconcile import Ledger
from .message.reconcile_thread import Bookkeeping
from .message.refuse import Refusals
from .message.shutdown import HandingBack, ShutdownSignals
from .message.stalls import Stalls
from .message.start import Starting
from .message.state import Phase
from .recovery.for_broker import recovery_of
from .recovery.thread import RecoveryThread
from .store.connection import where
from .store.scripts import Contact, Scripts
from .store.store import Store
from .store.workers import BEAT, DIED, GRACE, JOINED
from .threads.forks import tell_children
from .threads.moment import Moment
from .version import __version__

__all__ = ["WorkerProcess"]

#: How long to wait until Redis is told again that this worker shuts down, seconds.
ANNOUNCE_AGAIN = 0.1


class WorkerProcess:
    """One incarnation, from the boot of its worker to the end of its shutdown.

    Parameters:
      pause: Called, by any thread, if the worker is to start nothing more.

    Raises:
      ConfigurationError: There is no Redis to use.
    """

    def __init__(
        self,
        policies: Policies,
        broker: Broker,
        threads: int,
        pause: Callable[[], None] = lambda: None,
    ) -> None:
        self.logger = get_logger(__name__, type(self))
        self._pause = pause
        self.settings = settings = policies.settings
        self.broker = broker
        self.incarnation = Incarnation(settings.instance_id)
        self.table = Table()
        together = settings.alone_in == "container" or die_together()
        siblings = Siblings.of(settings.namespace, settings.instance_id) if together else None
        self.gate = Gate(siblings, one_thread=threads == 1)
        client, shared = tracker_client(settings, broker)
        self.connectivity = Connectivity(where(client))
        self.lease = Lease(settings.heartbeat_ttl, settings.connection_timeout, self.connectivity.wake)
        self.process = Process.here() if settings.watch_processes else None
        if settings.instance_exclusive and self.process is None:
            self.logger.warning(
                "instance_exclusive has no effect here: %s, so a new container looks like another process of the "
                "same container.",
                "this system shows no processes" if settings.watch_processes else "watch_processes is off",
            )
        self.queues = queues_of(broker, client, shared=shared)
        self.store = Store(
            Scripts(
                client,
                settings.namespace,
                self.incarnation.id,
                heartbeat_ttl=settings.heartbeat_ttl,
                fence_ttl=settings.fence_ttl,
                contact=Contact(
                    renewed=self._in_contact,
                    answer_lost=self.lease.answer_lost,
                    failed=self.connectivity.failed,
                    is_away=lambda: self.connectivity.away and not self.queues.shared,
                    is_due=lambda now: self.connectivity.away or self.lease.is_due(now),
                ),
            )
        )
        #: Whether the worker has stopped.
        self.left = False
        # After which contact a consumer has asked for a beat.
        self._rung_at: Moment | None = None
        self.deliveries = Deliveries(
            self.store,
            self.lease,
            self.queues,
            is_for_others=lambda message: self.handing_back.begun and policies.of(message).hand_back is not None,
            is_draining=lambda: self.handing_back.begun,
            may_fetch=self._may_fetch,
        )
        self.recovery = recovery_of(self.store, broker, settings, policies.of, self.queues)
        self.recovery.in_company = self._in_company
        judged_by = settings.heartbeat_ttl + max(GRACE, settings.heartbeat_ttl / 2)
        self.recovery_thread = RecoveryThread(self.recovery, settings.recovery_interval, at_boot=judged_by)
        exclusive = settings.instance_id if settings.instance_exclusive else None
        self.watch: Watch | None = None
        if self.process is not None:
            self.watch = Watch(self.store, self.process, self._saw_a_death, exclusive=exclusive)
        self.presence = Presence(
            self.store,
            self.lease,
            connection_timeout=settings.connection_timeout,
            longest=settings.heartbeat_ttl / 2,
            on_word=self._told,
            on_death=self._saw_a_death,
        )
        self.heartbeat_process: HeartbeatProcess | None = None
        if settings.heartbeat == "process":
            self.heartbeat_process = HeartbeatProcess.of(client, settings, self.incarnation.id, self.process)
        self.ledger = Ledger(
            self.store,
            self.table,
            self.lease,
            self.queues,
            interval=settings.beat_interval,
            on_hand_over=self.recovery_thread.wake,
            on_drop=lambda entry: self.gate.expel(entry.delivery.thread),
        )
        self.bookkeeping = Bookkeeping(self.keep_books)
        self.heartbeat = Heartbeat(
            self.store,
            self.lease,
            self.connectivity,
            interval=settings.beat_interval,
            identity=self._identity,
            on_beat=self.bookkeeping.wake,
            on_refused=self._refused,
            health_file=settings.health_file,
        )
        self.handing_back = HandingBack(self.table)
        #: Whether Redis knows that this worker shuts down.
        self.shutdown_is_known = False
        self.signals = ShutdownSignals(
            self.begin_shutdown, lambda: self.shutdown_is_known, lambda: self.handing_back.is_under_way
        )
        tell_children(self)
        self.checkpoints = Checkpoints(self.store, self.ledger.look_up, self.ledger.lose)
        self.stalls = Stalls(self.store, self.table)
        refusals = Refusals(broker, self.table, self.store, self.queues, self.deliveries)
        self.starting = Starting(
            broker=broker,
            policies=policies,
            table=self.table,
            gate=self.gate,
            store=self.store,
            lease=self.lease,
            queues=self.queues,
            deliveries=self.deliveries,
            refusals=refusals,
            ledger=self.ledger,
            checkpoints=self.checkpoints,
            handing_back=self.handing_back,
            stalls=self.stalls,
            recovery=self.recovery,
            suspect=self.presence.suspect,
            on_hand_over=self.recovery_thread.wake,
        )
        self.ending = Ending(
            broker=broker,
            policies=policies,
            table=self.table,
            gate=self.gate,
            store=self.store,
            lease=self.lease,
            queues=self.queues,
            deliveries=self.deliveries,
            ledger=self.ledger,
        )

    def register(self) -> None:
        """Say who this is, before any consumer fetches a message.  If Redis is away, the heartbeat does it later.

        Raises:
          SchemaError: The namespace is used by another version that this one cannot share it with.
        """
        self.signals.attach()  # no message runs yet: whatever a signal cuts off from now on is cut off by a shutdown
        self.deliveries.attach(self.broker)
        try:
            self.heartbeat.register()
        except redis.RedisError:
            pass  # said once, by Connectivity
        except SchemaError:
            self.signals.detach()
            self.deliveries.detach(self.broker)
            self.close()
            raise
        self.queues.attach(self.ending.complete_and_ack)  # now: messages run before the boot is over
        self.presence.start()

    def _refused(self, error: SchemaError) -> None:
        """Redis was away when this worker booted, or has lost it since, and the namespace is another version's now."""
        self.logger.critical(
            "%s This worker starts no more messages, and exits once its running messages have ended.", error
        )
        self.recovery_thread.stop()
        if self.heartbeat_process is not None:
            self.heartbeat_process.stop()  # it touches the health file
        self._pause()
        if not self.handing_back.begun:
            self.signals.send()

    def start(self) -> None:
        """Start to beat and to recover."""
        self.heartbeat.start()
        self.bookkeeping.start()
        self.recovery_thread.start()
        self.stalls.start()
        if self.heartbeat_process is not None:
            self.heartbeat_process.start()
        if self.watch is not None:
            self.watch.start()
        self.logger.info("Tracking messages in flight as %s.", self.incarnation)

    def begin_shutdown(self) -> None:
        """Take nothing more from the dead, tell Redis that this worker shuts down, and ask what runs to stop, once."""
        if self.handing_back.begun:
            return  # by a signal, before Dramatiq's own hook
        self.recovery_thread.stop(within=0)  # it would start here what the next signal cuts off
        self.store.workers.drain()
        threading.Thread(target=self._announce_shutdown, name="dramatiq_inflight-shutdown", daemon=True).start()
        self.handing_back.begin()

    def _announce_shutdown(self) -> None:
        # Not left to the heartbeat: that may wait for an answer, and the process may end any moment.
        while not self.shutdown_is_known and not self.left:
            try:
                self.shutdown_is_known = self.store.workers.heartbeat()
            except redis.RedisError:
                pass
            if not self.shutdown_is_known:
                time.sleep(ANNOUNCE_AGAIN)

    def drain(self) -> None:
        """The worker is about to stop: end what recovers and watches, but go on beating, and say so."""
        self.begin_shutdown()
        self.gate.close()
        self.stalls.stop(within=0)
        self.connectivity.wake.ring()
        self.recovery_thread.stop()

    def leave(self) -> None:
        """The worker has stopped: end in order."""
        self.left = True
        self.signals.detach()
        self.recovery_thread.stop()
        if self.watch is not None:
            self.watch.stop()
        if self.heartbeat_process is not None:
            self.heartbeat_process.stop()  # before we leave: its beats must not bring us back
        self.deliveries.detach(self.broker, over=not self.table.entries())
        self.queues.detach()
        self.heartbeat.stop()
        self.bookkeeping.stop()
        self.heartbeat.once()
        self.bookkeeping.once()  # whatever was still to be told
        try:
            self.ledger.settle_what_was_never_acknowledged(0)
            if not self.table.entries():
                self.queues.give_back_own(self.store.workers.registered_brokers)
            self.recovery.let_go()
            self.presence.stop()  # it stays subscribed until Redis knows that this incarnation leaves
            left = self.store.workers.deregister()
            if left:
                self.store.workers.tell_some(
                    DIED
                )  # or they would sleep until they had expected this heartbeat to expire
        except redis.RedisError:
            return  # the heartbeat expires by itself
        finally:
            self.close()
        if left:
            self.logger.warning("This worker exits with %d messages still running. Recovery puts them back.", left)
        else:
            self.logger.info("This worker shut down cleanly.")

    def close(self) -> None:
        """Close what this incarnation has opened."""
        self.handing_back.stop(within=0)
        self.gate.end()
        if self.watch is not None:
            self.watch.stop()  # also one that never began
        self.presence.stop()
        self.presence.close()
        self.store.scripts.close()
        self.queues.close()

    def forked(self) -> None:
        """This process is a child of the worker's: it keeps checkpoints of the message that forked it, and no more."""
        self.left = True  # a worker that starts in the child is another
        self.table.forked()
        self.store.scripts.forked()
        self.presence.forked()
        self.queues.forked()

    def keep_books(self) -> None:
        """Mend the records, and tell Redis what it could not be told.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        self.ledger.beaten()
        self.deliveries.flush()

    def _may_fetch(self) -> bool:
        """Return False while Redis may not know this worker, or one of its queues."""
        if self.connectivity.away or not self.lease.may_be_forgotten:
            return True
        # The heartbeat's thread may pause by a clock that stood still.  Ring once: it is to pause after its own errors.
        if self.lease.silent and self._rung_at is not self.lease.last_contact:
            self._rung_at = self.lease.last_contact
            self.connectivity.wake.ring()
        return False

    def _in_contact(self, known: bool, begun: Moment, absent: bool) -> None:
        self.lease.contact(known, begun, absent)
        self.connectivity.succeeded(begun)

    @contextmanager
    def _in_company(self) -> Iterator[bool]:
        """While recovery decodes payloads, any of which may kill this process, no message is alone in it.

        False: one is on its last chance, and is left alone.
        """
        if not self.gate.visit():
            yield False
            return
        try:
            # Messages of a worker with one thread are alone without asking for it.
            # One that starts just now finds the visitor inside.
            alone = [entry for entry in self.table.entries() if entry.alone and entry.state.phase is Phase.RUNNING]
            yield all(self.ledger.clear_alone(entry) for entry in alone)
        finally:
            self.gate.leave()

    def _told(self, word: str) -> None:
        """Another incarnation says something to this one."""
        if word == JOINED and self.watch is not None:
            self.watch.wake()
        elif word == DIED:
            self.recovery_thread.wake()
        elif word == BEAT:
            self.connectivity.wake.ring()

    def _saw_a_death(self) -> None:
        """It is proven in Redis: have it recovered, here or, if this worker shuts down, elsewhere."""
        if not self.recovery_thread.stopping:
            self.recovery_thread.wake()
            return
        self.store.workers.tell_some(DIED)

    def _identity(self) -> dict[str, str]:
        me = self.incarnation
        said = {"instance": me.instance, "host": me.host, "pid": str(me.pid), **self.queues.identity()}
        # For the doctor, who compares them.
        said["version"] = __version__
        said["ttl"] = str(round(self.settings.heartbeat_ttl * 1000))
        said["interval"] = str(round(self.settings.beat_interval * 1000))
        said["exclusive"] = "1" if self.settings.instance_exclusive else "0"
        if self.process is not None:
            said["place"], said["process_started"] = self.process.place, self.process.started
        return said
