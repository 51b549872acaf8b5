# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Real dramatiq processes, killed for real, on a real server."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dramatiq.results import ResultFailure

from tests.support.cluster import Cluster
from tests.support.history import History
from tests.support.lab import JOURNAL
from tests.support.rounds import judge, kill_rounds
from tests.support.servers import RedisServer, wait_until
from tests.support.workers import WorkerProcess

pytestmark = pytest.mark.long

MakeCluster = Callable[..., Cluster]

#: How many rounds of each kind; ``KILL_ROUNDS=200`` for the long run.
ROUNDS = int(os.environ.get("KILL_ROUNDS", "4"))


def starts(history: History, key: Any) -> int:
    return sum(1 for event in history.events("start") if event.key == key)


def ends(history: History, key: Any) -> int:
    return sum(1 for event in history.events("end") if event.key == key)


def incarnation_of(cluster: Cluster, pid: int | None) -> str:
    """The incarnation of a worker process."""
    for key in cluster.names():
        if key.startswith("incarnation:") and cluster.client.hget(cluster.prefix + key, "pid") == str(pid).encode():
            return key.removeprefix("incarnation:")
    raise AssertionError(f"no incarnation of process {pid}")


def heartbeat_of(cluster: Cluster, incarnation: str) -> float:
    """Until when an incarnation is believed to live, seconds of Redis's clock."""
    return float(cluster.client.zscore(cluster.prefix + "heartbeats", incarnation) or 0) / 1000


def assert_only_what_is_remembered(cluster: Cluster) -> None:
    """When all workers have left: fences with an expiry, and nothing else."""
    names = cluster.names()
    assert {key for key in names - {"handed"} if not key.startswith("record:")} == set()
    for key in names:
        assert cluster.client.pttl(cluster.prefix + key) > 0, key
        if key.startswith("record:"):
            head, _, payload = cluster.client.get(cluster.prefix + key).partition(b"\n")
            assert json.loads(head)[0] in ("completed", "released", "dead_lettered"), head
            assert payload == b""


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("as RedisBroker is", {}),
        ("maintenance quicker than we", {"TEST_MAINTENANCE_CHANCE": "1000000", "TEST_HEARTBEAT_TIMEOUT": "1200"}),
        ("maintenance slower than we", {"TEST_MAINTENANCE_CHANCE": "1000000", "TEST_HEARTBEAT_TIMEOUT": "4000"}),
        ("apart", {"TEST_MAINTENANCE_CHANCE": "1000000", "TEST_HEARTBEAT_TIMEOUT": "4000", "apart": "yes"}),
    ],
)
def test_workers_killed_again_and_again_lose_and_double_nothing(
    name: str, settings: dict[str, str], cluster: MakeCluster, server_url: str
) -> None:
    """The promise, under load; with Dramatiq's own redelivery in the race; by both ways of putting back."""
    settings = dict(settings)
    if settings.pop("apart", ""):
        settings["PROCESSING_REDIS_URL"] = re.sub(r"/\d+$", "/1", server_url)
    report = kill_rounds(cluster(**settings), ROUNDS, seed=7)
    print(name, report)
    assert report.lost == report.doubled == report.repeated == []
    assert report.completed == report.sent >= 32 * ROUNDS
    assert report.cut_off >= 7 * ROUNDS  # 8 were running a moment before each kill


@pytest.mark.parametrize(("killed", "cut_off"), [(11, 1), (13, 0)], ids=["before", "later"])
def test_two_processes_of_one_number_are_judged_apart(killed: float, cut_off: int, tmp_path: Path) -> None:
    """On a busy machine a pid comes again within minutes."""
    events = [(10, 7, "start"), (12, 8, "start"), (14, 8, "end"), (14, 8, "acked")]
    times, pids = iter([at for at, _, _ in events]), iter([pid for _, pid, _ in events])
    history = History(tmp_path / "history", clock=lambda: next(times), who=lambda: next(pids))
    for _, _, what in events:
        history.write(what, "m")
    report = judge(history, ["m"], {7: [(0, 5), (6, killed), (20, 30)]})
    assert (report.cut_off, report.doubled) == (cut_off, [] if cut_off else ["m"])


