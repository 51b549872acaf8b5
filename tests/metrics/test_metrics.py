# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Metrics for Prometheus: of the whole namespace, and of each worker process beside Dramatiq's own numbers."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from docutils.nodes import make_id
from dramatiq.brokers.redis import RedisBroker
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from dramatiq_inflight import EventKind, Inspector
from dramatiq_inflight.metrics import InFlightCollector, serve
from dramatiq_inflight.metrics import process as process_metrics
from dramatiq_inflight.metrics.process import ProcessMetrics, forget_the_dead, is_reported
from dramatiq_inflight.store.cause import OUT_OF_MEMORY, Cause, CauseKind
from dramatiq_inflight.store.records import Enqueued
from dramatiq_inflight.store.store import Store
from tests.conftest import missing
from tests.support.cluster import Cluster
from tests.support.history import History
from tests.support.inprocess import App
from tests.support.lab import Lab, copy_of
from tests.support.servers import RedisServer, free_port, wait_until

MakeCluster = Callable[..., Cluster]

MONITORING = Path(__file__).parents[2] / "docs" / "monitoring"
DASHBOARD, ALERTS = MONITORING / "grafana.json", MONITORING / "alerts.yml"
ALERTS_TEST = MONITORING / "alerts_test.yml"


class Scrape:
    """The answer of an endpoint."""

    def __init__(self, text: str) -> None:
        self.samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        self.names = {sample.name for sample in self.samples}

    @classmethod
    def of(cls, collector: InFlightCollector) -> Scrape:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(collector)
        return cls(generate_latest(registry).decode())

    @classmethod
    def at(cls, port: int) -> Scrape:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=120) as answer:
            return cls(answer.read().decode())

    def values(self, name: str, **labels: str) -> list[float]:
        name = f"dramatiq_inflight_{name}"
        return [s.value for s in self.samples if s.name == name and labels.items() <= s.labels.items()]

    def value(self, name: str, **labels: str) -> float:
        (value,) = self.values(name, **labels)
        return value


def serving(inspector: Inspector) -> int:
    """The port where a namespace's metrics are served, until the tests end."""
    port = free_port()
    threading.Thread(target=serve, args=(inspector,), kwargs={"port": port}, daemon=True).start()

    def answers() -> bool:
        try:
            return bool(Scrape.at(port).names)
        except urllib.error.URLError:
            return False

    wait_until(answers, what="the exporter answers")
    return port


@pytest.fixture
def inspector(lab: Lab) -> Inspector:
    return Inspector(lab.client, lab.namespace)


def test_an_empty_namespace_is_told_from_zero(inspector: Inspector) -> None:
    """Every event begins at 0, so that the first poison message is an increase."""
    seen = Scrape.of(InFlightCollector(inspector))
    assert seen.value("up") == 1
    assert [seen.value("workers", state=state) for state in ("alive", "draining", "silent", "dead")] == [0, 0, 0, 0]
    assert [seen.value(name) for name in ("running", "waiting", "overdue", "aside", "unrecovered_seconds")] == [0] * 5
    assert all(seen.value("all_events_total", event=kind.value) == 0 for kind in EventKind)
    assert seen.value("recovery_seconds_count") == seen.value("recovery_seconds_sum") == 0


def test_deaths_are_counted_by_cause(lab: Lab, b: Store, inspector: Inspector) -> None:
    """Signals and exit codes are one cause each; a cause of a later version is another one."""
    causes = [OUT_OF_MEMORY, Cause.of_status(9), Cause.of_status(11), Cause.of_status(3 << 8), Cause(77), None]
    for number, cause in enumerate(causes):
        dead = lab.incarnation(f"w{number}")
        if cause is None:
            lab.kill(dead)
            assert b.workers.record_death(b.workers.incarnation(dead.me))
        else:
            assert b.workers.mark_dead(b.workers.incarnation(dead.me), cause)
    seen = Scrape.of(InFlightCollector(inspector))
    deaths = {kind.value: seen.value("deaths_total", cause=kind.value) for kind in CauseKind}
    expected = {"out_of_memory": 1, "signal": 2, "exit": 1, "other": 1, "heartbeat": 1}
    assert deaths == {kind.value: expected.get(kind.value, 0) for kind in CauseKind}
    assert seen.value("all_events_total", event="died") == len(causes)


