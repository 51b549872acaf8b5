# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The heartbeat thread: beat, compare, mend."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread

import redis
from dramatiq.logging import get_logger

from .errors import MessageLost, SchemaError
from .lease import Connectivity, Lease
from .records import Finished, Mended
from .registry import Registry
from .table import Entry, Phase, Table
from .wire import Call

__all__ = ["Heartbeat"]

#: How long to wait before a beat that failed is tried again, seconds.
RETRY = 1.0

#: How long Dramatiq may take to acknowledge a message that has ended, before that is done for it, seconds.  It tries
#: every five seconds as long as its broker is away.
ACK_PATIENCE = 60.0

#: After how long what has succeeded is settled though it is not acknowledged yet, seconds: no ack takes so long.
ACK_PAUSE = 2.0


class Heartbeat(Thread):
    """Keeps this incarnation alive in Redis, and the records in step with what the process runs.

    Every beat compares the number of messages that Redis says we run with our own; only a difference is looked into.
    """

    def __init__(
        self,
        registry: Registry,
        table: Table,
        lease: Lease,
        connectivity: Connectivity,
        *,
        interval: float,
        identity: Callable[[], dict[str, str]],
        on_hand_over: Callable[[], None],
        acknowledge: Callable[[Entry], None],
        on_drop: Callable[[Entry], None] = lambda entry: None,
        on_beat: Callable[[], None] = lambda: None,
        on_refused: Callable[[SchemaError], None] = lambda error: None,
        unacked: bool = False,
        payload_of: Callable[[Entry], bytes] = Entry.encoded,
        health_file: Path | None = None,
    ) -> None:
        super().__init__(name="dramatiq_inflight-heartbeat", daemon=True)
        self.logger = get_logger(__name__, type(self))
        self.registry = registry
        self.payload_of = payload_of
        self.table = table
        self.lease = lease
        self.connectivity = connectivity
        self.interval = interval
        self.identity = identity
        self.on_hand_over = on_hand_over
        self.acknowledge = acknowledge
        self.on_drop = on_drop
        self.on_beat = on_beat
        self.on_refused = on_refused
        #: Whether the namespace has become one that this version cannot share.
        self.refused = False
        self.unacked = unacked
        self.health_file = health_file
        self._stopping = Event()
        self._strangers: dict[str, int] = {}  # by their run

    def run(self) -> None:
        """Beat until `stop` is called; survive everything."""
        wake = self.connectivity.wake
        while not self._stopping.is_set():
            wake.clear()
            begun = time.monotonic()
            again = begun + self.interval if self.beat() else time.monotonic() + RETRY
            if wake.wait(max(again - time.monotonic(), 0.01)) and self.connectivity.away:
                self._stopping.wait(0.05)  # woken by a failure: try at once, but not in a hot loop

    def stop(self) -> None:
        """Stop beating; returns when the thread has ended, or after a few seconds."""
        self._stopping.set()
        self.connectivity.wake.set()
        if self.is_alive():
            self.join(timeout=5)

    def beat(self) -> bool:
        """One beat.  False: Redis cannot be reached; it is to be tried again soon."""
        try:
            self.registry.beat()
            if self.lease.unregistered and not self.refused:
                self.register()
            self._tell_the_untold()
            self.settle_what_was_never_acknowledged(max(self.interval, ACK_PATIENCE))
            self._compare()
            self.on_beat()
            if self.health_file is not None and not self.refused:
                self.health_file.touch()
            self.logger.debug("Heartbeat sent.")
            return True
        except redis.RedisError:
            return False  # said once, by Connectivity
        except SchemaError as error:
            self.refused = True  # what runs here goes on, and is kept from others by the beats
            self.on_refused(error)
            return True
        except Exception:
            self.logger.exception("The heartbeat failed for an unexpected reason; it will be tried again.")
            return False

    def register(self) -> None:
        """Say who this incarnation is.

        Raises:
          redis.RedisError: Redis cannot be reached.
          SchemaError: The namespace has another schema.
        """
        forgotten = False
        if self.lease.was_lost():
            forgotten = self.registry.is_forgotten()
            self.logger.warning(
                "This worker was taken for dead, or an operator has taken a message from it by force, or Redis has "
                "lost its data. It goes on; what was taken from it stays where it is. %s",
                self._why_silent(),
            )
        self._enter()
        self.lease.registered(forgotten=forgotten)

    def _enter(self) -> None:
        waiting = False
        while (refusal := self.registry.register(self.identity())) is not None:
            text = self.registry.explain(refusal)
            if not refusal.wait:
                raise SchemaError(text)
            if not waiting:
                self.logger.warning("%s They may be dead: this worker waits until that is known.", text)
            waiting = True
            time.sleep(min(refusal.wait, self.interval))  # that we are heard of is what it takes

    def _why_silent(self) -> str:
        silence = self.lease.silence
        if not silence:
            return "It was heard of all the time."
        said = f"It had not been heard of for {silence:.1f} seconds"
        if self.connectivity.failed_within(silence):
            return said + ": it could not reach Redis."
        return (
            f"{said}. If it was not frozen, and Redis has lost nothing, then its heartbeat thread had no turn, because "
            'code that it runs holds the GIL for long (C extensions may): set heartbeat="process" '
            "(PROCESSING_HEARTBEAT=process), or longer times (heartbeat_ttl, challenge_timeout)."
        )

    def look_up(self, entry: Entry) -> None:
        """See whether a message that runs here is still ours, and write its record where it is missing.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        with entry.mutex:
            # What is lost stays lost: its run ends without a word, and whose record it was by then would be no one's.
            if not (entry.told or entry.lost):
                self._mend(entry)

    def _mend(self, entry: Entry) -> None:
        epoch = self.lease.epoch
        try:
            payload = self.payload_of(entry)
        except redis.RedisError:
            raise
        except Exception:
            self.logger.exception("Message %s cannot be encoded any more: it is not looked up.", entry.copy.message_id)
            return
        mended, run, generation, crashes, drains = self.registry.mend(
            entry.copy,
            payload,
            run=entry.run,
            limit=entry.policy.limit,
            started_ms=entry.started_ms,
            crashes=entry.crashes,
            drains=entry.drains,
            alone=entry.alone,
            tailored=entry.policy.tailored,
        )
        if mended is Mended.LOST:
            if not entry.lost:
                self.lose(entry)
        elif mended is not Mended.LATER:
            if mended is not Mended.KEPT:
                self.logger.info("The record of message %s was %s.", entry.copy.message_id, mended.value)
            entry.run, entry.generation, entry.crashes, entry.drains = run, generation, crashes, drains
            entry.written = True
        entry.epoch = epoch

    def lose(self, entry: Entry) -> None:
        """Another worker has the message, or is to have it."""
        entry.lost = True
        wanted = entry.policy.interrupt_on_loss or entry.policy.on_stall == "recover"
        interrupted = wanted and entry.strand is not None and entry.strand.interrupt(MessageLost)
        self.logger.warning(
            "Message %s was taken over while this worker was silent, or by force. It %s here, and changes nothing.",
            *(entry.copy.message_id, "is interrupted" if interrupted else "goes on"),
        )

    def finish(
        self, entry: Entry, broker_keys: tuple[str, ...] = (), then: Call | None = None, *, unacked: bool = False
    ) -> None:
        """Tell Redis that a message is complete; `then`: and acknowledge it, in one write.

        Parameters:
          unacked: It is still to be acknowledged, and is to be remembered until then.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        with entry.mutex:
            if entry.told:
                if then is not None:
                    self.registry.run(then)
                return
            outcome = self.registry.finish(
                entry.copy,
                entry.run,
                again=entry.enqueued_again or entry.cut_short,
                contended=entry.contended,
                unacked=unacked,
                remember=entry.policy.remember_completed,
                broker_keys=broker_keys,
                then=then,
            )
            entry.told = True
        if outcome is Finished.LATE:
            self.logger.warning(
                "Message %s was completed here after it had been taken over; its new owner's death will not repeat it.",
                entry.copy.message_id,
            )
        elif outcome is Finished.FENCED:
            self.logger.warning(
                "Message %s was completed here, but another worker owns it: nothing was changed.", entry.copy.message_id
            )

    def let_go(self, entry: Entry) -> None:
        """Tell Redis that a message has failed; if it is stranded, that nothing comes next unless recovery sees to it.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        with entry.mutex:
            if entry.lost:
                return
            if entry.stranded:
                outcome = self.registry.hand_over(entry.copy.message_id, entry.run, entry.payload)
            else:
                outcome = self.registry.release(
                    entry.copy.message_id,
                    entry.run,
                    contended=entry.contended,
                    consumed=not entry.handed_back,  # its copy is of the same origin
                    dead_lettered=entry.dead_lettered,
                    copy=None if entry.handed_back else entry.copy,
                )
            entry.told = True
        if outcome is Finished.HANDED_OVER:
            self.logger.warning(
                "Message %s failed and its retry could not be enqueued; recovery enqueues it.", entry.copy.message_id
            )
            self.on_hand_over()

    def hand_back(self, entry: Entry) -> None:
        """Tell Redis that a message has stopped, and is about to be enqueued again: whichever copy starts, may.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        with entry.mutex:
            if entry.lost or entry.told:
                return
            outcome = self.registry.hand_over(entry.copy.message_id, entry.run, b"", later=True)
            entry.told = outcome is Finished.HANDED_OVER
            if outcome is Finished.FENCED:
                self._mend(entry)  # ours all the same, if only the answer was lost that it had let go

    def accompany(self, entry: Entry) -> bool:
        """Tell Redis that a message gets company: a death does not convict it then.  False: that was not possible."""
        try:
            with entry.mutex:
                self.registry.accompany(entry.copy.message_id, entry.run)
                entry.alone = False
        except redis.RedisError:
            return False
        return True

    def _tell_the_untold(self) -> None:
        for entry in self.table.entries():
            late = entry.to_finish and 0 < entry.acking_since < time.monotonic() - max(self.interval, ACK_PAUSE)
            if entry.phase is not Phase.UNTOLD and not late:
                continue
            entry.contended = True  # the broker may have given the message to others while Redis could not be told
            if late:
                self.finish(entry, unacked=self.unacked)  # Dramatiq still tries to acknowledge it
                continue
            if entry.succeeded:
                self.finish(entry)
            else:
                self.let_go(entry)
            self.table.drop(entry)

    def _compare(self) -> None:
        before = [entry for entry in self.table.entries() if not entry.lost]
        running = [entry for entry in before if entry.phase is Phase.RUNNING]
        for entry in running:
            if not entry.written or self.lease.in_doubt(entry):
                self.look_up(entry)
        if self.registry.count_running() == len(before) and not self._strangers:
            return
        there = self.registry.running_here()
        for entry in running:
            if entry.copy.message_id not in there and entry.phase is Phase.RUNNING:
                self.look_up(entry)
        # What Redis believes to run here and is not in the table may just be starting or ending: only what was a
        # stranger one beat ago as well is let go.
        strangers = there - {entry.copy.message_id for entry in before + self.table.entries()}
        runs = self.registry.runs_of(strangers) if strangers else {}
        for message_id, run in runs.items():
            if self._strangers.get(message_id) == run:
                self.logger.warning("Message %s does not run here any more: its record is released.", message_id)
                self.registry.release(message_id, run, contended=True, consumed=False)
        self._strangers = runs

    def settle_what_was_never_acknowledged(self, age: float) -> None:
        """Messages that Dramatiq began to acknowledge so many seconds ago, and gave up: see that it comes about.

        Raises:
          redis.RedisError: Redis cannot be reached.
        """
        for entry in self.table.entries():
            if not entry.acking_since or time.monotonic() - entry.acking_since < age:
                continue  # whatever follows from it may still be under way
            if entry.phase is not Phase.ENDED:
                continue
            if not entry.succeeded and not entry.enqueued_again:
                continue  # our record is all there is of it
            if entry.to_finish:
                self.finish(entry, unacked=self.unacked)
            elif not entry.told:
                self.let_go(entry)
            self.acknowledge(entry)
            self.table.drop(entry)
            self.on_drop(entry)
