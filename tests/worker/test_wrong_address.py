# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A worker whose Redis is configured wrongly says where that is, and what to check."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.inprocess import App
from tests.support.lab import Lab
from tests.support.servers import RedisServer, free_port, wait_until


@pytest.fixture
def locked(server_binary: str, tmp_path: Path) -> Iterator[RedisServer]:
    """A server that wants a password."""
    server = RedisServer(server_binary, tmp_path).start()
    server.client().config_set("requirepass", "right-one")
    yield server
    server.kill()


def said_at_boot(caplog: pytest.LogCaptureFixture, url: str, *of: Any) -> str:
    app = App(*of, redis_url=url)
    try:
        with caplog.at_level(logging.INFO):
            app.start()
            wait_until(lambda: "cannot be used" in caplog.text, what="it says so")
        (line,) = {record.getMessage() for record in caplog.records if "cannot be used" in record.getMessage()}
        return line
    finally:
        app.close()


def test_a_wrong_password_is_named_and_not_shown(
    caplog: pytest.LogCaptureFixture, locked: RedisServer, server_url: str, namespace: str, lab: Lab
) -> None:
    url = f"redis://:wrong-one@127.0.0.1:{locked.port}/0"
    line = said_at_boot(caplog, url, server_url, namespace, lab)
    assert f"at 127.0.0.1:{locked.port} (" in line
    assert "Check the user and the password." in line
    assert "Work continues" not in line
    assert "wrong-one" not in caplog.text


@pytest.mark.parametrize(
    ("url", "checks"),
    [
        ("redis://no-such-host.invalid:6379/0", "Check the host's name."),
        ("redis://127.0.0.1:{free}/0", "Check that a Redis runs there, and that host and port are right."),
        ("rediss://127.0.0.1:{locked}/0", "Check TLS: rediss:// if that port speaks it and redis:// if not"),
    ],
)
def test_a_wrong_address_is_named_with_what_to_check(
    caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest, lab: Lab, url: str, checks: str
) -> None:
    locked: RedisServer = request.getfixturevalue("locked")
    url = url.format(free=free_port(), locked=locked.port)
    line = said_at_boot(caplog, url, request.getfixturevalue("server_url"), request.getfixturevalue("namespace"), lab)
    assert f"at {url.partition('://')[2].removesuffix('/0')} (" in line
    assert checks in line


def test_a_misspelt_option_of_a_message_is_a_warning(
    caplog: pytest.LogCaptureFixture, server_url: str, namespace: str, lab: Lab
) -> None:
    app = App(server_url, namespace, lab)
    try:
        work = app.actor(lambda: None, actor_name="work")
        for _ in range(2):
            work.send_with_options(track_inflght=True, max_recovery=1, max_retries=2, on_succes="x", mine=1)
        said = [record.getMessage() for record in caplog.records if "Did you mean" in record.getMessage()]
        assert sorted(line.partition("has the unknown option ")[2] for line in said) == [
            "'max_recovery'. Did you mean 'max_recoveries'?",
            "'track_inflght'. Did you mean 'track_inflight'?",
        ]
    finally:
        app.close()
