# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The gate: who is alone is alone, nobody is overtaken, and every wait has an end."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from dramatiq.threading import raise_thread_exception

from dramatiq_inflight.isolation.container import Siblings, die_together
from dramatiq_inflight.isolation.gate import Gate, Pass
from tests.support.servers import wait_until


class Guest:
    """One thread that goes in and out as it is told."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.thread = ThreadPoolExecutor(max_workers=1)

    def enter(self) -> Future[bool]:
        return self.thread.submit(self.gate.enter)

    def enter_alone(self, timeout: float = 20, give_way: Callable[[], bool] = lambda: True) -> Future[bool | None]:
        return self.thread.submit(self.gate.enter_alone, timeout, give_way)

    def leave(self) -> None:
        self.thread.submit(self.gate.leave).result(60)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def guests(gate: Gate) -> Any:
    guests = [Guest(gate) for _ in range(4)]
    yield guests
    for guest in guests:
        guest.thread.shutdown(wait=False, cancel_futures=True)


def queued(gate: Gate, number: int) -> None:
    wait_until(lambda: len(gate.queue) == number, what=f"{number} wait at the gate")


def test_everybody_is_let_in_while_nobody_is_to_be_alone(guests: list[Guest]) -> None:
    """The ordinary case costs nothing but a lock."""
    for guest in guests:
        guest.enter().result(60)
        guest.enter().result(60)  # one whose last message never came to its end


def test_who_is_to_be_alone_waits_for_those_inside(gate: Gate, guests: list[Guest]) -> None:
    """And whoever comes later waits behind it."""
    a, b, c, d = guests
    a.enter().result(60)
    b.enter().result(60)
    alone = b.enter_alone()
    queued(gate, 1)
    late = c.enter()
    queued(gate, 2)
    a.leave()
    assert alone.result(60) is True
    assert not late.done()
    later = d.enter()
    queued(gate, 2)
    b.leave()
    late.result(60)
    later.result(60)


def test_two_that_are_to_be_alone_do_not_wait_for_each_other(gate: Gate, guests: list[Guest]) -> None:
    """Both were inside when they learnt it: one after the other."""
    a, b, c, _ = guests
    a.enter().result(60)
    b.enter().result(60)
    first = a.enter_alone()
    queued(gate, 1)
    second = b.enter_alone()
    assert first.result(60) is True
    third = c.enter()
    queued(gate, 2)
    a.leave()
    assert second.result(60) is True
    assert not third.done()
    b.leave()
    third.result(60)


def test_nobody_is_overtaken(gate: Gate, guests: list[Guest]) -> None:
    """A stream of messages that are to be alone does not starve the others, nor the other way round."""
    a, b, c, d = guests
    a.enter().result(60)
    assert a.enter_alone().result(60) is True
    neighbour = b.enter()
    queued(gate, 1)
    c.enter()
    queued(gate, 2)
    a.leave()
    neighbour.result(60)
    # Messages that queued before b is alone again go first.
    alone_again = d.enter_alone()
    queued(gate, 1)
    a_again = a.enter()
    queued(gate, 2)
    b.leave()
    c.leave()
    assert alone_again.result(60) is True
    d.leave()
    a_again.result(60)


def test_who_waits_too_long_goes_in_with_the_others(gate: Gate, guests: list[Guest]) -> None:
    """A neighbour that does not end starves nobody."""
    a, b, c, _ = guests
    a.enter().result(60)
    b.enter().result(60)
    alone = b.enter_alone(timeout=0.05)
    assert alone.result(60) is False
    c.enter().result(60)


def test_a_timeout_of_nothing_waits_for_nobody(gate: Gate, guests: list[Guest]) -> None:
    """Alone where nobody is inside, else in company at once; and whoever comes then is let in at once."""
    a, b, _, _ = guests
    a.enter().result(60)
    assert a.enter_alone(0).result(60) is True
    assert b.enter().result(60) is True
    a.leave()
    a.enter().result(60)
    assert a.enter_alone(0).result(60) is False
    assert len(gate.inside) == 2


def test_a_message_alone_for_too_long_gets_company_once_recorded(gate: Gate, guests: list[Guest]) -> None:
    """Not before Redis was told: otherwise a death in company would convict."""
    a, b, c, _ = guests
    answers = [False, True]
    said: list[float] = []

    def give_way() -> bool:
        said.append(time.monotonic())
        return answers.pop(0)

    a.enter().result(60)
    began = time.monotonic()
    assert a.enter_alone(0.1, give_way).result(60) is True
    waiting = [b.enter(), c.enter()]
    for future in waiting:
        future.result(60)
    assert not answers
    assert said[0] - began >= 0.1
    assert said[1] - said[0] >= 0.9  # one asks, a second later again


def test_who_waits_too_long_does_not_break_into_anothers_peace(gate: Gate, guests: list[Guest]) -> None:
    """Its own time is up, the other's is not: it waits on like any neighbour."""
    a, b, _, _ = guests
    a.enter().result(60)
    b.enter().result(60)
    first = a.enter_alone(timeout=20)
    queued(gate, 1)
    second = b.enter_alone(timeout=0.05)
    assert first.result(60) is True
    wait_until(lambda: not gate.queue[0].alone, what="its time is up")
    assert not second.done()
    a.leave()
    assert second.result(60) is False


