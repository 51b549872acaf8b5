# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Each Lua script as a function on the record of one message: the state of Redis to an answer and the next.

Times are kept as what they mean: a heartbeat is fresh or expired, a deadline is later or due, the time of a start is
the number of its run.  Incarnations are numbers from 0; ids of copies are numbers from 1.  ``test_model.py`` runs the
real scripts beside these.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from dramatiq_inflight.store.declarations import DECLARATIONS, Declaration
from dramatiq_inflight.store.states import SETTLED, WAITING

__all__ = [
    "MODEL",
    "NOBODY",
    "NO_COPY",
    "SETTLED",
    "TAKES",
    "WAITING",
    "Call",
    "Heart",
    "Record",
    "Redis",
    "fresh_redis",
    "is_short",
]

NOBODY = -1
#: In the place of the present copy's id: there is none that is known by one.
NO_COPY = 0
UNLIMITED, ONCE = "unlimited", "once"
#: After how many deaths of those that had it in hand it is set aside.
DEADLY_AFTER = 3
#: The tries after which a deadline is a day away: the first one of a TTL of a minute, ten minutes, doubles.
DAYS_LATER = 8


class Record(NamedTuple):
    """As in common.lua, but for queue and actor, of which there is one, and causes, which decide nothing."""

    state: str
    owner: int = NOBODY
    run: int = 0
    generation: int = 1
    crashes: int = 0
    limit: int | str = UNLIMITED
    contended: int = 0
    forced: int = 0
    #: The run whose start is meant; 0: not known.
    started: int = 0
    first: int = 0
    origin: int = 0
    copy: int = 0
    drains: int = 0
    alone: int = 0
    tailored: int = 0
    tries: int = 0
    deaths: int = 0
    dead_letter: int = 0
    #: Which of the message's attempts the payload is of; ``None``: there is none, or the broker has it as `copy`.
    payload: int | None = None


class Heart(NamedTuple):
    """A heartbeat: none, fresh, expired, gone (dead, but it may still be back), or proven (dead)."""

    kind: str
    #: It is shutting down, or was when it died.
    draining: bool = False
    #: It has lost a message, and has not heard of that.
    doubted: bool = False

    @property
    def trusted(self) -> bool:
        """True if it is believed to live, and all that it ran is still its own."""
        return self.kind == "fresh" and not self.doubted


class Redis(NamedTuple):
    """All that Redis holds of one message and of the incarnations."""

    record: Record | None
    #: The deadline: none (empty), later, or due.
    waiting: str
    #: In whose index of running messages it is.
    running: tuple[bool, ...]
    hearts: tuple[Heart, ...]
    #: The returned messages, and whose they were.
    handed: tuple[bool, ...]
    #: Whether it was set aside.
    aside: bool
    #: Whether Redis knows when anybody last beat.  If not, nobody is judged by a heartbeat.
    last: bool
    #: The incarnations that have entered on the server as it is now.
    entered: tuple[bool, ...]
    #: The incarnations that are noted as absent, and have not shown themselves since.
    noted: tuple[bool, ...]


#: Arguments that the model has no use for: there is one message, of one queue and actor; times are what they mean.
UNUSED = frozenset({
    *("ttl", "id", "queue", "actor", "fence_ttl", "enqueued_by", "remember", "wait", "hold", "first_deadline"),
    *("deadly_after", "first_wait", "longest_wait", "expected_owner", "patience", "on_behalf", "anew", "count"),
    *("channel", "my_channel", "its_channel", "my_probe", "absent_since", "asked"),
})  # fmt: skip

#: Values of these alone, besides.
UNUSED_BY = {
    "defer": {"me"},
    "close_unstarted": {"copy", "why", "traceback"},
    "release": {"why", "traceback"},
    "reassert": {"unacked"},
    "return_to_broker": {"me"},
    "confirm_copies": {"delay"},
    "mark_dead": {"cause"},
    "suspect": {"cause"},
    "set_aside": {"why"},
}

#: The arguments that a script gets by its keys, or sees around it.
SEES = {
    "start": ("delivery",),
    "complete": ("delivery",),
    "reassert": ("held",),
    "enter": ("subscribed",),
    **dict.fromkeys(("claim", "take", "defer"), ("at_broker",)),
    "suspect": ("me", "seen", "over"),
    "set_aside": ("dead",),
}


