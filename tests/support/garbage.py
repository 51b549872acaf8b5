# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The garbage collector at each boundary: it closes an iteration of a message, in whatever thread allocates next."""

from __future__ import annotations

import gc
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from dramatiq_inflight import current

from . import stepped
from .boundaries import Boundaries, is_within
from .interrupted import Finding, Report
from .stepped import Hangs, World, in_thread, locks_left, where

__all__ = ["COLLECTIONS", "Collecting", "Collection"]


class Import:
    """A job that goes through items, and is part of a cycle: the collector closes its iteration."""

    def __init__(self) -> None:
        handle = current()
        assert handle is not None
        self.items, self.me = iter(handle.iterate(range(100), every=3600)), self

    def some(self) -> None:
        next(self.items)
        next(self.items)


def _drop_an_iteration() -> None:
    Import().some()


@dataclass
class Collection:
    """A moment at which the garbage collector closes an iteration of a message that runs.

    Parameters:
      work: The work of a thread meanwhile, given the world and the function that ends the message.
      here: True if the thread is that of the message.
    """

    name: str
    work: Callable[[World], object]
    here: bool = False


def _beat_in_doubt(world: World) -> None:
    world.runtime.lease.answer_lost()
    world.beat()


def _another(world: World) -> None:
    world.process(world.another)


def _keep(world: World) -> None:
    handle = current()
    assert handle is not None
    handle.checkpoint(2)


def _go_through(world: World) -> None:
    handle = current()
    assert handle is not None
    for _ in handle.iterate(range(3), every=0, name="others"):
        pass


COLLECTIONS = {
    collection.name: collection
    for collection in (
        Collection("a beat", _beat_in_doubt),
        Collection("a sweep", World.sweep),
        Collection("another message", _another),
        Collection("a checkpoint", _keep, here=True),
        Collection("an iteration", _go_through, here=True),
        Collection("an enqueue", lambda world: world.follow.send(), here=True),
        Collection("a shutdown", lambda world: world.runtime.drain()),
    )
}


class Collecting:
    """Closes an iteration at one boundary after another."""

    def __init__(
        self, url: str, report: Report, say: Callable[[str], object] = lambda text: None, within: str = ""
    ) -> None:
        self.url, self.report, self.say, self.within = url, report, say, within
        self._worlds: dict[str, World] = {}
        #: A collection that hangs is the last one of its process.
        self.hangs = False

    def sweep(self, collection: Collection, kind: str, step: int = 1, first: int = 1) -> int:
        """Collect at each boundary, or every so many.  Returns how many there are."""
        number = first
        while not self.hangs and self.at(collection, kind, number):
            number += step
        return number - 1

    def at(self, collection: Collection, kind: str, number: int) -> bool:
        """Collect at one boundary.  False if there is none of that number."""
        self.report.scenarios.add((f"collected in {collection.name}", kind))
        world = self._worlds.pop(kind, None) or World(self.url, kind)
        world.log.clear()
        boundaries = Boundaries(
            lambda: True, gc.collect, number, lambda frame: not self.within or is_within(frame, self.within)
        )
        found: list[tuple[str, str]] = []
        try:
            self._collect(world, collection, boundaries)
            found += [("locks left", lock) for lock in locks_left(("runtime", world.runtime))]
            if not world.pump(30):
                found.append(("records left", world.state()))
            if world.count("end") != 1:
                found.append(("lost", f"{world.count('end')} ends; {world.state()}"))
            world.forget()
        except Hangs as error:
            self.hangs = True
            found.append(("hangs", str(error)))
        except Exception as error:
            found.append(("errors", "".join(traceback.format_exception(error))[-1500:]))
        reached = boundaries.place is not None
        if reached:
            self.report.boundaries += 1
            self.report.sources["garbage"] += 1
        for what, text in found:
            place = boundaries.place
            finding = Finding(
                scenario=f"collected in {collection.name}",
                broker=kind,
                source="garbage",
                number=number,
                place=str(place or "no collection"),
                ours=place.ours if place is not None else "",
                what=text,
                kind=what,
            )
            self.report.findings.append(finding)
            self.say(str(finding))
        if found or collection.name == "a shutdown":
            world.close()
        else:
            self._worlds[kind] = world
        return reached

    def _collect(self, world: World, collection: Collection, boundaries: Boundaries) -> None:
        dropped, go_on = threading.Event(), threading.Event()

        def body() -> None:
            if world.count("start") > 1:
                return  # the other message
            _drop_an_iteration()
            if collection.here:
                boundaries.run(lambda: collection.work(world))
            dropped.set()
            go_on.wait(stepped.HANGS)

        world.body = body
        world.deliver(world.message())
        proxy = world.fetch()
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            runs = threading.Thread(target=world.process, args=[proxy], daemon=True)
            runs.start()
            if not dropped.wait(stepped.HANGS):
                raise Hangs(where(runs))
            if not collection.here:
                if collection.name == "another message":
                    world.deliver(world.message())
                    world.another = world.fetch()
                error = in_thread(lambda: boundaries.run(lambda: collection.work(world)))
                if error is not None:
                    raise error
            world.log[:] = ["start"]
            go_on.set()
            runs.join(stepped.HANGS)
            if runs.is_alive():
                raise Hangs("the message does not end")
        finally:
            go_on.set()
            gc.enable()
            gc.unfreeze()

    def close(self) -> None:
        for world in self._worlds.values():
            world.close()
        self._worlds.clear()
