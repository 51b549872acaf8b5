# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The judge: says of a history what went wrong, and what is excused by a weakness that the documentation states.

An excuse needs a fault, noted by the nemesis, that hit this very process at this very time.  A finding without an
excuse is a violation.  The excuses:

frozen, cut off
    The worker was stopped, or cut off from Redis, for longer than it is believed to live: its message was taken over.
    If it completes all the same, that changes nothing, and the message runs again should its new worker die.
untracked
    One of the two runs started while its worker could not reach Redis.
torn
    The worker died between the end of the actor and the acknowledgement, in the same moment.
unacknowledged
    The same, when it could not acknowledge for longer, because it was frozen, or the broker was away.
untold
    It finished and acknowledged while Redis was away, and died, or was frozen, before that was back.
acknowledged into a cut
    RabbitMQ was lost while the acknowledgement of a run that was not recorded was on its way, and so is its completion.
retry beside its original
    The worker died, or lost RabbitMQ, after it had enqueued the retry and before it had acknowledged the original; or
    it died before it could tell Redis, which was away, of the failure; or
    RedisBroker's maintenance had taken the original from it, by the clock of a worker that was minutes off.
published twice
    The broker was lost in the middle of an enqueue, which Dramatiq, redis-py or the tracker tried again.
moved twice
    The worker died, or lost its broker, after it had moved a delayed message and before it had acknowledged that; or
    RedisBroker's maintenance had given the message to another one, by the clock of a worker that was minutes off.
ran twice before
    The first stage of a pipeline ran twice, for one of these reasons, and so the next one was enqueued twice.
alone at a death that the nemesis caused, at a shutdown that could not be told
    An innocent message was convicted: it had died often enough, and had its process to itself the last time; or its
    worker shut down while Redis was away, which then looks like a death.
last copy
    RedisBroker's maintenance had given the message to another worker, by the clock of one that was minutes off; that
    completed it, and Redis was restarted: who had fetched it before cannot know whether that lost the message.
failover
    The old primary had not passed on what happened in its last moment; a worker that the new one does not know runs
    what it has in memory, as it may be the last copy.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.history import Event

from .times import HEARTBEAT_INTERVAL, HEARTBEAT_TTL, MAX_RECOVERIES

__all__ = ["Ending", "Fault", "Judgement", "Run", "judge", "max_recoveries_of"]

#: How long an acknowledgement may take, and what follows from a fault, seconds.
MOMENT = 0.5

#: How long the tracker needs at the most to be in step with Redis again, seconds: it tries every second, and waits two
#: for an answer.
MENDING = 3.5

#: How long an enqueue takes at the least that was tried again, seconds.
HELD_UP = 0.1

#: How long RedisBroker believes a worker to live of which it hears nothing, seconds; a clock that is off by more lies.
BROKER_HEARTBEAT_TIMEOUT = 60

#: Between the bars of the histogram of `Judgement.waits`, seconds.
BOUNDS = (0.1, 0.3, 1, 2, 3, 4.5, 10, 30)

VERDICTS = ("lost", "doubled", "repeated", "convicted", "crash_loops", "keys_left", "errors")


@dataclass(frozen=True)
class Ending:
    """The findings when all was over."""

    #: Keys of all messages whose enqueue returned.
    sent: Sequence[str] = ()
    #: Messages whose enqueue failed: they may have been enqueued all the same.
    unsure: Sequence[str] = ()
    #: Reasons, by key.
    dead_letters: dict[str, str] = field(default_factory=dict)
    #: The tracker's keys without an expiry.
    keys_left: Sequence[str] = ()
    #: The events that were waited for in vain.
    late: str = ""
    #: Errors of the run itself.
    errors: Sequence[str] = ()