def _taken(script: str, declared: Declaration) -> tuple[str, ...]:
    names = (arg.name for arg in (*declared.args, *declared.row_args))
    unused = UNUSED | UNUSED_BY.get(script, set())
    return (*(name for name in names if name not in unused), *SEES.get(script, ()))


#: The arguments of each script of the model: those of the real one, without those that are of no use here.
TAKES = {script: _taken(script, declared) for script, declared in DECLARATIONS.items()}


class Call(NamedTuple):
    """One execution of a script."""

    script: str
    #: In the order of `TAKES`.
    args: tuple[Any, ...]

    @classmethod
    def of(cls, script: str, /, **named: Any) -> Call:
        """Call it with arguments by name.

        Raises:
          TypeError: One is missing, or the script takes none of that name.
        """
        takes = TAKES[script]
        if named.keys() != set(takes):
            raise TypeError(f"{script} takes {takes}, and is given {tuple(named)}")
        return cls(script, tuple(map(named.__getitem__, takes)))

    @property
    def named(self) -> dict[str, Any]:
        """The arguments by name."""
        return dict(zip(TAKES[self.script], self.args, strict=True))

    def but(self, **named: Any) -> Call:
        """The same call with other arguments."""
        return Call.of(self.script, **{**self.named, **named})


def fresh_redis(incarnations: int, *, entered: bool = False) -> Redis:
    """Nothing but living incarnations."""
    nobody = (False,) * incarnations
    hearts, all_entered = (Heart("fresh"),) * incarnations, (entered,) * incarnations
    return Redis(None, "", nobody, hearts, nobody, aside=False, last=True, entered=all_entered, noted=nobody)


# The part that the scripts share.


def put(values: tuple[Any, ...], at: int, value: Any) -> tuple[Any, ...]:
    """A tuple with one value changed."""
    return values[:at] + (value,) + values[at + 1 :]


def with_heart(redis: Redis, who: int, heart: Heart) -> Redis:
    """Another heartbeat: a suspicion of before does not hold."""
    return redis._replace(hearts=put(redis.hearts, who, heart), noted=put(redis.noted, who, False))


def beat_of(redis: Redis, me: int) -> tuple[bool, bool, Redis]:
    """The heartbeat that every own script renews: whether it was trusted, whether it was known at all."""
    heart = redis.hearts[me]
    if heart.kind == "none":
        return False, False, redis
    after = with_heart(redis, me, Heart("fresh", heart.draining))._replace(last=True)
    return heart.trusted, heart.kind != "none", after


def appear(redis: Redis, who: int) -> Redis:
    """It has a heartbeat: it has registered, or a record says that it runs the message."""
    if redis.hearts[who].kind != "none":
        return redis
    return with_heart(redis, who, Heart("fresh"))._replace(last=True)


def doubt(redis: Redis, who: int) -> Redis:
    """It has lost a message, and is to hear of it: that is no sign of life."""
    return redis._replace(hearts=put(redis.hearts, who, redis.hearts[who]._replace(doubted=True)))


def is_dead(redis: Redis, who: int) -> bool:
    """Return whether it has a heartbeat that has ended: one that has none has left, or was reaped."""
    kind = redis.hearts[who].kind
    return kind in ("gone", "proven") or (kind == "expired" and redis.last)


def believed(redis: Redis, who: int) -> tuple[bool, Redis]:
    """Return whether the owner of a record is believed to live; one whose heartbeat is missing gets a new one."""
    redis = appear(redis, who)
    return not is_dead(redis, who), redis


def save(redis: Redis, record: Record) -> Redis:
    """A running record."""
    return redis._replace(record=record)


def save_waiting(redis: Redis, record: Record, deadline: str) -> Redis:
    return redis._replace(record=record, waiting=deadline)


def save_settled(redis: Redis, record: Record, *, unacked: bool = False) -> Redis:
    """Without its payload; and only where a copy may be under way."""
    if not (unacked or record.generation > 1 or record.contended):
        return redis._replace(record=None)
    record = record._replace(owner=NOBODY, dead_letter=0, payload=None)
    if not is_to_start(record):  # a mend cannot retake it: nobody asks when it had started
        record = record._replace(started=0, first=0)
    return redis._replace(record=record)


def unlist(redis: Redis, who: int) -> Redis:
    """No more in its index of running messages."""
    if who == NOBODY or not redis.running[who]:
        return redis
    return redis._replace(running=put(redis.running, who, False))


