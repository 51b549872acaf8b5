# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Settings: argument over environment over default; what is wrong is named."""

from __future__ import annotations

import socket
import traceback
import warnings
from pathlib import Path
from typing import Any

import dramatiq
import pytest
import redis
from dramatiq.brokers.redis import RedisBroker
from dramatiq.brokers.stub import StubBroker
from dramatiq.errors import DramatiqError
from dramatiq.middleware import MiddlewareError

from dramatiq_inflight import ConfigurationError, InFlightTracker
from dramatiq_inflight.config.declaration import Setting
from dramatiq_inflight.config.policy import OPTIONS
from dramatiq_inflight.config.settings import SETTINGS, Settings, load_settings
from dramatiq_inflight.config.values import (
    ActorName,
    Choice,
    FilePath,
    Flag,
    Namespace,
    QueueName,
    RedisUrl,
    Seconds,
    Text,
    Value,
    Whole,
)

#: A text of each kind of values, and what it is read as.
RIGHT: dict[type[Value], tuple[str, object]] = {
    ActorName: ("tell_ops", "tell_ops"),
    FilePath: ("/tmp/healthy", Path("/tmp/healthy")),
    Namespace: ("shop", "shop"),
    QueueName: ("big-memory", "big-memory"),
    RedisUrl: ("redis://:secret@db/3", "redis://:secret@db/3"),
    Seconds: ("61.5", 61.5),
    Text: ("pod-7", "pod-7"),
    Whole: ("7", 7),
}

#: A text that is none of its kind; of an actor's name every text can be one.
WRONG: dict[type[Value], str] = {
    Choice: "drop",
    FilePath: "/not/there/healthy",
    Flag: "perhaps",
    Namespace: "{x}",
    QueueName: "a b",
    RedisUrl: "db:6379",
    Seconds: "soon",
    Text: "",
    Whole: "three",
}

#: The settings that text can hold.
IN_THE_ENVIRONMENT = [name for name, one in SETTINGS.items() if one.variable]


def right(name: str) -> tuple[str, object]:
    """A text for a setting that is not its default, and what it is read as."""
    one = SETTINGS[name]
    if isinstance(one.value, Flag):
        return str(not one.default).lower(), not one.default
    if isinstance(one.value, Choice):
        other = next(text for text in one.value.of if text != one.default)
        return other, other
    return RIGHT[type(one.value)]


def of(settings: Settings, name: str) -> object:
    return getattr(settings.policy if name in OPTIONS else settings, name)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for one in SETTINGS.values():
        for variable in one.variables:
            monkeypatch.delenv(variable, raising=False)


def test_the_defaults_are_those_of_the_documentation() -> None:
    """Nothing has to be set."""
    settings = load_settings({})
    assert settings.instance_id == socket.gethostname()
    assert settings.namespace == "dramatiq_processing"
    assert (settings.heartbeat_interval, settings.heartbeat_ttl) == (30, 90)
    assert (settings.recovery_lock_ttl, settings.recovery_interval) == (300, 30)
    assert (settings.policy.max_recoveries, settings.fence_ttl) == (3, 7 * 24 * 3600)
    assert (settings.policy.on_orphan, settings.policy.recovery_queue) == ("requeue", None)
    assert (settings.policy.recovery_delay, settings.alone_timeout, settings.alone_in) == (0, 600, "auto")
    assert (settings.policy.on_recovery, settings.policy.on_poison, settings.callback) == (None, None, None)
    assert (settings.track_by_default, settings.enabled) == (False, True)
    assert (settings.redis_url, settings.client) == (None, None)


def test_the_recovery_interval_follows_the_heartbeat_interval() -> None:
    """Where it is not set itself."""
    assert load_settings({"heartbeat_interval": 7}).recovery_interval == 7