@dataclass
class Judgement:
    """The judgement of a history: figures, violations by verdict, and the number of each excuse."""

    sent: int = 0
    unsure: int = 0
    runs: int = 0
    completed: int = 0
    dead_lettered: int = 0
    recoveries: int = 0
    #: For each recorded run that the death of its process cut off, how long after that its message was recovered, or
    #: ran again, seconds, in order.
    waits: list[float] = field(default_factory=list)
    #: Deaths of worker processes.
    deaths: int = 0
    boots: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    #: Sentences, by verdict.
    violations: dict[str, list[str]] = field(default_factory=lambda: {verdict: [] for verdict in VERDICTS})
    #: How often each excuse was taken, by verdict.
    excused: dict[str, dict[str, int]] = field(default_factory=lambda: {verdict: {} for verdict in VERDICTS})

    @property
    def wrong(self) -> int:
        """How many violations there are."""
        return sum(map(len, self.violations.values()))

    def violate(self, verdict: str, text: str) -> None:
        self.violations[verdict].append(text)

    def excuse(self, verdict: str, why: str) -> None:
        excuses = self.excused[verdict]
        excuses[why] = excuses.get(why, 0) + 1

    def verdicts(self) -> list[str]:
        """A phrase for each verdict."""
        phrases = []
        for verdict in VERDICTS:
            excuses = self.excused[verdict]
            said = f"{verdict.replace('_', ' ')} {len(self.violations[verdict])}"
            if excuses:
                each = ", ".join(f"{why} {number}" for why, number in sorted(excuses.items()))
                said += f" (excused {sum(excuses.values())}: {each})"
            phrases.append(said)
        return phrases

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def histogram(self) -> dict[str, int]:
        """Return how many of `waits` took how long."""
        names = [*(f"less than {bound:g} s" for bound in BOUNDS), f"{BOUNDS[-1]:g} s or more"]
        counts = Counter(names[bisect.bisect_right(BOUNDS, wait)] for wait in self.waits)
        return {name: counts[name] for name in names}

    def __str__(self) -> str:
        faults = ", ".join(f"{kind} {number}" for kind, number in sorted(self.faults.items()))
        return (
            f"{self.sent} messages sent, {self.unsure} unsure, {self.runs} runs, {self.completed} completed, "
            f"{self.dead_lettered} dead-lettered, {self.deaths} processes ended, {self.recoveries} recoveries; "
            f"faults: {faults}; {'; '.join(self.verdicts())}"
        )


@dataclass
class Fault:
    """An act of the nemesis, from just before to just after."""

    kind: str
    part: str
    begin: float
    until: float
    #: The process, or the boot of the pod, that it hit; empty: whoever is in its way.
    victim: str = ""

    @property
    def felt_until(self) -> float:
        """Until when it may be felt: a connection that nothing came through waits as long again, up to a bound."""
        if self.kind.startswith(("freeze", "kill")):
            return self.until + 0.3
        return self.until + min(2.5, 1.0 + self.until - self.begin)

    def hits(self, who: str) -> bool:
        """Return whether it hits this process."""
        boot = who.partition(":")[0]
        return self.victim in (who, boot) if self.victim else boot.partition(".")[0] == self.part

    def is_felt(self, begin: float, until: float) -> bool:
        return self.begin <= until and begin <= self.felt_until


@dataclass
class Clock:
    """The wall clock of one boot of a pod, and when that was."""

    offset: float
    begin: float = 0.0
    until: float = math.inf


@dataclass
class Run:
    """One run of a message."""

    key: str
    message_id: str
    who: str
    token: str
    number: int
    crashes: int
    start: float
    #: When it ended; infinite: it was cut off, or still goes on.
    end: float = math.inf
    outcome: str = ""
    #: When its worker process died.
    death: float = math.inf
    #: When the broker was told of its end.
    acked: float = math.inf
    #: Why others may have taken its message.
    zombie: str = ""

    @property
    def stop(self) -> float:
        return min(self.end, self.death)

    def __str__(self) -> str:
        end = f"{self.outcome} at {self.end:.3f}" if self.end < math.inf else f"cut off at {self.death:.3f}"
        return f"run {self.number} on {self.who} from {self.start:.3f}, {end}"