def would_be_convicted(record: Record) -> bool:
    if isinstance(record.limit, str):
        return record.limit == ONCE
    return bool(record.alone) and record.crashes + 1 > record.limit


def is_convicted(record: Record, drained: bool) -> bool:
    return would_be_convicted(record) and (not drained or record.limit == ONCE)


def is_spared(redis: Redis, record: Record, dead: int) -> bool:
    """Return whether it would be convicted by a death that may be none."""
    heart = redis.hearts[dead]
    return heart.kind == "gone" and is_convicted(record, heart.draining)


def charge(record: Record, drained: bool) -> tuple[bool, Record]:
    """One death more; whether it convicts."""
    convicted = is_convicted(record, drained)
    return convicted, record._replace(alone=0, drains=record.drains + drained, crashes=record.crashes + (not drained))


def is_last_chance(crashes: int, limit: int | str) -> bool:
    return isinstance(limit, int) and crashes >= max(limit, 1)


def is_to_start(record: Record) -> bool:
    return (record.state in WAITING and not record.forced) or record.state == "let_go"


def is_run(record: Record, me: int, run: int, origin: int) -> bool:
    return record.state == "running" and record.owner == me and record.run == run and origin in (0, record.origin)


def is_retaken(record: Record, me: int, run: int, origin: int, started: int) -> bool:
    """Return whether a mend has retaken it for this run, which has not heard of that."""
    return is_run(record, me, run + 1, origin) and record.started == started != 0


# The short ways: all that differs is that the heartbeat is not renewed.


def starts_short(redis: Redis, *, me: int, here: str, due: bool, delivery: tuple[bool, bool] | None, **_: Any) -> bool:
    """Return whether nobody knows the message, its delivery is `me`'s, and that is believed to live."""
    held = delivery is None or all(delivery)
    return not due and redis.record is None and here == "no" and held and redis.hearts[me].kind == "fresh"


def completes_short(
    redis: Redis,
    *,
    me: int,
    run: int,
    origin: int,
    contended: bool,
    unacked: bool,
    due: bool,
    delivery: tuple[bool, bool] | None,
    **_: Any,
) -> bool:
    """Return whether the record is that of the run, and nothing is to be remembered of it."""
    record = redis.record
    held = delivery is None or delivery[0]
    if due or contended or unacked or not held or record is None or not is_run(record, me, run, origin):
        return False
    return record.generation == 1 and not record.contended


SHORT: dict[str, Callable[..., bool]] = {"start": starts_short, "complete": completes_short}


def is_short(redis: Redis, call: Call) -> bool:
    """Return whether a script goes its short way."""
    return call.script in SHORT and SHORT[call.script](redis, **call.named)


# A message's life.


