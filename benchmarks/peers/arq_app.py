# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""arq."""

from __future__ import annotations

import asyncio
from typing import Any

from arq import create_pool
from arq.connections import RedisSettings

from benchmarks.peers import job


async def work(context: Any, key: str) -> None:
    await asyncio.to_thread(job.work, key)


async def kill_itself(context: Any, key: str) -> None:
    job.kill_itself(key)


async def nothing(context: Any, key: str) -> None:
    job.nothing(key)


async def noop(context: Any, number: str) -> None:
    job.noop(number)


#: Logs no line for each job.
LOGGING = {"version": 1, "disable_existing_loggers": False}


class WorkerSettings:
    redis_settings = RedisSettings.from_dsn(job.REDIS_URL)
    functions = (work, kill_itself, nothing, noop)
    job_timeout = job.setting("BENCH_JOB_TIMEOUT", 300)
    keep_result = job.setting("BENCH_KEEP_RESULT", 3600)
    max_jobs = job.setting("BENCH_MAX_JOBS", 10)
    poll_delay = job.setting("BENCH_POLL_DELAY", 500) / 1000


async def given_up(pool: Any) -> bool:
    return any(not result.success for result in await pool.all_job_results())


if __name__ == "__main__":
    loop = asyncio.new_event_loop()
    pool = loop.run_until_complete(create_pool(WorkerSettings.redis_settings))
    job.serve(
        lambda name, key: loop.run_until_complete(pool.enqueue_job(name, key)),
        # It keeps the result of a job that it has given up; those of the others are None.
        lambda: loop.run_until_complete(given_up(pool)),
    )
