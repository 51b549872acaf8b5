# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A worker whose messages are processed by the threads of the test, one at a time; all else of it is real."""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import dramatiq
import dramatiq.worker
import redis
from dramatiq import Message, MessageProxy
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.common import current_millis
from dramatiq.middleware import (
    Middleware,
    Retries,
    ShutdownNotifications,
    SkipMessage,
    TimeLimit,
    default_middleware,
)
from dramatiq.worker import WorkerThread
from dramatiq_abort import Abortable
from dramatiq_abort.backend import Event, EventBackend

from dramatiq_inflight import InFlightTracker
from dramatiq_inflight.brokers.consumers import message_in
from dramatiq_inflight.delivery import OPTION, Copy, is_own_enqueue, own_enqueue
from dramatiq_inflight.message import in_flight as contexts
from dramatiq_inflight.store.records import Head
from dramatiq_inflight.store.replies import Start
from dramatiq_inflight.store.store import Store

from .inside import runtime_of
from .lab import Lab, copy_of
from .servers import another_database, wait_until

__all__ = ["Hangs", "RabbitWorld", "World", "in_thread", "is_taken", "locks_left", "quick_consumers", "where"]

#: How long a thread may take for what takes milliseconds, before it counts as hanging, seconds.
HANGS = 60.0

#: By how much the consumers are ahead of time once delays are over, milliseconds.
AHEAD = 10 * 365 * 24 * 3600 * 1000


class _Clock:
    """The clock by which the consumers decide that a delayed message is due."""

    ahead = 0

    @classmethod
    def now(cls) -> int:
        return current_millis() + cls.ahead


class NoEvents(EventBackend):  # type: ignore[misc]
    """Nobody asks for an abort: the sweep raises it."""

    def wait_many(self, keys: Iterable[str], timeout: int) -> Event | None:
        time.sleep(timeout / 1000)
        return None

    def poll(self, key: str) -> Event | None:
        return None

    def notify(self, events: Iterable[Event], ttl: int) -> None:
        pass


@contextlib.contextmanager
def quick_consumers() -> Iterator[None]:
    """Dramatiq's threads go by the clock of the sweep, and wait for nothing long."""
    worker = dramatiq.worker
    with (
        mock.patch.object(worker, "current_millis", _Clock.now),
        mock.patch.object(worker, "CONSUMER_RESTART_DELAY_SECS", 0.05),
        mock.patch.object(worker, "POST_PROCESS_MESSAGE_RETRY_DELAY_SECS", 0.05),
    ):
        yield


def _end_thread() -> None:
    raise SystemExit  # of this thread alone


class Spy(Middleware):
    """Notes how each run has ended, as the middleware saw it last."""

    def __init__(self) -> None:
        self.ended: dict[str, BaseException | None] = {}

    def after_process_message(
        self, broker: Any, message: Any, *, result: Any = None, exception: BaseException | None = None
    ) -> None:
        self.ended[message.message_id] = exception


class Skipper(Middleware):
    """Skips a message, behind the tracker."""

    skips = ""

    def before_process_message(self, broker: Any, message: Any) -> None:
        if message.message_id == self.skips:
            raise SkipMessage("not today")


class SteppedWorker(dramatiq.Worker):
    """A worker whose messages are processed by the threads of the test."""

    hand: WorkerThread

    def _add_worker(self) -> None:
        self.hand = WorkerThread(
            broker=self.broker,
            consumers=self.consumers,
            work_queue=self.work_queue,
            worker_timeout=self.worker_timeout,
        )


def in_thread(work: Callable[[], object], timeout: float | None = None) -> BaseException | None:
    """Do it in a thread of its own.  Returns what it raised.

    Raises:
      Hangs: It has not come to its end.
    """
    raised: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    thread.join(HANGS if timeout is None else timeout)
    if thread.is_alive():
        raise Hangs(where(thread))
    return raised[0] if raised else None


def where(thread: threading.Thread) -> str:
    """The innermost frames of a thread that runs, for people."""
    stack = traceback.extract_stack(sys._current_frames()[thread.ident or 0])
    return " <- ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(stack[-6:]))


