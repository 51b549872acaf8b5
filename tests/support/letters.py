# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Dead letters, written straight to where a RedisBroker keeps them, and the pages that show them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from typing import Any

from dramatiq.common import xq_name

from .servers import wait_until

__all__ = ["bury", "read_all"]

TRACEBACK = 'Traceback (most recent call last):\n  File "/app/shop.py", line 12, in charge\n    pay(order)\n'


def bury(broker: Any, actor: Any, errors: Iterable[str], *, age: float = 60.0) -> list[str]:
    """Write a dead letter for each error, the first one so many seconds old, and return the messages' ids."""
    pipeline = broker.client.pipeline(transaction=False)
    at, key, ids = int((time.time() - age) * 1000), f"{broker.namespace}:{xq_name(actor.queue_name)}", []
    for number, error in enumerate(errors):
        options = {"redis_message_id": str(uuid.uuid4()), "retries": 2, "traceback": f"{TRACEBACK}{error}\n"}
        message = actor.message(number).copy(options=options)
        ids.append(message.message_id)
        pipeline.zadd(key, {options["redis_message_id"]: at + number})
        pipeline.hset(f"{key}.msgs", options["redis_message_id"], message.encode())
        if number % 500 == 499:
            pipeline.execute()
    pipeline.execute()
    return ids


def read_all(web: Any, path: str = "/dead") -> str:
    """Return the page when all of it has been read: that is done in the background."""
    shown = ""

    def is_complete() -> bool:
        nonlocal shown
        answer = web.get(path)
        assert answer.status_code == 200
        shown = answer.get_data(as_text=True)
        return 'role="status">Reading' not in shown

    wait_until(is_complete, what="all of it is read")
    return shown
