# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A worker that is cut off from Redis, by a network that really is cut."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.history import History
from tests.support.networks import Cable, no_namespaces
from tests.support.servers import RedisServer, wait_until

pytestmark = pytest.mark.long

MakeCluster = Callable[..., Cluster]


@pytest.fixture
def cable() -> Iterator[Cable]:
    why = no_namespaces()
    if why and os.environ.get("CI"):
        pytest.fail(why)
    if why:
        pytest.skip(why)
    cable = Cable()
    yield cable
    cable.remove()


@pytest.fixture
def far_server(cable: Cable, server_binary: str, tmp_path: Path) -> Iterator[RedisServer]:
    """A server at the other end of the cable, and for everybody else at a socket in a folder."""
    server = RedisServer(server_binary, tmp_path / "r", inside=cable.inside(0), address=cable.SERVER).start()
    yield server
    server.kill()


def test_a_cut_off_workers_message_has_one_owner_and_completion(
    cluster: MakeCluster, far_server: RedisServer, cable: Cable, history: History, tmp_path: Path
) -> None:
    """Recovered elsewhere, interrupted here; nothing is erased."""
    made = cluster(TEST_BROKER_URL=f"unix://{far_server.path}")
    gate = tmp_path / "gate"
    far = made.worker(threads=2, inside=cable.inside(1), TEST_BROKER_URL=far_server.url, PROCESSING_HEARTBEAT="process")
    made.app.interruptible.send("m", str(gate))
    made.wait(lambda: history.count("start") == 1, what="it runs")
    near = made.worker(threads=2)
    cable.cut()
    cut = time.monotonic()
    made.wait(lambda: history.count("start") == 2, what="it runs again")
    made.wait(lambda: time.monotonic() > cut + 2 * 1.5, what="two TTLs have passed")
    assert history.count("interrupted") == 0
    cable.mend()
    made.wait(lambda: history.count("interrupted") == 1, what="the zombie stops")
    assert history.events("interrupted")[0].pid == history.events("start")[0].pid
    # It has no retry, and the message is with its new owner.
    made.wait(lambda: history.count("acked") == 1, what="the zombie is done with it")
    (record,) = [name for name in made.names() if name.startswith("record:")]
    head = made.client.get(made.prefix + record).partition(b"\n")[0]
    assert head.startswith(b'["running"')
    gate.touch()
    made.wait(lambda: history.count("end") == 1, what="it ends")
    made.wait(lambda: made.enqueued() == 0, what="all is done")
    assert history.count("start") == 2
    assert history.events("end")[0].pid == near.booted_pid()
    assert made.dead_letters() == []
    wait_until(lambda: "Redis cannot be used" in far.output(), what="said")
    wait_until(
        lambda: "or an operator used force. Its run is interrupted here" in far.output(),
        what="said",
    )
    assert near.stop() == far.stop() == 0