@pytest.mark.parametrize("which", [0, 1], ids=["long", "short"])
@pytest.mark.parametrize("name", IN_THE_ENVIRONMENT)
def test_every_setting_is_read_from_its_variables(name: str, which: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment variable is over the default."""
    text, value = right(name)
    monkeypatch.setenv(SETTINGS[name].variables[which], text)
    settings = load_settings({} if name == "heartbeat_ttl" else {"heartbeat_ttl": 300})
    assert of(settings, name) == value != of(Settings(), name)


def test_the_long_variable_of_a_setting_is_made_of_its_name() -> None:
    assert SETTINGS["namespace"].variables == ("DRAMATIQ_INFLIGHT_NAMESPACE", "PROCESSING_NS")
    assert SETTINGS["client"].variables == ()


def test_the_long_variable_wins_and_a_difference_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """The short one may be another program's: it is not even read."""
    monkeypatch.setenv("DRAMATIQ_INFLIGHT_HEARTBEAT_TTL", "120")
    monkeypatch.setenv("HEARTBEAT_TTL", "5m")
    with pytest.warns(RuntimeWarning, match=r"DRAMATIQ_INFLIGHT_HEARTBEAT_TTL and HEARTBEAT_TTL .* differ") as said:
        tracker = InFlightTracker()
    assert tracker.settings.heartbeat_ttl == 120
    assert "5m" not in str(said[0].message), "a value may be a password"
    assert said[0].filename == __file__, "it names the line that makes the tracker"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        InFlightTracker(heartbeat_ttl=90)
        monkeypatch.setenv("HEARTBEAT_TTL", "120")
        InFlightTracker()


def test_an_error_names_the_variable_that_has_the_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAMATIQ_INFLIGHT_HEARTBEAT_TTL", "soon")
    with pytest.raises(ConfigurationError, match="environment variable DRAMATIQ_INFLIGHT_HEARTBEAT_TTL"):
        InFlightTracker()


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("PROCESSING_MAX_RECOVERY", "Did you mean PROCESSING_MAX_RECOVERIES?"),
        ("HEARTBEAT_TTLS", "Did you mean HEARTBEAT_TTL?"),
        ("HEARTBEAT_INTERVALL", "Did you mean HEARTBEAT_INTERVAL?"),
        ("RECOVERY_LOCKS_TTL", "Did you mean RECOVERY_LOCK_TTL?"),
        ("PROCESING_ON_ORPHAN", "Did you mean PROCESSING_ON_ORPHAN?"),
        ("PROCESSING_NAMESPACE", "Did you mean PROCESSING_NS?"),
        ("PROCESSING_HEARTBEAT_TTL", "Did you mean HEARTBEAT_TTL?"),
        ("processing_ns", "Did you mean PROCESSING_NS?"),
        ("DRAMATIQ_INFLIGHT_NS", "Did you mean DRAMATIQ_INFLIGHT_NAMESPACE?"),
        ("DRAMATIQ_INFLIGHT_MAX_RECOVERY", "Did you mean DRAMATIQ_INFLIGHT_MAX_RECOVERIES?"),
        ("DRAMATIQ_INFLIGT_HEARTBEAT_TTL", "Did you mean DRAMATIQ_INFLIGHT_HEARTBEAT_TTL?"),
        ("DRAMATIQ_INFLIGHT_COLOUR", "docs/settings.rst has all settings."),
        ("PROCESSING_EFFECTS_DATABASES", "Did you mean PROCESSING_EFFECTS_DATABASE?"),
    ],
)
def test_a_misspelt_variable_is_a_warning_with_the_nearest_name(
    variable: str, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "hunter2")
    with pytest.warns(RuntimeWarning) as said:
        InFlightTracker()
    assert [str(one.message) for one in said] == [
        f"dramatiq_inflight: the environment variable {variable} is no setting, and is ignored. {meant}"
    ]
    assert said[0].filename == __file__


