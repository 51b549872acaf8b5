# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""RQ, with retries, without which it runs no job again."""

from __future__ import annotations

import redis
from rq import Queue, Retry

from benchmarks.peers import job

if __name__ == "__main__":
    queue = Queue(job.QUEUE, connection=redis.Redis.from_url(job.REDIS_URL))
    job.serve(
        lambda name, key: queue.enqueue(
            f"benchmarks.peers.job.{name}",
            key,
            job_timeout="2h",
            retry=Retry(max=3),
            result_ttl=job.setting("BENCH_KEEP_RESULT", 500),
        ),
        lambda: queue.failed_job_registry.get_job_ids(cleanup=False),
    )
