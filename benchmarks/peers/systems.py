# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The systems that are compared, each with its own defaults and what its documentation calls for: nobody is crippled.

A second row shows a shorter setting that the system documents.  This time must be longer than the longest job, or
that runs twice (Celery's ``visibility_timeout``, taskiq's ``idle_timeout``), or is cut off (arq's ``job_timeout``); the
heartbeats of RQ, Dramatiq and this package have no such bound.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["REQUIREMENTS", "SYSTEMS", "THROUGHPUT", "System"]

#: The packages of each, from PyPI, in an environment of its own: their requirements exclude each other.
REQUIREMENTS = {
    "dramatiq": ["dramatiq[redis,rabbitmq]", "environs", "hiredis"],
    "celery": ["celery[redis]>=5.4", "hiredis"],
    "rq": ["rq", "hiredis"],
    "arq": ["arq", "hiredis"],
    "taskiq": ["taskiq", "taskiq-redis", "taskiq-aio-pika", "hiredis"],
}


@dataclass(frozen=True)
class System:
    """One row."""

    name: str
    #: The environment that it runs in.
    environment: str
    #: Its module here.
    app: str
    #: How its worker is started, after the environment's Python.
    worker: Sequence[str]
    #: The settings that differ from its defaults.
    settings: str
    #: Where its time of recovery comes from.
    source: str = ""
    rabbitmq: bool = False
    env: Mapping[str, str] = field(default_factory=dict)
    #: Whether both workers are on one host.
    together: bool = False
    #: Whether it is also given poison: where its recovery is quick enough for that.
    poison: bool = True
    #: How many times fewer jobs `throughput` gives it, lest all wait for it.
    slower: int = 1


DRAMATIQ = ("-m", "dramatiq", "benchmarks.peers.dramatiq_app")
INFLIGHT = ("-m", "dramatiq", "benchmarks.peers.inflight_app")
CELERY = ("-m", "celery", "-A", "benchmarks.peers.celery_app", "worker", "-n", "{worker}@%h", "-l", "WARNING")
RQ = ("-m", "rq.cli", "worker", "-u", "{redis}", "-n", "{worker}-{number}")
TASKIQ = ("-m", "taskiq", "worker", "benchmarks.peers.taskiq_app:broker")

HEARTBEAT = "the heartbeat expires, 60 to 90 s after the kill; a sweep is timed by that"
MINUTE = "visibility_timeout 60 s, and a check every 100 s"

SYSTEMS = [
    System(
        "inflight, Redis, one host",
        *("dramatiq", "inflight_app", INFLIGHT, "defaults"),
        "the other process sees the death by its pidfd",
        together=True,
    ),
    System("inflight, Redis", "dramatiq", "inflight_app", INFLIGHT, "defaults", HEARTBEAT, poison=False),
    System(
        "inflight, Redis, short",
        *("dramatiq", "inflight_app", INFLIGHT, "HEARTBEAT_INTERVAL=3, HEARTBEAT_TTL=9"),
        "the heartbeat expires, 6 to 9 s after the kill; a sweep is timed by that",
        env={"HEARTBEAT_INTERVAL": "3", "HEARTBEAT_TTL": "9"},
        poison=False,
    ),
    System(
        "inflight, RabbitMQ",
        *("dramatiq", "inflight_app", INFLIGHT, "defaults"),
        "RabbitMQ delivers again at once; the owner's connections are closed, 2 s",
        rabbitmq=True,
    ),
    System(
        "inflight, RabbitMQ, process",
        *("dramatiq", "inflight_app", INFLIGHT, "PROCESSING_HEARTBEAT=process"),
        "RabbitMQ delivers again at once; the owner's connections are closed, 2 s",
        rabbitmq=True,
        env={"PROCESSING_HEARTBEAT": "process"},
        poison=False,
    ),
    System(
        "Dramatiq, Redis",
        *("dramatiq", "dramatiq_app", DRAMATIQ, "defaults"),
        "heartbeat_timeout 60 s, then by chance with 1,000 commands in a million",
        poison=False,
    ),
    System(
        "Dramatiq, Redis, short",
        *("dramatiq", "dramatiq_app", DRAMATIQ, "heartbeat_timeout=5000, maintenance_chance=1000000"),
        "heartbeat_timeout 5 s, then with the next command",
        env={"BENCH_HEARTBEAT_TIMEOUT": "5000", "BENCH_MAINTENANCE_CHANCE": "1000000"},
    ),
    System(
        "Dramatiq, RabbitMQ",
        *("dramatiq", "dramatiq_app", DRAMATIQ, "confirm_delivery"),
        "RabbitMQ delivers again when the connection is lost",
        rabbitmq=True,
    ),
    System(
        "Celery, Redis",
        *("celery", "celery_app", CELERY, "task_acks_late, task_reject_on_worker_lost"),
        "visibility_timeout, by default 1 h",
    ),
    System(
        "Celery, Redis, short",
        *("celery", "celery_app", CELERY, "the same, and visibility_timeout=60"),
        MINUTE,
        env={"BENCH_VISIBILITY_TIMEOUT": "60"},
        poison=False,
    ),
    System(
        "Celery, RabbitMQ",
        *("celery", "celery_app", CELERY, "task_acks_late, task_reject_on_worker_lost"),
        "RabbitMQ delivers again when the connection is lost",
        rabbitmq=True,
    ),
    System(
        "RQ",
        *("rq", "rq_app", (*RQ, "{queue}"), "Retry(max=3)"),
        "the execution's heartbeat expires after 90 s; registries are cleaned every 10 min",
    ),
    System(
        "RQ, short",
        *("rq", "rq_app", (*RQ, "--maintenance-interval", "10", "--job-monitoring-interval", "5", "{queue}")),
        "Retry(max=3), --maintenance-interval 10, --job-monitoring-interval 5",
        "the execution's heartbeat expires after 65 s; registries are cleaned every 10 s",
        poison=False,
    ),
    System(
        "arq",
        *("arq", "arq_app", ("-m", "arq", "benchmarks.peers.arq_app.WorkerSettings"), "defaults"),
        "the in-progress key expires 10 s after job_timeout, by default 300 s",
        poison=False,
    ),
    System(
        "arq, short",
        *("arq", "arq_app", ("-m", "arq", "benchmarks.peers.arq_app.WorkerSettings"), "job_timeout=5"),
        "the in-progress key expires 10 s after job_timeout",
        env={"BENCH_JOB_TIMEOUT": "5"},
    ),
    System(
        "taskiq, Redis",
        *("taskiq", "taskiq_app", TASKIQ, "RedisStreamBroker"),
        "idle_timeout, by default 600 s; looked at when a message arrives",
        poison=False,
    ),
    System(
        "taskiq, Redis, short",
        *("taskiq", "taskiq_app", TASKIQ, "RedisStreamBroker(idle_timeout=5000)"),
        "idle_timeout; looked at when a message arrives",
        env={"BENCH_IDLE_TIMEOUT": "5000"},
    ),
    System(
        "taskiq, RabbitMQ",
        *("taskiq", "taskiq_app", TASKIQ, "AioPikaBroker"),
        "RabbitMQ delivers again when the connection is lost",
        rabbitmq=True,
    ),
]

EIGHT_THREADS = ("-p", "1", "-t", "8")
ARQ = ("-m", "arq", "--custom-log-dict", "benchmarks.peers.arq_app.LOGGING", "benchmarks.peers.arq_app.WorkerSettings")
TASKIQ_ALONE = (*TASKIQ, "--workers", "1", "--max-async-tasks", "8", "--log-level", "WARNING")

#: The setup that `throughput` compares: one worker, with eight jobs at once in the system's own way.  None keeps
#: results, or logs a line for each job.
THROUGHPUT = [
    System("inflight", "dramatiq", "inflight_app", (*INFLIGHT, *EIGHT_THREADS), "8 threads"),
    System("Dramatiq", "dramatiq", "dramatiq_app", (*DRAMATIQ, *EIGHT_THREADS), "8 threads"),
    System(
        "Celery, processes",
        *("celery", "celery_app", (*CELERY, "-P", "prefork", "-c", "8")),
        "8 processes, task_acks_late, task_reject_on_worker_lost",
    ),
    System(
        "Celery, threads",
        *("celery", "celery_app", (*CELERY, "-P", "threads", "-c", "8")),
        "8 threads, task_acks_late, task_reject_on_worker_lost",
    ),
    System(
        "RQ",
        *("rq", "rq_app", ("-m", "rq.cli", "worker-pool", "-q", "-u", "{redis}", "-n", "8", "{queue}")),
        "a pool of 8 workers, each with a process for each job, Retry(max=3); a tenth of the jobs",
        env={"BENCH_KEEP_RESULT": "0"},
        slower=10,
    ),
    System(
        "arq",
        *("arq", "arq_app", ARQ, "coroutines, max_jobs=100, poll_delay=0.01: with 8 it waits for its next poll"),
        env={"BENCH_KEEP_RESULT": "0", "BENCH_MAX_JOBS": "100", "BENCH_POLL_DELAY": "10"},
    ),
    System("taskiq, coroutines", "taskiq", "taskiq_app", TASKIQ_ALONE, "RedisStreamBroker, 8 coroutines"),
    System(
        "taskiq, threads",
        *("taskiq", "taskiq_app", (*TASKIQ_ALONE, "--max-threadpool-threads", "8")),
        "RedisStreamBroker, 8 jobs in threads, as they are no coroutines",
        env={"BENCH_THREADS": "8"},
    ),
]
