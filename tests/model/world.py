# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The world around the scripts: one message, a broker, workers, and all that may happen to them, a step at a time.

A state is all there is; `steps` lists what may happen next.  A step executes one script at the most, so whatever can
come between two scripts does.  An event that may happen only so often (crashes, false alarms, ...) has a budget; the
rest is
progress, and is what is left to put everything right when the budgets are spent.

Two brokers.  ``redis``: a RedisBroker on the tracker's Redis, whose messages are handed back.  ``other``: RabbitMQ,
say, whose orphans are recovered by a copy, and which delivers again what its connections had not acknowledged.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from .scripts import MODEL, NO_COPY, NOBODY, Call, Heart, Redis, beat_of, fresh_redis, is_short, put, with_heart

__all__ = ["Bounds", "Step", "World", "first_world", "release", "steps"]


class Bounds(NamedTuple):
    """The bounds of an exploration."""

    broker: str = "redis"
    workers: int = 2
    #: How often a worker is killed at any step.
    crashes: int = 1
    #: How often a living one is taken for dead: its heartbeat expires, or it is not back within its patience.
    alarms: int = 0
    #: How often the connection of a living one is closed.
    cuts: int = 0
    #: How often the server is another one: all connections are closed, and nobody has entered there.
    restarts: int = 0
    #: How often the broker takes a delivery back from a living worker, and delivers it again.
    redeliveries: int = 0
    #: How often the actor fails.
    failures: int = 0
    #: How often an enqueue fails: of a retry, or of a recovered copy without anybody knowing.
    losses: int = 0
    #: How often a recovered copy cannot be enqueued, as far as its recoverer knows.
    refusals: int = 0
    #: How often a deadline passes although the copy is still under way.
    delays: int = 0
    #: How often a worker begins to shut down.
    drains: int = 0
    #: How often an operator replays a dead letter.
    replays: int = 0
    #: How often the answer to a script is lost, which is then sent again; or Redis cannot be told what comes next.
    answers: int = 0
    #: How often a message that runs stops, and is enqueued again.
    handbacks: int = 0
    #: How often an operator puts it back, dead-letters it or discards it, by force if need be.
    operators: int = 0
    limit: int | str = 1
    retries: int = 1
    tailored: bool = False
    #: Whether a message may have company in its process.
    company: bool = False
    #: How a death may be known: its heartbeat has ``expired``; it is ``proven``; its connection is closed: ``gone``.
    evidence: tuple[str, ...] = ("expired",)
    #: How many copies a worker may have in memory.
    prefetch: int = 1
    # Variants of what workers do, each of which loses messages.
    #: A success is settled before what follows from it was enqueued.
    hasty: bool = False
    #: A success of which nothing follows, because the message was lost, completes it all the same.
    silent_success: bool = False
    #: A copy that was given to another worker is acknowledged.
    acks_elsewhere: bool = False
    #: A failure whose retry cannot be enqueued is acknowledged before recovery is told.
    acks_stranded: bool = False


class Copy(NamedTuple):
    """A copy that the broker holds."""

    id: int
    generation: int
    origin: int
    attempt: int
    #: It was put off as a duplicate.
    duplicate: bool = False
    #: The broker delivers it again, and says so.
    again: bool = False
    #: It was made to be dead-lettered.
    poison: bool = False
    #: The number of recovery's try that made it; 0: none did.
    tries: int = 0


class Delivery(NamedTuple):
    """A copy in a worker's memory."""

    copy: Copy
    #: fetched, and then running, deferring (-> deferred), skipped, or poison (-> buried).  A run ends in succeeded ->
    #: followed (or lost, or cut_short) -> finished -> acked, or in failed -> retried -> let_go, rejected -> given_up
    #: (or given_back), or stranded -> handed_over; or it stops, and is handed_back -> sent_back (or unheard ->
    #: enqueued -> to_release).
    phase: str = "fetched"
    run: int = 0
    generation: int = 1
    crashes: int = 0
    drains: int = 0
    #: The run of its start; 0: the answer to that was lost.
    started: int = 0
    alone: bool = True
    #: It is to be looked up before anything follows from it.
    doubt: bool = False
    lost: bool = False
    contended: bool = False


class Job(NamedTuple):
    """The present step of a recoverer."""

    at: str
    dead: int
    copy: int = 0
    held: bool = False
    generation: int = 0
    attempt: int = 0
    origin: int = 0
    poison: bool = False
    tries: int = 0
    #: Something of it is left for another sweep.
    kept: bool = False


class Worker(NamedTuple):
    alive: bool = True
    #: It has heard that it had been taken for dead.
    revived: bool = False
    #: It was ever taken for dead while it lived: what it runs from then on may run elsewhere.
    suspected: bool = False
    #: Redis sees its subscription.
    connected: bool = True
    #: It has shown itself to Redis since it was first noted that no connection of it was seen.
    shown: bool = False
    draining: bool = False
    deliveries: tuple[Delivery, ...] = ()
    #: The deliveries to it that the broker was not told about.
    unacked: tuple[Copy, ...] = ()
    job: Job | None = None
    #: Whose message its start has claimed.
    leftover: int = NOBODY


class World(NamedTuple):
    redis: Redis
    queue: tuple[Copy, ...]
    workers: tuple[Worker, ...]
    dead_letters: tuple[Copy, ...] = ()
    #: How often what follows from a success was enqueued.
    followed: int = 0
    #: The enqueue that is complete, as the tracker has said; 0: none.
    completed: int = 0
    #: The enqueue that was put off because another one had the turn, and its copy that is not acknowledged; 0: none.
    twin: tuple[int, int] = (0, 0)
    #: An operator has given it up.
    discarded: bool = False
    #: The rest of each budget, in the order of `BUDGETS`.
    left: tuple[int, ...] = ()


class Step(NamedTuple):
    """Something that may happen."""

    what: str
    call: Call | None
    after: World
    #: Whether it is no fault: it may always happen.
    progress: bool = True


BUDGETS = (
    "crashes",
    "alarms",
    "cuts",
    "restarts",
    "redeliveries",
    "failures",
    "losses",
    "refusals",
    "delays",
    "drains",
    "replays",
    "answers",
    "handbacks",
    "operators",
)