def start(
    redis: Redis,
    me: int,
    generation: int,
    origin: int,
    redelivered: bool,
    here: str,
    limit: int | str,
    copy: int,
    payload: int,
    duplicate: bool,
    forgotten: bool,
    alone: bool | None,
    tailored: bool,
    condemned: bool,
    tries: int,
    due: bool,
    delivery: tuple[bool, bool] | None,
) -> tuple[Any, Redis]:
    """The answer is its name, whether `me` was known (None: the heartbeat was not renewed), run, generation, crashes,
    drains, and whose death it was.

    Parameters:
      copy: The broker's id of the copy; 0 where it gives none.
      condemned: True if the copy carries a verdict, and the broker has delivered it before.
      delivery: Whether the broker still holds it for `me`, and whether it holds it at all; ``None``: it is not asked.
    """
    record = redis.record
    if record is not None and record.state == "damaged":
        record = None
    held, stored = delivery or (True, True)
    handed = not held and redis.handed[me]
    gone = not stored
    known: bool | None = None
    remembered = True
    if not starts_short(redis, me=me, here=here, due=due, delivery=delivery):
        known, remembered, redis = beat_of(redis, me)
    owner = NOBODY

    def answer(what: str, new: Record | None = None) -> tuple[Any, ...]:
        kept = new or record
        if kept is None:
            return what, known, 0, generation, 0, 0, owner
        return what, known, kept.run, kept.generation, kept.crashes, kept.drains, owner

    def run(crashes: int, drains: int, contended: int = 0) -> tuple[Any, Redis]:
        nonlocal owner
        if here != "no":
            owner = NOBODY
            return answer("waiting"), redis
        if alone is None and is_last_chance(crashes, limit):
            if record and record.state == "running" and record.alone:
                return answer("last_chance"), redis._replace(record=record._replace(alone=0))
            return answer("last_chance"), redis
        number = record.run + 1 if record else 1
        first = 0
        if record and record.state not in SETTLED:
            first = record.first or record.started
        new = Record(
            "running",
            me,
            number,
            max(generation, record.generation) if record and copy else generation,
            crashes,
            limit,
            contended,
            0,
            number,
            first,
            origin,
            NO_COPY if gone else copy,
            drains,
            int(alone is True),
            int(tailored or gone),
            tries,
            payload=None if delivery and stored else payload,
        )
        after = appear(redis._replace(record=new, running=put(redis.running, me, True)), me)
        if record and record.state in WAITING:
            after = after._replace(waiting="")
        return answer("run", new), after

    over = record is None or record.state in SETTLED
    if not held and (stored or handed or (over and remembered and not forgotten)):
        return answer("elsewhere"), redis
    if record is None:
        return run(0, 0)
    same = redelivered or (origin != 0 and origin == record.origin)
    named = copy != 0 and copy == record.copy
    if same and generation < record.generation and not named:
        return answer("stale"), redis
    if duplicate and origin not in (0, record.origin):
        return answer("superseded"), redis
    if record.state == "completed":
        return (answer("completed"), redis) if same else run(0, 0)
    if record.state == "dead_lettered":
        if same and tries != record.tries:
            return answer("superseded"), redis
        if condemned:
            return answer("poisoned"), redis
        if duplicate and same:
            return answer("superseded"), redis
        return run(0, 0, record.contended)
    if record.state == "released":
        if origin != 0 and origin == record.origin:
            return answer("superseded"), redis
        return run(record.crashes, record.drains, record.contended)
    if record.state == "let_go":
        return run(record.crashes, record.drains, record.contended)
    if record.state in WAITING:
        if not same:
            return answer("waiting"), redis
        if record.dead_letter:
            return answer("poisoned"), redis
        return run(record.crashes, record.drains, record.contended)
    # It is running.
    alive = True
    if record.owner == me:
        if here == "no":
            return run(record.crashes, record.drains, record.contended)
        if here == "ended" and same:
            return answer("ending"), redis
    else:
        alive, redis = believed(redis, record.owner)
        alive = alive or is_spared(redis, record, record.owner)
    if alive or not same:
        redis = save(redis, record._replace(contended=1))
        if same and here != "handed_back":
            owner = record.owner if record.owner != me else NOBODY
            return answer("duplicate"), redis
        return answer("waiting"), redis
    owner = record.owner
    convicted, record = charge(record, redis.hearts[owner].draining)
    if not convicted and not record.tailored:
        return run(record.crashes, record.drains, 1)
    record = record._replace(
        state="recovering",
        dead_letter=int(convicted),
        owner=me,
        contended=1,
        generation=record.generation + 1,
        copy=NO_COPY,
        tries=0,
        deaths=0,
        payload=payload,
    )
    return answer("convicted" if convicted else "claimed", record), save_waiting(appear(redis, me), record, "later")


def clear_alone(redis: Redis, me: int, run: int, origin: int) -> tuple[Any, Redis]:
    _, _, redis = beat_of(redis, me)
    record = redis.record
    if record is not None and is_run(record, me, run, origin):
        redis = save(redis, record._replace(alone=0))
    return None, redis


def complete(
    redis: Redis,
    me: int,
    run: int,
    origin: int,
    again: bool,
    contended: bool,
    copy: int,
    generation: int,
    unacked: bool,
    started: int,
    due: bool,
    delivery: tuple[bool, bool] | None,
) -> tuple[Any, Redis]:
    record = redis.record
    held, stored = delivery or (True, True)
    lost = not held and stored
    if not completes_short(
        redis, me=me, run=run, origin=origin, contended=contended, unacked=unacked, due=due, delivery=delivery
    ):
        _, _, redis = beat_of(redis, me)
    if record is None:
        redis = unlist(redis, me)
        if (lost or contended) and not again:
            redis = save_settled(redis, Record("completed", run=run, generation=generation, contended=1, origin=origin))
        return "gone", redis
    if is_run(record, me, run, origin) or is_retaken(record, me, run, origin, started):
        record = record._replace(
            state="released" if again else "completed",
            crashes=0,
            drains=0,
            contended=int(record.contended or lost or contended),
        )
        unacked = unacked and (delivery is None or delivery[1])
        return "finished", unlist(save_settled(redis, record, unacked=unacked), me)
    if record.owner != me:
        redis = unlist(redis, me)
    if again or origin != record.origin:
        return "fenced", redis
    if is_to_start(record):
        record = record._replace(state="completed", contended=1)
        return "late", save_settled(redis, record)._replace(waiting="")
    return "fenced", redis


