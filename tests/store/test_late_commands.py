# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A command that was given up and sent again arrives once more, minutes later: it changes nothing.

The kernel goes on sending what a closed socket has.  So each command is sent, the message goes on, and then the very
same command comes again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from dramatiq_inflight.delivery import Copy
from dramatiq_inflight.store.cause import PROCESS
from dramatiq_inflight.store.records import Enqueued
from dramatiq_inflight.store.replies import Reasserted, Start
from dramatiq_inflight.store.store import Store
from tests.support.lab import Lab, copy_of, payload_of

FIRST = copy_of("m", origin="o1")
FOURTH = dataclasses.replace(FIRST, origin="o4", broker_copy_id="o4")
RETRY = dataclasses.replace(FIRST, origin="o2", broker_copy_id="o2")


class Scene:
    """A message whose first run is on worker `a`."""

    def __init__(self, lab: Lab, a: Store, b: Store) -> None:
        self.lab, self.a, self.b = lab, a, b
        self.run = 0
        self.started_ms = 0

    def begin(self) -> None:
        started = self.lab.runs(self.a, FIRST)
        self.run, self.started_ms = started.run, started.started_ms

    def state(self) -> dict[str, Any]:
        """All that Redis has of the message, but for when a worker was heard of."""
        client, prefix = self.lab.client, self.lab.prefix
        return {
            "record": client.get(f"{prefix}record:m"),
            "expires": client.pttl(f"{prefix}record:m") > 0,
            "waiting": client.zscore(prefix + "waiting", "m"),
            "running": [client.zscore(f"{prefix}running:{name}", "m") for name in ("a", "b")],
            "checkpoint": client.hgetall(f"{prefix}checkpoint:m"),
        }

    def reassert(self, run: int) -> Any:
        return self.lab.reassert(self.a, FIRST, run=run, started_ms=self.started_ms, alone=True)

    def fails(self) -> None:
        self.a.messages.release("m", self.run, contended=True, copy=FIRST)

    def succeeds(self) -> None:
        self.a.messages.complete(FIRST, self.run, again=False, contended=False)

    def is_recovered(self) -> Copy:
        """Its worker was taken for dead, and a copy is with the broker."""
        self.lab.kill(self.a)
        orphan = self.lab.claim(self.b, FIRST, self.a)
        self.b.recovery.confirm_copies([Enqueued(orphan, "r2", "default", 0)], dead="a")
        self.a.workers.heartbeat()
        return self.lab.recovered(FIRST, orphan)


@pytest.fixture(params=["idle", "busy"])
def scene(request: pytest.FixtureRequest, lab: Lab, a: Store, b: Store) -> Scene:
    """Scripts of a busy worker go the short way where they can."""
    for store in (a, b) if request.param == "busy" else ():
        lab.is_busy(store)
    return Scene(lab, a, b)


Command = Callable[[Scene, int], Any]


def mend_of(scene: Scene, run: int, asked: int = 0) -> Any:
    """One mend, and no second one with what it has answered."""
    a = scene.a
    keys, args = a.scripts.pack(
        "reassert",
        record_key=a.keys.record("m"),
        running=a.keys.running(a.me),
        id="m",
        run=run,
        generation=FIRST.generation,
        origin=FIRST.origin,
        queue=FIRST.queue,
        actor=FIRST.actor,
        limit=3,
        copy=FIRST.broker_copy_id,
        started=scene.started_ms,
        crashes=0,
        drains=0,
        alone=True,
        tailored=False,
        payload=payload_of(FIRST),
        asked=asked,
        unacked=True,
        tries=0,
    )
    return a.scripts.wire.call(a.scripts.loaded["reassert"], keys, args)


#: The commands of a worker about its run, by the form of its number.
COMMANDS: dict[str, Command] = {
    "clear_alone": lambda scene, run: scene.a.messages.clear_alone("m", run, "o1"),
    "checkpoint": lambda scene, run: scene.a.messages.checkpoint("m", run, {"value": "1"}, "o1"),
    "reassert": mend_of,
    "stall": lambda scene, run: scene.a.messages.stall("m", run, still=9, origin="o1"),
    "complete": lambda scene, run: scene.a.messages.complete(FIRST, run, again=False, contended=False),
    "complete, again": lambda scene, run: scene.a.messages.complete(FIRST, run, again=True, contended=False),
    "release": lambda scene, run: scene.a.messages.release("m", run, contended=False, copy=FIRST),
    "release, dead-lettered": lambda scene, run: scene.a.messages.release(
        "m", run, contended=False, dead_lettered=True, copy=FIRST
    ),
    "release, may run": lambda scene, run: scene.a.messages.release(
        "m", run, contended=True, consumed=False, copy=FIRST
    ),
    "await_copy": lambda scene, run: scene.a.messages.await_copy("m", run, b"retry", origin="o1"),
    "await_copy, later": lambda scene, run: scene.a.messages.await_copy("m", run, b"", later=True, origin="o1"),
}