#: In these a copy is reserved in the process's table: what a start of another copy is told, by phase.
HERE = {
    **dict.fromkeys(("running", "succeeded", "failed", "stranded", "handed_over"), "running"),
    **dict.fromkeys(("rejected", "given_up", "given_back"), "running"),
    **dict.fromkeys(("followed", "hasty", "lost", "cut_short", "finished", "acked", "untold"), "ended"),
    **dict.fromkeys(("retried", "let_go"), "ended"),
    **dict.fromkeys(("handed_back", "sent_back", "unheard", "enqueued", "to_release"), "handed_back"),
}

#: The scripts that a worker runs for itself: if an answer is lost, it doubts its messages.
OWN = frozenset({"start", "clear_alone", "complete", "release", "await_copy", "reassert", "heartbeat", "enter"})

#: A lost answer leaves a number that says so.
UNKNOWN = 0

Scripts = Mapping[str, Callable[..., tuple[Any, Redis]]]


def first_world(bounds: Bounds) -> World:
    """One message in its queue."""
    return World(
        redis=fresh_redis(bounds.workers, entered="gone" in bounds.evidence),
        queue=(Copy(id=1, generation=1, origin=1, attempt=0),),
        workers=(Worker(),) * bounds.workers,
        left=tuple(getattr(bounds, name) for name in BUDGETS),
    )


def steps(world: World, bounds: Bounds, scripts: Scripts = MODEL) -> Iterator[Step]:
    """All that may happen next.

    Parameters:
      scripts: The model's scripts, or a variant of them.
    """
    return _Steps(world, bounds, scripts).all()


