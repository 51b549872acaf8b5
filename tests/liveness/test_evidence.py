# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Process evidence: a death is known at once, and nothing but a death is taken for one."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dramatiq_inflight.liveness import pidfd as evidence
from dramatiq_inflight.liveness.pidfd import Process, Watched
from dramatiq_inflight.liveness.process_watch import NEIGHBOURS, Watch
from dramatiq_inflight.store.cause import EXPIRED, OUT_OF_MEMORY, PROCESS
from dramatiq_inflight.store.replies import Returned, Start
from dramatiq_inflight.store.store import Store
from tests.support.cluster import Cluster
from tests.support.history import History
from tests.support.lab import Lab, copy_of
from tests.support.servers import wait_until

MakeCluster = Callable[..., Cluster]

ROOT = Path(__file__).parents[2]

#: No heartbeat expires while a test waits: what is recovered was seen.
DEFAULTS = {"HEARTBEAT_INTERVAL": "30", "HEARTBEAT_TTL": "900", "PROCESSING_WATCH_PROCESSES": "true"}


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def process_of(pid: int) -> Process:
    me = Process.here()
    assert me is not None
    stat = Path(f"/proc/{pid}/stat").read_text()
    return Process(me.place, pid, stat.rpartition(")")[2].split()[19])


def fake_proc(folder: Path, pid: int, stat: str | None) -> Path:
    """A /proc in which one process looks as it is told."""
    (folder / str(pid)).mkdir(parents=True)
    if stat is not None:
        (folder / str(pid) / "stat").write_text(stat)
    return folder


# One process.