def retry_here(scene: Scene) -> None:
    scene.lab.runs(scene.a, RETRY)


def retry_elsewhere(scene: Scene) -> None:
    scene.lab.runs(scene.b, RETRY)


def retry_is_over(scene: Scene) -> None:
    started = scene.lab.runs(scene.b, RETRY)
    scene.b.messages.complete(RETRY, started.run, again=False, contended=False)


def replay_here(scene: Scene) -> None:
    scene.lab.runs(scene.a, dataclasses.replace(FIRST, origin="o3", broker_copy_id="o3"))


def new_enqueue_here(scene: Scene) -> None:
    """Its sender sends it again under its old id; of the first one nothing is left."""
    scene.lab.client.delete(f"{scene.lab.prefix}record:m", f"{scene.lab.prefix}checkpoint:m")
    scene.lab.client.zrem(f"{scene.lab.prefix}waiting", "m")
    scene.lab.runs(scene.a, FOURTH)


def new_enqueue_failed(scene: Scene) -> None:
    """Its retry is with the broker, and its checkpoint is to be found by that."""
    new_enqueue_here(scene)
    scene.a.messages.checkpoint("m", 1, {"value": "4"}, "o4")
    scene.a.messages.release("m", 1, contended=False, copy=FOURTH)


def recovered_copy_here(scene: Scene) -> None:
    """The same enqueue with another generation, on the same worker."""
    head = scene.lab.head(FIRST)
    assert head is not None
    if head.state == "running":
        copy = scene.is_recovered()
    else:
        scene.lab.overdue(FIRST)
        (orphan,) = scene.b.recovery.claim(["m"], dead="", hold=60, leftovers=True)
        scene.b.recovery.confirm_copies([Enqueued(orphan, "r2", "default", 0)], dead="")  # type: ignore[arg-type]
        copy = scene.lab.recovered(FIRST, orphan)  # type: ignore[arg-type]
    assert scene.lab.start(scene.a, copy, limit=9).answer is Start.RUN


#: The possible states of the message by then, and the commands after which each can be.
ENDS = ("complete, again", "release", "release, dead-lettered", "release, may run")
STATES: dict[Callable[[Scene], None], tuple[str, ...]] = {
    retry_here: ENDS,
    retry_elsewhere: ENDS,
    retry_is_over: ENDS,
    replay_here: ("release, dead-lettered",),
    new_enqueue_here: tuple(COMMANDS),
    new_enqueue_failed: tuple(COMMANDS),
    recovered_copy_here: ("clear_alone", "checkpoint", "reassert", "stall", "await_copy"),
}
ROWS = [
    pytest.param(command, state, id=f"{command}-{state.__name__}") for state, by in STATES.items() for command in by
]
GOES_ON = ("clear_alone", "checkpoint", "reassert", "stall")
ROWS += [
    pytest.param(command, state, id=f"{command}-then-{state.__name__}")
    for command in GOES_ON
    for state in (retry_here, retry_elsewhere, retry_is_over, replay_here)
]


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize(("command", "becomes"), ROWS)
def test_a_command_that_comes_once_more_changes_nothing(
    scene: Scene, command: str, becomes: Callable[[Scene], None], known: bool
) -> None:
    """Whatever has become of the message; with the number of the run, and by a worker that does not know it."""
    scene.begin()
    run = scene.run if known else 0
    COMMANDS[command](scene, scene.run)  # the second send, which arrived first
    if command in GOES_ON and becomes not in (recovered_copy_here, new_enqueue_here, new_enqueue_failed):
        scene.a.messages.release("m", scene.run, contended=False, dead_lettered=becomes is replay_here, copy=FIRST)
    becomes(scene)
    before = scene.state()
    COMMANDS[command](scene, run)
    assert scene.state() == before


@pytest.mark.parametrize("run", [0, 1])
@pytest.mark.parametrize("waits", [False, True], ids=["no record", "let go"])
def test_a_mend_writes_only_what_it_was_told_just_now(lab: Lab, a: Store, b: Store, run: int, waits: bool) -> None:
    """Else it would bring a message that is over back into being, as running."""
    scene = Scene(lab, a, b)
    if waits:
        scene.begin()
        scene.is_recovered()
    seconds, _ = lab.client.time()
    before = scene.state()
    for since in (0, seconds * 1000 - 60_000, seconds * 1000 + 60_000):
        assert mend_of(scene, run, since)[0] == b"again"
    assert scene.state() == before
    assert scene.reassert(run)[0] is (Reasserted.RETAKEN if waits else Reasserted.WRITTEN)


