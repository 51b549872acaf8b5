# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Why a worker process has died: as much as is known, and no more."""

from __future__ import annotations

import fcntl
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dramatiq_inflight.inspection.history import EventKind
from dramatiq_inflight.inspection.inspector import Inspector
from dramatiq_inflight.liveness import causes as causes_module
from dramatiq_inflight.liveness.causes import Causes, oom_counter
from dramatiq_inflight.liveness.pidfd import Process, Watched, start_time
from dramatiq_inflight.store.cause import OUT_OF_MEMORY, PROCESS, Cause
from tests.support.cluster import Cluster
from tests.support.deaths import MemoryLimit
from tests.support.servers import wait_until

MakeCluster = Callable[..., Cluster]
Start = Callable[..., subprocess.Popen[bytes]]

#: The kernel keeps the exit status of a process that was reaped.
KEEPS = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2]) >= (6, 15)

#: What becomes of a cause where it was reaped too soon.
UNREAD = frozenset(() if KEEPS else ("process",))

KILLED = Cause.of_status(signal.SIGKILL)

#: No heartbeat expires while a test waits: what is recovered was seen.
DEFAULTS = {"HEARTBEAT_INTERVAL": "30", "HEARTBEAT_TTL": "900", "PROCESSING_WATCH_PROCESSES": "true"}

SLEEP = "import time; time.sleep(600)"
HOARD = "import sys; sys.stdin.read(1); x = []\nwhile True: x.append(b'x' * 2**22)"


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a Python that is killed at the end."""
    made: list[subprocess.Popen[bytes]] = []

    def start(code: str = SLEEP, inside: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        made.append(subprocess.Popen([*inside, sys.executable, "-c", code], stdin=subprocess.PIPE))
        return made[-1]

    yield start
    for process in made:
        process.kill()
        process.communicate()


@pytest.fixture
def limit() -> Iterator[MemoryLimit]:
    try:
        made = MemoryLimit(400)
    except OSError as error:
        pytest.skip(f"control groups for memory cannot be made here: {error}")
    yield made
    made.remove()


def watched(process: subprocess.Popen[bytes]) -> Watched:
    started = start_time(process.pid, Path("/proc"))
    assert started is not None
    return Watched(Process("here", process.pid, started))


def ended(process: subprocess.Popen[bytes], one: Watched) -> None:
    """Wait until it has ended; nobody reaps it."""
    wait_until(one.is_gone, what="it has ended")
    assert process.returncode is None


# How one process ended.


def test_a_signal_is_read_before_the_parent_reaps(start: Start) -> None:
    process = start()
    one = watched(process)
    assert one.status() is None, "it lives"
    process.kill()
    ended(process, one)
    assert one.status() == signal.SIGKILL
    one.close()


@pytest.mark.parametrize("code", [0, 1, 255])
def test_an_exit_code_is_read_where_it_can_be(start: Start, code: int) -> None:
    """A zombie's 0 may be what those are told who may not know."""
    process = start(f"import os, sys; sys.stdin.read(1); os._exit({code})")
    one = watched(process)
    assert process.stdin is not None
    process.stdin.write(b"x")
    process.stdin.flush()
    ended(process, one)
    assert one.status() == (code << 8 or None)
    process.wait()
    assert one.status() == (code << 8 if KEEPS else None)
    one.close()


def test_a_core_dump_does_not_hide_the_signal(start: Start) -> None:
    process = start()
    one = watched(process)
    process.send_signal(signal.SIGSEGV)
    ended(process, one)
    assert Causes().of([one]) == [Cause.of_status(signal.SIGSEGV)]
    assert Cause.of_status(signal.SIGSEGV | 0x80) == Cause.of_status(signal.SIGSEGV)
    one.close()