def test_all_that_a_dead_worker_held_is_back_at_once(cluster: MakeCluster, history: History, tmp_path: Path) -> None:
    """8 running, 16 prefetched, 500 delayed; plain Dramatiq leaves them to its maintenance lottery.

    How fast, is for ``python -m benchmarks recovery`` to say.
    """
    cluster_ = cluster(HEARTBEAT_INTERVAL="0.5", HEARTBEAT_TTL="2", dramatiq_queue_prefetch="24")
    gate = str(tmp_path / "gate")
    for n in range(24):
        cluster_.app.gated.send(n, gate)
    for n in range(500):
        cluster_.app.work.send_with_options(args=(1000 + n, 0), delay=3_600_000)
    victim = cluster_.worker()
    pid = victim.booted_pid()
    prefix = f"{cluster_.broker.namespace}:__acks__."

    def fetched(queue: str) -> int:
        acks = [key for key in cluster_.client.keys(f"{prefix}*.{queue}") if key.endswith(f".{queue}".encode())]
        return sum(cluster_.client.scard(key) for key in acks)

    cluster_.wait(lambda: history.count("start") == 8, what="8 run")
    cluster_.wait(lambda: (fetched("default"), fetched("default.DQ")) == (24, 500), what="the rest is fetched")
    survivor = cluster_.worker(threads=32, dramatiq_queue_prefetch="64", dramatiq_delay_queue_prefetch="1")
    incarnation = incarnation_of(cluster_, pid)
    victim.kill()
    verdict = heartbeat_of(cluster_, incarnation)
    cluster_.wait(lambda: history.count("start") == 8 + 24, what="all 24 start on the survivor")
    cluster_.wait(lambda: fetched("default.DQ") <= 1, what="the delayed ones are back in their queue")
    back = time.time() - verdict
    late = max(event.at for event in history.events("start")) - verdict
    print(f"after the verdict: all started within {late:.3f} s, all back within {back:.3f} s")
    assert late > 0
    assert cluster_.client.hlen(f"{cluster_.broker.namespace}:default.DQ.msgs") == 500
    assert f"Worker {survivor.group}" not in survivor.output()
    Path(gate).touch()
    cluster_.wait(lambda: history.count("end") == 24)
    assert len(history.keys("start")) == 24


def test_a_zombie_that_fails_takes_nothing_from_the_new_owner(
    cluster: MakeCluster, history: History, tmp_path: Path
) -> None:
    """I3: stopped beyond the TTL, recovered elsewhere, continued."""
    cluster_ = cluster()
    gates = [str(tmp_path / name) for name in ("a", "b")]
    zombie = cluster_.worker(TEST_GATE_SUFFIX="a")
    cluster_.app.gated_failing.send("m", str(tmp_path / "{}"))
    cluster_.wait(lambda: starts(history, "m") == 1)
    owner = cluster_.worker(TEST_GATE_SUFFIX="b")
    zombie.pause()
    cluster_.wait(lambda: starts(history, "m") == 2, what="recovered elsewhere")
    Path(gates[0]).touch()
    zombie.resume()
    cluster_.wait(lambda: ends(history, "m") == 1, what="the zombie ends")
    cluster_.wait(
        lambda: "was taken from this worker, because the worker was silent" in zombie.output(), what="it learns of it"
    )
    record = next(key for key in cluster_.names() if key.startswith("record:"))
    head = json.loads(cluster_.client.get(cluster_.prefix + record).partition(b"\n")[0])
    assert head[0] == "running"
    assert head[1] == incarnation_of(cluster_, owner.booted_pid())
    Path(gates[1]).touch()
    cluster_.wait(lambda: ends(history, "m") == 2)
    cluster_.wait(lambda: len(cluster_.dead_letters()) == 1, what="the owner's failure is the one that counts")
    assert starts(history, "m") == 2