def max_recoveries_of(key: str) -> int:
    """Return the ``max_recoveries`` of a poison message."""
    return int(key.rpartition(".")[2])


def is_poison(key: str) -> bool:
    return key.startswith("poison")


def judge(events: Iterable[Event], ending: Ending, faults: dict[str, int], *, rabbitmq: bool) -> Judgement:
    """Judge a history.

    Parameters:
      faults: How often each kind was carried out.
      rabbitmq: True if the broker is a RabbitMQ.
    """
    return _Judge(sorted(events, key=lambda event: event.at), ending, faults, rabbitmq).judge()


class _Judge:
    def __init__(self, events: list[Event], ending: Ending, faults: dict[str, int], rabbitmq: bool) -> None:
        self.events = events
        self.ending = ending
        self.rabbitmq = rabbitmq
        self.judgement = Judgement(sent=len(ending.sent), unsure=len(ending.unsure), faults=faults)
        self.faults = faults_in(events)
        self.deaths = deaths_in(events, self.faults)
        self.runs = runs_in(events, self.deaths)
        self.clocks = clocks_in(events)
        #: When a message may have come to be there twice, and why.
        self.twins: dict[str, list[tuple[float, str]]] = defaultdict(list)

    def judge(self) -> Judgement:
        judgement, ending = self.judgement, self.ending
        judgement.runs = sum(map(len, self.runs.values()))
        judgement.deaths = len({event.key for event in self.events if event.what == "died"})
        judgement.boots = sum(event.what == "pod" for event in self.events)
        judgement.recoveries = sum(event.what == "recovered" for event in self.events)
        nacked = {event.key for event in self.events if event.what == "nacked"} | set(ending.dead_letters)
        judgement.waits = self._waits()
        judgement.dead_lettered = len(nacked)
        ended = {key for key, runs in self.runs.items() if any(run.outcome == "ok" for run in runs)}
        judgement.completed = len(ended)
        self._find_twins()
        for key in sorted(self.runs, key=lambda key: (key.rpartition("/")[0], key)):
            self._judge_runs(key)
        for key in sorted(nacked):
            self._judge_dead_letter(key)
        for key in ending.sent:
            first = key[:-1] + "1" if key.endswith("/2") else key
            if not {key, first} & nacked and key not in ended:
                judgement.violate("lost", self._tell(key))
        for key in ending.keys_left:
            judgement.violate("keys_left", key)
        for error in [*ending.errors, *([ending.late] if ending.late else [])]:
            judgement.violate("errors", error)
        return judgement

    def _tell(self, key: str) -> str:
        return f"{key}: " + ("; ".join(map(str, self.runs.get(key, []))) or "never ran")

    def _waits(self) -> list[float]:
        recovered = [(event.at, event.message_id) for event in self.events if event.what == "recovered"]
        waits = []
        for runs in self.runs.values():
            for run in runs:
                if run.number and run.end == math.inf and run.death < math.inf:
                    after = [at for at, message_id in recovered if message_id == run.message_id]
                    after += [later.start for later in runs]
                    waits += [min((at for at in after if at > run.death), default=math.inf) - run.death]
        return sorted(round(wait, 3) for wait in waits if wait < math.inf)

    # Messages that ran more than once.

    def _judge_runs(self, key: str) -> None:
        runs = self.runs[key]
        for number, later in enumerate(runs):
            conflicts: dict[str, list[tuple[Run, str]]] = {"doubled": [], "repeated": []}
            for earlier in runs[:number]:
                if earlier.stop > later.start:
                    conflicts["doubled"].append((earlier, self._why_doubled(earlier, later)))
                elif earlier.outcome == "ok":
                    conflicts["repeated"].append((earlier, self._why_repeated(earlier, later)))
            for verdict, found in conflicts.items():
                if not found:
                    continue
                condemned = next((earlier for earlier, why in found if not why), None)
                if condemned is not None:
                    text = f"{later} began beside, or after, {condemned}"
                    self.judgement.violate(verdict, f"{key}: {text}. All: {self._tell(key)}")
                else:
                    self.judgement.excuse(verdict, found[0][1])
                if "/1" in key:
                    self.twins[key[:-1] + "2"].append((0.0, "ran twice before"))
        if is_poison(key):
            self._judge_poison(key, runs)

    def _why_doubled(self, earlier: Run, later: Run) -> str:
        """Return the excuse for a run that began while an earlier one went on; empty if there is none."""
        earlier.zombie = (
            earlier.zombie
            or self._woke(earlier, later)
            or self._silenced(earlier, later)
            or self._untracked(earlier, later)
            or self._forgotten(earlier.start)
            or self._is_twin(later)
        )
        return earlier.zombie

    def _why_repeated(self, earlier: Run, later: Run) -> str:
        """Return the excuse for a run that began after an earlier one had completed; empty if there is none."""
        if earlier.zombie:
            return earlier.zombie
        if self._untracked(earlier, later):
            return "untracked"
        if why := self._woke(earlier, later):
            return why
        if earlier.acked == math.inf and earlier.death < later.start:
            ending = earlier.who, earlier.end, earlier.death
            away = self._away(*ending) or self._no_broker(*ending) or self._frozen(*ending)
            if earlier.death - earlier.end < MOMENT:
                return "torn"
            if away:
                return "unacknowledged"
        if self._is_untold(earlier, min(earlier.death, later.start)):
            return "untold"
        if not earlier.number and self._no_broker(earlier.who, earlier.end, min(earlier.acked, earlier.death) + MOMENT):
            return "acknowledged into a cut"
        return (
            self._silenced(earlier, later, to=min(earlier.acked, later.start))
            or self._forgotten(earlier.end)
            or self._is_twin(later)
            or self._is_last_copy(earlier, later)
        )

    def _is_untold(self, run: Run, until: float) -> bool:
        """Return whether Redis was away when the run ended, and may not have been told of its end until then."""
        away = self._away(run.who, run.end, min(run.acked, run.end + MOMENT))
        return any(until < self._mended(run.who, fault) for fault in away)

    def _silenced(self, earlier: Run, later: Run, to: float = math.inf) -> str:
        """Whether the earlier run's worker was silent for so long that it was taken for dead, or lost the message."""
        for fault in self.faults:
            if not fault.kind.startswith(("freeze", "cut redis")) or not fault.hits(earlier.who):
                continue
            silent = min(fault.felt_until, later.start) - self._out_of_touch_since(earlier.who, fault)
            # A cut is silent: it closes no connection.
            enough = silent + HEARTBEAT_INTERVAL >= HEARTBEAT_TTL
            # A run that was not recorded is handed back without a trace, and may wait in its queue for long.
            # Nor could it be settled before it was acknowledged, if that took longer.
            acked = earlier.acked if earlier.acked < math.inf else 0.0
            in_time = later.start < max(self._mended(earlier.who, fault), acked) or not earlier.number
            if enough and in_time and fault.begin < min(later.start, to) and fault.felt_until > earlier.start:
                return "frozen" if fault.kind.startswith("freeze") else "cut off"
        return ""

    def _woke(self, earlier: Run, later: Run) -> str:
        """Return whether the later run was recorded first, and its worker was stopped before the actor's first line."""
        for fault in self.faults:
            if (
                fault.kind.startswith("freeze")
                and fault.hits(later.who)
                and later.number < earlier.number
                and fault.until - fault.begin + HEARTBEAT_INTERVAL >= HEARTBEAT_TTL
                and fault.begin < earlier.start
                and fault.until <= later.start < fault.until + MOMENT
            ):
                return "frozen"
        return ""

    def _untracked(self, earlier: Run, later: Run) -> str:
        """Return whether one of the two began while its worker could not reach Redis, and so was not recorded."""
        for run in (earlier, later):
            if run.number == 0:
                for fault in self._away(run.who, run.start - MENDING, run.start):
                    if run is later or later.start < self._mended(run.who, fault):
                        return "untracked"
        return ""

    def _forgotten(self, at: float) -> str:
        """Return whether a failover may have forgotten what happened at that time."""
        failovers = [fault for fault in self.faults if fault.kind == "redis failover"]
        return "failover" if any(fault.begin - MOMENT < at < fault.until for fault in failovers) else ""

    def _is_last_copy(self, earlier: Run, later: Run) -> str:
        """Whether a process had a copy in memory that others had been given, and Redis might have lost what they did.

        A failover forgot the process, and the earlier run's worker had the copy before; or Redis was restarted after
        the message was enqueued, and the copy was taken from the process.
        """
        booted = self.clocks.get(later.who.partition(":")[0], Clock(0)).begin
        failed_over = any(f.kind == "redis failover" and booted - MENDING < f.until < later.start for f in self.faults)
        if failed_over and self._may_be_taken(earlier.who, earlier.start, earlier.end):
            return "failover"
        enqueued = [event.at for event in self.events if event.what == "enqueue" and event.key == earlier.key]
        fetched = max([booted, *(at for at in enqueued if at < earlier.start)])
        restarted = any(f.kind == "redis kill" and fetched < f.until and f.begin < later.start for f in self.faults)
        return "last copy" if restarted and self._may_be_taken(later.who, fetched, earlier.start) else ""

    def _away(self, who: str, begin: float, until: float) -> list[Fault]:
        """Return why the process may not have reached Redis in this time."""
        found = [fault for fault in self.faults if fault.is_felt(begin, until)]
        return [
            fault
            for fault in found
            if fault.part == "redis" or (fault.kind.startswith("cut redis") and fault.hits(who))
        ]

    def _mended(self, who: str, fault: Fault) -> float:
        """When the process is in step with Redis again, at the latest: another fault may begin before it is."""
        until = fault.felt_until + MENDING
        for other in self.faults:  # by their begin
            in_the_way = other.part == "redis" or (other.kind.startswith(("cut redis", "freeze")) and other.hits(who))
            if in_the_way and fault.begin <= other.begin <= until:
                until = max(until, other.felt_until + MENDING)
        return until

    def _out_of_touch_since(self, who: str, fault: Fault) -> float:
        """Since when the process did not reach Redis for certain: another fault may end just before this one begins."""
        since = fault.begin
        for other in sorted(self._away(who, -math.inf, since), key=lambda other: -other.felt_until):
            if other.felt_until >= since:
                since = min(since, other.begin)
        return since

    def _no_broker(self, who: str, begin: float, until: float) -> bool:
        """Return whether the process may have lost RabbitMQ in this time."""
        return self.rabbitmq and any(
            fault.is_felt(begin, until)
            and (
                fault.part == "rabbitmq"
                or (fault.kind in ("cut broker", "freeze pod", "freeze process") and fault.hits(who))
            )
            for fault in self.faults
        )

    def _frozen(self, who: str, begin: float, until: float) -> bool:
        return any(f.kind.startswith("freeze") and f.hits(who) and f.is_felt(begin, until) for f in self.faults)

    # Messages that the broker may have had twice.

    def _is_twin(self, later: Run) -> str:
        return next((why for at, why in self.twins.get(later.key, ()) if at < later.start), "")

    def _find_twins(self) -> None:
        begun: dict[tuple[str, str], tuple[float, Any]] = {}
        for event in self.events:
            name = (event.pid, event.message_id)
            if event.what == "enqueue":
                begun.setdefault(name, (event.at, event.key))
            elif event.what == "enqueued":
                at, _ = begun.pop(name, (event.at, None))
                held_up = event.at - at > HELD_UP and bool(self._away(event.pid, at, event.at))
                if self._no_broker(event.pid, at, event.at) or (held_up and not self.rabbitmq):
                    self.twins[event.key].append((at, "published twice"))
                elif event.extra and self._is_cut_short(event.pid, event.at):
                    self.twins[event.key].append((at, "moved twice"))
                elif self._forgotten(event.at):
                    self.twins[event.key].append((at, "failover"))
        for (who, _), (at, key) in begun.items():  # it never returned
            away = self._no_broker(who, at, at + MENDING) or (not self.rabbitmq and self._away(who, at, at + MOMENT))
            if away or self.deaths.get(who, math.inf) < math.inf:
                self.twins[key].append((at, "published twice"))
        self._find_moved_twice()
        for runs in self.runs.values():
            for run in runs:
                if run.outcome == "failed" and (
                    (run.acked == math.inf and run.death < math.inf)
                    or self._no_broker(run.who, run.end, min(run.acked, run.death) + MOMENT)
                    or self._is_untold(run, run.death)
                    or self._may_be_taken(run.who, run.start, run.end)
                ):
                    self.twins[run.key].append((run.end, "retry beside its original"))

    def _find_moved_twice(self) -> None:
        """Delayed messages that a worker with a skewed clock took, as RedisBroker's maintenance, from a living one."""
        skewed: set[str] = set()
        moved: set[str] = set()
        for event in self.events:
            if event.what == "pod" and event.extra["skew"]:
                skewed.add(event.key)
            elif event.what == "ended":
                skewed.discard(event.key)
            elif event.what == "enqueue" and not event.extra:
                moved.discard(event.key)
            elif event.what == "enqueue" and event.key in moved and skewed and not self.rabbitmq:
                self.twins[event.key].append((event.at, "moved twice"))
            elif event.what == "enqueue":
                moved.add(event.key)

    def _may_be_taken(self, who: str, begin: float, until: float) -> bool:
        """Whether RedisBroker's maintenance may have taken what this process ran, by the clock of another pod."""
        boot = who.partition(":")[0]
        own = self.clocks.get(boot, Clock(0)).offset
        return not self.rabbitmq and any(
            clock.offset - own > BROKER_HEARTBEAT_TIMEOUT and clock.begin < until and begin < clock.until
            for clock in self.clocks.values()
        )

    def _is_cut_short(self, who: str, at: float) -> bool:
        """Return whether what the process told the broker next may not have arrived."""
        lost = self._no_broker(who, at, at + MOMENT) if self.rabbitmq else bool(self._away(who, at, at + MOMENT))
        return lost or self.deaths.get(who, math.inf) < at + MOMENT

    # Messages that kill, and messages that were convicted.

    def _judge_poison(self, key: str, runs: list[Run]) -> None:
        allowed = max_recoveries_of(key) + 1
        counted = 0
        for run in runs:
            if run.number == 0 and self._away(run.who, run.start - MENDING, run.start):
                self.judgement.excuse("crash_loops", "untracked")
            elif self._drained(run):
                self.judgement.excuse("crash_loops", "shut down")
            elif self._forgotten(run.start):
                self.judgement.excuse("crash_loops", "failover")
            elif counted >= allowed and self._is_twin(run):
                self.judgement.excuse("crash_loops", self._is_twin(run))
            else:
                counted += 1
        if counted > allowed:
            self.judgement.violate("crash_loops", f"{key} ran {counted} times, {allowed} allowed: {self._tell(key)}")

    def _drained(self, run: Run) -> bool:
        """Return whether its worker was shutting down when it died."""
        boot = run.who.partition(":")[0]
        return any(
            (event.what == "shutdown" and event.pid == run.who)
            or (event.what == "fault" and event.extra["kind"] == "deploy" and event.extra.get("boot") == boot)
            for event in self.events
            if event.at < run.death
        )

    def _judge_dead_letter(self, key: str) -> None:
        if is_poison(key):
            return
        runs = self.runs.get(key, [])
        rejected = next((event.at for event in self.events if event.what == "nacked" and event.key == key), math.inf)
        # The copies after it were under way.
        runs = [run for run in runs if run.start < rejected]
        cut_off = [
            run
            for run, until in zip(runs, [*(run.start for run in runs[1:]), rejected], strict=True)
            if self._seems_cut_off(run, until)
        ]
        by_nemesis = any(
            fault.hits(run.who) and fault.is_felt(run.start, run.death)
            for run in cut_off[MAX_RECOVERIES:]
            for fault in self.faults
            if fault.kind.startswith(("kill", "freeze", "cut redis", "skew"))
        )
        untold = any(self._drained(run) and self._away(run.who, run.end, run.death) for run in cut_off[MAX_RECOVERIES:])
        if untold and not by_nemesis:
            self.judgement.excuse("convicted", "alone at a shutdown that could not be told")
        elif by_nemesis:
            self.judgement.excuse("convicted", "alone at a death that the nemesis caused")
        else:
            self.judgement.violate("convicted", f"{self._tell(key)}: {self.ending.dead_letters.get(key)}")

    def _seems_cut_off(self, run: Run, until: float) -> bool:
        """Return whether it was running when its worker died, as far as others could tell by then."""
        if run.acked == math.inf and run.death < math.inf:
            return True
        if self._silenced(run, dataclasses.replace(run, start=until)):
            return True
        told = min(run.acked, run.end + MOMENT)
        return any(run.death < self._mended(run.who, fault) for fault in self._away(run.who, run.end, told))