class Hangs(Exception):
    """A thread has not come to its end."""


def _default_middleware() -> list[Middleware]:
    return [m() if m is not Retries else Retries(min_backoff=1, max_backoff=1) for m in default_middleware]


class World:
    """One broker, its tracker and its worker, in a namespace of their own.

    Parameters:
      kind: ``redis`` for a RedisBroker on the tracker's Redis; ``apart`` for one on another database.
      namespace: That of an earlier world, to go on where that has ended.
    """

    def __init__(self, url: str, kind: str, namespace: str = "") -> None:
        self.url, self.kind = url, kind
        self.namespace = namespace or f"i{uuid.uuid4().hex[:12]}"
        self.admin: Any = redis.Redis.from_url(url)
        self.admin.execute_command("ACL", "SETUSER", self.namespace, "on", f">{self.namespace}", "~*", "&*", "+@all")
        own = url.replace("//", f"//{self.namespace}:{self.namespace}@")
        tracked = own if kind == "redis" else another_database(own)
        self.tracked: Any = redis.Redis.from_url(url if kind == "redis" else another_database(url))
        self.lab = Lab(self.tracked, self.namespace)
        self.tracker = InFlightTracker(
            namespace=self.namespace,
            redis_url=None if kind == "redis" else tracked,
            heartbeat_interval=20,
            heartbeat_ttl=60,
            recovery_interval=3600,  # the scenarios sweep
            watch_processes=False,
            fence_ttl=600,
        )
        self.broker: Any = self._make_broker(own if kind == "redis" else url)
        self.spy, self.skipper = Spy(), Skipper()
        self.abortable = Abortable(backend=NoEvents())
        self.broker.add_middleware(self.spy, before=type(self.broker.middleware[0]))
        self.broker.add_middleware(self.abortable)
        self.broker.add_middleware(self.tracker)
        self.broker.add_middleware(self.skipper)
        self.log: list[str] = []
        self.body: Callable[[], object] = lambda: None
        #: Whether the actor is at work.  redis-py keeps a connection whose answer was not read, from version 8 on: what
        #: an interrupt does to the broker's own client there happens without the tracker as well.
        self.in_body = False
        #: Whether something happens in the actor's thread that in truth happens elsewhere.
        self.is_elsewhere = False
        actor: Any = dramatiq.actor
        where = {"broker": self.broker, "queue_name": self.queue}
        self.work = actor(self._work, actor_name="work", **OPTIONS, **where)
        self.other_work = actor(self._untracked, actor_name="untracked", notify_shutdown=True, **where)
        self.follow = actor(self._follow, actor_name="follow", track_inflight=True, **where)
        self.broker.emit_after("process_boot")
        self.worker = SteppedWorker(self.broker, worker_threads=2, worker_timeout=10)
        self.worker.start()
        wait_until(lambda: self.runtime.recovery_thread.sweeps, what="recovery has looked once")
        self.stopped = False
        self.others: list[tuple[Store, Copy, int]] = []
        #: Another message of the scenario.
        self.another: Any = None

    def successor(self) -> World:
        """Another worker, which goes on where this one has ended."""
        return World(self.url, self.kind, self.namespace)

    #: The queue of all actors.
    queue = "default"

    def _make_broker(self, url: str) -> Any:
        return RedisBroker(
            client=redis.Redis.from_url(url),
            namespace=f"{self.namespace}-broker",
            middleware=_default_middleware(),
            maintenance_chance=0,
        )

    # The actors.

    def _work(self) -> None:
        self.log.append("start")
        self.in_body = True
        try:
            self.body()
        finally:
            self.in_body = False
        self.log.append("end")

    def _untracked(self) -> None:
        self.log.append("start")
        self.body()
        self.log.append("end")

    def _follow(self, *args: Any) -> None:
        self.log.append("follow")

    @contextlib.contextmanager
    def meanwhile(self) -> Iterator[None]:
        """Around what happens elsewhere while the actor runs."""
        self.is_elsewhere = True
        yield
        self.is_elsewhere = False

    def count(self, what: str) -> int:
        return self.log.count(what)

    # All access to private names of the package.

    @property
    def runtime(self) -> Any:
        return runtime_of(self.tracker)

    def beat(self) -> None:
        self.runtime.heartbeat.once()

    def sweep(self) -> None:
        with contextlib.suppress(redis.RedisError):
            self.runtime.recovery.sweep()

    def entry_of(self, message: Any) -> Any:
        return self.runtime.table.get(message)

    def running(self) -> list[Any]:
        entries: list[Any] = self.runtime.table.entries()
        return entries

    def inside(self) -> set[int]:
        found: set[int] = set(self.runtime.gate.inside)
        return found

    @staticmethod
    def contexts() -> list[str]:
        """The context variables of the package that are set in this thread."""
        found = []
        if contexts.current_entry.get() is not None:
            found.append("current_entry")
        if is_own_enqueue.get():
            found.append("own_enqueue")
        return found

    # The worker.

    def fetch(self, timeout: float | None = None) -> MessageProxy:
        """The next message that the consumers have fetched."""
        proxy: MessageProxy = message_in(self.worker.work_queue.get(timeout=HANGS if timeout is None else timeout))
        return proxy

    def process(self, proxy: MessageProxy) -> None:
        self.worker.hand.process_message(proxy)

    def disarm(self) -> None:
        """Nothing interrupts this thread any more."""
        for middleware in self.broker.middleware:
            manager: Any = getattr(middleware, "manager", None)
            if isinstance(middleware, TimeLimit):
                manager.deadlines.pop(threading.get_ident(), None)
            elif isinstance(middleware, ShutdownNotifications):
                manager.remove_notification()

    def stop(self) -> None:
        """Stop the worker, as a process does that ends.

        Raises:
          Hangs: It does not stop.
        """
        if self.stopped:
            return
        self.stopped = True
        for middleware in self.broker.middleware:
            if isinstance(middleware, ShutdownNotifications):
                # None of a thread that hangs: a pending exception keeps 3.11 from tracing any other thread.
                middleware.manager.notifications.clear()  # type: ignore[attr-defined]
        error = in_thread(lambda: self.worker.stop(timeout=5000))
        if error is not None:
            raise error

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.stop()
        # These threads of other middleware end with their process, and there are thousands of worlds in this one.
        abortable: Any = self.abortable
        time_limit: Any = next(m for m in self.broker.middleware if isinstance(m, TimeLimit))
        abortable.manager.get_abortables = time_limit.manager._handle_deadlines = _end_thread
        self._close_broker()
        self.admin.execute_command("ACL", "DELUSER", self.namespace)
        for client, prefix in ((self.admin, f"{self.namespace}-broker"), (self.tracked, self.lab.prefix)):
            for key in list(client.scan_iter(f"{prefix}*", count=1000)):
                client.delete(key)
        self.admin.close()
        self.tracked.close()

    # Redis.

    def redis_leaves(self) -> None:
        """Redis refuses the tracker, and whoever shares its Redis with it."""
        self.admin.execute_command("ACL", "SETUSER", self.namespace, "off")
        self.admin.execute_command("CLIENT", "KILL", "USER", self.namespace)

    def redis_returns(self) -> None:
        self.admin.execute_command("ACL", "SETUSER", self.namespace, "on")

    # The broker.

    def _close_broker(self) -> None:
        self.broker.client.close()

    def key(self, name: str) -> str:
        return f"{self.namespace}-broker:{name}"

    def stored(self) -> tuple[int, int, int]:
        """Return how many messages are in the queue, delayed, and dead-lettered; at once, for a delayed one moves."""
        pipeline = self.admin.pipeline(transaction=True)
        for end in ("", ".DQ", ".XQ"):
            pipeline.hlen(self.key(f"default{end}.msgs"))
        queued, delayed, dead = map(int, pipeline.execute())
        return queued, delayed, dead

    def is_acknowledged(self, proxy: Any) -> bool:
        """Return whether the broker is rid of a delivery."""
        return not self.admin.hexists(self.key("default.msgs"), proxy.options["redis_message_id"])

    def drop_dead_letters(self) -> None:
        self.admin.delete(self.key("default.XQ"), self.key("default.XQ.msgs"))

    def fetched(self) -> int:
        """In how many queues some worker has fetched something, and not acknowledged it."""
        return len(list(self.admin.scan_iter(self.key("__acks__.*"), count=1000)))

    def deliver(self, message: Message[Any]) -> Message[Any]:
        """Put a message with an id of its own into its queue."""
        rid = message.options["redis_message_id"]
        self.admin.hset(self.key("default.msgs"), rid, message.encode())
        self.admin.rpush(self.key("default"), rid)
        return message

    def message(self, **options: Any) -> Message[Any]:
        made: Message[Any] = self.work.message_with_options(**options)
        return made.copy(options={"redis_message_id": uuid.uuid4().hex})

    def elsewhere(self, message: Message[Any], *, alone: bool = True, limit: int | str = 3) -> Store:
        """Another worker runs the message."""
        copy = Copy.of(message)
        other = self.lab.incarnation(f"other-{uuid.uuid4().hex[:8]}", fence_ttl=600)
        started = self.lab.start(other, copy, payload=message.encode(), alone=alone, limit=limit)
        assert started.answer is Start.RUN, started
        self.others.append((other, copy, started.run))
        return other

    def finish_elsewhere(self) -> None:
        """The other worker completes what it runs."""
        while self.others:
            other, copy, run = self.others.pop()
            other.messages.complete(copy, run, again=False, contended=True)
            other.workers.deregister()
            other.scripts.close()

    def kill_others(self) -> None:
        """The other workers die."""
        while self.others:
            self.lab.kill(self.others.pop()[0])

    def waiting(self) -> list[bytes]:
        found: list[bytes] = self.tracked.zrange(self.lab.prefix + "waiting", 0, -1)
        return found

    def time_passes(self) -> None:
        """Whatever waits in Redis is due."""
        due = self.waiting()
        if due:
            self.tracked.zadd(self.lab.prefix + "waiting", dict.fromkeys(due, 1), xx=True)

    def unsettled(self) -> list[str]:
        """The records that are kept until something happens."""
        names = [name for name in self.lab.names() if name.startswith("record:")]
        return [name for name in names if self.tracked.ttl(self.lab.prefix + name) == -1]

    def head(self, message_id: str) -> Head | None:
        return self.lab.head(copy_of(message_id))

    @property
    def is_quiet(self) -> bool:
        """True if nothing is under way any more."""
        if any(self.stored()[:2]) or self.fetched():
            return False
        return not (self.running() or self.waiting() or self.unsettled())

    def pump(self, seconds: float) -> bool:
        """Process what comes, and let time pass, until all is done.  Returns whether it is."""

        def work() -> None:
            _Clock.ahead = AHEAD
            ends = time.monotonic() + seconds
            idle = 0
            while time.monotonic() < ends:
                try:
                    self.process(self.fetch(0.01))
                    idle = 0
                except queue.Empty:
                    idle += 1
                    if self.is_quiet:
                        return
                    if idle % 3 == 0:
                        self.time_passes()
                        self.beat()
                        self.sweep()

        try:
            error = in_thread(work, seconds + HANGS)
        finally:
            _Clock.ahead = 0
        if error is not None:
            raise error
        return self.is_quiet

    def forget(self) -> None:
        """Remove what is kept of settled messages: it costs each look at the namespace."""
        names = [name for name in self.lab.names() if name.startswith("record:")]
        if names:
            self.tracked.delete(*(self.lab.prefix + name for name in names))

    def state(self) -> str:
        """The messages, keys and records that are left, for people."""
        heads = {name: self.head(name.removeprefix("record:")) for name in self.unsettled()}
        said = [f"{h.state} alone={h.alone} run={h.run}" for h in heads.values() if h]
        return (
            f"stored {self.stored()}, fetched {self.fetched()}, here {[str(e.phase.value) for e in self.running()]}, "
            f"waiting {len(self.waiting())}, records {said}"
        )