def test_what_is_in_flight_and_what_happened_is_told(lab: Lab, a: Store, b: Store, inspector: Inspector) -> None:
    for _ in range(2):
        lab.runs(a, copy_of())
    dead, back = lab.incarnation("dead"), copy_of()
    lab.runs(dead, back)
    lab.kill(dead)
    assert b.workers.record_death(b.workers.incarnation("dead"))
    collector = InFlightCollector(inspector)
    seen = Scrape.of(collector)
    assert (seen.value("workers", state="alive"), seen.value("workers", state="dead")) == (2, 1)
    assert seen.value("unrecovered_seconds") > 3600  # its last heartbeat was at the beginning of time
    assert seen.value("messages", queue="default", actor="work", state="running") == 3
    orphan = lab.claim(b, back, dead)
    b.recovery.confirm_copies([Enqueued(orphan, "r2", "default", 0)], dead="dead")
    lab.overdue(back)
    assert b.workers.forget("dead")
    counts = {(count.kind, count.queue, count.actor): count.number for count in inspector.counts()}
    seen = Scrape.of(collector)
    assert (seen.value("running"), seen.value("waiting"), seen.value("overdue")) == (2, 1, 1)
    assert seen.value("messages", queue="default", actor="work", state="waiting") == 1
    assert 0 <= seen.value("oldest_seconds", queue="default", actor="work") < 60
    assert seen.value("unrecovered_seconds") == 0
    assert seen.value("events_total", event="recovered", queue="default", actor="work") == 1
    assert seen.value("all_events_total", event="recovered") == seen.value("all_events_total", event="died") == 1
    assert seen.value("all_events_total", event="joined") == 3
    assert seen.values("events_total", event="joined") == []
    assert seen.value("recovery_seconds_count") == 1
    assert seen.value("recovery_seconds_sum") == counts["cleared_ms", "", ""] / 1000


HOSTILE = ['"} 1\nup 0', "\ud800half", "a\\b\n", "…" * 4000, "{}", "\x00\x1b[31m", ""]


def test_names_are_told_whatever_they_are(lab: Lab, inspector: Inspector) -> None:
    """Anybody who can enqueue can make up names."""
    counts = lab.prefix + "counts"
    for name in HOSTILE:
        lab.client.hset(counts, json.dumps(["poison", name, name]), 1)
    seen = Scrape.of(InFlightCollector(inspector))
    assert seen.value("up") == 1
    told = [sample.labels for sample in seen.samples if sample.name == "dramatiq_inflight_events_total"]
    assert len(told) == len(HOSTILE)
    assert {labels["event"] for labels in told} == {"poison"}
    assert max(len(labels["actor"]) for labels in told) == 128
    assert seen.value("events_total", actor="a\\b\ufffd") == 1
    assert all(labels["actor"].isprintable() for labels in told)


def test_many_names_are_told_as_one(lab: Lab, inspector: Inspector) -> None:
    counts = lab.prefix + "counts"
    for n in range(50):
        lab.client.hset(counts, json.dumps(["poison", "q", f"actor-{n}"]), n + 1)
    seen = Scrape.of(InFlightCollector(inspector, max_series=10))
    assert len(seen.values("events_total")) == 11
    assert seen.value("events_total", actor="actor-49") == 50
    assert seen.value("events_total", queue="", actor="(others)") == sum(range(1, 41))
    assert seen.value("all_events_total", event="poison") == sum(range(1, 51))


def test_a_redis_that_is_away_is_told_and_comes_back(own_server: RedisServer, namespace: str) -> None:
    port = serving(Inspector.from_url(own_server.url, namespace))
    assert Scrape.at(port).value("up") == 1
    own_server.kill()
    assert Scrape.at(port).names == {"dramatiq_inflight_up"}
    assert Scrape.at(port).value("up") == 0
    own_server.start()
    wait_until(lambda: Scrape.at(port).value("up") == 1, what="it is up again")


def test_counts_that_are_damaged_are_no_traceback(lab: Lab, inspector: Inspector) -> None:
    lab.client.hset(lab.prefix + "counts", "[", "what is this?")
    assert Scrape.of(InFlightCollector(inspector)).samples[0].value == 0


