# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""What incarnations say to each other."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import redis

from .membership import Membership
from .outcomes import Answer, Challenged
from .scripting import reach

__all__ = ["ASKED", "DIED", "JOINED", "Words", "listening_times"]

#: Do you live; I am new, watch me; somebody has died, recover what is left.
ASKED, JOINED, DIED = "asked", "joined", "died"

#: How much is kept for one that does not listen.
LONGEST_LIST = 100

#: How many are told of a death by one that saw it, and recovers nothing itself.
SOME = 4


def listening_times(patience: float) -> tuple[float, float]:
    """How long to wait for a word at a time, and how long Redis may take to say that there is none, seconds.

    Parameters:
      patience: How long an answer may take.  A connection that is dead without anybody knowing is found out, and
        another one made, before two questions are left unanswered.
    """
    wait = min(max(patience / 2, 0.1), 10.0)
    return wait, wait + min(max(patience / 2, 0.5), 2.0)


class Words(Membership):
    """Says something to others, and hears what they say."""

    def wake(self, ids: Sequence[str], what: str) -> None:
        """Say something to other incarnations; see `heard`."""
        self._say([(self.keys.wake(id), what) for id in ids])

    def tell_some(self, what: str) -> None:
        """Say something to some others, whoever they are."""
        others = [id for id in self.everybody() if id != self.me]
        self.wake(random.sample(others, min(SOME, len(others))), what)

    def ask(self, ids: Sequence[str]) -> None:
        """Ask other incarnations whether they live.  The answer is a heartbeat; see `challenge` and `deadlines`.

        Each is asked twice over: the worker itself, and its heartbeat's process, if it has one.
        """
        self._say([(key, ASKED) for id in ids for key in self.keys.heard_by(id)])

    def challenge(self, id: str, token: str) -> Challenged:
        """Ask an incarnation whether it lives, note when, and say what is known by now.

        Parameters:
          token: As the first answer gave it; empty at first.
        """
        if not token:
            token = str(int(self._ask(lambda: self.client.zscore(self.keys.heartbeats, id)) or 0))
        # What is noted was asked, and asked of an owner that had this heartbeat: an answer may come before the note.
        self.ask([id])
        keys = [self.keys.heartbeats, self.keys.incarnation(id)]
        answer, wait_ms = self._call("challenge", keys, [id, self.ttl_ms, token])
        return Challenged(Answer(answer.decode()), wait_ms / 1000, token)

    def heard(self, client: redis.Redis, timeout: float, *, by_process: bool = False) -> str:
        """Wait until somebody says something to this incarnation; empty: nobody did within `timeout` seconds.

        Parameters:
          client: One whose bounds allow for the wait.
          by_process: Listen to the questions that are put to the heartbeat's process.
        """
        key = self.keys.asked(self.me) if by_process else self.keys.wake(self.me)
        found: Any = reach(lambda: client.blpop([key], timeout))
        return str(found[1], "utf-8") if found else ""

    def _say(self, sayings: Sequence[tuple[str, str]]) -> None:
        pipeline = self.client.pipeline(transaction=False)
        for key, what in sayings:
            pipeline.lpush(key, what)
            pipeline.ltrim(key, 0, LONGEST_LIST - 1)
            pipeline.pexpire(key, int(self.ttl_ms))
        self._ask(pipeline.execute)