def test_a_process_that_ends_between_two_looks_is_gone(
    child: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at its pid and the look at its start: that cannot be read any more."""
    process = process_of(child.pid)
    start_time = evidence.start_time

    def too_late(pid: int, proc: Path) -> str | None:
        child.kill()
        child.wait()
        return start_time(pid, proc)

    monkeypatch.setattr(evidence, "start_time", too_late)
    watched = Watched(process)
    assert watched.is_gone()
    watched.close()


def test_a_dead_process_is_gone_before_its_parent_reaps_it(
    child: subprocess.Popen[bytes],
) -> None:
    """A zombie is gone: it runs nothing."""
    watched = Watched(process_of(child.pid))
    assert watched.fd is not None
    assert not watched.is_gone()
    child.kill()
    wait_until(watched.is_gone, what="it is gone")
    assert child.returncode is None
    looked_at_late = Watched(Process("x", child.pid, "1"))
    assert looked_at_late.gone  # another start time
    watched.close()


def test_a_stopped_process_lives(child: subprocess.Popen[bytes]) -> None:
    """Frozen is not dead: the heartbeat decides."""
    child.send_signal(signal.SIGSTOP)
    watched = Watched(process_of(child.pid))
    assert not watched.is_gone()
    watched.close()


def test_a_pid_that_is_anothers_now_is_no_sign_of_life(child: subprocess.Popen[bytes]) -> None:
    """The start time tells them apart."""
    reused = dataclasses.replace(process_of(child.pid), started="7")
    watched = Watched(reused)
    assert watched.is_gone()
    assert watched.fd is None


def test_a_pid_that_was_given_again_is_no_sign_of_life(child: subprocess.Popen[bytes]) -> None:
    """By the kernel itself: the same number, to another process."""
    before, last_pid = process_of(child.pid), Path("/proc/sys/kernel/ns_last_pid")
    child.kill()
    child.wait()
    for _ in range(100):  # others start processes, too
        try:
            last_pid.write_text(str(child.pid - 1))
        except OSError as error:
            pytest.skip(f"pids cannot be chosen here: {error}")
        again = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        if again.pid == child.pid and process_of(again.pid) != before:  # the kernel's clock ticks every 10 ms
            break
        again.kill()
        again.wait()
    try:
        assert again.pid == child.pid
        assert Watched(before).is_gone()
        assert not Watched(process_of(again.pid)).is_gone()
    finally:
        again.kill()
        again.wait()


def test_a_pid_that_nobody_has_is_gone() -> None:
    """Whatever /proc shows."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert Watched(Process("x", process.pid, "1")).is_gone()


@pytest.mark.parametrize("stat", [None, "", "1 (a", "1 (a) S 1 2 3", "1 (a) S" + " x" * 30])
def test_a_proc_that_cannot_be_read_proves_nothing(tmp_path: Path, stat: str | None) -> None:
    """Hidden from other users (hidepid), or of a system that we do not know."""
    proc = fake_proc(tmp_path, os.getpid(), stat)
    watched = Watched(Process("x", os.getpid(), "1"), proc)
    assert not watched.gone
    assert not watched.is_gone()
    assert watched.fd is None


def test_the_name_of_the_program_may_be_anything(tmp_path: Path) -> None:
    """Blanks and parentheses in it do not shift the fields."""
    fields = " ".join(["S", *map(str, range(4, 22)), "12345", *map(str, range(23, 30))])
    proc = fake_proc(tmp_path, os.getpid(), f"{os.getpid()} (a) b (c) {fields}")
    watched = Watched(Process("x", os.getpid(), "12345"), proc)
    assert watched.fd is not None
    assert not watched.is_gone()
    watched.close()


def test_without_what_it_needs_a_process_claims_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another /proc than ours, none at all, no pidfd: the heartbeat decides."""
    assert Process.here() is not None
    assert Process.here(tmp_path) is None
    for name in ("sys/kernel/random", "self-ns"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "sys/kernel/random/boot_id").write_text("boot\n")
    (tmp_path / "1").mkdir()
    (tmp_path / "self").symlink_to("1")
    (tmp_path / "1" / "ns").symlink_to("/proc/self/ns")
    assert Process.here(tmp_path) is None  # its self is not this process
    monkeypatch.delattr(os, "pidfd_open")
    assert Process.here() is None


def test_equal_pids_in_two_pid_namespaces_are_in_two_places() -> None:
    """As in two containers on one host."""
    unshare = shutil.which("unshare")
    command = [str(unshare), "--fork", "--pid", "--mount-proc", sys.executable, "-c"]
    say = "from dramatiq_inflight.liveness.pidfd import Process; p = Process.here(); print(p.pid, p.place)"
    results = [subprocess.run([*command, say], cwd=ROOT, capture_output=True, text=True, check=False) for _ in range(2)]
    if unshare is None or results[0].returncode:
        pytest.skip(f"pid namespaces cannot be made here: {results[0].stderr if unshare else 'no unshare'}")
    me = Process.here()
    assert me is not None
    (pid, _, place), (other_pid, _, _) = (result.stdout.strip().partition(" ") for result in results)
    assert pid == other_pid
    assert place != me.place


# In Redis.


def test_what_is_proven_needs_no_grace_and_no_clock(lab: Lab, a: Store, b: Store) -> None:
    """After an outage nobody is judged by a heartbeat; this one is no question of heartbeats."""
    copy = copy_of()
    lab.runs(a, copy)
    lab.client.zadd(lab.prefix + "heartbeats", {"*grace": 10**14, "*last": 1})
    assert b.recovery.find_due().dead == []
    assert b.workers.mark_dead(b.workers.incarnation("a"), PROCESS) is True
    assert b.workers.mark_dead(b.workers.incarnation("a"), OUT_OF_MEMORY) is False
    assert b.recovery.find_due().dead == ["a"]
    dead = b.workers.incarnation("a")
    assert (dead.cause, dead.draining) == (PROCESS, False)
    assert abs(dead.dead_since_ms - time.time() * 1000) < 60_000
    assert b.recovery.return_to_broker("a", [(copy.message_id, True)]) == [Returned.RETURNED]
    assert b.workers.forget("a")


def test_a_duplicate_takes_over_from_the_proven(lab: Lab, a: Store, b: Store) -> None:
    """Without waiting for a heartbeat."""
    copy = copy_of()
    lab.runs(a, copy)
    assert lab.start(b, copy).answer is Start.DUPLICATE
    b.workers.mark_dead(b.workers.incarnation("a"), PROCESS)
    started = lab.start(b, copy)
    assert (started.answer, started.owner, started.crashes) == (Start.RUN, "a", 1)


def test_a_death_during_a_shutdown_stays_one(lab: Lab, a: Store, b: Store) -> None:
    """It convicts nobody, however surely it is known."""
    copy = copy_of()
    lab.runs(a, copy, limit=0)
    a.workers.drain()
    a.workers.heartbeat()
    b.workers.mark_dead(b.workers.incarnation("a"), PROCESS)
    dead = b.workers.incarnation("a")
    assert dead.draining
    assert dead.why == "its process is gone, seen from the same host while it was shutting down"
    assert b.recovery.return_to_broker("a", [(copy.message_id, True)]) == [Returned.RETURNED]


def test_whoever_beats_is_not_dead_whatever_was_seen(lab: Lab, a: Store, b: Store) -> None:
    """Should the evidence ever be wrong: it goes on, as after any false alarm."""
    copy = copy_of()
    lab.runs(a, copy)
    b.workers.mark_dead(b.workers.incarnation("a"), PROCESS)
    assert a.workers.heartbeat() is False
    a.workers.register({"instance": "pod-a"})
    assert b.recovery.find_due().dead == []
    assert b.workers.incarnation("a").cause == EXPIRED


def test_one_that_left_is_not_proven_dead(lab: Lab, a: Store, b: Store) -> None:
    """It is gone from its place with all its traces."""
    a.workers.register({"instance": "pod-a", "place": "here", "pid": "1", "process_started": "1"})
    b.workers.register({"instance": "pod-b", "place": "here", "pid": "2", "process_started": "1"})
    assert b.workers.in_place("here") == ["a", "b"]
    said = b.workers.incarnation("a")
    assert a.workers.deregister() == 0
    assert b.workers.in_place("here") == ["b"]
    assert b.workers.mark_dead(said, PROCESS) is False
    assert b.recovery.find_due().dead == []
    assert b.workers.deregister() == 0
    assert lab.names() == set()


# The watch.


class Ring:
    """Children of the test, each an incarnation in this place."""

    def __init__(self, lab: Lab, number: int) -> None:
        me = Process.here()
        assert me is not None
        self.lab, self.me = lab, me
        self.woken = 0
        self.watches: list[Watch] = []
        self.children = [
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) for _ in range(number)
        ]
        self.registries = [lab.incarnation(f"i{i:03}") for i in range(number)]
        for store, child in zip(self.registries, self.children, strict=True):
            self.join(store, process_of(child.pid))

    def join(self, store: Store, process: Process) -> None:
        store.workers.register(
            {
                "instance": "pod",
                "host": "h",
                "pid": str(process.pid),
                "place": process.place,
                "process_started": process.started,
            }
        )

    def watch(self, name: str) -> Watch:
        """The watch of one more incarnation: this process."""
        store = self.lab.incarnation(name)
        self.join(store, self.me)
        self.watches.append(Watch(store, self.me, self._on_death))
        return self.watches[-1]

    def _on_death(self) -> None:
        self.woken += 1

    def dead(self) -> list[str]:
        return sorted(self.registries[0].recovery.find_due().dead)

    def close(self) -> None:
        for watch in self.watches:
            watch.stop()
        for child in self.children:
            child.kill()
            child.wait()


@pytest.fixture
def ring(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Ring]]:
    """Rings whose watches look again only when they are woken, or when a process that they watch is gone."""
    monkeypatch.setattr("dramatiq_inflight.liveness.process_watch.REFRESH", 3600.0)
    made: list[Ring] = []

    def make(number: int) -> Ring:
        made.append(Ring(lab, number))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_each_watches_its_next_neighbours_only(ring: Callable[[int], Ring]) -> None:
    """Some descriptors, however many there are."""
    ring_ = ring(8)
    watch = ring_.watch("i003b")
    watch.look(everybody=True)
    assert sorted(watch.watched) == ["i004", "i005", "i006", "i007"]
    watch = ring_.watch("i006b")
    watch.look()
    assert sorted(watch.watched) == ["i000", "i001", "i002", "i007"]
    assert ring_.dead() == []
    assert len(watch.watched) == NEIGHBOURS


def test_a_death_is_seen_and_recovery_woken(ring: Callable[[int], Ring]) -> None:
    """By the thread, which would look again in an hour."""
    ring_ = ring(2)
    watch = ring_.watch("i000b")
    watch.start()
    wait_until(lambda: len(watch.watched) == 2, what="it watches")
    ring_.children[1].kill()
    wait_until(lambda: ring_.dead() == ["i001"], what="the death is proven")
    wait_until(lambda: ring_.woken == 1, what="recovery is woken")


def test_neighbours_that_die_together_are_all_seen(ring: Callable[[int], Ring]) -> None:
    """More of them than anybody watches: each death shows the next."""
    ring_ = ring(3 * NEIGHBOURS)
    watch = ring_.watch("i000b")
    watch.start()
    wait_until(lambda: len(watch.watched) == NEIGHBOURS, what="it watches")
    for child in ring_.children[1:]:
        child.kill()
    wait_until(lambda: len(ring_.dead()) == 3 * NEIGHBOURS - 1, what="all deaths are proven")


def test_who_boots_looks_at_everybody(ring: Callable[[int], Ring]) -> None:
    """Nobody was left to see it."""
    ring_ = ring(3 * NEIGHBOURS)
    ring_.children[-1].kill()
    ring_.children[-1].wait()
    watch = ring_.watch("i000b")
    watch.look(everybody=True)
    assert ring_.dead() == [f"i{3 * NEIGHBOURS - 1:03}"]
    assert len(watch.watched) == NEIGHBOURS


def test_a_watch_that_has_ended_writes_to_nobody(ring: Callable[[int], Ring], tmp_path: Path) -> None:
    """The numbers of its descriptors may be others' by then."""
    watch = ring(0).watch("i000b")
    watch.stop()
    files = [(tmp_path / str(n)).open("wb") for n in range(4)]
    watch.wake()
    watch.stop()
    for file in files:
        file.close()
        assert Path(file.name).stat().st_size == 0


# Exclusive instances.


def test_a_new_container_of_an_exclusive_instance_proves_a_death(lab: Lab) -> None:
    """Not its siblings, not another instance, and not one of which nothing is known."""
    me = Process.here()
    assert me is not None
    for name, instance, place in (
        ("old", "pod", "another place"),
        ("sibling", "pod", me.place),
        ("unknown", "pod", ""),
        ("stranger", "another pod", "another place"),
        ("new", "pod", me.place),
    ):
        store = lab.incarnation(name)
        store.workers.register({"instance": instance, "pid": str(os.getpid()), "place": place, "process_started": "1"})
    woken: list[str] = []
    watch = Watch(store, me, lambda: woken.append("woken"), exclusive="pod")
    watch.succeed()
    watch.succeed()
    assert store.recovery.find_due().dead == ["old"]
    assert store.workers.incarnation("old").why == "a newer container has its instance id, which is exclusive"
    assert woken == ["woken"]
    Watch(store, me, lambda: None).succeed()
    assert store.recovery.find_due().dead == ["old"]
    watch.stop()


def test_a_restarted_container_takes_over_at_once(cluster: MakeCluster, history: History, tmp_path: Path) -> None:
    """In a pid namespace of its own, as a container has: another place, with the same pids."""
    unshare = shutil.which("unshare")
    probe = [str(unshare), "--fork", "--pid", "--mount-proc", "true"]
    if unshare is None or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("pid namespaces cannot be made here")
    made = cluster(**DEFAULTS)
    gate, namespace = str(tmp_path / "gate"), probe[:-1]
    for key in range(8):  # each process fetches four, and runs two
        made.app.gated.send(key, gate)
    first = made.worker(threads=2, processes=2, inside=namespace, wait=False, PROCESSING_INSTANCE_ID="pod-1")
    made.wait(lambda: history.count("start") == 4, what="they run")
    first.kill()
    # Under the same id, in another place and with the same pids: no proof, unless the id is exclusive.
    same = made.worker(threads=2, processes=2, inside=namespace, wait=False, PROCESSING_INSTANCE_ID="pod-1")
    made.wait(lambda: "ready for action" in same.output(), what="the container is restarted")
    same.kill()
    assert "is dead" not in same.output()
    assert history.count("start") == 4
    # Another pod on the host knows nothing, and would wait for the heartbeat.
    other = made.worker(threads=8, inside=namespace, wait=False, PROCESSING_INSTANCE_ID="pod-2")
    made.wait(lambda: "ready for action" in other.output(), what="another pod boots")
    again = {"PROCESSING_INSTANCE_ID": "pod-1", "PROCESSING_INSTANCE_EXCLUSIVE": "true"}
    second = made.worker(threads=2, processes=2, inside=namespace, wait=False, env=again)
    made.wait(lambda: history.count("start") >= 8, what="they run again")
    why = "a newer container has its instance id, which is exclusive"
    made.wait(lambda: why in second.output() + other.output(), what="it is said why")
    assert "Worker pod-2" not in second.output()
    Path(gate).touch()
    made.wait(lambda: made.enqueued() == 0, what="all complete")
    # Nobody was taken for another's predecessor: the processes of one container are in one place.
    assert history.count("start") == 12


# Health.


def test_health_is_a_beating_heart(cluster: MakeCluster, tmp_path: Path) -> None:
    """The file is touched at each successful heartbeat, and not by a worker that is frozen."""
    file = tmp_path / "healthy"
    made = cluster(PROCESSING_HEALTH_FILE=str(file))
    worker = made.worker()
    made.wait(file.exists, what="the first heartbeat")
    before = file.stat().st_mtime_ns
    made.wait(lambda: file.stat().st_mtime_ns > before, what="the next heartbeat")
    worker.pause()
    frozen = file.stat().st_mtime_ns
    time.sleep(1)  # three intervals in which nothing must happen
    assert file.stat().st_mtime_ns == frozen
    worker.resume()
    made.wait(lambda: file.stat().st_mtime_ns > frozen, what="it beats again")


# Real workers, whose heartbeats do not expire.


def test_the_messages_of_a_killed_process_run_again_at_once(
    cluster: MakeCluster, history: History, tmp_path: Path
) -> None:
    """On another process of the same worker, or of another one, or on one that boots afterwards."""
    made = cluster(**DEFAULTS)
    gate = str(tmp_path / "gate")
    first = made.worker(processes=2, threads=2)
    for key in range(8):  # each process fetches four, and runs two
        made.app.gated.send(key, gate)
    made.wait(lambda: history.count("start") == 4, what="both run two messages")
    victim = history.events("start")[0].pid
    mine = {event.key for event in history.events("start") if event.pid == victim}
    second = made.worker()
    os.kill(victim, signal.SIGKILL)
    made.wait(
        lambda: len([e for e in history.events("start") if e.key in mine]) == 2 * len(mine),
        what="its messages run again",
    )
    for worker in (first, second):
        worker.kill()
    before = history.count("start")
    last = made.worker(threads=4)
    made.wait(lambda: history.count("start") == before + 4, what="the next worker finds them")
    made.wait(lambda: re.search(r"is dead: its process (was killed|is gone)", last.output()), what="it is said why")
    Path(gate).touch()
    made.wait(lambda: made.enqueued() == 0, what="all complete")
    last.stop()
    left = {name for name in made.names() if not name.startswith("record:")}
    assert left <= {"handed"}
    assert all(made.client.ttl(made.prefix + name) != -1 for name in left), left


def test_a_death_detected_at_a_shutdown_is_recovered_elsewhere(
    cluster: MakeCluster, history: History, tmp_path: Path
) -> None:
    """The one that saw it recovers nothing any more, and says so to another, on another host, say."""
    made = cluster(**DEFAULTS)
    gate = str(tmp_path / "gate")
    for key in range(4):  # each fetches two, and runs one
        made.app.gated.send(key, gate)
    first, second = made.worker(threads=1), made.worker(threads=1)
    made.wait(lambda: history.count("start") == 2, what="each runs one")
    (key,) = [event.key for event in history.events("start") if event.pid == first.booted_pid()]
    elsewhere = made.worker(threads=4, PROCESSING_WATCH_PROCESSES="false")
    second.process.terminate()
    made.wait(
        lambda: made.client.zcount(made.prefix + "heartbeats", "-inf", "-inf"),
        what="the second one shuts down",
    )
    first.kill()
    made.wait(
        lambda: any(e.key == key and e.pid == elsewhere.booted_pid() for e in history.events("start")),
        what="the third one has it",
    )
    Path(gate).touch()
    made.wait(lambda: made.enqueued() == 0, what="all complete")


def test_a_frozen_worker_is_not_seen_as_dead(cluster: MakeCluster, history: History, tmp_path: Path) -> None:
    """And one that ends in order leaves nothing to see."""
    made = cluster(**DEFAULTS)
    frozen, other = made.worker(threads=2), made.worker(threads=2)
    gate = str(tmp_path / "gate")
    made.app.gated.send("m", gate)
    made.wait(lambda: history.count("start") == 1, what="it runs")
    runner, idle = (frozen, other) if frozen.runs_the_first() else (other, frozen)
    runner.pause()
    third = made.worker(threads=2)  # looks at everybody
    idle.stop()  # in order: the others see it go
    Path(gate).touch()
    runner.resume()
    made.wait(lambda: history.count("end") == 1, what="it ends")
    made.wait(lambda: made.enqueued() == 0, what="all is done")
    for worker in (runner, third):
        worker.stop()
        assert "is dead" not in worker.output()
    assert history.count("start") == 1

    def left() -> set[str]:
        # A script that was on its way when the worker froze was not answered: its message is remembered.
        return {
            name for name in made.names() if not name.startswith("record:") or made.client.ttl(made.prefix + name) < 0
        }

    made.wait(lambda: left() == set(), what="what it was woken by has expired")