class RabbitWorld(World):
    """The same on RabbitMQ.

    Parameters:
      rabbitmq: Its URL.
    """

    def __init__(self, url: str, rabbitmq: str, namespace: str = "") -> None:
        self.rabbitmq = rabbitmq
        super().__init__(url, "rabbitmq", namespace)

    def successor(self) -> World:
        return RabbitWorld(self.url, self.rabbitmq, self.namespace)

    def _make_broker(self, url: str) -> Any:
        self.queue = f"q{self.namespace}"
        return RabbitmqBroker(url=self.rabbitmq, middleware=_default_middleware(), confirm_delivery=True)

    def _close_broker(self) -> None:
        for end in ("", ".DQ", ".XQ"):
            self.broker.channel.queue_delete(self.queue + end)
        self.broker.close()

    def message(self, **options: Any) -> Message[Any]:
        made: Message[Any] = self.work.message_with_options(**options)
        return made.copy(options={OPTION: {"origin": uuid.uuid4().hex}})

    def deliver(self, message: Message[Any]) -> Message[Any]:
        with own_enqueue():
            self.broker.enqueue(message)
        return message

    def stored(self) -> tuple[int, int, int]:
        counts: tuple[int, int, int] = self.broker.get_queue_message_counts(self.queue)
        return counts

    def _consumers(self) -> list[Any]:
        return [thread.consumer for thread in self.worker.consumers.values() if thread.consumer is not None]

    def is_acknowledged(self, proxy: Any) -> bool:
        return not any(proxy._tag in consumer.known_tags for consumer in self._consumers())

    def drop_dead_letters(self) -> None:
        self.broker.channel.queue_purge(f"{self.queue}.XQ")

    def fetched(self) -> int:
        return sum(len(consumer.known_tags) for consumer in self._consumers())