class _Steps:
    def __init__(self, world: World, bounds: Bounds, scripts: Scripts) -> None:
        self.world = world
        self.bounds = bounds
        self.scripts = scripts
        self.with_redis = bounds.broker == "redis"

    def all(self) -> Iterator[Step]:
        for step in self.heard():
            yield step
            if step.call is not None and self.can("answers"):
                yield from self.unheard(step, step.call)

    def unheard(self, step: Step, call: Call) -> Iterator[Step]:
        """A script has run, its answer is lost, and it is sent again: the caller is where it was."""
        own = call.script in OWN
        me = call.named["me"] if own else 0
        _, world = self.execute(me, call, own=own)
        stops = call.script == "await_copy" and call.named["delay"]  # has that of its own
        if stops or world == self.world:
            return
        if own:
            worker = world.workers[me]
            doubting = tuple(d._replace(doubt=d.doubt or d.phase in HERE) for d in worker.deliveries)
            world = _with_worker(world, me, worker._replace(deliveries=doubting))
        if call.script in ("suspect", "enter"):
            world = step.after
        if call.script in ("take", "discard"):
            world = self.robbed(world, call.named["force"])._replace(discarded=step.after.discarded)
        if call.script == "complete":
            world = world._replace(completed=step.after.completed)
            if self.with_redis:  # and has acknowledged, in one write
                world = _with_worker(world, me, world.workers[me]._replace(unacked=step.after.workers[me].unacked))
        what = f"{step.what} (which is not heard, and sent again)"
        yield Step(what, call, self.spent("answers", world), progress=False)

    def heard(self) -> Iterator[Step]:
        for number, worker in enumerate(self.world.workers):
            if worker.alive and not self.is_like_an_earlier_one(number):
                for at in range(len(worker.deliveries)):
                    yield from self.message(number, at)
                yield from self.worker(number)
                yield from self.recovery(number)
        yield from self.surroundings()

    def is_like_an_earlier_one(self, number: int) -> bool:
        """Whether nothing has happened yet to it and to the one before: it makes no difference which of them acts."""
        workers, hearts = self.world.workers, self.world.redis.hearts
        return (
            number > 0
            and workers[number] == workers[number - 1] == Worker()
            and hearts[number] == hearts[number - 1] == Heart("fresh")
        )

    # A message's life in a worker.

    def message(self, me: int, at: int) -> Iterator[Step]:
        worker = self.world.workers[me]
        delivery = worker.deliveries[at]
        yield from getattr(self, "in_" + delivery.phase)(me, at, delivery)
        if delivery.doubt and not delivery.lost and delivery.phase in ("running", "unheard"):
            yield self.reassert(me, at, delivery)

    def in_fetched(self, me: int, at: int, delivery: Delivery) -> Iterator[Step]:
        copy, worker = delivery.copy, self.world.workers[me]
        others = [i for i, other in enumerate(worker.deliveries) if i != at and other.phase in HERE and not other.lost]
        here = HERE[worker.deliveries[others[0]].phase] if others else "no"
        if not self.with_redis and copy not in worker.unacked:
            # Its connection is gone; whether the worker knows that yet or not.
            yield Step(f"{_w(me)} skips the copy of a lost connection", None, self.moved(me, at, delivery, "skipped"))
        for alone, due in itertools.product((True, False, None) if self.bounds.company else (True,), self.due(me)):
            call = Call.of(
                "start",
                me=me,
                generation=copy.generation,
                origin=copy.origin,
                redelivered=False,
                here=here,
                limit=self.bounds.limit,
                copy=self.name(copy.id),
                payload=copy.attempt,
                duplicate=copy.duplicate,
                forgotten=worker.revived,
                alone=alone,
                tailored=self.bounds.tailored,
                condemned=copy.poison and copy.again,
                tries=copy.tries,
                due=due,
                delivery=self.delivered(me, copy),
            )
            answer, world = self.execute(me, call)
            for i in others:
                world = _with_delivery(world, me, i, world.workers[me].deliveries[i]._replace(contended=True))
            yield self.started(me, at, world, call, answer, alone is True)
            if answer[0] == "run" and self.can("answers"):
                unheard = Delivery(copy, "running", UNKNOWN, copy.generation, 0, 0, UNKNOWN, alone is True, doubt=True)
                unheard = unheard._replace(contended=copy.again)
                after = self.spent("answers", _with_delivery(world, me, at, unheard))
                yield Step(f"{_w(me)} starts {_c(copy)}, and does not get the answer", call, after, progress=False)

    def started(self, me: int, at: int, world: World, call: Call, answer: tuple[Any, ...], alone: bool) -> Step:
        name, _, run, generation, crashes, drains, owner = answer
        delivery = world.workers[me].deliveries[at]
        copy = delivery.copy
        phase = {"run": "running", "duplicate": "deferring", "waiting": "deferring", "poisoned": "poison"}
        phase["last_chance"] = "fetched"  # it is to be seen to that it is alone
        after = delivery._replace(phase=phase.get(name, "skipped"))
        if name == "run":
            after = after._replace(run=run, generation=generation, crashes=crashes, drains=drains, started=run)
            after = after._replace(alone=alone, contended=copy.again, doubt=False)
        elif name in ("duplicate", "waiting"):
            after = after._replace(copy=copy._replace(duplicate=name == "duplicate"))
        elif name in ("claimed", "convicted"):
            world = _with_worker(world, me, world.workers[me]._replace(leftover=owner))
        world = _with_delivery(world, me, at, after)
        if name == "elsewhere" and not self.bounds.acks_elsewhere:
            world = self.gone(world, me, at)
        return Step(f"{_w(me)} starts {_c(copy)}: {name}", call, world)

    def in_running(self, me: int, at: int, delivery: Delivery) -> Iterator[Step]:
        if self.bounds.company and delivery.alone and delivery.run:
            call = Call.of("clear_alone", me=me, run=delivery.run, origin=delivery.copy.origin)
            _, world = self.execute(me, call)
            after = world.workers[me].deliveries[at]._replace(alone=False)
            yield Step(f"{_w(me)} lets others in", call, _with_delivery(world, me, at, after))
        if delivery.doubt and not delivery.lost:
            return  # it is looked up first
        if delivery.lost:
            phase = "lost" if self.bounds.silent_success else "cut_short" if delivery.run else "skipped"
            yield Step(f"{_w(me)} succeeds; nothing follows", None, self.moved(me, at, delivery, phase))
        elif self.bounds.hasty:
            yield from self.complete(me, at, delivery, "hasty")
        else:
            yield Step(f"{_w(me)} succeeds", None, self.moved(me, at, delivery, "succeeded"))
        if self.can("failures"):
            for step in self.failure(me, at, delivery):
                yield step._replace(after=self.spent("failures", step.after), progress=False)
        # Where workers shut down, for that; elsewhere it raises HandBack of its own accord.
        stops = self.world.workers[me].draining or not self.bounds.drains
        if self.can("handbacks") and stops and not delivery.lost:
            for step in self.stop(me, at, delivery):
                yield step._replace(after=self.spent("handbacks", step.after), progress=False)

    def stop(self, me: int, at: int, delivery: Delivery) -> Iterator[Step]:
        """Its worker shuts down, or it stops by itself, and is to be enqueued again: the record lets go first."""
        copy = delivery.copy
        call = Call.of("await_copy", me=me, run=delivery.run, origin=copy.origin, payload=copy.attempt, delay=True)
        answer, world = self.execute(me, call)
        phase = "skipped" if answer == "fenced" else "handed_back"
        after = _with_delivery(world, me, at, world.workers[me].deliveries[at]._replace(phase=phase))
        yield Step(f"{_w(me)} stops, and lets go of the record: {answer}", call, after)
        if self.can("answers"):
            for told, before in ((True, world), (False, self.world)):
                after = _with_delivery(
                    before, me, at, before.workers[me].deliveries[at]._replace(phase="unheard", doubt=True)
                )
                what = f"{_w(me)} stops, and does not hear that it has let go of the record{' not' * (not told)}"
                yield Step(what, call if told else None, self.spent("answers", after))

    def in_handed_back(self, me: int, at: int, delivery: Delivery) -> Iterator[Step]:
        return self.enqueue_again(me, at, delivery, "sent_back", without="sent_back")

    def in_sent_back(self, me: int, at: int, delivery: Delivery) -> Iterator[Step]:
        return self.in_handed_over(me, at, delivery)

    def in_unheard(self, me: int, at: int, delivery: Delivery) -> Iterator[Step]:
        if delivery.lost:
            return iter((Step(f"{_w(me)} does not enqueue it again", None, self.moved(me, at, delivery, "skipped")),))
        return self.enqueue_again(me, at, delivery, "enqueued", without="stranded")

    def enqueue_again(self, me: int, at: int, delivery: Delivery, phase: str, *, without: str) -> Iterator[Step]:
        copy = delivery.copy
        again = Copy(
            self.new_id(), max(copy.generation, delivery.generation), copy.origin, copy.attempt, tries=copy.tries
        )
        after = _enqueue(self.moved(me, at, delivery, phase), again)
        yield Step(f"{_w(me)} enqueues it again, as {_c(again)}", None, after)
        if self.can("losses"):
            after = self.spent("losses", self.moved(me, at, delivery, without))
            yield Step(f"{_w(me)} cannot enqueue it again", None, after, progress=False)

    def in_enqueued(self, me: int, at: int, delivery: Delivery) -> Iterator[Step]:
        world = self.acknowledge(me, at)
        yield Step(f"{_w(me)} acknowledges", None, _with_delivery(world, me, at, delivery._replace(phase="to_release")))

    def in_to_release(self, me: int, at: int, delivery: Delivery) -> Iterator[Step]:
        call = release(me, delivery.run, delivery.copy.origin, "let_go")
        answer, world = self.execute(me, call)
        yield Step(f"{_w(me)} releases: {answer}", call, self.gone(world, me, at))

    def failure(self, me: int, at: int, delivery: Delivery) -> Iterator[Step]:
        if delivery.lost:
            yield Step(f"{_w(me)} fails; nothing follows", None, self.moved(me, at, delivery, "skipped"))
        else:
            yield Step(f"{_w(me)} fails", None, self.moved(me, at, delivery, "failed"))

    def in_succeeded(self, me: int, at: int, delivery: Delivery) -> Iterator[Step]:
        followed = _follow(self.moved(me, at, delivery, "followed"))
        yield Step(f"{_w(me)} enqueues what follows", None, followed)

    def in_failed(self, me: int, at: int, delivery: Delivery) -> Iterator[Step]:
        copy = delivery.copy
        if copy.attempt >= self.bounds.retries:
            yield Step(f"{_w(me)} has failed for the last time", None, self.moved(me, at, delivery, "rejected"))
        else:
            id = self.new_id()
            retry = Copy(id, copy.generation, id, copy.attempt + 1)
            after = _enqueue(self.moved(me, at, delivery, "retried"), retry)
            yield Step(f"{_w(me)} enqueues a retry, {_c(retry)}", None, after)
            if self.can("losses"):
                world = self.acknowledge(me, at) if self.bounds.acks_stranded else self.world
                after = _with_delivery(self.spent("losses", world), me, at, delivery._replace(phase="stranded"))
                yield Step(f"{_w(me)} cannot enqueue a retry", None, after, progress=False)

    def in_cut_short(self, me: int, at: int, delivery: Delivery) -> Iterator[Step]:
        yield from self.complete(me, at, delivery, "finished", again=True)

    def in_lost(self, me: int, at: int, delivery: Delivery) -> Iterator[Step]:
        yield from self.complete(me, at, delivery, "finished")

    def in_hasty(self, me: int, at: int, delivery: Delivery) -> Iterator[Step]:
        after = _follow(self.moved(me, at, delivery, "finished"))
        yield Step(f"{_w(me)} enqueues what follows", None, after)

    def reassert(self, me: int, at: int, delivery: Delivery) -> Step:
        copy = delivery.copy
        delivered = self.delivered(me, copy)
        call = Call.of(
            "reassert",
            me=me,
            run=delivery.run,
            generation=copy.generation,
            origin=copy.origin,
            limit=self.bounds.limit,
            copy=self.name(copy.id),
            started=delivery.started,
            crashes=delivery.crashes,
            drains=delivery.drains,
            alone=delivery.alone,
            tailored=self.bounds.tailored,
            payload=copy.attempt,
            tries=copy.tries,
            held=delivered and delivered[0],
        )
        trusted = self.world.redis.hearts[me].trusted
        (what, run, generation, crashes, drains), world = self.execute(me, call)
        after = world.workers[me].deliveries[at]._replace(doubt=not trusted)
        if what == "lost":
            after = after._replace(lost=True)
        elif what != "later":
            after = after._replace(run=run, generation=generation, crashes=crashes, drains=drains)
        return Step(f"{_w(me)} looks its message up: {what}", call, _with_delivery(world, me, at, after))

    def in_followed(self, me: int, at: int, delivery: Delivery) -> Iterator[Step]:
        yield from self.complete(me, at, delivery, "finished")
        if self.can("answers") and not self.with_redis:
            after = _with_delivery(self.acknowledge(me, at), me, at, delivery._replace(phase="untold", contended=True))
            what = f"{_w(me)} acknowledges, and Redis cannot be told"
            yield Step(what, None, self.spent("answers", after), progress=False)

    def in_untold(self, me: int, at: int, delivery: Delivery) -> Iterator[Step]:
        for step in self.complete(me, at, delivery, "finished"):
            yield step._replace(after=self.gone(step.after, me, at))

    def complete(self, me: int, at: int, delivery: Delivery, phase: str, *, again: bool = False) -> Iterator[Step]:
        for due in self.due(me):
            yield self.completed(me, at, delivery, phase, again=again, due=due)

    def completed(self, me: int, at: int, delivery: Delivery, phase: str, *, again: bool, due: bool) -> Step:
        copy, worker = delivery.copy, self.world.workers[me]
        contended = delivery.contended or (not self.with_redis and copy not in worker.unacked)
        call = Call.of(
            "complete",
            me=me,
            run=delivery.run,
            origin=copy.origin,
            again=again,
            contended=contended,
            copy=self.name(copy.id),
            generation=copy.generation,
            unacked=not self.with_redis,
            started=delivery.started,
            due=due,
            delivery=self.delivered(me, copy),
        )
        answer, world = self.execute(me, call)
        if not again and answer in ("finished", "late"):
            world = world._replace(completed=copy.origin)
        if self.with_redis and not self.bounds.hasty:
            after = self.gone(self.acknowledge(me, at, world), me, at)
            return Step(f"{_w(me)} finishes and acknowledges, in one write: {answer}", call, after)
        finished = world.workers[me].deliveries[at]._replace(phase=phase)
        return Step(f"{_w(me)} finishes: {answer}", call, _with_delivery(world, me, at, finished))

    def in_finished(self, me: int, at: int, delivery: Delivery) -> Iterator[Step]:
        held = any(self.is_same(other, delivery.copy) for other in self.world.workers[me].unacked)
        world = self.acknowledge(me, at)
        if self.with_redis or not held or not delivery.run:
            yield Step(f"{_w(me)} acknowledges", None, self.gone(world, me, at))
        else:
            yield Step(f"{_w(me)} acknowledges", None, _with_delivery(world, me, at, delivery._replace(phase="acked")))

    def in_acked(self, me: int, at: int, delivery: Delivery) -> Iterator[Step]:
        call = Call.of("shorten_retention", run=delivery.run)
        _, world = self.execute(me, call, own=False)
        yield Step(f"{_w(me)} says that the ack was sent", call, self.gone(world, me, at))

    def in_retried(self, me: int, at: int, delivery: Delivery) -> Iterator[Step]:
        world = self.acknowledge(me, at)
        yield Step(f"{_w(me)} acknowledges", None, _with_delivery(world, me, at, delivery._replace(phase="let_go")))

    def in_rejected(self, me: int, at: int, delivery: Delivery) -> Iterator[Step]:
        world = self.reject(me, at)
        # A nack moves nothing that the broker has taken back.
        phase = "given_up" if world.dead_letters != self.world.dead_letters else "given_back"
        yield Step(f"{_w(me)} rejects", None, _with_delivery(world, me, at, delivery._replace(phase=phase)))

    def in_given_back(self, me: int, at: int, delivery: Delivery) -> Iterator[Step]:
        return self.in_to_release(me, at, delivery)

    def in_given_up(self, me: int, at: int, delivery: Delivery) -> Iterator[Step]:
        return self.in_let_go(me, at, delivery, state="dead_lettered")

    def in_let_go(self, me: int, at: int, delivery: Delivery, state: str = "released") -> Iterator[Step]:
        call = release(me, delivery.run, delivery.copy.origin, state, contended=delivery.contended)
        answer, world = self.execute(me, call)
        yield Step(f"{_w(me)} releases: {answer}", call, self.gone(world, me, at))

    def in_stranded(self, me: int, at: int, delivery: Delivery) -> Iterator[Step]:
        copy = delivery.copy
        call = Call.of("await_copy", me=me, run=delivery.run, origin=copy.origin, payload=copy.attempt + 1, delay=False)
        answer, world = self.execute(me, call)
        after = world.workers[me].deliveries[at]._replace(phase="handed_over")
        yield Step(f"{_w(me)} hands over: {answer}", call, _with_delivery(world, me, at, after))

    def in_handed_over(self, me: int, at: int, delivery: Delivery) -> Iterator[Step]:
        yield Step(f"{_w(me)} acknowledges", None, self.gone(self.acknowledge(me, at), me, at))

    def in_deferring(self, me: int, at: int, delivery: Delivery) -> Iterator[Step]:
        copy = delivery.copy._replace(id=self.new_id(), again=False)
        after = _enqueue(self.moved(me, at, delivery, "deferred" if self.with_redis else "skipped"), copy)
        if not copy.duplicate and self.world.twin[0] != copy.origin:
            after = after._replace(twin=(copy.origin, delivery.copy.id))
        elif self.world.twin == (copy.origin, delivery.copy.id):  # it was never acknowledged, and is put off once more
            after = after._replace(twin=(copy.origin, copy.id))
        yield Step(f"{_w(me)} puts it off, as {_c(copy)}", None, after)

    def in_deferred(self, me: int, at: int, delivery: Delivery) -> Iterator[Step]:
        call = Call.of("defer", copy=delivery.copy.id, at_broker=self.at_broker())
        _, world = self.execute(me, call, own=False)
        after = world.workers[me].deliveries[at]._replace(phase="skipped")
        yield Step(f"{_w(me)} says that it was put off", call, _with_delivery(world, me, at, after))

    def in_skipped(self, me: int, at: int, delivery: Delivery) -> Iterator[Step]:
        yield Step(f"{_w(me)} acknowledges a copy that does not run", None, self.gone(self.acknowledge(me, at), me, at))

    def in_poison(self, me: int, at: int, delivery: Delivery) -> Iterator[Step]:
        world = self.reject(me, at)
        after = delivery._replace(phase="buried")
        yield Step(f"{_w(me)} rejects a poison message", None, _with_delivery(world, me, at, after))

    def in_buried(self, me: int, at: int, delivery: Delivery) -> Iterator[Step]:
        copy = delivery.copy
        call = Call.of(
            "close_unstarted",
            generation=copy.generation,
            origin=copy.origin,
            redelivered=False,
            state="dead_lettered",
            tries=copy.tries,
        )
        _, world = self.execute(me, call, own=False)
        yield Step(f"{_w(me)} says that it is dead-lettered", call, self.gone(world, me, at))
        if self.can("answers"):
            after = self.spent("answers", self.gone(self.world, me, at))
            yield Step(f"{_w(me)} cannot say that it is dead-lettered", None, after, progress=False)

    # A worker.

    def worker(self, me: int) -> Iterator[Step]:
        world, worker = self.world, self.world.workers[me]
        if len(worker.deliveries) < self.bounds.prefetch:
            for copy in dict.fromkeys(world.queue):
                fetched = worker._replace(
                    unacked=_sorted((*worker.unacked, copy)), deliveries=(*worker.deliveries, Delivery(copy))
                )
                after = _with_worker(world._replace(queue=_without(world.queue, copy)), me, fetched)
                yield Step(f"{_w(me)} fetches {_c(copy)}", None, after)
        if world.redis.hearts[me] != Heart("fresh", worker.draining) or world.redis.noted[me]:
            call = Call.of("heartbeat", me=me, kind="draining" if worker.draining else "alive")
            _, after = self.execute(me, call)
            yield Step(f"{_w(me)} beats", call, after)
        record = world.redis.record
        if world.redis.running[me] and record and not any(d.phase in HERE for d in worker.deliveries):
            call = release(me, record.run, record.origin, "let_go")
            answer, after = self.execute(me, call)
            yield Step(f"{_w(me)} does not know what it is said to run: {answer}", call, after)
        if "gone" in self.bounds.evidence:
            yield from self.looks(me, worker)
        if self.can("drains") and not worker.draining:
            after = self.spent("drains", _with_worker(world, me, worker._replace(draining=True)))
            yield Step(f"{_w(me)} begins to shut down", None, after, progress=False)
        if self.can("crashes"):
            dead = Worker(alive=False, suspected=worker.suspected, unacked=worker.unacked, connected=False)
            dead = dead._replace(shown=worker.shown)
            yield Step(f"{_w(me)} is killed", None, self.spent("crashes", _with_worker(world, me, dead)), False)

    def looks(self, me: int, worker: Worker) -> Iterator[Step]:
        """It subscribes, and enters; or looks at those that are not subscribed."""
        redis = self.world.redis
        if redis.hearts[me].kind == "none":
            return  # it registers first
        if not worker.connected or not redis.entered[me]:
            call = Call.of("enter", me=me, subscribed=True)
            _, after = self.execute(me, call)
            after = _with_worker(after, me, after.workers[me]._replace(connected=True))
            yield Step(f"{_w(me)} subscribes, and enters", call, after)
            return
        for number, other in enumerate(self.world.workers):
            if other.connected or redis.hearts[number].kind != "fresh" or not redis.entered[number]:
                continue
            over = redis.noted[number]
            call = Call.of("suspect", me=me, other=number, seen=(True, False), over=over)
            answer, after = self.execute(me, call, own=False)
            seen = after.workers[number]
            if answer == "absent" and not over:
                seen = seen._replace(shown=False)
            if answer == "gone" and other.alive:
                if not self.can("alarms"):
                    continue  # it is back within its patience
                doubting = tuple(delivery._replace(doubt=delivery.phase in HERE) for delivery in other.deliveries)
                seen, after = seen._replace(suspected=True, deliveries=doubting), self.spent("alarms", after)
            progress = answer != "gone" or not other.alive
            yield Step(f"{_w(me)} looks at {_w(number)}: {answer}", call, _with_worker(after, number, seen), progress)

    # Recovery.

    def recovery(self, me: int) -> Iterator[Step]:
        world, worker = self.world, self.world.workers[me]
        if worker.job is not None:
            step: Step = getattr(self, "job_" + worker.job.at)(me, worker.job)
            yield step
            if worker.job.at == "mark" and worker.job.dead != NOBODY and self.can("answers"):
                after = self.at(self.world, me, None)
                after = _with_worker(after, me, after.workers[me]._replace(leftover=worker.job.dead))
                yield Step(f"{_w(me)} cannot mark it", None, self.spent("answers", after), progress=False)
            if worker.job.at == "enqueue" and self.can("losses") and not self.with_redis:
                after = self.spent("losses", step.after._replace(queue=world.queue))
                yield Step(step.what + ", which never gets to the broker", None, after, progress=False)
            if worker.job.at == "enqueue" and self.can("refusals"):
                yield from self.refusal(me, worker.job)
            return
        for dead, heart in enumerate(world.redis.hearts):
            judged = heart.kind in ("proven", "gone") or (heart.kind == "expired" and world.redis.last)
            if dead != me and judged:
                yield from self.sweep(me, dead)
        if worker.leftover != NOBODY:
            forgotten = worker._replace(leftover=NOBODY)
            call = Call.of("claim", me=me, dead=worker.leftover, leftovers=True, at_broker=self.at_broker())
            answer, after = self.execute(me, call, own=False)
            after = _with_worker(after, me, forgotten)
            yield self.claimed(me, Job("claim", worker.leftover, kept=True), call, answer, after)
        if world.redis.waiting == "due":
            yield from self.overdue(me)
        if self.can("operators") and world.redis.record is not None:
            for step in self.operator(me):
                yield step._replace(after=self.spent("operators", step.after), progress=False)

    def refusal(self, me: int, job: Job) -> Iterator[Step]:
        """It cannot be enqueued; or that is what it seems."""
        for why in ("refused", "left_over", "untried"):
            call = Call.of("return_claims", me=me, generation=job.generation, why=why)
            _, world = self.execute(me, call, own=False)
            after = self.spent("refusals", self.at(world, me, self.then(job._replace(kept=True))))
            yield Step(f"{_w(me)} does not enqueue it: {why}", call, after, progress=False)
            if why != "untried":
                enqueued = _enqueue(after, self.copy_of(job))
                yield Step(f"{_w(me)} enqueues it, and does not hear of it: {why}", call, enqueued, progress=False)

    def operator(self, me: int) -> Iterator[Step]:
        """A worker's process stands for the operator's, which may be killed as well."""
        for force in (False, True):
            for condemn in (False, True):
                call = Call.of("take", me=me, dead_letter=condemn, force=force, at_broker=self.at_broker())
                answer, world = self.execute(me, call, own=False)
                if not isinstance(answer, str):
                    step = self.claimed(me, Job("claim", NOBODY, kept=True), call, answer, self.robbed(world, force))
                    yield step._replace(what=f"{_w(me)}, an operator, takes it: {answer[0]}")
            call = Call.of("discard", force=force)
            answer, world = self.execute(me, call, own=False)
            if answer == "discarded":
                after = self.robbed(world, force)._replace(discarded=True)
                yield Step(f"an operator discards it{' by force' * force}", call, after)

    def robbed(self, world: World, force: bool) -> World:
        """The worker that runs it loses it by force, and does not know that yet."""
        record = self.world.redis.record
        if not force or record is None or record.owner == NOBODY:
            return world
        return _with_worker(world, record.owner, world.workers[record.owner]._replace(suspected=True))

    def sweep(self, me: int, dead: int) -> Iterator[Step]:
        if not self.with_redis:
            if self.world.redis.running[dead]:
                yield self.claim(me, Job("claim", dead))
            else:
                yield self.job_forget(me, Job("forget", dead))
            return
        call = Call.of("return_to_broker", dead=dead, held=None)
        _, world = self.execute(me, call, own=False)
        yield Step(f"{_w(me)} begins to hand back what {_w(dead)} had", call, self.at(world, me, Job("look", dead)))

    def job_look(self, me: int, job: Job) -> Step:
        redis = self.world.redis
        if not redis.running[job.dead]:
            return Step(f"{_w(me)} finds no record", None, self.at(self.world, me, job._replace(at="give")))
        name = redis.record.copy if redis.record else 0
        return Step(f"{_w(me)} looks", None, self.at(self.world, me, job._replace(at="ask", copy=name)))

    def job_ask(self, me: int, job: Job) -> Step:
        held = self.holds(job.copy)
        what = "has" if held else "does not have"
        after = self.at(self.world, me, job._replace(at="hand", copy=0, held=held))
        return Step(f"the broker {what} copy {job.copy}", None, after)

    def job_hand(self, me: int, job: Job) -> Step:
        call = Call.of("return_to_broker", dead=job.dead, held=job.held)
        answer, world = self.execute(me, call, own=False)
        after = job._replace(at="give", held=False)
        if answer == "to_claim":
            after = after._replace(at="claim")
        elif answer == "busy":
            after = after._replace(kept=True)
        next_job = None if answer is None else after
        return Step(f"{_w(me)} hands back: {answer or 'alive'}", call, self.at(world, me, next_job))

    def job_claim(self, me: int, job: Job) -> Step:
        return self.claim(me, job)

    def claim(self, me: int, job: Job) -> Step:
        call = Call.of("claim", me=me, dead=job.dead, leftovers=False, at_broker=self.at_broker())
        answer, world = self.execute(me, call, own=False)
        return self.claimed(me, job, call, answer, world)

    def at_broker(self) -> int | None:
        """The payload that the record leaves to the broker, if that has it."""
        record = self.world.redis.record
        if record is None or record.payload is not None or not self.with_redis:
            return None
        copies = (*self.world.queue, *(copy for worker in self.world.workers for copy in worker.unacked))
        return next((copy.attempt for copy in copies if copy.id == record.copy), None)

    def claimed(self, me: int, job: Job, call: Call, answer: Any, world: World) -> Step:
        if isinstance(answer, str):
            kept = job.kept or answer in ("busy", "mine", "waits", "alive")
            after = self.then(job._replace(kept=kept))
            return Step(f"{_w(me)} claims: {answer}", call, self.at(world, me, after))
        verdict, _, generation, _, _, _, tries, origin, attempt = answer
        after = job._replace(
            at="enqueue",
            generation=generation,
            attempt=attempt,
            origin=origin,
            poison=verdict == "poisoned",
            tries=tries,
        )
        return Step(f"{_w(me)} claims: {verdict}", call, self.at(world, me, after))

    def then(self, job: Job) -> Job | None:
        """The steps after a claim."""
        if job.dead == NOBODY or job.kept:
            return None
        if self.world.redis.hearts[job.dead].kind == "fresh":
            return None
        return Job("give" if self.with_redis else "forget", job.dead)

    def job_enqueue(self, me: int, job: Job) -> Step:
        copy = self.copy_of(job)
        after = job._replace(at="mark", copy=copy.id)
        return Step(f"{_w(me)} enqueues {_c(copy)}", None, self.at(_enqueue(self.world, copy), me, after))

    def copy_of(self, job: Job) -> Copy:
        return Copy(self.new_id(), job.generation, job.origin, job.attempt, poison=job.poison, tries=job.tries)

    def job_mark(self, me: int, job: Job) -> Step:
        call = Call.of("confirm_copies", me=me, dead=job.dead, generation=job.generation, copy=self.name(job.copy))
        answer, world = self.execute(me, call, own=False)
        return Step(f"{_w(me)} marks it: {answer}", call, self.at(world, me, self.then(job)))

    def job_give(self, me: int, job: Job) -> Step:
        worker = self.world.workers[job.dead]
        if worker.unacked:
            copy = worker.unacked[0]
            return Step(f"{_w(me)} gives {_c(copy)} back", None, self.redelivered(job.dead, copy))
        return Step(f"{_w(me)} finds nothing more", None, self.at(self.world, me, job._replace(at="forget")))

    def job_forget(self, me: int, job: Job) -> Step:
        if job.kept:
            return Step(f"{_w(me)} leaves the rest", None, self.at(self.world, me, None))
        call = Call.of("forget", dead=job.dead)
        answer, world = self.execute(me, call, own=False)
        return Step(f"{_w(me)} reaps {_w(job.dead)}: {answer}", call, self.at(world, me, None))

    def overdue(self, me: int) -> Iterator[Step]:
        record = self.world.redis.record
        can_ask = record and record.state == "requeued" and record.copy != NO_COPY
        if self.with_redis and can_ask and record:
            held = self.holds(record.copy)
            job = Job("extend_deadlines", NOBODY, copy=record.copy, held=held)
            yield Step(f"{_w(me)} asks about copy {record.copy}: {held}", None, self.at(self.world, me, job))
        else:
            may_have = record and record.state == "requeued" and record.tries and self.world.queue
            if may_have and record:
                call = Call.of("extend_deadlines", copy=record.copy, what="maybe")
                answer, world = self.execute(me, call, own=False)
                yield Step(f"{_w(me)} hears that the queue is not empty: {answer}", call, world)
            yield self.claim(me, Job("claim", NOBODY))

    def job_extend_deadlines(self, me: int, job: Job) -> Step:
        for number, worker in enumerate(self.world.workers):
            for copy in worker.unacked:
                if job.held and copy.id == job.copy:
                    return Step(f"{_w(me)} takes {_c(copy)} back", None, self.redelivered(number, copy))
        call = Call.of("extend_deadlines", copy=job.copy, what="held" if job.held else "consumed")
        answer, world = self.execute(me, call, own=False)
        return Step(f"{_w(me)} postpones: {answer}", call, self.at(world, me, None))

    # The events.

    def surroundings(self) -> Iterator[Step]:
        world, redis = self.world, self.world.redis
        for number, worker in enumerate(world.workers):
            heart = redis.hearts[number]
            if heart.kind == "fresh" and "expired" in self.bounds.evidence:
                yield from self.not_heard(number, heart)
            if heart.kind == "gone":
                after = world._replace(redis=with_heart(redis, number, heart._replace(kind="proven")))
                yield Step(f"{_w(number)} cannot be back any more", None, after)
            if worker.alive and worker.connected and self.can("cuts"):
                after = self.spent("cuts", self.cut_off(world, number))
                yield Step(f"{_w(number)}'s connection is closed", None, after, progress=False)
            if not worker.alive and "proven" in self.bounds.evidence and heart.kind not in ("none", "proven"):
                call = Call.of("mark_dead", dead=number)
                _, after = self.execute(number, call, own=False)
                yield Step(f"{_w(number)} is seen to be gone", call, after)
            for copy in worker.unacked:
                if not worker.alive and (not self.with_redis or heart.kind in ("none", "expired", "gone", "proven")):
                    yield Step(f"the broker delivers {_c(copy)} again", None, self.redelivered(number, copy))
                elif worker.alive and self.can("redeliveries"):
                    after = self.spent("redeliveries", self.redelivered(number, copy))
                    yield Step(f"the broker takes {_c(copy)} from {_w(number)}", None, after, progress=False)
        if self.can("restarts"):
            after = world._replace(redis=redis._replace(entered=(False,) * len(world.workers)))
            for number in range(len(world.workers)):
                after = self.cut_off(after, number)
            yield Step("the server is another one", None, self.spent("restarts", after), progress=False)
        if redis.waiting == "later":
            after = world._replace(redis=redis._replace(waiting="due"))
            if not self.is_under_way():
                yield Step("its deadline comes", None, after)
            elif self.can("delays"):
                yield Step("its deadline comes early", None, self.spent("delays", after), progress=False)
        for copy in world.dead_letters:
            if self.can("replays") and redis.waiting == "":
                id = self.new_id()
                replay = Copy(id, copy.generation, id, 0)
                again = world._replace(dead_letters=(), completed=0)
                after = self.spent("replays", _enqueue(again, replay))
                yield Step(f"an operator replays it, as {_c(replay)}", None, after, progress=False)
                if redis.record is not None and redis.record.state == "dead_lettered":  # nobody is that quick
                    moved = self.spent("replays", _enqueue(again, copy._replace(id=id)))
                    yield Step(f"an operator moves it back, as {_c(copy)}", None, moved, progress=False)

    def not_heard(self, number: int, heart: Heart) -> Iterator[Step]:
        """Its heartbeat expires."""
        world, worker = self.world, self.world.workers[number]
        after = world._replace(redis=with_heart(world.redis, number, heart._replace(kind="expired")))
        if not worker.alive:
            yield Step(f"{_w(number)}'s heartbeat expires", None, after)
        elif self.can("alarms"):
            doubting = tuple(delivery._replace(doubt=delivery.phase in HERE) for delivery in worker.deliveries)
            suspected = worker._replace(suspected=True, deliveries=doubting)
            after = self.spent("alarms", _with_worker(after, number, suspected))
            yield Step(f"{_w(number)}'s heartbeat expires, though it lives", None, after, progress=False)

    @staticmethod
    def cut_off(world: World, number: int) -> World:
        """Its connection is closed, and it doubts what it runs."""
        worker = world.workers[number]
        doubting = tuple(
            delivery._replace(doubt=delivery.doubt or delivery.phase in HERE) for delivery in worker.deliveries
        )
        return _with_worker(world, number, worker._replace(connected=False, deliveries=doubting))

    def is_under_way(self) -> bool:
        """Return whether the copy that the record waits for, or what will make one, is anywhere."""
        world, record = self.world, self.world.redis.record
        assert record is not None
        copies = [*world.queue]
        for worker in world.workers:
            if worker.job or worker.leftover != NOBODY:
                return True
            copies += [*worker.unacked, *(delivery.copy for delivery in worker.deliveries)]
        return any(copy.origin == record.origin and copy.generation >= record.generation for copy in copies)

    # The parts of steps.

    def execute(self, me: int, call: Call, *, own: bool = True) -> tuple[Any, World]:
        """Run a script.  If it is the worker's `own`, that hears whether it had been taken for dead."""
        answer, redis = self.scripts[call.script](self.world.redis, **call.named)
        world = self.world._replace(redis=redis)
        own = own and not is_short(self.world.redis, call)
        if own and self.world.redis.noted[me]:
            world = _with_worker(world, me, world.workers[me]._replace(shown=True))
        if own and not self.world.redis.hearts[me].trusted:
            worker = world.workers[me]
            doubting = tuple(d._replace(doubt=d.phase in HERE) for d in worker.deliveries)
            world = _with_worker(world, me, worker._replace(revived=True, deliveries=doubting))
        return answer, world

    def due(self, me: int) -> tuple[bool, ...]:
        """Return whether the next script may be to renew the heartbeat: both, where that makes any difference."""
        redis = self.world.redis
        return (True, False) if beat_of(redis, me)[2] != redis else (True,)

    def name(self, copy_id: int) -> int:
        """The broker's id of a copy, as far as it gives ids."""
        return copy_id if self.with_redis else 0

    def delivered(self, me: int, copy: Copy) -> tuple[bool, bool] | None:
        if not self.with_redis:
            return None
        return any(c.id == copy.id for c in self.world.workers[me].unacked), self.holds(copy.id)

    def holds(self, copy_id: int) -> bool:
        """Return whether the broker has the copy, delivered or not."""
        world = self.world
        return any(c.id == copy_id for c in (*world.queue, *(c for w in world.workers for c in w.unacked)))

    def new_id(self) -> int:
        """The first that nobody knows."""
        world, record = self.world, self.world.redis.record
        used = {copy.id for copy in (*world.queue, *world.dead_letters)} | {world.completed, *world.twin}
        used |= {copy.origin for copy in (*world.queue, *world.dead_letters)}
        used |= {record.origin, record.copy} if record else set()
        for worker in world.workers:
            for copy in (*worker.unacked, *(delivery.copy for delivery in worker.deliveries)):
                used |= {copy.id, copy.origin}
            if worker.job:
                used |= {worker.job.copy, worker.job.origin}
        return next(id for id in range(1, 100) if id not in used)

    def moved(self, me: int, at: int, delivery: Delivery, phase: str) -> World:
        return _with_delivery(self.world, me, at, delivery._replace(phase=phase))

    def gone(self, world: World, me: int, at: int) -> World:
        worker = world.workers[me]
        deliveries = worker.deliveries[:at] + worker.deliveries[at + 1 :]
        return _with_worker(world, me, worker._replace(deliveries=deliveries))

    def acknowledge(self, me: int, at: int, world: World | None = None) -> World:
        """The broker is told, and forgets the copy if it had not taken it back."""
        world = world or self.world
        worker = world.workers[me]
        copy = worker.deliveries[at].copy
        kept = tuple(other for other in worker.unacked if not self.is_same(other, copy))
        put_off = worker.deliveries[at].phase == "skipped" and world.twin == (copy.origin, copy.id)
        if put_off and len(kept) < len(worker.unacked):
            world = world._replace(twin=(0, 0))
        return _with_worker(world, me, worker._replace(unacked=kept))

    def is_same(self, held: Copy, copy: Copy) -> bool:
        """Return whether it is this delivery: RedisBroker knows a copy by its id, others a delivery by its tag."""
        return held.id == copy.id and (self.with_redis or held.again == copy.again)

    def reject(self, me: int, at: int) -> World:
        copy = self.world.workers[me].deliveries[at].copy
        held = any(self.is_same(other, copy) for other in self.world.workers[me].unacked)
        world = self.acknowledge(me, at)
        return world._replace(dead_letters=(copy._replace(again=False, duplicate=False),)) if held else world

    def redelivered(self, number: int, copy: Copy) -> World:
        worker = self.world.workers[number]
        world = _with_worker(self.world, number, worker._replace(unacked=_without(worker.unacked, copy)))
        return _enqueue(world, copy if self.with_redis else copy._replace(again=True))

    def at(self, world: World, me: int, job: Job | None) -> World:
        return _with_worker(world, me, world.workers[me]._replace(job=job))

    def can(self, budget: str) -> bool:
        return self.world.left[BUDGETS.index(budget)] > 0

    def spent(self, budget: str, world: World) -> World:
        index = BUDGETS.index(budget)
        return world._replace(left=put(world.left, index, world.left[index] - 1))


