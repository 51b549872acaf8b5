# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""All that one booted worker process holds: its incarnation, its connection, its threads."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator

import redis
from dramatiq import Broker, Message
from dramatiq.logging import get_logger

from .brokers.deliveries import Deliveries
from .brokers.location import tracker_client
from .brokers.redis import RedisQueues
from .config.policy import Policy
from .config.settings import Settings
from .errors import SchemaError
from .isolation.container import Siblings, die_together
from .isolation.gate import Gate
from .liveness.heartbeat import Heartbeat
from .liveness.identity import Incarnation
from .liveness.lease import Connectivity, Contact, Lease
from .liveness.pidfd import Process
from .liveness.presence import Presence
from .liveness.process_watch import Watch
from .liveness.sidecar import HeartbeatProcess
from .message.checkpoints import Checkpoints
from .message.in_flight import Entry, Phase, Table, current_entry
from .message.reconcile import Ledger
from .message.reconcile_thread import Bookkeeping
from .message.shutdown import HandingBack, ShutdownSignals
from .message.stalls import Stalls
from .recovery.for_broker import custody, recovery_of
from .recovery.thread import RecoveryThread
from .store.registry import Registry
from .store.transport import Call
from .store.words import BEAT, DIED, JOINED
from .store.workers import GRACE
from .threads.forks import tell_children
from .threads.moment import Moment
from .version import __version__

__all__ = ["Runtime"]

#: How long to wait until Redis is told again that this worker shuts down, seconds.
ANNOUNCE_AGAIN = 0.1