def shorten_retention(redis: Redis, run: int) -> tuple[Any, Redis]:
    record = redis.record
    if record and record.state in SETTLED and record.run == run and record.generation <= 1 and not record.contended:
        return 1, redis  # it expires sooner
    return 0, redis


def _end(redis: Redis, me: int, run: int, origin: int) -> tuple[str, Redis]:
    """The shared part of a release and a hand-over: the answer, empty if the record is mine."""
    record = redis.record
    _, _, redis = beat_of(redis, me)
    if record is None:
        return "gone", unlist(redis, me)
    if is_run(record, me, run, origin):
        return "", redis
    return "fenced", redis if record.owner == me else unlist(redis, me)


def release(redis: Redis, me: int, run: int, contended: bool, state: str, origin: int) -> tuple[Any, Redis]:
    answer, redis = _end(redis, me, run, origin)
    if answer:
        return answer, redis
    assert redis.record is not None
    record = redis.record._replace(state=state)
    if contended:
        record = record._replace(contended=1)
    return "released", unlist(save_settled(redis, record), me)


def await_copy(redis: Redis, me: int, run: int, payload: int, delay: bool, origin: int) -> tuple[Any, Redis]:
    answer, redis = _end(redis, me, run, origin)
    if answer:
        return answer, redis
    assert redis.record is not None
    record = redis.record._replace(state="requeued", owner=NOBODY, copy=NO_COPY, contended=1, payload=payload)
    if delay:
        record = record._replace(tries=record.tries + 1)
    else:
        record = record._replace(generation=record.generation + 1, forced=1, tries=0, deaths=0)
    return "handed_over", unlist(save_waiting(redis, record, "later" if delay else "due"), me)


def payload_to_keep(record: Record, at_broker: int | None) -> int | None:
    """Return the payload of a record that is to be the only copy; `at_broker` is the broker's payload of the copy
    that it names.
    """
    return at_broker if record.payload is None else record.payload


def defer(redis: Redis, copy: int, at_broker: int | None) -> tuple[Any, Redis]:
    record = redis.record
    if record is None or copy == 0 or copy != record.copy:
        return None, redis
    kept = payload_to_keep(record, at_broker)
    if kept is None:
        return None, redis
    record = record._replace(copy=NO_COPY, contended=1, payload=kept)
    if record.state == "running":
        return None, save(redis, record)
    if record.state in WAITING:
        return None, save_waiting(redis, record, "later")
    return None, redis


def extend_deadline(redis: Redis, generation: int) -> tuple[Any, Redis]:
    record = redis.record
    if record is None or record.state != "requeued" or record.dead_letter or record.generation != generation:
        return None, redis
    return None, redis._replace(waiting="later")


def close_unstarted(
    redis: Redis, generation: int, origin: int, redelivered: bool, state: str, tries: int
) -> tuple[Any, Redis]:
    record = redis.record
    if record is None:
        return None, redis
    same = (origin != 0 and origin == record.origin) or (redelivered and 0 in (origin, record.origin))
    is_open = record.state in WAITING
    if record.state == "running":
        alive, redis = believed(redis, record.owner)
        is_open = not alive
    if not same or not is_open or generation < record.generation:
        return None, redis
    record = record._replace(state=state, crashes=0, drains=0, contended=1, tries=tries)
    return None, save_settled(redis, record)._replace(waiting="")


