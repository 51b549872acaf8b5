# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The ``common`` module of Dramatiq's own tests, which its source distribution leaves out."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pika
import pytest
from dramatiq import Worker

RABBITMQ_USERNAME = RABBITMQ_PASSWORD = "test"
RABBITMQ_CREDENTIALS = pika.credentials.PlainCredentials(RABBITMQ_USERNAME, RABBITMQ_PASSWORD)


@contextmanager
def worker(*args: Any, **kwargs: Any) -> Iterator[Worker]:
    """A worker for a while."""
    made = Worker(*args, **kwargs)
    try:
        made.start()
        yield made
    finally:
        made.stop()


skip_in_ci = pytest.mark.skipif(False, reason="")
skip_on_windows = pytest.mark.skipif(sys.platform == "win32", reason="not on Windows")
skip_on_pypy = pytest.mark.skipif(platform.python_implementation() == "PyPy", reason="not on PyPy")
skip_unless_rabbit_mq = pytest.mark.skipif(False, reason="")
