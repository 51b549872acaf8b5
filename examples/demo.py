# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A worker is killed while it runs messages, and one can watch what becomes of them.

All is real: a server, ``dramatiq`` command lines, SIGKILL.  The story comes from the workers' logs and from a diary
that the actor keeps of each start and end.  The exit status is 0 only if no message was lost or run twice.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from dramatiq.brokers.redis import RedisBroker
from dramatiq.errors import QueueJoinTimeout

from .demo_parts import (
    BOLD,
    GREEN,
    OWN_VARIABLES,
    RED,
    DemoError,
    Diary,
    Event,
    LogLine,
    Pod,
    Server,
    Teller,
    numbers,
)

#: Short, so that one need not wait: the defaults are 30 and 90 seconds.
HEARTBEAT_INTERVAL, HEARTBEAT_TTL = 1, 3

MESSAGES = 72
THREADS = 8

#: When a message is not complete so long after it was sent, it is lost, seconds.
PATIENCE = 60.0


@dataclass
class Batch:
    """The messages that a pod has lately started and completed: one line of the story."""

    first: float
    last: float
    started: list[int] = field(default_factory=list)
    again: list[int] = field(default_factory=list)
    completed: list[int] = field(default_factory=list)


class Demo:
    """The story, from the start of the server to the sum."""

    def __init__(self, folder: Path, teller: Teller) -> None:
        self.folder = folder
        self.teller = teller
        self.diary = Diary(folder / "diary.jsonl")
        self.server: Server | None = None
        self.pods: list[Pod] = []
        self.broker: RedisBroker | None = None
        self.sent_at = 0.0
        self.interrupted = False
        self.batches: dict[str, Batch] = {}
        self.completed: set[int] = set()
        self.killed_at = 0.0
        self.cut_off: set[int] = set()
        self.noticed_at: float | None = None
        self.returned_at: float | None = None

    def run(self) -> int:
        """Play it; returns the exit status.

        Raises:
          DemoError: It cannot be played.
          KeyboardInterrupt: The user has enough.
        """
        self.start_server()
        pod_a, pod_b = self.start_pod("pod-a"), self.start_pod("pod-b")
        self.wait(lambda: pod_a.ready and pod_b.ready)
        self.send()
        self.wait(lambda: self.is_good_moment(pod_a))
        self.kill(pod_a)
        self.start_pod("pod-c", " in place of pod-a, as in Kubernetes")
        self.wait_for_the_end()
        return self.sum_up()

    # The scenes.

    def start_server(self) -> None:
        self.server = server = Server(self.folder)
        deadline = time.monotonic() + 10
        self.wait(lambda: server.answers() or time.monotonic() > deadline)
        if not server.answers():
            raise DemoError(f"{server.name} does not answer.", log=server.log)
        self.teller.tell("", f"A {server.name} of the demo's own is ready on port {server.port}.")
        text = f"Workers beat every {HEARTBEAT_INTERVAL} s, and are dead after {HEARTBEAT_TTL} s without a heartbeat"
        self.teller.tell("", f"{text} (defaults: 30 and 90).")

    def start_pod(self, name: str, why: str = "") -> Pod:
        assert self.server is not None
        env = {
            "REDIS_URL": self.server.url,
            "HEARTBEAT_INTERVAL": str(HEARTBEAT_INTERVAL),
            "HEARTBEAT_TTL": str(HEARTBEAT_TTL),
            "DEMO_DIARY": str(self.diary.path),
        }
        command = f"dramatiq examples.demo_app -p 1 -t {THREADS}"
        pod = Pod(name, ["-m", *command.split()], self.folder, env)
        self.pods.append(pod)
        self.teller.tell(name, f"starts{why}: {command}")
        return pod

    def send(self) -> None:
        assert self.server is not None
        os.environ["REDIS_URL"] = self.server.url
        from .demo_app import SECONDS, broker, deliver  # noqa: PLC0415 - it reads REDIS_URL

        self.broker = broker
        for number in range(1, MESSAGES + 1):
            deliver.send(number)
        self.sent_at = time.time()
        self.teller.tell("", f"{MESSAGES} messages are sent: 1-{MESSAGES}. Each takes {SECONDS} s.")

    def is_good_moment(self, pod: Pod) -> bool:
        """Whether all threads of the pod run a message, after it has completed some: in the middle, if that comes."""
        now = time.time()
        running = self.diary.running(pod.name).values()
        if len(self.completed) == MESSAGES:
            raise DemoError("All messages were complete before there was a good moment for the kill.")
        if now - self.sent_at > PATIENCE:
            raise DemoError("There was no good moment for the kill: is this machine very busy?")
        return (
            len(running) == THREADS
            and self.diary.has_completed(pod.name)
            and ((now - max(running) > 0.3 and now - min(running) < 0.9) or len(self.completed) > MESSAGES / 2)
        )

    def kill(self, pod: Pod) -> None:
        self.tell_batches()
        self.killed_at = time.time()
        pod.kill()
        self.read_diary()
        self.tell_batches()
        self.cut_off = set(self.diary.running(pod.name))
        text = f"is KILLED (SIGKILL) with {len(self.cut_off)} messages running: {numbers(self.cut_off)}"
        self.teller.tell(pod.name, text, at=self.killed_at, colour=RED)

    def wait_for_the_end(self) -> None:
        """Until the queue is empty, and nothing runs."""
        self.wait(lambda: len(self.completed) == MESSAGES or time.time() - self.sent_at > PATIENCE)
        self.wait(lambda: all(pod.ready or pod.ended for pod in self.pods))
        self.wait(lambda: self.is_queue_empty() or time.time() - self.sent_at > PATIENCE)
        self.tell_batches()
        left = "The queue is empty." if self.is_queue_empty() else f"After {PATIENCE:g} s the queue is not empty."
        living = [pod for pod in self.pods if not pod.ended]
        self.teller.tell("", f"{left} {' and '.join(pod.name for pod in living)} are asked to stop (SIGTERM).")
        for pod in living:
            pod.ask_to_stop()
        deadline = time.monotonic() + 15
        self.wait(lambda: all(pod.ended for pod in living) or time.monotonic() > deadline)
        for pod in living:
            pod.check_stopped()
        self.tell_batches()
        self.teller.tell("", "They have stopped in order.")

    def sum_up(self) -> int:
        """Count; returns the exit status."""
        lost = set(range(1, MESSAGES + 1)) - self.completed
        twice = self.diary.run_twice(self.cut_off)
        rows: list[tuple[str, object, str]] = [
            ("sent", MESSAGES, ""),
            ("completed", len(self.completed), ""),
            ("lost", len(lost), numbers(lost)),
            ("run twice", len(twice), numbers(twice)),
            ("cut off and recovered", len(self.cut_off & self.completed), numbers(self.cut_off & self.completed)),
        ]
        if self.noticed_at is not None:
            rows.append(("seconds from the kill to its verdict", f"{self.noticed_at - self.killed_at:.1f}", ""))
        if self.returned_at is not None:
            detail = "they start again when it is their turn"
            rows.append(("seconds until its messages were queued", f"{self.returned_at - self.killed_at:.1f}", detail))
        self.teller.say()
        for what, number, detail in rows:
            bad = what in ("lost", "run twice") and number != 0
            self.teller.say(f"  {what:38} {number!s:>4}   {detail}".rstrip(), RED if bad else "")
        self.teller.say()
        good = not (lost or twice)
        verdict = "Nothing was lost, and nothing was run twice." if good else "This should not have happened."
        self.teller.say(verdict, GREEN if good else RED)
        return 0 if good else 1

    # What goes on all the time.

    def wait(self, condition: Callable[[], bool]) -> None:
        """Tell what happens, until a condition holds."""
        while not condition():
            if self.interrupted:
                raise KeyboardInterrupt
            time.sleep(0.05)
            for pod in self.pods:
                pod.check()
                for line in pod.read_log():
                    self.tell_log(pod, line)
            self.read_diary()
            now = time.time()
            if any(now - batch.last > 0.25 or now - batch.first > 0.8 for batch in self.batches.values()):
                self.tell_batches()

    def is_queue_empty(self) -> bool:
        """Return whether the broker has nothing that is not acknowledged."""
        assert self.broker is not None
        try:
            self.broker.join("default", interval=10, timeout=50)
        except QueueJoinTimeout:
            return False
        return True

    def read_diary(self) -> None:
        for event in self.diary.read():
            self.add(event)

    def add(self, event: Event) -> None:
        batch = self.batches.setdefault(event.pod, Batch(event.at, event.at))
        batch.last = event.at
        if event.what == "end":
            batch.completed.append(event.message)
        elif event.message in self.cut_off:
            batch.again.append(event.message)
        else:
            batch.started.append(event.message)

    def tell_batches(self) -> None:
        """A line for each pod."""
        for pod, batch in sorted(self.batches.items(), key=lambda item: item[1].last):
            parts = []
            if batch.completed:
                self.completed.update(batch.completed)
                parts.append(f"completed {numbers(batch.completed)} ({len(self.completed)} of {MESSAGES})")
            if batch.started:
                parts.append(f"started {numbers(batch.started)}")
            if batch.again:
                parts.append(f"started AGAIN {numbers(batch.again)}")
            self.teller.tell(pod, "; ".join(parts), at=batch.last, colour=GREEN if batch.again else "")
        self.batches.clear()

    def tell_log(self, pod: Pod, line: LogLine) -> None:
        """Tell what a worker says of itself and of others."""
        ready = "Worker process is ready" in line.text
        said = re.search(r"\[dramatiq_inflight\.\S+\] \[(\w+)\] (.*)", line.text)
        if ready:
            text, colour = f"is ready (process {pod.pid}).", ""
        elif said and (said[1] in ("WARNING", "ERROR") or "ecovered" in said[2]):
            text, colour = f"logs: {re.sub(r', incarnation [0-9a-f]+', '', said[2])}", GREEN
            if "Worker pod-a " in said[2] and "is dead" in said[2]:
                self.noticed_at = line.at
            if "Recovered all messages of dead worker pod-a" in said[2]:
                self.returned_at = line.at
        else:
            return
        if not ready:
            self.tell_batches()
        self.teller.tell(pod.name, text, at=line.at, colour=colour)


def main() -> int:
    """Play the demo, and leave nothing behind; returns the exit status."""
    for name in [name for name in os.environ if OWN_VARIABLES.match(name)]:
        del os.environ[name]
    teller = Teller()
    folder = Path(tempfile.mkdtemp(prefix="dramatiq_inflight-demo-"))
    demo = Demo(folder, teller)

    def interrupt(number: int, frame: FrameType | None) -> None:
        if demo.interrupted:
            raise KeyboardInterrupt  # the second time: at once
        demo.interrupted = True

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in signals:
        signal.signal(number, interrupt)
    try:
        teller.say("A worker is killed while it runs messages. On the left: seconds since the start.", BOLD)
        teller.say()
        return demo.run()
    except DemoError as error:
        return teller.failed("The demo", error)
    except KeyboardInterrupt:
        teller.say("Interrupted; cleaning up.")
        return 130
    finally:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)
        for process in [*demo.pods, *([demo.server] if demo.server else [])]:
            process.kill()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