def test_a_worker_that_shuts_down_begins_nothing_alone(gate: Gate, guests: list[Guest]) -> None:
    """The message goes to another worker instead."""
    a, b, _, _ = guests
    a.enter().result(60)
    b.enter().result(60)
    alone = b.enter_alone()
    queued(gate, 1)
    gate.close()
    assert alone.result(60) is None
    assert b.enter().result(60) is True


def test_a_worker_that_shuts_down_lets_nobody_wait(gate: Gate, guests: list[Guest]) -> None:
    """Neither who waits already nor who would have to."""
    a, b, c, _ = guests
    a.enter().result(60)
    assert a.enter_alone().result(60) is True
    waiting = b.enter()
    queued(gate, 1)
    gate.close()
    assert waiting.result(60) is False
    assert c.enter().result(60) is False
    assert not gate.queue
    a.leave()
    assert c.enter().result(60) is True


def test_an_interrupt_leaves_no_place_behind(gate: Gate, guests: list[Guest]) -> None:
    """An exception in a waiting thread frees its place in the queue."""
    a, b, c, _ = guests
    a.enter().result(60)

    class Stop(Exception):
        pass

    def interrupted() -> bool:
        raise Stop

    assert a.enter_alone(0, interrupted).result(60) is True
    with pytest.raises(Stop):
        b.enter_alone().result(60)  # while it waits, it asks the first for company
    assert not gate.queue
    a.leave()
    c.enter().result(60)


def test_a_threads_next_step_frees_a_place_that_leaked(gate: Gate, guests: list[Guest]) -> None:
    """An interrupt may hit anywhere; the thread's next step tidies up."""
    a, b, _, _ = guests
    a.enter().result(60)
    ident = a.thread.submit(threading.get_ident).result(60)
    gate.queue.append(Pass(ident, alone=True, timeout=1000, until=time.monotonic() + 1000))
    waiting = b.enter()
    queued(gate, 2)
    a.leave()
    waiting.result(60)


def test_an_interrupted_thread_does_not_keep_the_lock(gate: Gate) -> None:
    """Dramatiq raises exceptions in other threads."""

    class Stop(Exception):
        pass

    def enter() -> None:
        with contextlib.suppress(Stop):
            gate.enter()
            time.sleep(0.1)

    for _ in range(20):
        thread = threading.Thread(target=enter, daemon=True)
        with gate.lock:
            thread.start()
            assert thread.ident is not None
            raise_thread_exception(thread.ident, Stop)
        thread.join(120)
        assert gate.lock.acquire(timeout=120), "nobody will ever free it"
        gate.lock.release()