def test_an_older_kernel_says_nothing_of_the_reaped(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(25, "Inappropriate ioctl for device")

    monkeypatch.setattr(fcntl, "ioctl", refuse)
    process = start()
    one = watched(process)
    process.kill()
    process.wait()
    assert Causes().of([one]) == [PROCESS]
    one.close()


def test_the_status_is_not_that_of_another_with_its_pid(start: Start, tmp_path: Path) -> None:
    """It was reaped, and the next one with its pid is a zombie."""
    process = start()
    one = watched(process)
    process.kill()
    process.wait()
    stat = " ".join(["Z", *["0"] * 18, "7", *["0"] * 29, "11"])
    (tmp_path / str(process.pid)).mkdir()
    (tmp_path / str(process.pid) / "stat").write_text(f"{process.pid} (x) {stat}")
    one.proc = tmp_path
    assert one.status() == (signal.SIGKILL if KEEPS else None)
    one.close()


def test_nothing_is_known_of_one_that_was_gone_before(start: Start) -> None:
    process = start("")
    process.wait()
    assert Causes().of([Watched(Process("here", process.pid, "1"))]) == [PROCESS]


# Whether memory ran out, by the kernel's count.


class Groups:
    """A /sys/fs/cgroup with one group, and processes that are said to be in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.proc = folder / "proc"
        self.events = folder / "memory.events"
        self.count(0)

    def count(self, kills: int) -> None:
        """So many were killed by now."""
        self.events.write_text(f"low 0\nhigh 0\nmax 9\noom 9\noom_kill {kills}\noom_group_kill 0\n")

    def adopt(self, one: Watched, group: str = "0::/\n") -> Watched:
        """Put a process into the group; it is seen by this /proc."""
        folder = self.proc / str(one.process.pid)
        folder.mkdir(parents=True)
        (folder / "cgroup").write_text(group)
        one.proc = self.proc
        return one


@pytest.fixture
def groups(tmp_path: Path) -> Groups:
    return Groups(tmp_path)


@pytest.fixture
def kill(start: Start, groups: Groups) -> Callable[..., None]:
    """Kill processes of the group, which the real /proc shows from then on."""

    def kill(*ones: Watched) -> None:
        for one in ones:
            one.proc = Path("/proc")
            os.kill(one.process.pid, signal.SIGKILL)
            wait_until(one.is_gone, what="it has ended")

    return kill


def test_a_kill_while_memory_ran_out_is_put_down_to_that(
    start: Start, groups: Groups, kill: Callable[..., None]
) -> None:
    """One after the other; the one that was killed by somebody else is not."""
    ones = [groups.adopt(watched(start())) for _ in range(3)]
    causes = Causes(groups.folder)
    causes.keep(ones)
    groups.count(1)
    kill(ones[0])
    assert causes.of([ones[0]]) == [OUT_OF_MEMORY]
    causes.keep(ones[1:])
    kill(ones[1])
    assert causes.of([ones[1]]) == [KILLED], "that kill is explained already"
    groups.count(2)
    kill(ones[2])
    assert causes.of([ones[2]]) == [OUT_OF_MEMORY]


def test_of_two_at_once_and_one_kill_nobody_says_which(start: Start, groups: Groups, kill: Callable[..., None]) -> None:
    ones = [groups.adopt(watched(start())) for _ in range(4)]
    causes = Causes(groups.folder)
    causes.keep(ones)
    groups.count(1)
    kill(*ones[:2])
    assert causes.of(ones[:2]) == [KILLED, KILLED]
    groups.count(3)
    kill(*ones[2:])
    assert causes.of(ones[2:]) == [OUT_OF_MEMORY, OUT_OF_MEMORY], "as many as the kernel has killed"


def test_a_kill_of_long_ago_explains_no_death(
    start: Start, groups: Groups, kill: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was a child of a worker: the worker itself was killed by somebody else, later."""
    ones = [groups.adopt(watched(start())) for _ in range(2)]
    causes = Causes(groups.folder)
    causes.keep(ones)
    groups.count(1)
    causes.keep(ones)
    kill(ones[0])
    assert causes.of([ones[0]]) == [OUT_OF_MEMORY], "a moment later it may have been this one"
    groups.count(2)
    monkeypatch.setattr(causes_module, "RECENT", 0.0)
    causes.keep(ones)
    causes.keep(ones)
    kill(ones[1])
    assert causes.of([ones[1]]) == [KILLED]


@pytest.mark.parametrize(
    "group",
    ["", "0::/../other\n", "0::/x\n1:memory:/../other\n", "nonsense\n", "\x80", "4:memory:/a\n"],
)
def test_without_a_counter_of_its_own_group_it_was_a_signal(
    start: Start, groups: Groups, kill: Callable[..., None], group: str
) -> None:
    one = groups.adopt(watched(start()), group)
    if group == "\x80":
        (groups.proc / str(one.process.pid) / "cgroup").write_bytes(b"\x80")
    causes = Causes(groups.folder)
    causes.keep([one])
    groups.count(1)
    kill(one)
    assert causes.of([one]) == [KILLED]


@pytest.mark.parametrize("text", ["", "\n", "oom_kill\n", "oom_kill x\n", "oom_kill 1 2\n", "\x80"])
def test_a_counter_that_cannot_be_read_explains_nothing(
    start: Start, groups: Groups, kill: Callable[..., None], text: str
) -> None:
    one = groups.adopt(watched(start()))
    causes = Causes(groups.folder)
    groups.events.write_text(text)
    causes.keep([one])
    kill(one)
    assert causes.of([one]) == [KILLED]


@pytest.mark.parametrize(
    ("group", "file"),
    [
        ("0::/\n", "memory.events"),
        ("0::/system.slice/worker@1.service\n", "system.slice/worker@1.service/memory.events"),
        ("0::/a:b\n", "a:b/memory.events"),
        ("0::/docker/0b6c\n", "memory.events"),  # the container sees its own group only
        ("9:name=systemd:/\n4:cpu,memory:/docker/0b6c\n0::/\n", "memory/memory.oom_control"),
        ("4:memory:/app\n0::/\n", "memory/app/memory.oom_control"),
    ],
)
def test_the_counter_is_that_of_the_group(start: Start, tmp_path: Path, group: str, file: str) -> None:
    """Of either version of control groups, and as a container sees them."""
    for name in (
        *("memory.events", "system.slice/worker@1.service/memory.events", "a:b/memory.events"),
        *("memory/memory.oom_control", "memory/app/memory.oom_control"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("oom_kill 0\n")
    assert oom_counter(Groups(tmp_path).adopt(watched(start()), group), tmp_path) == tmp_path / file


def test_a_process_that_the_kernel_has_killed_is_known(start: Start, limit: MemoryLimit) -> None:
    """Beside one that was killed otherwise, and one that ended by itself."""
    other, hoard = start(inside=limit.inside), start(HOARD, inside=limit.inside)
    ones = [watched(other), watched(hoard)]
    wait_until(lambda: str(hoard.pid) in (limit.path / "cgroup.procs").read_text().split(), what="it is inside")
    causes = Causes()
    causes.keep(ones)
    other.kill()
    ended(other, ones[0])
    assert causes.of(ones[:1]) == [KILLED]
    assert hoard.stdin is not None
    hoard.stdin.write(b"x")
    hoard.stdin.flush()
    ended(hoard, ones[1])
    assert causes.of(ones[1:]) == [OUT_OF_MEMORY]
    for one in ones:
        one.close()


# Real workers.


def ends(made: Cluster, how: str) -> str:
    """Have a message end its process, which others watch; return the cause of that death."""
    made.app.ending.send_with_options(args=("m", how), on_orphan="dead_letter")  # it does not run again
    made.wait(lambda: died(made), what="its death is recorded")
    return died(made)[0]


def died(made: Cluster) -> list[str]:
    """The causes of the deaths that the history has, oldest first."""
    events = Inspector(made.client, made.namespace).history(kinds=[EventKind.DIED])
    return [event.cause for event in reversed(events)]


@pytest.mark.parametrize("how", ["signal 9", "signal 11", "exit 3"])
def test_a_sibling_knows_how_a_process_ended(cluster: MakeCluster, how: str) -> None:
    """Dramatiq's main process may reap it first: an older kernel has forgotten it then."""
    made = cluster(**DEFAULTS)
    made.worker(processes=2, threads=1)
    assert ends(made, how) in {how} | UNREAD


def test_a_witness_knows_how_its_worker_ended(cluster: MakeCluster) -> None:
    """There is no other process of the worker."""
    made = cluster(PROCESSING_HEARTBEAT="process", **DEFAULTS)
    made.worker(threads=1)
    assert ends(made, "signal 9") in {"signal 9"} | UNREAD


def test_a_message_that_takes_all_memory_says_so_when_it_is_dead(cluster: MakeCluster, limit: MemoryLimit) -> None:
    made = cluster(**DEFAULTS)
    worker = made.worker(processes=2, threads=1, inside=limit.inside)
    assert ends(made, "memory") in {"out_of_memory"} | UNREAD
    made.worker(threads=1)
    made.wait(lambda: len(made.dead_letters()) == 1, what="it is dead-lettered")
    reason = made.dead_letters()[0].options["inflight"]["reason"]
    assert "its worker died while running it: once, on" in reason
    assert "(out of memory: the kernel has killed its process); on_orphan is" in reason or not KEEPS
    worker.kill()