@pytest.mark.parametrize(
    "variable",
    [
        "PROCESSING_EFFECTS_DATABASE",
        "DRAMATIQ_INFLIGHT_EFFECTS_DATABASE",
        # Other programs'.
        "PROCESSING_THREADS",
        "PROCESSING_TIMEOUT",
        "PROCESSING_QUEUE",
        "HEARTBEAT_URL",
        "RECOVERY_MODE",
        "_DRAMATIQ_INFLIGHT_COMPLETE",
        # Kubernetes sets these for a Service.
        "DRAMATIQ_INFLIGHT_SERVICE_HOST",
        "DRAMATIQ_INFLIGHT_SERVICE_PORT_HTTP",
        "DRAMATIQ_INFLIGHT_PORT",
        "DRAMATIQ_INFLIGHT_DASHBOARD_PORT_8080_TCP_ADDR",
    ],
)
def test_variables_of_others_are_no_warning(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        InFlightTracker()


def test_an_argument_is_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keyword arguments win, None included."""
    monkeypatch.setenv("HEARTBEAT_INTERVAL", "10")
    monkeypatch.setenv("PROCESSING_MAX_RECOVERIES", "5")
    settings = load_settings({"heartbeat_interval": 12.5, "max_recoveries": None})
    assert settings.heartbeat_interval == 12.5
    assert settings.policy.max_recoveries is None


@pytest.mark.parametrize("text", ["", "none", " None "])
def test_no_limit_can_be_said_in_the_environment(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty, or none."""
    monkeypatch.setenv("PROCESSING_MAX_RECOVERIES", text)
    assert load_settings({}).policy.max_recoveries is None


@pytest.mark.parametrize(
    ("setting", "value", "remedy"),
    [
        ("heartbeat_interval", -1, "a number of seconds from 0.01"),
        ("heartbeat_interval", 0, "a number of seconds from 0.01"),
        ("heartbeat_interval", "30", "a number of seconds"),
        ("heartbeat_interval", True, "a number of seconds"),
        ("heartbeat_interval", float("nan"), "a number of seconds"),
        ("heartbeat_ttl", float("inf"), "a number of seconds"),
        ("heartbeat_ttl", None, "a number of seconds"),
        ("recovery_lock_ttl", 0, "a number of seconds from 0.1"),
        ("recovery_interval", -0.5, "a number of seconds from 0"),
        ("fence_ttl", 1e12, "a number of seconds"),
        ("max_recoveries", -1, "a whole number from 0, or None"),
        ("max_recoveries", 1.5, "a whole number from 0, or None"),
        ("max_recoveries", True, "a whole number from 0, or None"),
        ("track_by_default", "yes", "True or False"),
        ("watch_processes", "no", "True or False"),
        ("instance_exclusive", "no", "True or False"),
        ("health_file", "/not/there/healthy", "the path of a file in a folder that exists"),
        ("health_file", "/tmp", "the path of a file in a folder that exists"),
        ("health_file", 7, "the path of a file in a folder that exists"),
        ("enabled", 1, "True or False"),
        ("namespace", "", "printable text"),
        ("namespace", " ", "printable text"),
        ("namespace", "a{b}", "without braces"),
        ("namespace", "a\nb", "printable text"),
        ("namespace", "a\x00", "printable text"),
        ("instance_id", "", "printable text"),
        ("instance_id", "a\tb", "printable text"),
        ("instance_id", 7, "printable text"),
        ("redis_url", 7, "a URL such as redis://"),
        ("on_orphan", "drop", "'requeue' or 'dead_letter'"),
        ("on_orphan", None, "'requeue' or 'dead_letter'"),
        ("recovery_queue", "default.DQ", "the name of a queue"),
        ("recovery_queue", "", "the name of a queue"),
        ("recovery_queue", 7, "the name of a queue"),
        ("recovery_delay", -1, "a number of seconds from 0"),
        ("recovery_delay", True, "a number of seconds from 0"),
        ("recovery_delay", 1e9, "a number of seconds from 0 to 604800"),
        ("on_recovery", 7, "an actor or the name of one"),
        ("on_poison", "", "an actor or the name of one"),
        ("alone_timeout", -1, "a number of seconds from 0"),
        ("alone_in", "pod", "'auto' or 'container'"),
    ],
)
def test_an_error_names_a_wrong_argument_and_what_is_right(setting: str, value: Any, remedy: str) -> None:
    """An error at once, not a surprise in production."""
    with pytest.raises(ConfigurationError) as caught:
        InFlightTracker(**{setting: value})
    assert str(caught.value).startswith(setting)
    assert repr(value) in str(caught.value)
    assert remedy in str(caught.value)


@pytest.mark.parametrize("name", SETTINGS)
def test_an_argument_of_a_wrong_kind_raises_what_is_right(name: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        InFlightTracker(**{name: object()})
    assert str(caught.value).startswith(f"{name} is ")
    assert str(caught.value).endswith(f"; it must be {SETTINGS[name].value.right}.")


@pytest.mark.parametrize("name", [name for name in IN_THE_ENVIRONMENT if type(SETTINGS[name].value) in WRONG])
def test_a_variable_of_a_wrong_kind_raises_what_is_right(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTINGS[name].variable, WRONG[type(SETTINGS[name].value)])
    with pytest.raises(ConfigurationError) as caught:
        InFlightTracker()
    assert str(caught.value).startswith(f"{name} (environment variable {SETTINGS[name].variable}) is ")
    assert str(caught.value).endswith(f"; it must be {SETTINGS[name].value.right}.")


@pytest.mark.parametrize("one", SETTINGS.values(), ids=SETTINGS)
def test_every_default_is_right(one: Setting) -> None:
    assert one.check(one.default, one.name) == one.default


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("heartbeat_interval", "half a minute"),
        ("heartbeat_interval", ""),
        ("heartbeat_ttl", "nan"),
        ("on_orphan", "drop"),
        ("on_orphan", ""),
        ("recovery_delay", "soon"),
        ("recovery_delay", ""),
        ("recovery_queue", "a b"),
        ("alone_timeout", "long"),
        ("recovery_interval", "-3"),
        ("max_recoveries", "three"),
        ("max_recoveries", "-1"),
        ("fence_ttl", "7d"),
        ("track_by_default", "perhaps"),
        ("enabled", ""),
        ("namespace", ""),
        ("namespace", "{x}"),
    ],
)
def test_a_wrong_variable_is_named_with_its_value(setting: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says which environment variable it was."""
    monkeypatch.setenv(SETTINGS[setting].variable, text)
    with pytest.raises(ConfigurationError) as caught:
        InFlightTracker()
    assert SETTINGS[setting].variable in str(caught.value)
    assert "must be" in str(caught.value)


def test_a_wrong_url_is_named_without_its_password() -> None:
    """Credentials are never shown."""
    for url in [
        "http://user:hunter2@db/0",
        "user:hunter2@db",
        "redis://user:hunter2@db:port/0",
        "redis://user:hunter2/x@db/0",
        "redis://user:hunter2[@db/0",
        "redis://user:hunter2\u2100@db/0",
        "redis://:hunter2@" + 64 * "a",
    ]:
        with pytest.raises(ConfigurationError) as caught:
            InFlightTracker(redis_url=url)
        assert "redis_url" in str(caught.value)
        assert "hunter2" not in str(caught.value)
        shown = "".join(traceback.format_exception(caught.value.with_traceback(None)))
        assert "hunter2" not in shown
        assert caught.value.__context__ is None


def test_the_settings_do_not_show_a_password() -> None:
    """Neither in a repr."""
    assert "hunter2" not in repr(load_settings({"redis_url": "redis://:hunter2@db/0"}))


def test_an_unknown_setting_gets_a_suggestion() -> None:
    """A typing error is found at once."""
    with pytest.raises(ConfigurationError, match=r"no setting 'heartbeat_tll'.*'heartbeat_ttl'"):
        InFlightTracker(heartbeat_tll=90)


def test_a_ttl_below_twice_the_interval_is_an_error() -> None:
    """One late heartbeat would kill."""
    with pytest.raises(ConfigurationError, match=r"heartbeat_ttl is 59, .*at least twice the interval \(60\)"):
        InFlightTracker(heartbeat_interval=30, heartbeat_ttl=59)


def test_a_ttl_below_three_times_the_interval_is_a_warning() -> None:
    """It works, but is not advised."""
    with pytest.warns(RuntimeWarning, match="less than three times") as said:
        InFlightTracker(heartbeat_interval=30, heartbeat_ttl=60)
    assert said[0].filename == __file__, "it names the line that is to be changed"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        InFlightTracker(heartbeat_interval=30, heartbeat_ttl=90)


def test_a_lone_survivor_does_not_look_like_an_outage() -> None:
    """Half a TTL without any heartbeat counts as an outage: one process alone has to beat more often than that."""
    with pytest.warns(RuntimeWarning):
        settings = load_settings({"heartbeat_interval": 30, "heartbeat_ttl": 60})
    assert settings.beat_interval < settings.heartbeat_ttl / 2
    assert load_settings({}).beat_interval == 30


def test_url_and_client_together_are_an_error() -> None:
    """One of them would be ignored."""
    with pytest.raises(ConfigurationError, match="set one of them"):
        InFlightTracker(redis_url="redis://db/0", client=redis.Redis())


def test_a_client_that_is_none_of_redis_py_is_an_error() -> None:
    """An address is not a client."""
    with pytest.raises(ConfigurationError, match="client is a str"):
        InFlightTracker(client="redis://db/0")


def test_the_errors_are_dramatiqs_and_pass_its_hooks() -> None:
    """Dramatiq swallows all other errors of before-hooks."""
    assert issubclass(ConfigurationError, DramatiqError)
    assert issubclass(ConfigurationError, MiddlewareError)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"track_inflight": "yes"}, "track_inflight of actor 'charge' is 'yes'"),
        ({"max_recoveries": -1}, "max_recoveries of actor 'charge' is -1"),
        ({"max_recoveries": "3"}, "max_recoveries of actor 'charge' is '3'"),
    ],
)
def test_declaring_an_actor_with_a_wrong_option_fails(options: dict[str, Any], text: str) -> None:
    """And names the actor."""
    broker = RedisBroker(middleware=[InFlightTracker()])
    with pytest.raises(ConfigurationError, match=text):
        dramatiq.actor(broker=broker, actor_name="charge", **options)(lambda: None)
    assert "charge" not in broker.actors


def test_without_a_redis_the_worker_does_not_boot() -> None:
    """A broker that has none, and none configured: the error says what to set."""

    class OtherBroker(StubBroker):
        pass

    broker = dramatiq.Broker(middleware=[InFlightTracker()])
    broker.queues = {}
    with pytest.raises(ConfigurationError, match="PROCESSING_REDIS_URL"):
        dramatiq.Worker(broker, worker_threads=1).start()


def test_with_the_stub_broker_it_is_inert(caplog: pytest.LogCaptureFixture) -> None:
    """Users' unit tests run unchanged; one INFO line."""
    caplog.set_level("INFO")
    broker = StubBroker(middleware=[InFlightTracker()])
    ran = []

    @dramatiq.actor(broker=broker, track_inflight=True)
    def charge(n: int) -> None:
        ran.append(n)

    worker = dramatiq.Worker(broker, worker_threads=1, worker_timeout=10)
    worker.start()
    charge.send(1)
    broker.join("default")
    worker.stop()
    assert ran == [1]
    lines = [record for record in caplog.records if record.name.startswith("dramatiq_inflight")]
    assert [record.levelname for record in lines] == ["INFO"]


def test_switched_off_it_does_nothing(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where no Redis is configured."""
    caplog.set_level("INFO")
    monkeypatch.setenv("PROCESSING_ENABLED", "false")
    broker = dramatiq.Broker(middleware=[InFlightTracker()])
    broker.queues = {}
    worker = dramatiq.Worker(broker, worker_threads=1, worker_timeout=10)
    worker.start()
    worker.stop()
    assert "not tracked" in caplog.text