def reassert(
    redis: Redis,
    me: int,
    run: int,
    generation: int,
    origin: int,
    limit: int | str,
    copy: int,
    started: int,
    crashes: int,
    drains: int,
    alone: bool,
    tailored: bool,
    payload: int,
    tries: int,
    held: bool | None,
) -> tuple[Any, Redis]:
    """The answer is its name, and the record's run, generation, crashes and drains.

    Parameters:
      held: True if the broker still holds the copy for `me`; ``None``: it is not asked.
    """
    record = redis.record
    _, _, redis = beat_of(redis, me)

    def taken_back(charged: Record) -> Record:
        if run > 0 and charged.crashes > crashes:
            return charged._replace(crashes=charged.crashes - 1)
        if run > 0 and charged.drains > drains:
            return charged._replace(drains=charged.drains - 1)
        return charged

    def told(what: str, after: Record, changed: Redis) -> tuple[Any, Redis]:
        return (what, after.run, after.generation, after.crashes, after.drains), changed

    before = None
    if record and run == 0 and origin and record.state != "damaged" and record.origin != origin:
        if record.state not in SETTLED:
            return ("later", 0, 0, 0, 0), redis
        before, record = record, None
    if record is None or record.state == "damaged":
        record = Record(
            "running",
            me,
            max(run, 1),
            generation,
            crashes,
            limit,
            0,
            0,
            started,
            0,
            origin,
            copy,
            drains,
            int(alone),
            int(tailored),
            tries,
            payload=payload,
        )
        if before:
            record = record._replace(
                run=before.run + 1,
                generation=max(generation, before.generation),
                contended=0 if before.state == "completed" else before.contended,
            )
            if before.state in ("released", "let_go"):
                record = record._replace(crashes=before.crashes, drains=before.drains)
        if copy and not held:
            record = record._replace(copy=NO_COPY, tailored=1)
        what = "written"
    elif record.origin == origin and (
        is_run(record, me, run or record.run, origin) or is_retaken(record, me, run, origin, started)
    ):
        record = record._replace(alone=int(record.alone and alone))
        if copy and held is False and record.copy != NO_COPY:
            kept = payload if record.payload is None else record.payload
            record = record._replace(copy=NO_COPY, tailored=1, payload=kept)
        what = "kept"
    elif is_to_start(record) and not (record.dead_letter and record.state == "requeued") and record.origin == origin:
        kept = copy in (0, record.copy)
        record = taken_back(record)._replace(
            state="running",
            owner=me,
            run=record.run + 1,
            contended=1,
            copy=copy if kept else NO_COPY,
            tailored=record.tailored if kept else 1,
            alone=int(alone),
            tries=tries,
            dead_letter=0,
            payload=payload,
        )
        redis = redis._replace(waiting="")
        what = "retaken"
    else:
        if record.owner != me:
            redis = unlist(redis, me)
            if record.state == "running" and record.run == run + 1 and record.origin == origin:
                record = taken_back(record)
                redis = save(redis, record)
        return told("lost", record, redis)
    return told(what, record, appear(redis._replace(record=record, running=put(redis.running, me, True)), me))


# An incarnation's life.


def heartbeat(redis: Redis, me: int, kind: str) -> tuple[Any, Redis]:
    """`attested`: another process beats on its behalf, and what it has not heard of it still has to hear."""
    trusted, known, redis = beat_of(redis, me)
    if kind == "attested":
        return known, redis if trusted or not known else doubt(redis, me)
    redis = appear(redis, me)  # one that is not known registers
    heart = redis.hearts[me]
    return trusted, with_heart(redis, me, heart._replace(draining=heart.draining or kind == "draining"))


def mark_dead(redis: Redis, dead: int) -> tuple[Any, Redis]:
    heart = redis.hearts[dead]
    if heart.kind in ("none", "proven"):
        return False, redis
    # One that is gone is not in doubt any more.
    return True, with_heart(redis, dead, heart._replace(kind="proven"))


def forget(redis: Redis, dead: int) -> tuple[Any, Redis]:
    if not is_dead(redis, dead) or redis.hearts[dead].kind == "gone" or redis.running[dead]:
        return False, redis
    redis = with_heart(redis, dead, Heart("none"))._replace(entered=put(redis.entered, dead, False))
    return True, redis._replace(last=redis.last and any(heart.kind != "none" for heart in redis.hearts))


def enter(redis: Redis, me: int, subscribed: bool) -> tuple[Any, Redis]:
    """`subscribed`: whether the server sees that it is."""
    _, remembered, redis = beat_of(redis, me)
    if not remembered:
        return False, redis
    return subscribed, redis._replace(entered=put(redis.entered, me, subscribed))


def suspect(redis: Redis, other: int, me: int, seen: tuple[bool, bool], over: bool) -> tuple[Any, Redis]:
    """`seen`: whether the server sees a subscription of each; `over`: the patience is, and a connection was opened."""
    if not seen[0] or not redis.entered[me]:
        return "lost", redis
    if seen[1] or redis.hearts[other].kind != "fresh" or not redis.entered[other]:
        return "present" if seen[1] else "unseeable", redis._replace(noted=put(redis.noted, other, False))
    if not redis.noted[other] or not over:
        return "absent", redis._replace(noted=put(redis.noted, other, True))
    return "gone", with_heart(redis, other, redis.hearts[other]._replace(kind="gone"))