class Runtime:
    """One incarnation, from the boot of its worker to the end of its shutdown.

    Parameters:
      pause: Called, by any thread, if the worker is to start nothing more.

    Raises:
      ConfigurationError: There is no Redis to use.
    """

    def __init__(
        self,
        settings: Settings,
        broker: Broker,
        threads: int,
        policy_of: Callable[[Message[object]], Policy],
        pause: Callable[[], None] = lambda: None,
    ) -> None:
        self.logger = get_logger(__name__, type(self))
        self._pause = pause
        self.settings = settings
        self.broker = broker
        self.incarnation = Incarnation(settings.instance_id)
        self.table = Table()
        together = settings.alone_in == "container" or die_together()
        siblings = Siblings.of(settings.namespace, settings.instance_id) if together else None
        self.gate = Gate(siblings)
        self._one_thread = threads == 1 and siblings is None
        self.connectivity = Connectivity()
        self.lease = Lease(settings.heartbeat_ttl, settings.connection_timeout, self.connectivity.wake)
        client, shared = tracker_client(settings, broker)
        self.process = Process.here() if settings.watch_processes else None
        if settings.instance_exclusive and self.process is None:
            self.logger.warning(
                "instance_exclusive has no effect here: %s, so a new container cannot be told from another process of "
                "the same one.",
                "this system shows no processes" if settings.watch_processes else "watch_processes is off",
            )
        #: The RedisBroker's queues, on whatever Redis they are.
        self.broker_queues = RedisQueues.of(broker, client if shared else None)
        #: The RedisBroker's queues, where they are on the tracker's own Redis.
        self.queues = self.broker_queues if shared else None
        #: Whether a success is settled in the same write as its ack; else just before it.
        self.finishes_with_ack = self.queues is not None and not isinstance(client, redis.RedisCluster)
        self.registry = Registry(
            client,
            settings.namespace,
            self.incarnation.id,
            heartbeat_ttl=settings.heartbeat_ttl,
            fence_ttl=settings.fence_ttl,
            on_contact=self._in_contact,
            on_answer_lost=self.lease.answer_lost,
            on_failure=self.connectivity.failed,
            is_away=lambda: self.connectivity.away and self.queues is None,
        )
        #: Whether the worker has stopped.
        self.left = False
        self.deliveries = Deliveries(
            self.registry,
            self.broker_queues,
            is_for_others=lambda message: self.handing_back.begun and policy_of(message).hand_back is not None,
            server=self._server,
        )
        self.recovery = recovery_of(
            self.registry, broker, settings, policy_of, queues=self.broker_queues, shared=shared
        )
        self.recovery.in_company = self._in_company
        judged_by = settings.heartbeat_ttl + max(GRACE, settings.heartbeat_ttl / 2)
        self.recovery_thread = RecoveryThread(self.recovery, settings.recovery_interval, at_boot=judged_by)
        exclusive = settings.instance_id if settings.instance_exclusive else None
        self.watch: Watch | None = None
        if self.process is not None:
            self.watch = Watch(self.registry, self.process, self._saw_a_death, exclusive=exclusive)
        self.presence = Presence(
            self.registry,
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
            self.registry,
            self.table,
            self.lease,
            interval=settings.beat_interval,
            on_hand_over=self.recovery_thread.wake,
            acknowledge=self._acknowledge,
            on_drop=lambda entry: self.gate.expel(entry.thread),
            unacked=not self.finishes_with_ack,
            payload_of=self._payload_of,
            broker_keys=self.broker_keys,
        )
        self.bookkeeping = Bookkeeping(self.keep_books)
        self.heartbeat = Heartbeat(
            self.registry,
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
        self.checkpoints = Checkpoints(self.registry, self.ledger.look_up, self.ledger.lose)
        self.stalls = Stalls(self.registry, self.table)

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
        if self.broker_queues is not None:
            self.broker_queues.attach()
        if self.finishes_with_ack and self.queues is not None:
            self.queues.ack_with(self._finish_and_ack)  # now: Dramatiq's threads run messages before the boot is over
        self.presence.start()

    def _refused(self, error: SchemaError) -> None:
        """Redis was away when this worker booted, or has lost it since, and the namespace is another version's now."""
        self.logger.critical("%s This worker starts nothing more, and ends when what it runs has ended.", error)
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
        """Tell Redis that this worker shuts down, and ask what runs to stop, once.  It goes on until it is drained."""
        if self.handing_back.begun:
            return  # by a signal, before Dramatiq's own hook
        self.registry.drain()
        threading.Thread(target=self._announce_shutdown, name="dramatiq_inflight-shutdown", daemon=True).start()
        self.handing_back.begin()

    def _announce_shutdown(self) -> None:
        # Not left to the heartbeat: that may wait for an answer, and the process may end any moment.
        while not self.shutdown_is_known and not self.left:
            try:
                self.shutdown_is_known = self.registry.beat()
            except redis.RedisError:
                pass
            if not self.shutdown_is_known:
                time.sleep(ANNOUNCE_AGAIN)

    def drain(self) -> None:
        """The worker is about to stop: take nothing more from the dead, but go on beating, and say so."""
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
        if self.broker_queues is not None:
            self.broker_queues.detach()
        self.heartbeat.stop()
        self.bookkeeping.stop()
        self.heartbeat.once()
        self.bookkeeping.once()  # whatever was still to be told
        try:
            self.ledger.settle_what_was_never_acknowledged(0)
            if not self.table.entries() and self.queues is not None and not self._shares_broker_id():
                # Dramatiq leaves behind what its consumers had fetched and not yet looked at.
                self.queues.give_back(self.queues.broker.broker_id, self.queues.names())
            self.recovery.let_go()
            self.presence.stop()  # it stays subscribed until Redis knows that this incarnation leaves
            left = self.registry.leave()
            if left:
                self.registry.tell_some(DIED)  # or they would sleep until they had expected this heartbeat to expire
        except redis.RedisError:
            return  # the heartbeat expires by itself
        finally:
            self.close()
        if left:
            self.logger.warning("This worker leaves with %d messages still running; they will be recovered.", left)
        else:
            self.logger.info("This worker has left in order.")

    def close(self) -> None:
        """Close what this incarnation has opened."""
        self.handing_back.stop(within=0)
        self.gate.end()
        if self.watch is not None:
            self.watch.stop()  # also one that never began
        self.presence.stop()
        self.presence.close()
        self.registry.close()
        if self.broker_queues is not None:
            self.broker_queues.close()

    def forked(self) -> None:
        """This process is a child of the worker's: it keeps checkpoints of the message that forked it, and no more."""
        self.left = True  # a worker that starts in the child is another
        self.table.forked()
        self.registry.forked()
        self.presence.forked()
        if self.broker_queues is not None:
            self.broker_queues.forked()

    def broker_keys(self, queue: str) -> tuple[str, ...]:
        """The broker's ack set of this worker for a queue, and the queue's messages, if on the tracker's Redis."""
        return self.queues.keys(queue) if self.queues is not None else ()

    def _acknowledge(self, entry: Entry) -> None:
        """Acknowledge a copy that Dramatiq gave up to acknowledge: its outcome is recorded, and it must not run again.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        if self.queues is not None:
            self.registry.run(self.queues.ack_call(entry.copy.queue, entry.copy.broker_copy_id))

    def is_elsewhere(self, queue: str, copy_id: str, *, always: bool = False, fetched_from: str = "") -> bool:
        """Return True if the broker has given a delivery that waited in our memory to another worker.

        That happens while this worker is declared dead, and when a command that gave messages back arrives late.
        Costs nothing for a worker that neither has happened to.  Tracked messages that are about to run need no such
        question: their start asks it in passing.

        Parameters:
          always: Ask in any case: RedisBroker's maintenance may be wrong about us as well.
          fetched_from: See `may_have_lost_data`.
        """
        queues = self.broker_queues
        judged = self.queues is not None and (always or self.lease.revived or self.lease.silent)
        if queues is None or not (judged or queues.has_given_back):
            return False
        try:
            if always:
                self.registry.beat()  # says whether Redis has lost its data, if we have not heard of that yet
            own, stored = queues.has_delivery(queue, copy_id)
            if own or stored or self.queues is None:  # a Redis apart may have lost what it does not have
                return stored and not own
            return not self.may_have_lost_data(fetched_from) or self.registry.was_handed_back()
        except redis.RedisError:
            return False

    def _server(self) -> str:
        """The server that is fetched from, or an earlier one.

        It is asked while the connection is lost that would tell of another one.
        """
        if self.queues is not None and self.lease.known_by is Contact.LOST:
            with contextlib.suppress(redis.RedisError):
                return self.registry.ask_server()
        return self.registry.server

    def may_have_lost_data(self, fetched_from: str) -> bool:
        """Whether Redis may have lost data since a message was fetched from it.

        Parameters:
          fetched_from: The server, by its run id, from which or from a later one it came; empty: from the one at boot.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        return self.lease.forgotten or self.registry.is_forgotten(fetched_from)

    def keep_books(self) -> None:
        """Mend the records, and tell Redis what it could not be told.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        self.ledger.beaten()
        self.deliveries.flush()

    def _in_contact(self, known: bool, begun: Moment, absent: bool) -> None:
        self.lease.contact(known, begun, absent)
        self.connectivity.succeeded(begun)

    @property
    def always_alone(self) -> bool:
        """Whether any message has the process to itself: the worker has one thread, and recovery is not at work."""
        return self._one_thread and not self.gate.has_visitor

    @contextlib.contextmanager
    def _in_company(self) -> Iterator[bool]:
        """While recovery decodes payloads, any of which may kill this process, no message is alone in it.

        False: one is on its last chance, and is left alone.
        """
        if not self.gate.visit():
            yield False
            return
        try:
            # Those of a worker with one thread, which are alone without asking for it.
            # One that starts just now finds the visitor inside.
            alone = [entry for entry in self.table.entries() if entry.alone and entry.phase is Phase.RUNNING]
            yield all(self.ledger.accompany(entry) for entry in alone)
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
        self.registry.tell_some(DIED)

    def _payload_of(self, entry: Entry) -> bytes:
        """The message as it came: the broker's own bytes, where it has them."""
        if not entry.payload and self.queues is not None:
            entry.payload = self.queues.payload(entry.copy.queue, entry.copy.broker_copy_id)
        return entry.encoded()

    def _shares_broker_id(self) -> bool:
        """Whether another incarnation fetches under the same id: an earlier worker of this process, or a fork."""
        assert self.queues is not None
        mine = self.queues.namespace, self.queues.broker.broker_id
        return self.registry.registered_brokers().count(mine) > 1

    def _finish_and_ack(self, queue: str, copy_id: str, ack: Call) -> None:
        entry = current_entry.get()
        if entry is None or entry.copy.broker_copy_id != copy_id:
            self.registry.run(ack)  # a failure, a skipped copy, or a move by a consumer thread
        elif entry.given_away:
            return  # not ours to acknowledge; if it came back to this worker meanwhile, that copy is to run
        elif entry.to_finish:
            self.ledger.finish(entry, self.broker_keys(queue), ack)
        else:
            self.registry.run(ack)

    def _identity(self) -> dict[str, str]:
        me = self.incarnation
        said = {"instance": me.instance, "host": me.host, "pid": str(me.pid)}
        # For the doctor, who compares them.
        said["version"] = __version__
        said["ttl"] = str(round(self.settings.heartbeat_ttl * 1000))
        said["interval"] = str(round(self.settings.beat_interval * 1000))
        said["exclusive"] = "1" if self.settings.instance_exclusive else "0"
        if self.process is not None:
            said["place"], said["process_started"] = self.process.place, self.process.started
        if self.queues is not None:
            said["broker_namespace"] = self.queues.namespace
            said["broker_id"] = self.queues.broker.broker_id
            said["queues"] = json.dumps(self.queues.names())
        else:
            said["custody"] = custody(self.broker)
        return said