def test_an_end_during_an_outage_lets_nobody_in_until_recorded(gate: Gate, guests: list[Guest]) -> None:
    """Its record still says that it is alone."""
    a, b, _, _ = guests
    answers = [False, True]
    a.enter().result(60)

    def give_way() -> bool:
        return answers.pop(0)

    assert a.enter_alone(1000, give_way).result(60) is True
    a.thread.submit(lambda: gate.leave(told=False)).result(60)
    b.enter().result(60)
    assert answers == []
    a.enter().result(60)


def test_a_thread_whose_message_was_given_up_is_expelled(gate: Gate, guests: list[Guest]) -> None:
    """Dramatiq emits no hook after an ack that it gives up."""
    a, b, _, _ = guests
    a.enter().result(60)
    assert a.enter_alone(1000).result(60) is True
    waiting = b.enter()
    queued(gate, 1)
    gate.expel(a.thread.submit(threading.get_ident).result(60))
    waiting.result(60)


def test_many_threads_at_random_are_alone_when_they_should_be(gate: Gate) -> None:
    """A message that is alone meets no other, until it gives way."""
    inside: set[int] = set()
    alone: set[int] = set()
    wrong: list[str] = []
    mutex = threading.Lock()
    done = [0, 0, 0]

    def guest(number: int) -> None:
        choose = random.Random(number)
        for _ in range(60):
            gate.enter()
            with mutex:
                if alone:
                    wrong.append("went in while another was alone")
                inside.add(number)
            if choose.random() < 0.3:
                with mutex:
                    inside.discard(number)
                gave_way: list[bool] = []

                def give_way(gave_way: list[bool] = gave_way) -> bool:
                    with mutex:
                        gave_way.append(True)
                        alone.discard(number)
                    return True

                was = gate.enter_alone(choose.choice((0.0, 0.01, 1.0)), give_way)
                with mutex:
                    if was and not gave_way:
                        alone.add(number)
                        if inside:
                            wrong.append("not alone")
                    inside.add(number)
                    done[bool(was)] += 1
            time.sleep(choose.uniform(0, 0.004))
            with mutex:
                inside.discard(number)
                alone.discard(number)
            gate.leave()
            done[2] += 1

    threads = [threading.Thread(target=guest, args=(number,), daemon=True) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "somebody waits for ever"
    assert not wrong
    assert done[2] == 8 * 60
    assert done[True] > 10
    assert not gate.queue
    assert not gate.inside


# Between processes.

SIBLING = """
import sys
from dramatiq_inflight.isolation.container import Siblings
siblings = Siblings("n", "i", sys.argv[1])
for line in sys.stdin:
    name, _, argument = line.strip().partition(" ")
    print(getattr(siblings, name)(**({"inside": argument == "True"} if argument else {})), flush=True)
"""


class Sibling:
    """Another process, which does as it is told."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SIBLING, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def does(self, what: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


@pytest.fixture
def siblings(tmp_path: Path) -> Iterator[tuple[Sibling, Sibling]]:
    pair = Sibling(tmp_path), Sibling(tmp_path)
    yield pair
    for sibling in pair:
        sibling.process.kill()
        sibling.process.communicate()


def test_a_process_is_alone_when_the_others_have_gone_out(siblings: tuple[Sibling, Sibling]) -> None:
    """And who waits to be alone keeps them from going in again."""
    a, b = siblings
    assert a.does("go_in") == "True"
    assert b.does("go_in") == "True"
    a.does("go_out")
    assert a.does("be_alone") == "False"
    assert b.does("go_in") == "False"  # it runs something, and must not begin more
    b.does("go_out")
    assert b.does("be_alone") == "False"
    assert a.does("be_alone") == "True"
    assert b.does("go_in") == "False"
    a.does("give_up True")
    assert b.does("go_in") == "True"
    b.does("go_out")
    assert b.does("be_alone") == "False"  # a still runs what was alone
    a.does("go_out")
    assert b.does("be_alone") == "True"


def test_a_process_that_is_killed_leaves_no_lock(siblings: tuple[Sibling, Sibling]) -> None:
    """The kernel gives them back."""
    a, b = siblings
    assert a.does("be_alone") == "True"
    assert b.does("go_in") == "False"
    a.process.kill()
    a.process.wait()
    assert b.does("go_in") == "True"


def test_a_gate_lets_its_siblings_in_when_its_time_is_up(tmp_path: Path) -> None:
    """Nobody waits in this process: a timer asks for company."""
    other = Sibling(tmp_path)
    asked: list[bool] = []
    gate, guest = Gate(Siblings("n", "i", str(tmp_path))), ThreadPoolExecutor(max_workers=1)
    assert other.does("go_in") == "True"
    guest.submit(gate.enter).result(60)
    alone = guest.submit(gate.enter_alone, 20, lambda: True)
    wait_until(lambda: other.does("go_in") == "False", what="it waits to be alone")
    assert not alone.done()
    other.does("go_out")
    assert alone.result(60) is True
    assert other.does("go_in") == "False"
    guest.submit(gate.leave).result(60)
    assert other.does("go_in") == "True"
    other.does("go_out")
    guest.submit(gate.enter).result(60)

    def give_way() -> bool:
        asked.append(True)
        return True

    assert guest.submit(gate.enter_alone, 0.2, give_way).result(60) is True
    wait_until(lambda: other.does("go_in") == "True", what="the other is let in")
    assert asked == [True]
    other.does("go_out")
    assert other.does("be_alone") == "False"  # the message is still running here
    guest.submit(gate.leave).result(60)
    assert other.does("be_alone") == "True"
    gate.end()
    other.process.kill()
    other.process.communicate()


def test_a_message_that_gives_up_waiting_lets_no_other_in(tmp_path: Path) -> None:
    """Two in this process are to be alone: the second one's time is up while the first one is."""
    other = Sibling(tmp_path)
    gate = Gate(Siblings("n", "i", str(tmp_path)))
    first, second = Guest(gate), Guest(gate)
    first.enter().result(60)
    second.enter().result(60)
    alone = first.enter_alone(timeout=20)
    queued(gate, 1)
    hasty = second.enter_alone(timeout=0.05)
    assert alone.result(60) is True
    wait_until(lambda: not gate.queue[0].alone, what="its time is up")
    assert other.does("go_in") == "False"
    first.leave()
    assert hasty.result(60) is False
    second.leave()
    assert other.does("be_alone") == "True"
    gate.end()
    other.process.kill()
    other.process.communicate()


@pytest.mark.parametrize(
    ("path", "files", "together"),
    [
        ("0::/\n", {"memory.oom.group": "1\n"}, True),
        ("0::/\n", {"memory.oom.group": "0\n"}, False),
        ("0::/pods/a\n", {"pods/a/memory.oom.group": "0\n", "pods/memory.oom.group": "1\n"}, True),
        ("0::/pods/a\n", {"pods/b/memory.oom.group": "1\n"}, False),
        ("4:memory:/x\n0::/\n", {}, False),
        ("", {}, False),
    ],
)
def test_whether_the_kernel_kills_all_is_read_from_the_cgroup(
    tmp_path: Path, path: str, files: dict[str, str], together: bool
) -> None:
    """memory.oom.group of this cgroup or of one above it."""
    (tmp_path / "root").mkdir()
    (tmp_path / "memory.oom.group").write_text("1\n")  # outside of the root
    for name, text in files.items():
        file = tmp_path / "root" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "cgroup").write_text(path)
    assert die_together(tmp_path / "root", tmp_path / "cgroup") is together
    assert not die_together(tmp_path / "root", tmp_path / "not there")


def test_a_folder_that_cannot_be_written_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The last chance is then alone in its process only."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert Siblings.of("n", "i") is None
    assert "cannot see each other" in caplog.text