# Recovery.


def return_to_broker(redis: Redis, dead: int, held: bool | None) -> tuple[Any, Redis]:
    """`held`: whether the broker still holds the copy; ``None``: say only that it begins.  ``None`` is: it is alive."""
    if not is_dead(redis, dead):
        return None, redis
    redis = redis._replace(handed=put(redis.handed, dead, True))
    if held is None:
        return "begun", redis
    record = redis.record
    if record is None:
        return "gone", unlist(redis, dead)
    if record.state == "recovering":
        busy = False
        if record.owner != NOBODY:
            busy, redis = believed(redis, record.owner)
        return "busy" if busy else "to_claim", redis
    if record.state == "damaged":
        return "to_claim", redis
    if record.state != "running" or record.owner != dead:
        return "gone", unlist(redis, dead)
    if is_spared(redis, record, dead):
        return "busy", redis
    convicted, record = charge(record, redis.hearts[dead].draining)
    was_put_off = record.copy == NO_COPY
    if (convicted or record.tailored) and (held or was_put_off):
        return "to_claim", redis
    if not held:
        answer = "returned" if was_put_off else "settled"
        return answer, unlist(save_settled(redis, record._replace(state="let_go")), dead)
    record = record._replace(state="requeued", owner=NOBODY, contended=1)
    return "returned", unlist(save_waiting(redis, record, "later"), dead)


def claim(redis: Redis, me: int, dead: int, leftovers: bool, at_broker: int | None) -> tuple[Any, Redis]:
    """`dead`: `NOBODY` for a record past its deadline.  A claim is answered with all that the copy is made of."""
    record = redis.record
    answer, died = "gone", False
    if record is None:
        pass
    elif record.state == "damaged":
        redis, record, answer = redis._replace(record=None, aside=True), None, "aside"
    elif record.state == "running":
        if dead != NOBODY and record.owner == dead:
            alive, redis = believed(redis, dead)
            answer = "alive" if alive or is_spared(redis, record, dead) else "claimed"
    elif record.state in WAITING:
        due = redis.waiting != "later"
        if record.state != "recovering":
            answer = "claimed" if due else "gone"
        elif record.owner == NOBODY:
            answer = "claimed" if due else "waits"
        elif record.owner == me:
            answer = "claimed" if due or leftovers else "mine"
        else:
            died = redis.hearts[record.owner].kind == "none" or is_dead(redis, record.owner)
            died = died and not redis.hearts[record.owner].draining
            owner_lives = False
            if not due:
                owner_lives, redis = believed(redis, record.owner)
            answer = "busy" if owner_lives else "claimed"
    if answer != "claimed" or record is None:
        if answer in ("gone", "aside"):
            redis = unlist(redis, dead)
            if record is None or record.state not in WAITING:
                redis = redis._replace(waiting="")
        return answer, redis
    again = record.state == "recovering"
    record = record._replace(deaths=record.deaths + died if again else 0)
    if record.deaths >= DEADLY_AFTER:
        return "deadly", unlist(redis._replace(record=None, aside=True, waiting=""), dead)
    kept = payload_to_keep(record, at_broker)
    if kept is None:
        redis = save_settled(redis, record._replace(state="let_go"))
        return "gone", unlist(redis._replace(waiting=""), dead)
    record = record._replace(payload=kept)
    if record.state == "running":
        record = record._replace(generation=record.generation + 1, tries=0)
        condemned, record = charge(record, redis.hearts[dead].draining)
        record = record._replace(dead_letter=int(condemned))
    record = record._replace(
        state="recovering",
        owner=me,
        contended=1,
        copy=NO_COPY,
        tries=record.tries + (record.owner != NOBODY or not again),
    )
    return _orphan(record), save_waiting(redis, record, "later")


def _orphan(record: Record) -> tuple[Any, ...]:
    """Return the answer to the claimant of a record."""
    return (
        "poisoned" if record.dead_letter else "claimed",
        *(record.run, record.generation, record.crashes, record.limit, record.drains, record.tries, record.origin),
        record.payload,
    )