def test_a_zombies_success_before_the_copy_starts_settles_it(
    cluster: MakeCluster, history: History, tmp_path: Path
) -> None:
    """I3: the copy is skipped then."""
    cluster_ = cluster()
    zombie = cluster_.worker(threads=1, TEST_GATE_SUFFIX="a")
    cluster_.app.gated.send("m", str(tmp_path / "{}"))
    cluster_.wait(lambda: starts(history, "m") == 1)
    owner = cluster_.worker(threads=1, TEST_GATE_SUFFIX="b")
    zombie.pause()  # or it may be the one that fetches what is to keep the owner busy
    cluster_.app.gated.send("keeps the owner busy", str(tmp_path / "{}"))
    cluster_.wait(lambda: starts(history, "keeps the owner busy") == 1)
    cluster_.wait(lambda: "Recovered all messages of dead worker" in owner.output(), what="recovered, not started")
    (tmp_path / "a").touch()
    zombie.resume()
    cluster_.wait(lambda: ends(history, "m") == 1, what="the zombie completes it")
    cluster_.wait(lambda: any(event.key == "m" for event in history.events("acked")))
    (tmp_path / "b").touch()
    cluster_.wait(lambda: cluster_.enqueued() == 0, what="the copy is skipped")
    assert starts(history, "m") == 1


def test_a_zombies_success_while_the_copy_runs_changes_nothing(
    cluster: MakeCluster, history: History, tmp_path: Path
) -> None:
    """I3: the copy's run is fenced off from it, and is recovered should its worker die, too."""
    cluster_ = cluster()
    zombie = cluster_.worker(TEST_GATE_SUFFIX="a")
    cluster_.app.gated.send("m", str(tmp_path / "{}"))
    cluster_.wait(lambda: starts(history, "m") == 1)
    owner = cluster_.worker(TEST_GATE_SUFFIX="b")
    zombie.pause()
    cluster_.wait(lambda: starts(history, "m") == 2, what="recovered elsewhere")
    (tmp_path / "a").touch()
    zombie.resume()
    cluster_.wait(lambda: ends(history, "m") == 1, what="the zombie completes it")
    cluster_.wait(lambda: any(event.key == "m" for event in history.events("acked")))
    owner.kill()
    cluster_.worker(TEST_GATE_SUFFIX="c")
    cluster_.wait(lambda: starts(history, "m") == 3, what="recovered once more")
    (tmp_path / "c").touch()
    cluster_.wait(lambda: ends(history, "m") == 2)
    cluster_.wait(lambda: cluster_.enqueued() == 0, what="nothing is left")


def test_a_zombie_doubles_no_prefetched_and_no_delayed_message(
    cluster: MakeCluster, history: History, tmp_path: Path
) -> None:
    """They were given to others while it was frozen: tracked and untracked, waiting and delayed."""
    cluster_ = cluster()
    zombie = cluster_.worker(threads=1, dramatiq_queue_prefetch="40", TEST_GATE_SUFFIX="a")
    cluster_.app.gated.send("first", str(tmp_path / "{}"))
    (tmp_path / "b").touch()
    cluster_.wait(lambda: starts(history, "first") == 1)
    for n in range(10):
        cluster_.app.work.send(n, 0)
        cluster_.app.work.send_with_options(args=(100 + n, 0), track_inflight=False)
        cluster_.app.work.send_with_options(args=(200 + n, 0), delay=2_000)
    acks = f"{cluster_.broker.namespace}:__acks__."

    def fetched() -> int:
        return sum(cluster_.client.scard(key) for key in cluster_.client.keys(f"{acks}*"))

    cluster_.wait(lambda: fetched() == 31, what="all is in the zombie's memory")
    zombie.pause()
    cluster_.worker(TEST_GATE_SUFFIX="b")
    cluster_.wait(lambda: len(history.keys("end")) == 31, what="others have done it all")
    cluster_.wait(lambda: cluster_.enqueued() == 0)
    (tmp_path / "a").touch()
    zombie.resume()
    # The zombie goes through all that it has in memory: a message sent now comes after that, if it gets it.
    cluster_.wait(lambda: zombie.output().count("Skipped this copy of message") >= 10, what="it skips")
    for n in range(300, 340):
        cluster_.app.work.send(n, 0.05)
    cluster_.wait(lambda: len(history.keys("end")) == 71)
    again = {key for key in history.keys("start") if starts(history, key) > 1}
    assert again <= {"first"}, again


