# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""One run: servers, pods, messages and the nemesis, in namespaces that end with this process.

Started by ``python -m chaos``, never by hand: it is the first process of a pid namespace, in a network of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pika
import redis
from dramatiq import Message

from tests.support.history import Event, History
from tests.support.rabbitmq import RabbitServer
from tests.support.servers import RedisServer, connect, find_server, wait_until
from tests.support.topologies import Sentinels

from .checker import Ending, Judgement, judge, max_recoveries_of
from .nemesis import SKEW, Nemesis, faults_of
from .pods import BROKER, REDIS, Pod, Supervisor, build_skew, make_bridges
from .report import write_report
from .times import SETTINGS

__all__ = ["Options", "judge_folder", "main"]

#: How long all that was sent may take to complete once nothing is broken any more, seconds.
PATIENCE = 150.0

#: The pod that reaps what is left at the end: it has one worker process.
LAST = 1

#: How many messages are under way at once, at the most.
BACKLOG = 40


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of a run."""

    seed: int
    duration: float
    broker: str
    redis: str
    folder: str
    report: str = ""
    faults: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """The options, in words."""
        broker = "RabbitMQ" if self.broker == "rabbitmq" else "RedisBroker"
        redis = ", Redis behind sentinels" if self.redis == "sentinel" else ""
        return f"seed {self.seed}, {broker}{redis}, {self.duration:g} seconds"

    @property
    def command(self) -> str:
        """The command that repeats the run."""
        asked = f"--seed {self.seed} --duration {self.duration:g} --broker {self.broker} --redis {self.redis}"
        return f"nox -s chaos -- {asked}" + (f" --faults '{','.join(self.faults)}'" if self.faults else "")


class Run:
    """One run, from the first server to the last key."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.folder = Path(options.folder)
        self.history = History(self.folder / "history", clock=time.monotonic, who=lambda: "chaos")
        self.random = random.Random(options.seed)
        self.sent: list[str] = []
        self.unsure: list[str] = []
        self._sending = threading.Event()
        self._errors: list[str] = []
        self._empty_since = math.inf

    def run(self) -> Judgement:
        """Break things for as long as was asked for, wait until all is quiet, and judge."""
        options = self.options
        make_bridges()
        sentinels = self._start_servers()
        skew = build_skew(self.folder)
        kinds = faults_of(options.broker, sentinels is not None, skew is not None)
        if options.faults:
            kinds = [kind for kind in kinds if kind in options.faults]
        if skew is None:
            print("no compiler (Debian: gcc, libc6-dev): the clocks are not skewed", file=sys.stderr)
        app = self._load_app()
        pods = [self._pod(number, skew) for number in range(4)]
        supervisor = Supervisor(pods, self.history)
        nemesis = Nemesis(
            *(options.seed, kinds, pods, supervisor, self.history),
            server=self._primary,
            sentinels=sentinels,
            rabbitmq=self.rabbitmq,
        )
        for pod in pods:
            pod.boot()
        supervisor.start()
        wait_until(lambda: len(supervisor.workers) == sum(pod.processes for pod in pods), what="all pods have booted")
        self.history.write("begin", None)
        self._sending.set()
        sender = threading.Thread(target=self._send, args=(app,), daemon=True)
        sender.start()
        nemesis.rage(time.monotonic() + options.duration)
        self._sending.clear()
        sender.join(timeout=60)
        self.history.write("quiet", None)
        ending = self._calm_down(app, pods, supervisor, skew)
        supervisor.stop()
        self._errors += nemesis.errors
        if supervisor.error is not None:
            self._errors.append(f"the supervisor failed: {supervisor.error!r}")
        self.history.write("over", None)
        ending = dataclasses.replace(ending, sent=self.sent, unsure=self.unsure, errors=self._errors)
        evidence = [dataclasses.asdict(ending), dict(nemesis.counts), self.rabbitmq is not None]
        self.folder.joinpath("evidence.json").write_text(json.dumps(evidence), "utf-8")
        return judge_folder(self.folder)

    # The servers.

    def _start_servers(self) -> Sentinels | None:
        binary = find_server()
        assert binary is not None, "no Redis or Valkey server here"
        sentinels = None
        if self.options.redis == "sentinel":
            sentinels = Sentinels(binary, self.folder / "redis", address=REDIS).start()
            self._primary, self.redis_url = sentinels.primary, sentinels.url
        else:
            args = ["--protected-mode", "no"]
            server = RedisServer(binary, self.folder / "redis", persistent=True, address=REDIS, args=args).start()
            self._primary, self.redis_url = lambda: server, server.url
        self.rabbitmq = None
        if self.options.broker == "rabbitmq":
            self.rabbitmq = RabbitServer(self.folder / "rabbitmq", address=BROKER).start()
        return sentinels

    # The pods and their application.

    @property
    def env(self) -> dict[str, str]:
        env = {**SETTINGS, "CHAOS_HISTORY": str(self.history.path), "CHAOS_REDIS_URL": self.redis_url}
        if self.rabbitmq is not None:
            # A lost peer is noticed within seconds.
            env["CHAOS_RABBITMQ_URL"] = self.rabbitmq.url + "?heartbeat=3"
        return env

    def _pod(self, number: int, skew: Path | None) -> Pod:
        env = {
            **self.env,
            "PROCESSING_HEARTBEAT": ("thread", "process")[number % 2],
            "PROCESSING_INSTANCE_EXCLUSIVE": ("false", "false", "true", "true")[number],
        }
        processes = 2 if number == 0 else 1
        return Pod(f"pod-{number}", number, env, self.history, self.folder, processes=processes, skew=skew)

    def _load_app(self) -> ModuleType:
        os.environ.update(self.env, CHAOS_POD="sender")
        return importlib.import_module("chaos.app")

    # The messages.

    def _send(self, app: ModuleType) -> None:
        number = 0
        next_poison = time.monotonic() + self.random.uniform(2, 10)
        while self._sending.is_set():
            if len(self.sent) - len(self._done() & set(self.sent)) >= BACKLOG:
                time.sleep(0.05)
                continue
            number += 1
            kind = self.random.choices(["work", "failing", "stage", "delayed", "long"], [60, 12, 10, 8, 6])[0]
            if time.monotonic() > next_poison:
                kind, next_poison = "poison", time.monotonic() + self.random.uniform(10, 30)
                self._send_one(app, kind, f"{kind}-{number}.{self.random.choice((1, 2))}")
                continue
            self._send_one(app, kind, f"{kind}-{number}")
            time.sleep(self.random.uniform(0, 0.1))

    def _send_one(self, app: ModuleType, kind: str, key: str) -> None:
        choose, keys = self.random, [key]
        seconds = round(choose.uniform(0.02, 0.8), 3)
        try:
            if kind == "work":
                app.work.send(key, seconds)
            elif kind == "long":
                app.long.send(key, round(choose.uniform(3, 8), 3))
            elif kind == "failing":
                app.failing.send(key, seconds, choose.randint(1, 2))
            elif kind == "delayed":
                app.work.send_with_options(args=(key, seconds), delay=choose.randint(200, 2000))
            elif kind == "poison":
                options = {"max_recoveries": max_recoveries_of(key)}
                app.poison.send_with_options(args=(key, round(choose.uniform(0, 0.3), 3)), **options)
            else:
                keys = [f"{key}/1", f"{key}/2"]
                (app.stage.message(keys[0], seconds) | app.stage.message(keys[1], seconds)).run()
            sure = self._is_replicated(app)
        except Exception as error:
            self.history.write("refused", keys[0], extra=type(error).__name__)
            sure = False
            time.sleep(1)
        (self.sent if sure else self.unsure).extend(keys)

    def _is_replicated(self, app: ModuleType) -> bool:
        """Behind sentinels what was enqueued is only sure when a replica has it, too."""
        if self.options.redis != "sentinel" or self.options.broker != "redis":
            return True
        return bool(app.broker.client.wait(2, 1000) >= 1)

    # The end.

    def _done(self) -> set[str]:
        """Return the messages that have completed, or were dead-lettered."""
        done = {event.key for event in self.history.events("end") if event.extra["outcome"] == "ok"}
        return done | self.history.keys("nacked")

    def _awaited(self) -> set[str]:
        """Return the messages still to be done: a second stage unless its first one was dead-lettered."""
        nacked = self.history.keys("nacked")
        return {key for key in set(self.sent) - self._done() if key[:-1] + "1" not in nacked}

    def _calm_down(self, app: ModuleType, pods: list[Pod], supervisor: Supervisor, skew: Path | None) -> Ending:
        """Replace all pods, wait until all is done, end the pods, and look at what is left."""
        for pod in pods:
            # Messages that a pod whose clock was ahead had put off until then are due.
            pod.offset = max(SKEW) + 60 if skew is not None else 0
        self._end(pods)
        late = ""
        try:
            wait_until(lambda: not self._awaited(), timeout=PATIENCE, what="all is done")
            wait_until(lambda: self._is_empty(app), timeout=PATIENCE, what="the broker is empty")
            # The first process of a namespace hears no SIGTERM until it has said what to do then.
            processes = sum(pod.processes for pod in pods)
            wait_until(lambda: len(supervisor.workers) == processes, timeout=PATIENCE, what="all pods have booted")
        except AssertionError as error:
            late = f"{error}; there are {self._what_is_left()}"
        for pod in pods:
            pod.wanted = False
        self._end(pods)
        client: Any = connect(self.redis_url)
        left = self._keys_left(client)
        if left:
            # A pod that did not end in time was killed, and the others had ended: the next worker reaps it.
            try:
                self._let_reap(pods[LAST], client)
            except AssertionError as error:
                late = late or str(error)
            left = self._keys_left(client)
        try:
            wait_until(lambda: late or self._is_empty(app), timeout=10, what="the broker is empty, all pods have ended")
        except AssertionError as error:
            # RabbitMQ does not count what a worker has in memory: a copy that was put off, and waited there.
            undone = self._take_what_is_left(app) - self._done()
            late = f"{error}: {sorted(undone)}" if undone else ""
        return Ending(dead_letters=self._dead_letters(app), keys_left=left, late=late)

    def _keys_left(self, client: Any) -> list[str]:
        """The tracker's keys without an expiry."""
        left = sorted(key.decode() for key in client.scan_iter("{chaos}:*") if client.pttl(key) == -1)
        return left if self._waiting(client) else [key for key in left if key != "{chaos}:waiting"]

    def _let_reap(self, pod: Pod, client: Any) -> None:
        """Boot one more worker process, and end it when nobody but itself is registered."""
        before = set(client.zrange("{chaos}:heartbeats", 0, -1))

        def is_alone() -> bool:
            registered = set(client.zrange("{chaos}:heartbeats", 0, -1))
            return len(registered) == 1 and not registered & before

        pod.wanted = True
        wait_until(is_alone, timeout=PATIENCE, what="a last worker has reaped all others")
        pod.wanted = False
        self._end([pod], patience=PATIENCE)

    def _end(self, pods: list[Pod], *, patience: float = 20.0) -> None:
        """A shutdown in order; a pod that does not end in time (seconds) is killed, as an orchestrator does."""
        ending = [(pod, pod.boot_name, pod.process) for pod in pods if pod.process is not None]
        for pod, boot, _ in ending:
            self.history.write("fault", f"end of {boot}", extra={"kind": "deploy", "part": pod.name, "boot": boot})
            pod.signal(signal.SIGTERM)
        deadline = time.monotonic() + patience
        for pod, boot, process in ending:
            try:
                process.wait(timeout=max(deadline - time.monotonic(), 0.01))
            except subprocess.TimeoutExpired:
                more = {"kind": "kill pod", "part": pod.name, "boot": boot}
                self.history.write("fault", f"kill of {boot}", extra=more)
                pod.signal(signal.SIGKILL)
                self.history.write("mended", f"kill of {boot}")
            self.history.write("mended", f"end of {boot}")
        wait_until(lambda: all(pod.has_ended() or pod.wanted for pod in pods), what="all pods have ended")

    def _is_empty(self, app: ModuleType) -> bool:
        """Whether nothing is left for more than a moment: RabbitMQ does not count what a worker has in memory."""
        if self._enqueued(app):
            self._empty_since = math.inf
        else:
            self._empty_since = min(self._empty_since, time.monotonic())
        return time.monotonic() > self._empty_since + 1.5

    def _enqueued(self, app: ModuleType) -> int:
        """Return the messages that the broker or the tracker has."""
        try:
            client: Any = connect(self.redis_url)
            tracked = sum(client.zcard(key) for key in client.scan_iter("{chaos}:running:*"))
            tracked += len(self._waiting(client))
            if self.rabbitmq is not None:
                waiting, delayed, _ = app.broker.get_queue_message_counts("default")
                return int(tracked + waiting + delayed)
            return int(tracked + sum(client.hlen(f"dramatiq:{queue}.msgs") for queue in ("default", "default.DQ")))
        except (pika.exceptions.AMQPError, redis.RedisError):
            if self.rabbitmq is not None:
                del app.broker.connection
            return 1  # at least one, as long as nobody knows

    def _what_is_left(self) -> str:
        """The keys of what the broker and the tracker have, with how many are in each."""
        client: Any = connect(self.redis_url)
        size = {b"list": client.llen, b"set": client.scard, b"zset": client.zcard, b"hash": client.hlen}
        keys = [*client.scan_iter("dramatiq:*"), *client.scan_iter("{chaos}:running:*"), b"{chaos}:waiting"]
        types = {key: client.type(key) for key in keys}
        return ", ".join(f"{key.decode()}: {size[kind](key)}" for key, kind in sorted(types.items()) if kind in size)

    def _waiting(self, client: Any) -> set[str]:
        """The messages that wait for a recovered copy, and are not done.

        A copy that ran while Redis was away, on a worker that died before it was back, is waited for in vain.
        """
        ids = {id.decode() for id in client.zrange("{chaos}:waiting", 0, -1)}
        done = self._done()
        return ids - {event.message_id for event in self.history if event.key in done}

    def _take_what_is_left(self, app: ModuleType) -> set[str]:
        """The keys of the messages that RabbitMQ still has; or that there are some, where that cannot be seen."""
        tracked = list(connect(self.redis_url).scan_iter("{chaos}:running:*"))
        if self.rabbitmq is None or tracked:
            return {"something"}
        raw = [*_all_of(app, "default"), *_all_of(app, "default.DQ")]
        return {Message.decode(data).args[0] for data in raw}

    def _dead_letters(self, app: ModuleType) -> dict[str, str]:
        """The reasons, by key."""
        if self.rabbitmq is not None:
            raw = _all_of(app, "default.XQ")
        else:
            raw = connect(self.redis_url).hvals("dramatiq:default.XQ.msgs")
        letters = [Message.decode(data) for data in raw]
        return {letter.args[0]: letter.options.get("inflight", {}).get("reason", "") for letter in letters}