def test_a_stranded_failure_is_not_taken_back_by_its_run(lab: Lab, a: Store, b: Store) -> None:
    """Its record is all there is of its retry: as running on a worker that does not run it, it would be let go."""
    scene = Scene(lab, a, b)
    scene.begin()
    a.messages.await_copy("m", scene.run, b"retry", origin="o1")
    assert scene.reassert(scene.run)[0] is Reasserted.LOST
    assert lab.payload(FIRST) == b"retry"


@pytest.mark.parametrize("state", ["completed", "dead_lettered"])
@pytest.mark.parametrize("redelivered", [False, True])
def test_a_late_settle_ends_no_other_enqueue(lab: Lab, a: Store, b: Store, state: str, redelivered: bool) -> None:
    """Also one that the broker had delivered before."""
    scene, old = Scene(lab, a, b), dataclasses.replace(FIRST, redelivered=redelivered)
    a.messages.close_unstarted(old, state)
    lab.runs(a, RETRY)
    lab.return_to_broker(b, a, RETRY)
    before = scene.state()
    a.messages.close_unstarted(old, state)
    assert scene.state() == before


@pytest.mark.parametrize("what", ["extend_deadline", "defer"])
def test_a_late_word_about_a_copy_hits_no_other(lab: Lab, a: Store, b: Store, what: str) -> None:
    """A copy that waited, or was put off, while another enqueue has the record by now."""
    scene = Scene(lab, a, b)
    scene.begin()
    copy = scene.is_recovered()
    send: Callable[[Copy, float], None] = a.messages.extend_deadline if what == "extend_deadline" else a.messages.defer
    send(copy, 60)
    new_enqueue_here(scene)
    before = scene.state()
    send(copy, 60)
    assert scene.state() == before


# Commands that come when the worker has left.


def of_its_run(command: Command) -> Callable[[Scene], Any]:
    return lambda scene: command(scene, scene.run)


def beat_draining(scene: Scene) -> None:
    scene.a.workers.drain()
    scene.a.workers.heartbeat()


#: The commands of a worker, about itself or its message.
SAID: dict[str, Callable[[Scene], Any]] = {
    **{name: of_its_run(command) for name, command in COMMANDS.items()},
    "heartbeat": lambda scene: scene.a.workers.heartbeat(),
    "beat, draining": beat_draining,
    "beat, attested": lambda scene: scene.a.workers.heartbeat_on_behalf(),
    "enter": lambda scene: scene.a.workers.enter(patience=2, anew=True),
    "enter, on its behalf": lambda scene: scene.a.workers.enter(patience=2, anew=True, on_behalf=True),
    "deregister": lambda scene: scene.a.workers.deregister(),
    "start, as its broker has it": lambda scene: scene.lab.start(
        scene.a, FIRST, payload=b"", broker_keys=(scene.lab.prefix + "acks", scene.lab.prefix + "msgs")
    ),
}

#: The commands of another worker that has found it dead.
SWEPT: dict[str, Callable[[Scene], Any]] = {
    "find_due": lambda scene: scene.b.recovery.find_due(),
    "record_death": lambda scene: scene.b.workers.record_death(scene.b.workers.incarnation("a")),
    "mark_dead": lambda scene: scene.b.workers.mark_dead(scene.b.workers.incarnation("a"), PROCESS),
    "suspect": lambda scene: scene.b.workers.suspect("a"),
    "return_to_broker": lambda scene: scene.b.recovery.return_to_broker("a", []),
    "hand_back, of a message": lambda scene: scene.b.recovery.return_to_broker("a", [("m", True)]),
    "claim": lambda scene: scene.b.recovery.claim(["m"], dead="a", hold=60),
    "forget": lambda scene: scene.b.workers.forget("a"),
}


@pytest.mark.parametrize("said", SAID)
def test_nothing_that_it_said_brings_back_a_worker_that_has_left(
    scene: Scene, lab: Lab, a: Store, b: Store, said: str
) -> None:
    """The last one deletes the heartbeats, and nobody is there who would judge it."""
    scene.begin()
    scene.succeeds()
    a.workers.deregister()
    b.workers.deregister()
    SAID[said](scene)
    assert lab.names() == set()


@pytest.mark.parametrize("swept", SWEPT)
def test_a_sweep_does_not_bring_back_a_worker_that_has_left(
    scene: Scene, lab: Lab, a: Store, b: Store, swept: str
) -> None:
    """It was found dead, for its heartbeat had been late, and has left in order since."""
    scene.begin()
    scene.succeeds()
    lab.kill(a)
    assert b.recovery.find_due().dead == ["a"]
    a.workers.deregister()
    SWEPT[swept](scene)
    b.workers.deregister()
    assert lab.names() == set()
