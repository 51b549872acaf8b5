# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Real workers behind a hostile network, and a Redis that fails over behind one address."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from chaos.matrix import FAULTS, matrix
from tests.support.cluster import Cluster
from tests.support.failover import behind_one_address, fail_over_under_load
from tests.support.history import History
from tests.support.network import KINDS, HostileNetwork, through
from tests.support.network_proxy import NetworkProxy


@pytest.mark.parametrize("kind", ["delay", *(pytest.param(kind, marks=pytest.mark.long) for kind in KINDS[2:])])
def test_a_hostile_network_loses_and_doubles_no_message(
    kind: str, cluster: Callable[..., Cluster], history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``TEST_NETWORK`` puts it in front of every worker's Redis."""
    monkeypatch.setenv("TEST_NETWORK", kind)
    made = cluster(HEARTBEAT_INTERVAL="1", HEARTBEAT_TTL="12")
    made.worker()
    for key in range(20):
        made.app.work.send(key, 0.05)
    made.wait(lambda: history.keys("acked") == set(range(20)), what="all complete")
    assert len(history.events("start")) == 20
    assert made.network is not None
    assert made.network.links


def test_only_the_tests_own_redis_is_behind_the_network() -> None:
    """A cluster, sentinels, or a server with a network of its own are not."""
    proxy = NetworkProxy(1)
    env = {"TEST_BROKER_URL": "redis://127.0.0.1:6379/0", "PROCESSING_REDIS_URL": "cluster://127.0.0.1:7000"}
    behind = through(env, proxy, timeout=3)
    proxy.close()
    assert behind == {**env, "TEST_BROKER_URL": f"redis://127.0.0.1:{proxy.port}/0?socket_timeout=3"}


def test_a_network_of_an_unknown_kind_is_refused() -> None:
    """A misspelt one would test nothing."""
    with pytest.raises(ValueError, match="TEST_NETWORK is 'dealy'"):
        HostileNetwork("dealy")


@pytest.mark.long
@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_network_loses_and_doubles_nothing(
    fault: str, broker: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """At two moments of a message's life; ``nox -s chaos -- matrix`` has all of them."""
    url = request.getfixturevalue("rabbitmq_url") if broker == "rabbitmq" else ""
    for cell in matrix(tmp_path, [fault], ["running", "finish"], [broker], url):
        print(cell)
        assert cell.is_right, cell


@pytest.mark.long
@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_failovers_under_load_lose_and_double_nothing(
    broker: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Behind one address: the connections that are open stay with a server that may only be read."""
    settings = {"TEST_RABBITMQ_URL": request.getfixturevalue("rabbitmq_url")} if broker == "rabbitmq" else {}
    if broker == "redis":
        request.getfixturevalue("server_binary")
    with behind_one_address(tmp_path, settings) as (cluster, pair):
        figures = fail_over_under_load(cluster, pair, 2)
    print(figures)
    assert figures.is_right, figures
