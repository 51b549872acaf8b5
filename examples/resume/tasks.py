# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A long job that goes on where it was, after a crash and after a deploy.

Run a worker:   dramatiq examples.resume.tasks
Send the job:   python -m examples.resume.tasks
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from dramatiq_inflight import InFlightTracker, current

DATABASE = os.environ.get("DATABASE", "documents.sqlite")

broker = RedisBroker(url=os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0"))
broker.add_middleware(InFlightTracker())
dramatiq.set_broker(broker)


# For hand_back=10, let whatever runs the worker wait for longer than ten seconds between SIGTERM and SIGKILL.  The time
# limit is for one run, so it has to be longer than the whole job takes: Dramatiq's own is ten minutes.
@dramatiq.actor(track_inflight=True, hand_back=10, time_limit=24 * 3600 * 1000)
def count_words() -> None:
    """Count the words of all documents."""
    job = current()
    assert job is not None, "it is tracked"

    def documents_after(last_id: int | None) -> Iterator[tuple[int, str]]:
        count_words.logger.info("Run %d goes on after document %d.", job.run, last_id or 0)
        yield from database.execute(
            "SELECT id, text FROM document WHERE id > ? ORDER BY id", (last_id or 0,)
        ).fetchall()

    with sqlite3.connect(DATABASE, timeout=10, isolation_level=None) as database:
        # What was done since the last save is done again after a crash, so it must bear that: as an UPDATE does.
        for number, text in job.iterate(documents_after, key=lambda document: document[0], every=1):
            time.sleep(0.05)  # documents are longer in practice
            database.execute(
                "UPDATE document SET words = ?, times = times + 1 WHERE id = ?", (len(text.split()), number)
            )
        words, again = database.execute("SELECT sum(words), sum(times - 1) FROM document").fetchone()
    database.close()
    count_words.logger.info("All documents are counted: %d words; %d documents were counted again.", words, again)


def prepare() -> None:
    """A database to begin with: 120 documents, of a word, two words, ..."""
    with sqlite3.connect(DATABASE) as database:
        database.execute("DROP TABLE IF EXISTS document")
        database.execute("CREATE TABLE document (id INTEGER PRIMARY KEY, text TEXT, words INT, times INT DEFAULT 0)")
        texts = [("word " * number,) for number in range(1, 121)]
        database.executemany("INSERT INTO document (text) VALUES (?)", texts)
    database.close()


if __name__ == "__main__":
    prepare()
    count_words.send()