def test_both_endpoints_tell_the_truth_after_a_kill(
    cluster: MakeCluster, history: History, tmp_path: Path, server_url: str
) -> None:
    """Two processes beside Dramatiq's Prometheus middleware, and a third one that is killed.

    Every metric that the dashboard and the alerts name is there.
    """
    made, port, folder = cluster(), free_port(), tmp_path / "prometheus"
    told: dict[str, Any] = {
        "TEST_PROMETHEUS": "1",
        "dramatiq_prom_db": str(folder),
        "dramatiq_prom_host": "127.0.0.1",
        "dramatiq_prom_port": str(port),
        "HEARTBEAT_TTL": "20",  # a busy machine must not make these look dead
    }
    victim = made.worker(threads=4)
    for key in range(4):
        made.app.gated.send(key, str(tmp_path / "gate"))
    made.wait(lambda: history.count("start") == 4, what="they run on the one that is killed")
    others = made.worker(processes=2, threads=4, **told)
    made.wait(lambda: len({e.pid for e in history.events("boot") if e.extra == others.group}) == 2, what="both boot")
    exporter = serving(Inspector.of(made.broker))
    assert Scrape.at(exporter).value("workers", state="alive") == 3
    victim.kill()
    made.wait(lambda: history.count("start") == 8, what="they run again")
    made.wait(lambda: Scrape.at(exporter).value("all_events_total", event="cleared") == 1, what="it is cleared")
    seen = Scrape.at(exporter)
    assert seen.value("messages", actor="gated", state="running") == seen.value("running") == 4
    assert seen.value("events_total", event="recovered", actor="gated") == 4
    assert seen.value("all_events_total", event="died") == seen.value("recovery_seconds_count") == 1
    assert seen.value("recovery_seconds_sum") > 0
    assert (seen.value("workers", state="alive"), seen.value("workers", state="dead")) == (2, 0)
    (tmp_path / "gate").touch()
    made.wait(lambda: len(history.keys("end")) == 4, what="they end")
    made.wait(lambda: Scrape.at(exporter).value("running") == 0, what="nothing runs")

    # The processes' metrics, a second later.
    made.wait(lambda: sum(Scrape.at(port).values("process_messages_total")) == 4, what="all is told")
    mine = Scrape.at(port)
    pids = {str(e.pid) for e in history.events("boot") if e.extra == others.group}
    healthy = {s.labels["pid"]: s.value for s in mine.samples if s.name == "dramatiq_inflight_process_healthy"}
    assert healthy == dict.fromkeys(pids, 1)
    assert len(mine.values("process_last_heartbeat_timestamp_seconds")) == 2
    assert len(mine.values("process_redis_errors_total")) == 1
    assert mine.value("process_sweeps_total") >= 2
    assert "dramatiq_messages_total" in mine.names  # Dramatiq's own are there as ever
    assert used_by(DASHBOARD.read_text()) | used_by(ALERTS.read_text()) <= seen.names | mine.names

    assert others.stop() == 0
    assert "its own metrics" not in others.output()
    assert list(folder.glob("gauge_liveall_*")) == [], "who has left is not taken for one that lives"


def used_by(text: str) -> set[str]:
    """The metrics that a file names."""
    return set(re.findall(r"\bdramatiq_inflight_\w+", text))


def test_a_process_counts_the_errors_of_redis(own_server: RedisServer, namespace: str) -> None:
    """And says that it is not healthy, if that lasts."""
    app = App(own_server.url, namespace, Lab(own_server.client(), namespace), heartbeat_ttl=2)
    try:
        app.start()
        runtime = app.runtime
        told = ProcessMetrics(
            runtime.table, runtime.lease, runtime.connectivity, runtime.recovery_thread, app.tracker.healthy
        )
        told.write()
        registry = told.registry
        assert registry.get_sample_value("dramatiq_inflight_process_redis_errors_total") == 0
        assert registry.get_sample_value("dramatiq_inflight_process_healthy") == 1
        before = registry.get_sample_value("dramatiq_inflight_process_last_heartbeat_timestamp_seconds")
        own_server.kill()
        wait_until(lambda: not app.tracker.healthy(), what="it is silent for too long")
        told.write()
        assert registry.get_sample_value("dramatiq_inflight_process_redis_errors_total") > 0
        assert registry.get_sample_value("dramatiq_inflight_process_healthy") == 0
        own_server.start()
        wait_until(app.tracker.healthy, what="it is back")
        told.write()
        assert registry.get_sample_value("dramatiq_inflight_process_healthy") == 1
        after = registry.get_sample_value("dramatiq_inflight_process_last_heartbeat_timestamp_seconds")
        assert after > before
    finally:
        app.close()


