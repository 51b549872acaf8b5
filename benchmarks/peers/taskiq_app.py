# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""taskiq, with the brokers that acknowledge."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from benchmarks.peers import job

broker: Any
if "BENCH_RABBITMQ_URL" in os.environ:
    from taskiq_aio_pika import AioPikaBroker

    broker = AioPikaBroker(os.environ["BENCH_RABBITMQ_URL"])
else:
    from taskiq_redis import RedisStreamBroker

    broker = RedisStreamBroker(job.REDIS_URL, idle_timeout=job.setting("BENCH_IDLE_TIMEOUT", 600_000))


async def noop(number: str) -> None:
    job.noop(number)


jobs = job.work, job.kill_itself, job.nothing, job.noop if "BENCH_THREADS" in os.environ else noop
tasks = {f.__name__: broker.register_task(f, f.__name__) for f in jobs}

if __name__ == "__main__":
    loop = asyncio.new_event_loop()
    loop.run_until_complete(broker.startup())
    job.serve(lambda name, key: loop.run_until_complete(tasks[name].kiq(key)), lambda: False)