def faults_in(events: Iterable[Event]) -> list[Fault]:
    """All that the nemesis did."""
    faults: dict[Any, Fault] = {}
    for event in events:
        if event.what == "fault":
            said = event.extra
            victim = said.get("who") or said.get("boot") or ""
            faults[event.key] = Fault(said["kind"], said["part"], event.at, math.inf, victim)
        elif event.what == "mended":
            faults[event.key].until = event.at
    return list(faults.values())


def clocks_in(events: Iterable[Event]) -> dict[str, Clock]:
    """The clock of each boot of each pod."""
    clocks: dict[str, Clock] = {}
    for event in events:
        if event.what == "pod":
            clocks[event.key] = Clock(event.extra["skew"], event.at)
        elif event.what == "ended":
            clocks[event.key].until = event.at
    return clocks


def deaths_in(events: Iterable[Event], faults: list[Fault]) -> dict[str, float]:
    """When each process died, at the earliest: it is noticed a little later than it happens."""
    deaths: dict[str, float] = {}
    kills = [fault for fault in faults if fault.kind.startswith(("kill", "skew"))]
    for event in events:
        if event.what == "died":
            deaths.setdefault(event.key, event.at)
        elif event.what == "end" and event.extra["outcome"] == "kills":
            deaths.setdefault(event.pid, event.at)  # in the next instant
    for who, at in deaths.items():
        deaths[who] = min([at, *(kill.begin for kill in kills if kill.victim and kill.hits(who) and kill.begin < at)])
    return deaths


def runs_in(events: Iterable[Event], deaths: dict[str, float]) -> dict[str, list[Run]]:
    """All runs, by message, in the order of their start."""
    runs: dict[str, list[Run]] = defaultdict(list)
    by_token: dict[str, Run] = {}
    ended: dict[tuple[str, str], Run] = {}
    for event in events:
        if event.what == "start":
            said = event.extra
            run = Run(event.key, event.message_id, event.pid, said["token"], said["run"], said["crashes"], event.at)
            run.death = deaths.get(event.pid, math.inf)
            runs[event.key].append(run)
            by_token[run.token] = run
        elif event.what == "end" and event.extra["outcome"] != "kills":
            run = by_token[event.extra["token"]]
            run.end, run.outcome = event.at, event.extra["outcome"]
            ended[event.pid, event.key] = run
        elif event.what in ("acked", "nacked") and (event.pid, event.key) in ended:
            ended.pop((event.pid, event.key)).acked = event.at
    return runs