def release(me: int, run: int, origin: int, state: str, *, contended: bool = True) -> Call:
    """Release a run that has failed, or that the worker does not know: any copy may be under way."""
    return Call.of("release", me=me, run=run, origin=origin, state=state, contended=contended)


def _follow(world: World) -> World:
    return world._replace(followed=min(world.followed + 1, 2))


def _with_worker(world: World, number: int, worker: Worker) -> World:
    return world._replace(workers=put(world.workers, number, worker))


def _with_delivery(world: World, number: int, at: int, delivery: Delivery) -> World:
    worker = world.workers[number]
    return _with_worker(world, number, worker._replace(deliveries=put(worker.deliveries, at, delivery)))


def _enqueue(world: World, copy: Copy) -> World:
    return world._replace(queue=_sorted((*world.queue, copy)))


def _sorted(copies: tuple[Copy, ...]) -> tuple[Copy, ...]:
    return tuple(sorted(copies))


def _without(copies: tuple[Copy, ...], copy: Copy) -> tuple[Copy, ...]:
    at = copies.index(copy)
    return copies[:at] + copies[at + 1 :]


def _w(number: int) -> str:
    return chr(ord("A") + number)


def _c(copy: Copy) -> str:
    return f"copy {copy.id}" + (f" (generation {copy.generation})" if copy.generation > 1 else "")