#: The options of every actor of the sweep: it can be interrupted in every way.
OPTIONS: dict[str, Any] = {"track_inflight": True, "notify_shutdown": True, "max_retries": 3, "abortable": True}


# Locks.


def locks_left(*roots: tuple[str, Any]) -> list[str]:
    """The locks that can be reached from some objects, and are taken for good."""
    found = {name: lock for name, lock in _locks(roots) if is_taken(lock)}
    ends = time.monotonic() + 10
    while found and time.monotonic() < ends:
        time.sleep(0.002)
        found = {name: lock for name, lock in found.items() if is_taken(lock)}
    return sorted(found)


_LOCK, _RLOCK = type(threading.Lock()), type(threading.RLock())


def is_taken(lock: Any) -> bool:
    """Return whether a lock is taken, by this thread or another one."""
    if getattr(lock, "_is_owned", bool)():
        return True
    if lock.acquire(blocking=False):
        lock.release()
        return False
    return True


WALKED = ("dramatiq_inflight", "redis", "dramatiq", "dramatiq_abort", "threading", "queue")


def _locks(roots: tuple[tuple[str, Any], ...]) -> Iterator[tuple[str, Any]]:
    seen: set[int] = set()
    left: deque[tuple[str, Any]] = deque(roots)
    while left:
        name, thing = left.popleft()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, (_LOCK, _RLOCK)):
            yield name, thing
        elif isinstance(thing, (list, tuple, set, frozenset, deque)):
            left.extend((f"{name}[{i}]", one) for i, one in enumerate(list(thing)) if not _is_plain(one))
        elif isinstance(thing, dict):
            left.extend((f"{name}[{str(key)[:20]}]", one) for key, one in list(thing.items()) if not _is_plain(one))
        elif type(thing).__module__.partition(".")[0] in WALKED:
            for key, one in _fields(thing):
                if key not in ("_waiters", "_tstate_lock", "_handle") and not _is_plain(one):
                    left.append((f"{name}.{key}", one))


def _is_plain(thing: Any) -> bool:
    return isinstance(thing, (str, bytes, int, float, type(None), type))


def _fields(thing: Any) -> Iterator[tuple[str, Any]]:
    yield from list(getattr(thing, "__dict__", {}).items())
    for kind in type(thing).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if hasattr(thing, slot):
                yield slot, getattr(thing, slot)
