# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Freeze what this version leaves in Redis in the midst of its work, and its code: ``python -m tests.upgrades.freeze``.

Done once for each release, before it is tagged; ``--check`` says whether the package is still what was frozen.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import dramatiq
import redis
from dramatiq import Message
from dramatiq.brokers.redis import RedisBroker
from dramatiq.common import dq_name

import dramatiq_inflight
from dramatiq_inflight.brokers.redis import RedisQueues
from dramatiq_inflight.delivery import Copy
from dramatiq_inflight.store.connection import bounded_client
from dramatiq_inflight.store.records import DRAINING, Enqueued, Orphan
from dramatiq_inflight.store.replies import Claim, Returned, Start
from dramatiq_inflight.store.scripts import Scripts
from dramatiq_inflight.store.store import Store

from ..support.servers import RedisServer, find_server
from .frozen import ROOT, save

PACKAGE = Path(dramatiq_inflight.__file__).parent

#: The files that workers do without.
PARTS = {"cli", "dashboard", "doctor", "__pycache__"}


class Worker:
    """A worker of this version, driven by hand."""

    def __init__(self, url: str, namespace: str, name: str) -> None:
        self.client: Any = redis.Redis.from_url(url)
        self.broker: Any = RedisBroker(
            client=self.client, namespace=f"{namespace}-broker", middleware=[], maintenance_chance=0
        )
        self.broker.broker_id = f"broker-of-{name}"
        self.queues = RedisQueues(self.broker, bounded_client(self.client))
        self.actor: Any = dramatiq.actor(broker=self.broker, actor_name="work")(print)
        self.broker.declare_queue("default")
        self.store = Store(Scripts(bounded_client(self.client), namespace, name, heartbeat_ttl=60, fence_ttl=604800))
        self.store.workers.register(
            {
                **{"instance": f"pod-{name}", "host": "a-host", "pid": "7", "version": dramatiq_inflight.__version__},
                **{"ttl": "60000", "interval": "20000", "exclusive": "0", "patience": "10000"},
                **{"broker_namespace": self.broker.namespace, "broker_id": self.broker.broker_id},
                "queues": json.dumps(self.queues.names()),
            }
        )

    def fetch(self, key: int, *, delay: int | None = None, **options: Any) -> Message[Any]:
        """Send a message, and fetch it."""
        sent = self.actor.send_with_options(args=(key,), delay=delay, **options)
        queue = dq_name("default") if delay else "default"
        list_, copy_id = f"{self.broker.namespace}:{queue}", sent.options["redis_message_id"]
        self.client.lrem(list_, 1, copy_id)
        self.client.lpush(list_, copy_id)  # before what others are to find there
        fetched = next(self.broker.consume(queue, prefetch=1, timeout=100))
        assert fetched.message_id == sent.message_id
        return fetched  # type: ignore[no-any-return]

    def run(self, key: int, *, limit: int = 3) -> Copy:
        """Fetch a message, and start it."""
        return self.start(self.fetch(key), limit=limit)

    def start(self, message: Any, *, limit: int = 3) -> Copy:
        copy = Copy.of(message)
        keys = self.queues.keys("default")
        started = self.store.messages.start(copy, b"", limit=limit, here="no", alone=limit == 0, broker_keys=keys)
        assert started.answer is Start.RUN, started
        return copy

    def give_back(self) -> None:
        """Its fetched messages go back into the queue."""
        self.queues.give_back(self.broker.broker_id, self.queues.names())

    def dies(self, *, draining: bool = False) -> None:
        mark = {DRAINING + self.store.me: float("-inf")} if draining else {}
        self.client.zadd(self.store.keys.heartbeats, {self.store.me: 1000, **mark})


def bring_about(url: str, namespace: str) -> dict[str, list[int]]:
    """All that may be there when every worker is killed at once.

    Returns: which messages are to run, each once; which are to be dead-lettered; which are not to run.
    """
    recoverer, worker, other = (Worker(url, namespace, name) for name in ("recoverer", "worker", "other"))
    _settled(worker, other)
    _recovered(recoverer, url, namespace)
    _running(worker, other)
    recoverer.actor.send(14)  # nobody has fetched it
    for one in (worker, recoverer):
        one.dies()
    other.dies(draining=True)
    return {"run": [2, 4, 5, 6, 9, 10, 11, 12, 13, 14, 15], "dead_letter": [3, 7], "never": [1, 8]}


def _settled(worker: Worker, other: Worker) -> None:
    # Complete, and remembered, for another worker had fetched it as well.  That copy is in the queue.
    done = worker.run(1)
    assert other.store.messages.start(done, b"x", limit=3, here="no").answer is Start.DUPLICATE
    worker.store.messages.complete(done, 1, again=False, contended=True)
    worker.give_back()

    # Failed; its retry is in the queue.
    failed = worker.fetch(2)
    copy = worker.start(failed)
    worker.broker.enqueue(failed.copy(options={"retries": 1}))
    worker.client.srem(f"{worker.broker.namespace}:__acks__.{worker.broker.broker_id}.default", copy.broker_copy_id)
    worker.client.hdel(f"{worker.broker.namespace}:default.msgs", copy.broker_copy_id)
    worker.store.messages.release(copy.message_id, 1, contended=True, copy=copy)

    # In the dead-letter queue, by the tracker.
    dead = worker.run(3, limit=0)
    worker.broker.do_nack("default", dead.broker_copy_id)
    worker.store.messages.release(dead.message_id, 1, contended=True, dead_lettered=True, copy=dead)


