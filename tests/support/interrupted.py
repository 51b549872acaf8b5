# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The sweep of interrupts: each asynchronous exception, at each boundary of the hooks, in each situation.

A scenario is processed once for each boundary, by a thread that is interrupted there.  Everything else is real: the
worker's consumers, the heartbeat, recovery, the broker, Redis.  Then the interrupted message is followed to its end.
"""

from __future__ import annotations

import itertools
import threading
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from dramatiq import Message, MessageProxy
from dramatiq.middleware import Shutdown, ShutdownNotifications, TimeLimit, TimeLimitExceeded
from dramatiq_abort.abort_manager import Abort

from dramatiq_inflight import HandBack, MessageLost, current
from dramatiq_inflight.delivery import OPTION, Copy
from dramatiq_inflight.store.records import Enqueued
from dramatiq_inflight.store.replies import Start

from . import impossible
from .boundaries import Boundaries, Place, innermost, is_in_redis, is_within
from .servers import wait_until
from .stepped import Hangs, RabbitWorld, World, in_thread, is_taken, locks_left

__all__ = ["SCENARIOS", "SOURCES", "Finding", "Report", "Scenario", "Sweep", "short"]


# The exceptions.


@dataclass
class Source:
    """One kind of interrupt, and how it comes to a worker thread.

    Parameters:
      armed: True if whoever raises it would raise it in this thread just now.
      act: Do what is done then, and raise it.
    """

    name: str
    armed: Callable[[World, Any], bool]
    act: Callable[[World, Any], None]


def _time_limit(world: World) -> Any:
    return next(m for m in world.broker.middleware if isinstance(m, TimeLimit)).manager


def _time_limit_armed(world: World, proxy: Any) -> bool:
    return _time_limit(world).deadlines.get(threading.get_ident()) is not None


def _exceed(world: World, proxy: Any) -> None:
    _time_limit(world).deadlines[threading.get_ident()] = None
    raise TimeLimitExceeded


def _shutdown_armed(world: World, proxy: Any) -> bool:
    shutdowns: Any = next(m for m in world.broker.middleware if isinstance(m, ShutdownNotifications))
    return threading.get_ident() in shutdowns.manager.notifications


def _shutdown(world: World, proxy: Any) -> None:
    raise Shutdown


def _abort_armed(world: World, proxy: Any) -> bool:
    return proxy.message_id in world.abortable.manager.abortable_messages


def _abort(world: World, proxy: Any) -> None:
    world.abortable.manager.abortable_messages.pop(proxy.message_id, None)
    raise Abort


def _strand_armed(world: World, proxy: Any) -> bool:
    entry = world.entry_of(proxy)
    if entry is None or entry.strand is None:
        return False
    strand = entry.strand
    return not strand.over and not any(map(is_taken, (strand.mutex, entry.mutex)))


def _lose(world: World, proxy: Any) -> None:
    world.entry_of(proxy).lose()
    raise MessageLost


def _lose_armed(world: World, proxy: Any) -> bool:
    return bool(world.others) and _strand_armed(world, proxy)


def _hand_back_armed(world: World, proxy: Any) -> bool:
    return bool(world.runtime.handing_back.begun) and _strand_armed(world, proxy) and world.entry_of(proxy).stopping


def _hand_back(world: World, proxy: Any) -> None:
    from dramatiq_inflight.message.checkpoints import expect_hand_back  # noqa: PLC0415

    expect_hand_back(world.entry_of(proxy))
    raise HandBack(proxy.message_id)


def _strange_armed(world: World, proxy: Any) -> bool:
    return True


def _be_strange(world: World, proxy: Any) -> None:
    raise TimeLimitExceeded


SOURCES = {
    source.name: source
    for source in (
        Source("TimeLimitExceeded", _time_limit_armed, _exceed),
        Source("Shutdown", _shutdown_armed, _shutdown),
        Source("Abort", _abort_armed, _abort),
        Source("MessageLost", _lose_armed, _lose),
        Source("HandBack", _hand_back_armed, _hand_back),
        # Raised for an earlier message of the thread, or just before it was disarmed; it arrives anywhere.
        Source("late", _strange_armed, _be_strange),
    )
}

USUAL = ("TimeLimitExceeded", "Shutdown", "Abort")


# The scenarios.


@dataclass
class Scenario:
    """One situation in which a message is processed.

    Parameters:
      prepare: Brings the message to its queue, and returns it.
      before: Called when it has been fetched, before it is processed.
      settle: Called when it has been processed: what the others do.
      runs: How often it runs here if nothing interrupts it.
      ends: Where it is in the end: ``done``, ``dead``, or ``gone`` for another worker's.
      fresh: True if each time takes a worker of its own.
      follows: How many messages follow from it.
      when: True if it has come to what is to be interrupted.
    """

    name: str
    prepare: Callable[[World], Message[Any]]
    before: Callable[[World, Message[Any]], object] = lambda world, message: None
    settle: Callable[[World], object] = lambda world: None
    runs: int = 1
    ends: str = "done"
    fresh: bool = False
    follows: int = 0
    when: Callable[[World], bool] = lambda world: True
    brokers: tuple[str, ...] = ("redis", "apart")
    sources: tuple[str, ...] = USUAL


SCENARIOS: dict[str, Scenario] = {}


def scenario(name: str, **how: Any) -> Callable[[Callable[[World], Message[Any]]], Callable[[World], Message[Any]]]:
    def add(prepare: Callable[[World], Message[Any]]) -> Callable[[World], Message[Any]]:
        SCENARIOS[name] = Scenario(name, prepare, **how)
        return prepare

    return add


@scenario("success")
def _success(world: World) -> Message[Any]:
    return world.deliver(world.message())


@scenario("success, what follows", follows=1)
def _success_and_more(world: World) -> Message[Any]:
    return world.deliver(world.message(on_success=world.follow.actor_name))


@scenario("enqueues another", follows=1)
def _enqueues(world: World) -> Message[Any]:
    world.body = world.follow.send
    return world.deliver(world.message())


@scenario("checkpoints")
def _checkpoints(world: World) -> Message[Any]:
    def body() -> None:
        handle = current()
        assert handle is not None
        handle.checkpoint(1)
        for _ in handle.iterate(range(3), every=0):
            pass

    world.body = body
    return world.deliver(world.message())


@scenario("stall_timeout")
def _stalls(world: World) -> Message[Any]:
    return world.deliver(world.message(stall_timeout=3600, interrupt_on_loss=True))


@scenario("retry", runs=2)
def _retry(world: World) -> Message[Any]:
    def body() -> None:
        if world.count("start") == 1:
            raise ValueError

    world.body = body
    return world.deliver(world.message())


@scenario("dead letter", ends="dead")
def _dead_letter(world: World) -> Message[Any]:
    def body() -> None:
        raise ValueError

    world.body = body
    return world.deliver(world.message(max_retries=0))


@scenario("duplicate", runs=0, ends="gone", settle=World.finish_elsewhere)
def _duplicate(world: World) -> Message[Any]:
    message = world.message()
    world.elsewhere(message)
    return world.deliver(message)


@scenario("duplicate, its owner dies", settle=World.kill_others)
def _duplicate_of_the_dead(world: World) -> Message[Any]:
    message = world.message()
    world.elsewhere(message)
    return world.deliver(message)


def _recovered_copy(world: World) -> tuple[Message[Any], Message[Any]]:
    """A message whose worker has died, and the copy that recovery has made of it."""
    message = world.message()
    dead = world.elsewhere(message)
    world.others.clear()
    world.lab.kill(dead)
    recoverer, rid = world.lab.incarnation("recoverer"), uuid.uuid4().hex if Copy.of(message).broker_copy_id else ""
    orphan = world.lab.claim(recoverer, Copy.of(message), dead)
    mark = {"generation": orphan.generation, "origin": Copy.of(message).origin, "crashes": 1}
    copy = message.copy(options={**({"redis_message_id": rid} if rid else {}), OPTION: mark})
    recoverer.recovery.confirm_copies([Enqueued(orphan, rid, "default", 0)], dead=dead.me)
    recoverer.workers.deregister()
    recoverer.scripts.close()
    return message, copy


@scenario("stale copy", settle=lambda world: world.deliver(world.another))
def _stale(world: World) -> Message[Any]:
    message, world.another = _recovered_copy(world)
    return world.deliver(message)


@scenario("recovered copy")
def _recovered(world: World) -> Message[Any]:
    return world.deliver(_recovered_copy(world)[1])


@scenario("taken over")
def _taken_over(world: World) -> Message[Any]:
    message = world.message()
    world.elsewhere(message)
    world.kill_others()
    return world.deliver(message)


@scenario("last chance")
def _last_chance(world: World) -> Message[Any]:
    message = world.message(max_recoveries=1)
    world.elsewhere(message, limit=1)
    world.kill_others()
    return world.deliver(message)


def _convicted(world: World) -> Message[Any]:
    message = world.message(max_recoveries=0)
    world.elsewhere(message, limit=0)
    world.kill_others()
    return world.deliver(message)


SCENARIOS["convicted"] = Scenario("convicted", _convicted, runs=0, ends="dead")


@scenario("poison verdict", runs=0, ends="dead")
def _poison(world: World) -> Message[Any]:
    message = _convicted(world)
    error = in_thread(lambda: world.process(world.fetch()))
    assert error is None, error
    wait_until(world.worker.work_queue.qsize, what="its dead letter is fetched")
    return message


@scenario("elsewhere", runs=0, ends="gone", brokers=("redis",))
def _elsewhere(world: World) -> Message[Any]:
    return world.deliver(world.message())


def _give_away(world: World, message: Message[Any]) -> None:
    """The broker gives a delivery to another worker, which runs it."""
    rid = message.options["redis_message_id"]
    world.admin.srem(world.key(f"__acks__.{world.broker.broker_id}.default"), rid)
    world.elsewhere(message)


def _ack_elsewhere(world: World) -> None:
    world.finish_elsewhere()
    world.admin.delete(world.key("default.msgs"))


SCENARIOS["elsewhere"].before, SCENARIOS["elsewhere"].settle = _give_away, _ack_elsewhere


@scenario("skipped by others", runs=0, ends="gone")
def _skipped(world: World) -> Message[Any]:
    message = world.message()
    world.skipper.skips = message.message_id
    return world.deliver(message)


@scenario("not tracked")
def _untracked(world: World) -> Message[Any]:
    message: Message[Any] = world.other_work.message()
    return world.deliver(message.copy(options={"redis_message_id": uuid.uuid4().hex}))


@scenario(
    "Redis away at the start",
    brokers=("apart",),
    before=lambda world, message: world.redis_leaves(),
    settle=World.redis_returns,
)
def _away_at_start(world: World) -> Message[Any]:
    return world.deliver(world.message())


@scenario("Redis away at the end", settle=World.redis_returns)
def _away_at_end(world: World) -> Message[Any]:
    world.body = lambda: _leave_for_a_moment(world)
    return world.deliver(world.message())


@scenario("Redis away at a failure", runs=2, settle=World.redis_returns)
def _away_at_failure(world: World) -> Message[Any]:
    def body() -> None:
        if world.count("start") == 1:
            _leave_for_a_moment(world)
            raise ValueError

    world.body = body
    return world.deliver(world.message())


def _leave_for_a_moment(world: World) -> None:
    if world.count("start") == 1:
        with world.meanwhile():
            timer = threading.Timer(0.15, world.redis_returns)
            timer.daemon = True
            timer.start()
            world.redis_leaves()


@scenario(
    "lost",
    fresh=True,
    runs=1,
    ends="gone",
    sources=("MessageLost",),
    when=lambda world: bool(world.others),
    settle=World.finish_elsewhere,
)
def _lost(world: World) -> Message[Any]:
    message = world.message(interrupt_on_loss=True)

    def body() -> None:
        """Another worker takes it over, and runs it."""
        if not world.others:
            with world.meanwhile():
                take()
        for _ in range(3):
            len("")

    def take() -> None:
        world.runtime.heartbeat.stop()  # it does not beat in between
        me = world.runtime.store.me
        beats = world.tracked.zscore(world.lab.prefix + "heartbeats", me)
        world.lab.kill(world.runtime.store)
        other = world.lab.incarnation("taker")
        orphan = world.lab.claim(other, Copy.of(message), world.runtime.store)
        other.recovery.confirm_copies([Enqueued(orphan, "r2", "default", 0)], dead=me)
        copy = world.lab.recovered(Copy.of(message), orphan)
        started = world.lab.start(other, copy, payload=message.encode())
        assert started.answer is Start.RUN
        world.tracked.zadd(world.lab.prefix + "heartbeats", {me: beats})
        world.others.append((other, copy, started.run))

    world.body = body
    return world.deliver(message)


def _begin(world: World) -> None:
    """The shutdown begins while the message runs."""
    if world.count("start") == 1 and not world.runtime.handing_back.begun:
        with world.meanwhile():
            world.runtime.drain()


@scenario("hands itself back", fresh=True, runs=2, sources=("HandBack", *USUAL))
def _hands_back(world: World) -> Message[Any]:
    def body() -> None:
        _begin(world)
        handle = current()
        if handle is not None and handle.stopping:
            handle.hand_back()

    world.body = body
    return world.deliver(world.message(hand_back=3600))


@scenario("is handed back", fresh=True, sources=("HandBack",))
def _is_handed_back(world: World) -> Message[Any]:
    world.body = lambda: _begin(world)
    return world.deliver(world.message(hand_back=3600))


@scenario("begins at the shutdown", fresh=True, before=lambda world, message: world.runtime.drain())
def _begins_at_shutdown(world: World) -> Message[Any]:
    return world.deliver(world.message(hand_back=3600))


# One sweep.


@dataclass
class Finding:
    """Something that an interrupt at a boundary has left behind."""

    scenario: str
    broker: str
    source: str
    number: int
    place: str
    ours: str
    what: str
    kind: str

    def __str__(self) -> str:
        return (
            f"[{self.kind}] {self.scenario} / {self.broker} / {self.source} #{self.number} at {self.place}: {self.what}"
        )


@dataclass
class Report:
    """The interrupts of a sweep, and its findings."""

    boundaries: int = 0
    scenarios: set[tuple[str, str]] = field(default_factory=set)
    sources: Counter[str] = field(default_factory=Counter)
    threads_ended: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)

    def of(self, kind: str) -> list[Finding]:
        return [finding for finding in self.findings if finding.kind == kind]

    def __str__(self) -> str:
        kinds = ", ".join(f"{len(self.of(kind))} {kind}" for kind in KINDS)
        sources = ", ".join(f"{name} {count:,}" for name, count in self.sources.items())
        return (
            f"{self.boundaries:,} interrupts at boundaries of {len(self.scenarios)} scenarios ({sources}): {kinds}; "
            f"{sum(self.threads_ended.values())} ended their worker thread"
        )


KINDS = (
    "lost",
    "doubled",
    "dead letters",
    "locks left",
    "contexts left",
    "gates left",
    "records left",
    "hangs",
    "errors",
)


class Sweep:
    """Interrupts scenarios, one boundary after another.

    Parameters:
      url: A Redis of the sweep's own.
      say: Called with each finding.
      rabbitmq: The URL of a RabbitMQ.
      within: The name of a function: only its boundaries count, and those of what it calls.
    """

    def __init__(
        self, url: str, say: Callable[[str], object] = lambda text: None, *, rabbitmq: str = "", within: str = ""
    ) -> None:
        impossible.watch()
        self.url, self.rabbitmq = url, rabbitmq
        self.say = say
        self.within = within
        self.report = Report()
        self._worlds: dict[str, World] = {}

    def close(self) -> None:
        for kind in list(self._worlds):
            self._drop(kind)

    def finds(self, scenario: Scenario, kind: str, source: Source, kinds: tuple[str, ...]) -> bool:
        """Interrupt one boundary after another, until something of these kinds is found.  False if nothing is."""
        for number in itertools.count(1):
            if not self._try(scenario, kind, source, number)[0]:
                return False
            if any(finding.kind in kinds for finding in self.report.findings):
                return True
        raise AssertionError("not reached")

    def world(self, kind: str) -> World:
        if kind not in self._worlds:
            rabbit = kind == "rabbitmq"
            self._worlds[kind] = RabbitWorld(self.url, self.rabbitmq) if rabbit else World(self.url, kind)
        return self._worlds[kind]

    def _drop(self, kind: str) -> None:
        world = self._worlds.pop(kind, None)
        if world is not None:
            world.close()

    def count(self, scenario: Scenario, kind: str, source: Source) -> int:
        """Return how many boundaries there are; the scenario runs without an interrupt.

        Until it is the same twice: there are some more where a connection is opened.
        """
        before, found = -1, 0
        for _ in range(10):
            before, found = found, self._try(scenario, kind, source, 0)[1]
            if before == found:
                break
        return min(before, found)

    def sweep(
        self, scenario: Scenario, kind: str, source: Source, *, step: int = 1, first: int = 1, limit: int = 1000
    ) -> int:
        """Interrupt each boundary, or every so many.  Returns how many there are."""
        boundaries = self.count(scenario, kind, source)
        number, before = first, len(self.report.findings)
        while number <= boundaries + 20 and len(self.report.findings) < before + limit:
            reached, _ = self._try(scenario, kind, source, number)
            if not reached:
                break
            number += step
        return boundaries

    def at(self, scenario: Scenario, kind: str, source: Source, number: int) -> bool:
        """Interrupt one boundary.  False if there is none of that number."""
        return self._try(scenario, kind, source, number)[0]

    def _try(self, scenario: Scenario, kind: str, source: Source, number: int) -> tuple[bool, int]:
        self.report.scenarios.add((scenario.name, kind))
        world = self.world(kind)
        attempt = Attempt(world, scenario, source, number, self.within)
        ok = False
        try:
            ok = attempt.run()
        except Hangs as error:
            attempt.note("hangs", str(error))
        except Exception as error:
            attempt.note("errors", "".join(traceback.format_exception(error))[-1500:])
        reached = attempt.place is not None
        if number and reached:
            self.report.boundaries += 1
            self.report.sources[source.name] += 1
            if attempt.ended_thread:
                self.report.threads_ended[attempt.place.ours or "Dramatiq" if attempt.place else ""] += 1
        for transition in impossible.taken():
            attempt.note("errors", f"a transition that is not possible: {transition}")
        for finding in attempt.findings:
            self.report.findings.append(finding)
            self.say(str(finding))
        if not ok or scenario.fresh or attempt.findings:
            self._drop(kind)
        return reached, attempt.boundaries.count if attempt.boundaries is not None else 0


class Attempt:
    """One interrupt: what happens, and what is left."""

    def __init__(self, world: World, scenario: Scenario, source: Source, number: int, within: str = "") -> None:
        self.world, self.scenario, self.source, self.number = world, scenario, source, number
        self.within = within
        self.boundaries: Boundaries | None = None
        self.findings: list[Finding] = []
        self.ended_thread = False
        self._left: list[str] = []
        self._began = False

    @property
    def place(self) -> Place | None:
        """Where it was interrupted; None if it was not."""
        return self.boundaries.place if self.boundaries is not None else None

    def note(self, kind: str, what: str) -> None:
        place = self.place
        self.findings.append(
            Finding(
                scenario=self.scenario.name,
                broker=self.world.kind,
                source=self.source.name,
                number=self.number,
                place=str(place or "no interrupt"),
                ours=place.ours if place is not None else "",
                what=what,
                kind=kind,
            )
        )

    @property
    def _is_ours(self) -> bool:
        """True if the interrupt has hit the package, and not other middleware, which its hooks call."""
        place = self.place
        return place is not None and bool(place.ours) and not place.ours.endswith("Hooks._emit")

    def run(self) -> bool:
        """Returns whether the world can be used again."""
        world, scenario = self.world, self.scenario
        world.log.clear()
        world.spy.ended.clear()
        world.others.clear()
        world.body = lambda: None
        message = scenario.prepare(world)
        proxy = world.fetch()
        scenario.before(world, message)
        self._interrupt(proxy)
        self._look_at_once(proxy)
        done = self._is_done(message, proxy)
        runs = world.count("start")
        scenario.settle(world)
        for _ in range(3):
            error = in_thread(world.beat)
            if error is not None:
                raise error
        reusable = not scenario.fresh and not self.ended_thread
        quiet = reusable and world.pump(5)
        if not quiet:
            world = self._by_another_worker()
        self._judge(world, done, runs)
        if world is not self.world:
            world.close()
        if quiet:
            self._look_at_locks("in the end")
            world.forget()
        return quiet

    def _interrupt(self, proxy: MessageProxy) -> None:
        world, source = self.world, self.source

        def act() -> None:
            self._began = world.count("start") > 0
            source.act(world, proxy)

        self.boundaries = Boundaries(lambda: source.armed(world, proxy), act, self.number, self._counts)
        boundaries = self.boundaries

        def work() -> None:
            try:
                boundaries.run(lambda: world.process(proxy))
            finally:
                self._left = world.contexts()
                world.disarm()  # another thread will have this one's number

        self.ended_thread = in_thread(work) is not None

    def _counts(self, frame: FrameType) -> bool:
        if (
            self.world.is_elsewhere
            or not self.scenario.when(self.world)
            or (self.within and not is_within(frame, self.within))
        ):
            return False
        ours = innermost(frame)
        if self.source.name == "late":
            return ours is not None and ours.f_code.co_name != "_emit"  # which calls other middleware
        return not (self.world.in_body and ours is None and is_in_redis(frame))

    def _look_at_once(self, proxy: MessageProxy) -> None:
        self._look_at_locks("at once")
        if self._left and not self.ended_thread:
            self.note("contexts left", ", ".join(self._left))
        if self.ended_thread:
            return
        ends = time.monotonic() + 10
        while self.world.inside() and time.monotonic() < ends:
            time.sleep(0.002)  # recovery, for a moment
        if self.world.inside():
            self.note("gates left", "a thread is inside the gate, and nothing runs")
        head = self.world.head(proxy.message_id)
        if head and head.state == "running" and head.alone and head.owner == self.world.runtime.store.me:
            gate = self.world.runtime.gate
            try:
                in_thread(lambda: (gate.enter(), gate.leave()), timeout=0.3)
            except Hangs:
                return  # nobody is let in
            self.note("records left", "the record says that it runs alone, it does not run, and the gate is open")

    def _look_at_locks(self, when: str) -> None:
        for lock in locks_left(("runtime", self.world.runtime), ("broker", self.world.broker)):
            self.note("locks left", f"{lock} is taken, {when}")

    def _is_done(self, message: Message[Any], proxy: MessageProxy) -> bool:
        """Return whether it has succeeded here, and is acknowledged: then it is never to run again."""
        ended = self.world.spy.ended
        if message.message_id not in ended or ended[message.message_id] is not None or not self.world.count("end"):
            return False
        return self.world.is_acknowledged(proxy)

    def _by_another_worker(self) -> World:
        """The worker stops, and another one takes over what it has left."""
        before = self.world
        before.redis_returns()
        try:
            before.stop()
        except Hangs as error:
            self.note("hangs", f"the worker does not stop: {error}")
            before.lab.kill(before.runtime.store)
        except BaseException as error:
            self.note("errors", f"the worker does not stop: {error!r}")
        world = before.successor()
        world.log, world.body = before.log, before.body
        world.skipper.skips = before.skipper.skips
        world.pump(30)
        return world

    def _judge(self, world: World, done: bool, runs: int) -> None:
        scenario, what = self.scenario, world.state()
        starts, ends, dead = world.count("start"), world.count("end"), world.stored()[2]
        said = f"{starts} starts, {ends} ends, {dead} dead letters; {what}"
        if (scenario.ends == "done" and not ends and not dead) or (scenario.ends == "dead" and not dead):
            self.note("lost", said)
        if dead and (scenario.ends != "dead" or (not starts and scenario.runs and self._is_ours)):
            self.note("dead letters", said)
        most = scenario.runs + (self.number > 0 and self._began)
        if starts > most or (done and starts > runs) or dead > 1:
            self.note("doubled", said)
        follows = world.count("follow")
        if scenario.follows and ends and not follows:
            self.note("lost", f"what follows from it; {what}")
        if follows > max(starts, 1):
            self.note("doubled", f"{follows} of what follows from it; {said}")
        if dead:
            world.drop_dead_letters()
        if not world.is_quiet:
            self.note("records left", what)
        checkpoints = [name for name in world.lab.names() if name.startswith("checkpoint:")]
        if checkpoints and scenario.ends == "done":
            self.note("records left", f"{checkpoints}")


def short(report: Report) -> str:
    """The findings, by cause."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in report.findings:
        groups.setdefault((finding.kind, finding.ours or finding.place), []).append(finding)
    lines = [str(report)]
    for (kind, where), found in sorted(groups.items(), key=lambda item: -len(item[1])):
        scenarios = Counter(f"{f.scenario}/{f.broker}" for f in found)
        sources = sorted({f.source for f in found})
        lines.append(f"\n{kind} x{len(found)} at {where}  [{', '.join(sources)}]")
        lines.append(f"   in {', '.join(f'{name} x{n}' for name, n in scenarios.most_common())}")
        for example in found[:2]:
            lines.append(f"   e.g. #{example.number} {example.place}: {example.what[:400]}")
    return "\n".join(lines)