def test_redis_frozen_for_three_ttls(cluster: MakeCluster, history: History, own_server: RedisServer) -> None:
    """No living worker's message is recovered, work goes on, and all is tracked again two seconds after."""
    _outage(cluster, history, own_server, freeze=True)


def test_redis_restarted_after_three_ttls(cluster: MakeCluster, history: History, own_server: RedisServer) -> None:
    """The same with a shutdown, and a restart with persistence."""
    _outage(cluster, history, own_server, freeze=False)


def _outage(make: MakeCluster, history: History, server: RedisServer, *, freeze: bool) -> None:
    cluster = make(TEST_BROKER_URL=server.url)
    workers = [cluster.worker(threads=16), cluster.worker(threads=16)]
    ttl = float(cluster.env["HEARTBEAT_TTL"])
    gate = cluster.folder / "gate"
    for n in range(12):
        cluster.app.gated.send(n, str(gate))
    for n in range(100, 160):
        cluster.app.work.send(n, 0.2)
    cluster.wait(lambda: len(history.keys("start") & set(range(12))) == 12, what="the long ones run")
    if freeze:
        server.pause()
    else:
        server.stop()
    time.sleep(3 * ttl)  # the outage itself
    if freeze:
        server.resume()
    else:
        server.start()
    back = time.time()
    expected = {event.message_id for event in history.events("start") if event.key in range(12)}
    assert len(expected) == 12

    def tracked() -> bool:
        sets = [key for key in cluster.names() if key.startswith("running:")]
        ids = {id.decode() for key in sets for id in cluster.client.zrange(cluster.prefix + key, 0, -1)}
        return expected <= ids

    cluster.wait(tracked, what="all that runs is tracked again")
    print(f"complete again {time.time() - back:.2f} s after Redis was back")
    gate.touch()
    cluster.wait(lambda: len(history.keys("end")) == 72, what="all complete")
    cluster.wait(lambda: cluster.enqueued() == 0)
    assert [key for key in history.keys("start") if starts(history, key) > 1] == []
    for worker in workers:
        output = worker.output()
        assert output.count("Redis cannot be used") == output.count("Redis is back") == 1
        assert "is dead" not in output
        worker.stop()


def test_after_flushall_the_next_heartbeat_mends(
    cluster: MakeCluster, history: History, own_server: RedisServer, tmp_path: Path
) -> None:
    """Redis has lost everything while messages run."""
    cluster_ = cluster(TEST_BROKER_URL=own_server.url)
    worker = cluster_.worker()
    gate = str(tmp_path / "gate")
    for n in range(8):
        cluster_.app.gated.send(n, gate)
    cluster_.wait(lambda: history.count("start") == 8)
    before = {key for key in cluster_.names() if key.startswith(("record:", "running:", "incarnation:"))}
    cluster_.client.flushall()
    cluster_.wait(lambda: before <= cluster_.names(), what="the records are there again")
    wait_until(lambda: "Redis lost its data" in worker.output(), what="said")
    Path(gate).touch()
    cluster_.wait(lambda: history.count("acked") == 8)
    worker.stop()
    assert_only_what_is_remembered(cluster_)
    assert starts(history, 0) == 1