def _recovered(recoverer: Worker, url: str, namespace: str) -> None:
    # Back in its queue, after its worker has died and was forgotten.
    first = Worker(url, namespace, "first")
    back = first.run(4)
    first.dies()
    assert recoverer.store.recovery.return_to_broker("first", [(back.message_id, True)]) == [Returned.RETURNED]
    first.give_back()
    assert recoverer.store.workers.forget("first")

    # Claimed by a recoverer, who has enqueued no copy, or one that it has not told of; its first copy is with the dead.
    second = Worker(url, namespace, "second")
    claimed, told, condemned, set_aside = second.run(5), second.run(6), second.run(7, limit=0), second.run(8)
    second.dies()
    ids = [copy.message_id for copy in (claimed, told, condemned, set_aside)]
    orphans = recoverer.store.recovery.claim(ids, dead="second", hold=300)
    assert [isinstance(one, Orphan) and one.verdict for one in orphans] == [
        *(Claim.CLAIMED, Claim.CLAIMED, Claim.POISONED, Claim.CLAIMED)
    ]
    _, to_tell, _, to_set_aside = (one for one in orphans if isinstance(one, Orphan))
    mark = {"generation": to_tell.generation, "origin": to_tell.origin, "crashes": 1}
    sent = recoverer.broker.enqueue(Message.decode(to_tell.payload).copy(options={"inflight": mark}))
    enqueued = Enqueued(to_tell, sent.options["redis_message_id"], "default", 0.0)
    recoverer.store.recovery.confirm_copies([enqueued], dead="second")
    assert recoverer.store.recovery.set_aside(to_set_aside, dead="second")
    acks = f"{second.broker.namespace}:__acks__.{second.broker.broker_id}.default"
    second.client.srem(acks, set_aside.broker_copy_id)
    second.client.hdel(f"{second.broker.namespace}:default.msgs", set_aside.broker_copy_id)


def _running(worker: Worker, other: Worker) -> None:
    # Running, one of them with a checkpoint; fetched, and delayed.
    running = worker.run(9)
    worker.store.messages.checkpoint(
        running.message_id, 1, {"value": json.dumps({"page": 3}), "progress": "0.5", "note": "page 3"}
    )
    worker.run(10)
    worker.fetch(11)
    worker.fetch(12, delay=50)
    other.run(13)

    # A duplicate was put off while it ran: its copy waits in the delay queue.
    duplicate = other.fetch(15)
    copy = other.start(duplicate)
    mark = {"generation": 1, "origin": copy.origin, "deferrals": 1, "duplicate": True}
    other.broker.enqueue(duplicate.copy(options={"inflight": mark}), delay=50)
    other.store.messages.defer(copy, 1.0)


def package() -> dict[str, bytes]:
    """The files that a worker needs."""
    return {
        str(Path(PACKAGE.name) / path.relative_to(PACKAGE)): path.read_bytes()
        for path in sorted(PACKAGE.rglob("*"))
        if path.is_file() and not PARTS & set(path.relative_to(PACKAGE).parts)
    }


def packed(files: dict[str, bytes]) -> bytes:
    """An archive of them, the same for the same files."""
    inside = io.BytesIO()
    with tarfile.open(fileobj=inside, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return gzip.compress(inside.getvalue(), mtime=0)


def unpacked(path: Path) -> dict[str, bytes]:
    """Return the files in an archive."""
    with tarfile.open(path) as archive:
        return {member.name: file.read() for member in archive if (file := archive.extractfile(member)) is not None}


def main() -> int:
    """Freeze this version, or check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="say whether the package is what was frozen")
    options = parser.parse_args()
    folder = ROOT / dramatiq_inflight.__version__
    if options.check:
        frozen = folder / "package.tar.gz"
        if not frozen.exists() or unpacked(frozen) != package():
            print(f"{folder} is not of this package: run python -m tests.upgrades.freeze", file=sys.stderr)
            return 1
        print(f"{folder} is of this package")
        return 0
    binary = find_server()
    assert binary is not None, "no Redis or Valkey server here"
    folder.mkdir(exist_ok=True)
    namespace = "a-namespace-to-freeze"
    with tempfile.TemporaryDirectory() as temporary:
        server = RedisServer(binary, Path(temporary)).start()
        try:
            expected = bring_about(server.url, namespace)
            client: Any = server.client()
            seconds, micro = client.time()
            state = {"at": seconds * 1000 + micro // 1000, **expected, "keys": save(client, namespace)}
        finally:
            server.kill()
    (folder / "redis.json").write_text(json.dumps(state, indent=1) + "\n", "utf-8")
    (folder / "package.tar.gz").write_bytes(packed(package()))
    print(f"{folder}: {len(state['keys'])} keys, {len(package())} files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