def confirm_copies(redis: Redis, me: int, dead: int, generation: int, copy: int) -> tuple[Any, Redis]:
    record = redis.record
    answer = "fenced"
    if record and record.state == "recovering" and record.owner == me and record.generation == generation:
        answer = "poisoned" if record.dead_letter else "requeued"
        record = record._replace(state="requeued", owner=NOBODY, copy=copy, deaths=0)
        redis = save_waiting(redis, record, "later")
    listed = record is not None and (record.state in WAITING or record.owner == dead or record.state == "damaged")
    if answer != "fenced" or not listed:
        redis = unlist(redis, dead)
    return answer, redis


def return_claims(redis: Redis, me: int, generation: int, why: str) -> tuple[Any, Redis]:
    record = redis.record
    if record and record.state == "recovering" and record.owner == me and record.generation == generation:
        record = record._replace(owner=NOBODY, deaths=0, tries=record.tries + (why != "untried"))
        redis = save_waiting(redis, record, "later" if why in ("refused", "away") else "due")
    return None, redis


def extend_deadlines(redis: Redis, copy: int, what: str) -> tuple[Any, Redis]:
    record = redis.record
    if record is None:
        return "gone", redis._replace(waiting="")
    if record.state != "requeued" or record.copy != copy:
        return "gone", redis
    if what == "maybe":
        if record.tries > DAYS_LATER:
            return "due", redis
        return "postponed", save_waiting(redis, record._replace(tries=record.tries + 1), "later")
    if what == "held":
        return "postponed", redis._replace(waiting="later")
    over = "dead_lettered" if record.dead_letter else "completed"
    return "settled", save_settled(redis, record._replace(state=over, contended=1))._replace(waiting="")


def set_aside(redis: Redis, me: int, generation: int, dead: int) -> tuple[Any, Redis]:
    record = redis.record
    if not record or record.state != "recovering" or record.owner != me or record.generation != generation:
        return False, redis
    return True, unlist(redis, dead)._replace(record=None, waiting="", aside=True)


# The actions of an operator.


def take(redis: Redis, me: int, dead_letter: bool, force: bool, at_broker: int | None) -> tuple[Any, Redis]:
    """As `claim`, of whatever is not settled."""
    record = redis.record
    if record is None or record.state == "damaged":
        return "gone", redis
    if record.state in SETTLED:
        return "settled", redis
    alive = False
    if record.owner != NOBODY:
        alive, redis = believed(redis, record.owner)
    if alive and record.state == "recovering":
        return "busy", redis
    if alive and not force:
        return "alive", redis
    kept = payload_to_keep(record, at_broker)
    if kept is None:
        return "settled", redis
    redis = doubt(redis, record.owner) if alive else redis
    owner = record.owner
    if not dead_letter:
        record = record._replace(crashes=0, drains=0)
    record = record._replace(
        state="recovering",
        dead_letter=int(dead_letter),
        owner=me,
        contended=1,
        generation=record.generation + 1,
        copy=NO_COPY,
        forced=1 if alive else record.forced,
        alone=0,
        tries=1,
        deaths=0,
        payload=kept,
    )
    return _orphan(record), unlist(save_waiting(redis, record, "later"), owner)


def discard(redis: Redis, force: bool) -> tuple[Any, Redis]:
    record = redis.record
    if record is None or record.state == "damaged":
        if record is None and not redis.aside:
            return "gone", redis
        return "discarded", redis._replace(record=None, aside=False, waiting="")
    if record.state in SETTLED:
        return "settled", redis
    if record.state == "running":
        alive, redis = believed(redis, record.owner)
        if alive and not force:
            return "alive", redis
        redis = doubt(redis, record.owner) if alive else redis
    after = save_settled(redis, record._replace(state="completed", contended=1))
    return "discarded", unlist(after._replace(waiting=""), record.owner)


#: By the names of the scripts.
MODEL: dict[str, Callable[..., tuple[Any, Redis]]] = {
    function.__name__: function
    for function in (
        *(
            start,
            clear_alone,
            complete,
            shorten_retention,
            release,
            await_copy,
            defer,
            extend_deadline,
            close_unstarted,
            reassert,
        ),
        *(
            heartbeat,
            enter,
            suspect,
            mark_dead,
            forget,
            return_to_broker,
            claim,
            confirm_copies,
            return_claims,
            extend_deadlines,
            set_aside,
            take,
            discard,
        ),
    )
}