def test_a_message_that_kills_is_dead_lettered_and_replayable(cluster: MakeCluster, history: History) -> None:
    """After exactly max_recoveries + 1 runs; Results and the dead letter say why."""
    cluster_ = cluster(PROCESSING_MAX_RECOVERIES="2")
    message = cluster_.app.self_killing.send("poison")
    for run in range(1, 4):
        cluster_.worker(wait=False)  # it may be killed before it has booted
        cluster_.wait(lambda run=run: starts(history, "poison") == run, what=f"run {run}")
        cluster_.wait(lambda: cluster_.workers[-1].process.poll() is not None, what="it kills its worker")
    survivor = cluster_.worker()
    cluster_.wait(lambda: len(cluster_.dead_letters()) == 1, what="it is dead-lettered")
    assert starts(history, "poison") == 3
    with pytest.raises(
        ResultFailure, match=r"its worker died while running it: 3 times \(.* 3 times\), last on .*max_recoveries is 2"
    ):
        cluster_.results().get_result(message, block=True)
    letter = cluster_.dead_letters()[0]
    assert "3 times" in letter.options["inflight"]["reason"]
    wait_until(lambda: "to the dead-letter queue" in survivor.output(), what="said")
    cluster_.broker.enqueue(letter)
    cluster_.wait(lambda: starts(history, "poison") == 4, what="the replay runs")


def test_a_retry_keeps_its_count_through_a_crash(cluster: MakeCluster, history: History) -> None:
    """Retries survive recovery."""
    cluster_ = cluster()
    worker = cluster_.worker()
    cluster_.app.failing.send("m", 2, 1.0)  # killed within its second
    cluster_.wait(lambda: starts(history, "m") == 2, what="the first retry runs")
    worker.kill()
    cluster_.worker()
    cluster_.wait(lambda: history.count("success") == 1, what="it succeeds in the end")
    # Run 1 fails, run 2 (retry 1) is killed and run again, which fails; retry 2 succeeds.
    assert starts(history, "m") == 4
    assert ends(history, "m") == 3


def test_a_worker_that_stops_in_order_leaves_nothing(cluster: MakeCluster, history: History) -> None:
    """No key of the tracker, and nothing fetched that waits for maintenance."""
    cluster_ = cluster()
    worker = cluster_.worker(threads=2)
    for n in range(40):
        cluster_.app.work.send(n, 0.05)
    cluster_.wait(lambda: history.count("start") >= 4)
    assert worker.stop() == 0
    assert cluster_.names() == set()
    assert cluster_.client.keys(f"{cluster_.broker.namespace}:__acks__*") == []
    cluster_.worker()
    cluster_.wait(lambda: history.count("end") == 40, what="another worker does the rest")
    assert history.count("start") == 40


def test_a_run_that_outlasts_the_shutdown_is_handed_over(
    cluster: MakeCluster, history: History, tmp_path: Path
) -> None:
    """When the process has left: not while it works, and not after a TTL or at the next sweep."""
    cluster_ = cluster(HEARTBEAT_INTERVAL="300", HEARTBEAT_TTL="900")
    leaving = WorkerProcess(cluster_.env, history, tmp_path / "leaving.log", args=("--worker-shutdown-timeout", "300"))
    cluster_.workers.append(leaving)
    leaving.wait_ready()
    gate = str(tmp_path / "gate")
    cluster_.app.gated.send("m", gate)
    cluster_.wait(lambda: starts(history, "m") == 1)
    cluster_.worker()
    leaving.stop()
    cluster_.wait(lambda: starts(history, "m") == 2, what="another worker runs it")
    wait_until(lambda: "exits with 1 messages still running" in leaving.output(), what="said")
    Path(gate).touch()
    cluster_.wait(lambda: history.count("acked") == 1)