def test_nothing_is_told_where_dramatiq_tells_nothing(app: App) -> None:
    before = set(threading.enumerate())
    app.start()
    assert not is_reported(app.broker)
    started = set(threading.enumerate()) - before
    assert "dramatiq_inflight-metrics" not in {thread.name for thread in started}


def test_importing_the_tracker_leaves_dramatiqs_counters_to_it() -> None:
    """The core needs no prometheus_client; and its first import decides how it keeps numbers."""
    code = "import sys, dramatiq_inflight, dramatiq_inflight.metrics; assert 'prometheus_client' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=MONITORING.parents[1])


def test_what_a_killed_process_has_told_of_itself_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mine, theirs = (tmp_path / f"gauge_liveall_{pid}.db" for pid in (os.getpid(), ended.pid))
    kept = tmp_path / f"counter_{ended.pid}.db"
    for file in (mine, theirs, kept):
        file.touch()
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    forget_the_dead()
    assert set(tmp_path.iterdir()) == {mine, kept}


def test_the_alerts_are_rules() -> None:
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) > 8
    for rule in rules:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert used_by(rule["expr"])
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]


def test_each_alert_links_to_its_section_of_the_docs() -> None:
    docs = MONITORING.parent
    sections = re.findall(r"^(.+)\n-+$", (docs / "alerts.rst").read_text("utf-8"), re.MULTILINE)
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    assert sections == [rule["alert"] for rule in rules]
    for rule in rules:
        address, _, anchor = rule["annotations"]["runbook_url"].rpartition("#")
        assert address == "https://docs.example.com/dramatiq_inflight/alerts.html"
        assert anchor == make_id(rule["alert"])


def test_each_alert_is_expected_to_fire_in_a_test_of_its_own() -> None:
    calm, *tests = yaml.safe_load(ALERTS_TEST.read_text())["tests"]
    assert [check["exp_samples"] for check in calm["promql_expr_test"]] == [[]] * 3
    fired = set()
    for test in tests:
        fired |= {alert["alertname"] for alert in test.get("alert_rule_test", []) if alert["exp_alerts"]}
        labels = [sample["labels"] for check in test["promql_expr_test"] for sample in check["exp_samples"]]
        fired |= set(re.findall(r'alertname="(\w+)"', " ".join(labels)))
    assert fired == set(re.findall(r"- alert: (\w+)", ALERTS.read_text()))


@pytest.mark.once
def test_each_alert_fires_on_its_series_alone() -> None:
    promtool = shutil.which("promtool") or missing("promtool", "install Debian's prometheus")
    subprocess.run([promtool, "check", "rules", str(ALERTS)], check=True)
    subprocess.run([promtool, "test", "rules", str(ALERTS_TEST)], check=True)


def test_the_dashboard_can_be_imported_anywhere() -> None:
    board: dict[str, Any] = json.loads(DASHBOARD.read_text())
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"]) > 10
    for panel in board["panels"]:
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            assert used_by(target["expr"])


def test_a_broker_with_the_middleware_is_noticed(server_url: str) -> None:
    from dramatiq.middleware.prometheus import Prometheus  # noqa: PLC0415

    broker = RedisBroker(client=redis.Redis.from_url(server_url), middleware=[Prometheus()])
    assert is_reported(broker)


def test_every_metric_and_event_is_documented(inspector: Inspector) -> None:
    docs = (MONITORING.parent / "metrics.rst").read_text()
    told = {name.removesuffix("_created") for name in Scrape.of(InFlightCollector(inspector)).names}
    source = Path(process_metrics.__file__).read_text()
    told |= {f"dramatiq_inflight_process_{name}" for name in re.findall(r'(?:gauge|counter)\(\s*"(\w+)"', source)}
    assert len(told) > 15
    assert told <= {name for found in used_by(docs) for name in (found, found.removesuffix("_total"))}
    for kind in EventKind:
        assert f"\n``{kind.value}``\n" in docs