def _all_of(app: ModuleType, queue: str) -> list[bytes]:
    """Take all messages of a queue of RabbitMQ."""
    return list(iter(lambda: app.broker.channel.basic_get(queue, auto_ack=True)[2], None))


def events_in(folder: Path) -> list[Event]:
    """A history, in seconds since its first event."""
    events = sorted(History(folder / "history").events(), key=lambda event: event.at)
    return [dataclasses.replace(event, at=event.at - events[0].at) for event in events]


def judge_folder(folder: Path) -> Judgement:
    """Judge what a run has left in its folder."""
    ending, faults, rabbitmq = json.loads(folder.joinpath("evidence.json").read_text("utf-8"))
    return judge(events_in(folder), Ending(**ending), faults, rabbitmq=rabbitmq)


def main() -> int:
    """Do what the options say; leave the judgement in the folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("options")
    options = Options(**json.loads(parser.parse_args().options))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Names of network namespaces are kept in a folder: in one of our own.
    Path("/run/netns").mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run/netns"], check=True)
    judgement = Run(options).run()
    if options.report:
        write_report(
            Path(options.report), f"Chaos: {options.told}", judgement, events_in(Path(options.folder)), options.command
        )
    Path(options.folder, "judgement.json").write_text(json.dumps(judgement.as_dict()), "utf-8")
    return 0


def _end_with_parent() -> None:
    """This process is the first one of its namespace: when it ends, everything in there does."""
    os.read(0, 1)  # until it is closed
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
