# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The worker processes of one place watch each other: a death is known within milliseconds.

Each process watches the next four in a ring, so the cost does not grow with the host.  A watcher that detects an end
records the death in Redis, and looks for the next process in the ring.  A process that boots checks everyone in its
place once, and makes itself known to those before it.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable

from ..store.cause import REPLACED, Cause
from ..store.records import DeadIncarnation
from ..store.store import Store
from ..store.workers import JOINED
from ..threads.service import Service
from .causes import Causes
from .pidfd import Process, Watched

__all__ = ["NEIGHBOURS", "Watch"]

#: How many each one watches: as many may die together with one that watches them.
NEIGHBOURS = 4

#: How often to look for new neighbours that could not make themselves known, seconds.
REFRESH = 30.0


class Watch(Service):
    """Watches the next in the ring.

    Parameters:
      me: This process.
      on_death: Called after each death that was proven here.
      exclusive: The id of this instance, if no two containers ever have it at once.
    """

    def __init__(
        self, store: Store, me: Process, on_death: Callable[[], None], *, exclusive: str | None = None
    ) -> None:
        super().__init__("watch", "The watch")
        self.store = store
        self.me = me
        self.on_death = on_death
        self.exclusive = exclusive
        #: The processes that are watched, by incarnation.
        self.watched: dict[str, tuple[Watched, DeadIncarnation]] = {}
        self._gone: set[str] = set()
        self._causes = Causes()
        #: Of those that are gone, and of whom Redis does not know it yet.
        self._found: dict[str, Cause] = {}
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._mutex = threading.Lock()  # whoever writes does so while the pipe is there
        self._closed = False
        self._joined = False

    def run_once(self) -> float:
        """Look once; at the first time at everybody, and make this process known.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        self.look(everybody=not self._joined)
        if not self._joined:
            self.succeed()
            self.store.workers.wake(self._before_me(), JOINED)
            self._joined = True
        return REFRESH

    def wake(self) -> None:
        """Look at once: somebody has joined."""
        with self._mutex:
            if self._closed:
                return
            try:
                os.write(self._wake_write, b".")
            except OSError:
                pass  # full: it looks anyway

    def pause(self, seconds: float | None) -> None:
        """Pause until the time is over, `wake` is called, or a process that is watched is gone."""
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        for watched, _ in self.watched.values():
            if watched.fd is not None:
                poll.register(watched.fd, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(None if seconds is None else seconds * 1000)]
        if self._wake_read in ready:
            os.read(self._wake_read, 4096)

    def stop(self, within: float = 5.0) -> None:
        """Watch no more; as `Service.stop`."""
        super().stop(within)
        if not self.is_alive():
            self._forget(set(self.watched))
            with self._mutex:
                if not self._closed:
                    self._closed = True
                    os.close(self._wake_read)
                    os.close(self._wake_write)

    def look(self, *, everybody: bool = False) -> None:
        """See who is gone, and watch whoever comes next.

        Parameters:
          everybody: Look once at all in this place, not only at those that are to be watched.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        gone = True
        while gone:
            ring = self._ring()
            wanted = ring if everybody else ring[:NEIGHBOURS]
            self._get_to_know([id for id in wanted if id not in self.watched])
            gone = self._see_who_is_gone()
            everybody = False
            self._forget(self.watched.keys() - set(ring[:NEIGHBOURS]))
            self._causes.keep(watched for watched, _ in self.watched.values())

    def succeed(self) -> None:
        """Record that the owners of this exclusive instance id in other containers are dead.

        The processes of one container are in one place: they are no successors of each other.  Where one does not say
        in which place it is, nothing is known.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        if self.exclusive is None:
            return
        for said in self.store.workers.incarnations(self.store.workers.everybody()):
            elsewhere = said.place and said.place != self.me.place
            if said.instance == self.exclusive and elsewhere and self.store.workers.mark_dead(said, REPLACED):
                self.on_death()

    def _ring(self) -> list[str]:
        """All others in this place that are not known to be gone, beginning with the next one."""
        ids = self.store.workers.in_place(self.me.place)
        self._gone.intersection_update(ids)  # the others were reaped
        ids = [id for id in ids if id not in self._gone]
        return [id for id in ids if id > self.store.me] + [id for id in ids if id < self.store.me]

    def _get_to_know(self, ids: list[str]) -> None:
        for said in self.store.workers.incarnations(ids) if ids else []:
            process = Process.of(said.place, said.pid, said.process_started)
            if process is not None and process.place == self.me.place:
                self.watched[said.id] = Watched(process), said

    def _see_who_is_gone(self) -> bool:
        gone = [id for id, (watched, _) in self.watched.items() if watched.is_gone()]
        new = [id for id in gone if id not in self._found]
        self._found.update(zip(new, self._causes.of([self.watched[id][0] for id in new]), strict=True))
        for id in gone:
            if self.store.workers.mark_dead(self.watched[id][1], self._found[id]):
                self.on_death()
            del self._found[id]
            self._gone.add(id)
            self._forget({id})
        return bool(gone)

    def _forget(self, ids: set[str]) -> None:
        for id in ids:
            self.watched.pop(id)[0].close()

    def _before_me(self) -> list[str]:
        return self._ring()[-NEIGHBOURS:]