def test_two_processes_of_one_instance_are_two_incarnations(
    cluster: MakeCluster, history: History, tmp_path: Path
) -> None:
    """`dramatiq -p 2` under one instance id: one of them dies, and the other one's messages stay its own."""
    cluster_ = cluster(PROCESSING_INSTANCE_ID="pod-0")
    gate = str(tmp_path / "gate")
    workers = []
    for first in (0, 8):
        workers.append(cluster_.worker(dramatiq_queue_prefetch="8"))
        for n in range(first, first + 8):
            cluster_.app.gated.send(n, gate)
        cluster_.wait(lambda most=first + 8: history.count("start") == most)
    victim, other = workers
    victim.kill()
    cluster_.wait(lambda: "Recovered all messages of dead worker" in other.output(), what="the death is noticed")
    Path(gate).touch()
    cluster_.wait(lambda: history.count("end") == 16)
    assert {key for key in history.keys("start") if starts(history, key) > 1} == set(range(8))
    other.stop()


def test_after_all_that_no_key_is_left_and_no_scan_was_made(
    cluster: MakeCluster, history: History, own_server: RedisServer
) -> None:
    """Every key is accounted for; neither KEYS nor SCAN, by anybody; no script above 5 ms."""
    cluster_ = cluster(TEST_BROKER_URL=own_server.url)
    victim, survivor = cluster_.worker(), cluster_.worker()
    for n in range(60):
        cluster_.app.work.send(n, 0.1)
    for n in range(100, 110):
        cluster_.app.failing.send(n, 1, 0.05)
    for n in range(200, 210):
        cluster_.app.with_result.send_with_options(args=(n, 0.05), delay=300)
    cluster_.wait(lambda: history.count("start") >= 16)
    victim.kill()
    once = {*range(60), *range(200, 210)}
    cluster_.wait(lambda: once <= history.keys("end") and len(history.keys("success")) == 10, what="all complete")
    cluster_.wait(lambda: cluster_.enqueued() == 0, what="all is done")
    # Where the kill came late, nothing of the victim's was left to wait for.
    cluster_.wait(
        lambda: (
            sum(not id.startswith(b"*") for id in cluster_.client.zrange(cluster_.prefix + "heartbeats", 0, -1)) == 1
        ),
        what="the victim is forgotten",
    )
    survivor.stop()
    commands = cluster_.client.info("commandstats")
    assert not {"cmdstat_keys", "cmdstat_scan"} & set(commands), commands
    assert "cmdstat_evalsha" in commands
    scripts = [entry for entry in cluster_.client.slowlog_get(1000) if entry["command"].startswith(b"EVALSHA")]
    print("longest script:", max((entry["duration"] for entry in scripts), default=0), "us")
    assert_only_what_is_remembered(cluster_)
    left = {key.decode() for key in cluster_.client.keys("*")}
    ours = {cluster_.prefix + key for key in cluster_.names() | JOURNAL}
    results = re.compile(r"[0-9a-f]{32}")  # what Dramatiq's result backend makes of its namespace and the message
    assert {
        key for key in left - ours if not key.startswith(cluster_.broker.namespace) and not results.fullmatch(key)
    } == set()


def test_a_signal_that_stops_the_main_process_alone_is_no_death(
    cluster: MakeCluster, history: History, tmp_path: Path
) -> None:
    """SIGTERM drains: the heart beats on until the last message is done."""
    cluster_ = cluster()
    worker = cluster_.worker()
    gate = str(tmp_path / "gate")
    for n in range(8):
        cluster_.app.gated.send(n, gate)
    cluster_.wait(lambda: history.count("start") == 8)
    other = cluster_.worker()
    os.kill(worker.process.pid, signal.SIGTERM)
    cluster_.wait(lambda: "Shutting down" in worker.output())
    time.sleep(3 * float(cluster_.env["HEARTBEAT_TTL"]))  # it would be taken for dead by then
    assert history.count("start") == 8
    Path(gate).touch()
    cluster_.wait(lambda: history.count("acked") == 8)
    assert worker.process.wait(timeout=120) == 0
    assert "is dead" not in other.output()


def test_a_process_group_with_the_number_of_a_dead_worker_lives(cluster: MakeCluster) -> None:
    """The kernel gives the number of an empty process group to the next one."""
    made = cluster()
    worker = made.worker()
    worker.kill()
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as other:
        worker.group = other.pid
        worker.resume_and_kill()
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(1)
        other.kill()
