# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Celery, with what its documentation calls for where no task may be lost: late acks, and no ack for a lost process."""

from __future__ import annotations

import os

from celery import Celery

from benchmarks.peers import job

app = Celery(broker=os.environ.get("BENCH_RABBITMQ_URL", job.REDIS_URL))
app.conf.task_default_queue = job.QUEUE
app.conf.task_acks_late = True
app.conf.task_reject_on_worker_lost = True
if "BENCH_VISIBILITY_TIMEOUT" in os.environ:
    app.conf.broker_transport_options = {"visibility_timeout": job.setting("BENCH_VISIBILITY_TIMEOUT", 3600)}

for function in (job.work, job.kill_itself, job.nothing, job.noop):
    app.task(name=function.__name__)(function)

if __name__ == "__main__":
    job.serve(lambda name, key: app.send_task(name, (key,)), lambda: False)
