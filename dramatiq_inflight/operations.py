# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The actions of an operator: put a message back, dead-letter it, give it up, and recover now.

Each is checked and done in Redis in one step, as a worker's own; a message that runs on a living worker is left alone,
unless it is taken by force: its run is fenced then, so that it changes nothing any more.
"""

from __future__ import annotations

import dataclasses
import enum
import secrets
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dramatiq import Broker, Message
from dramatiq.common import current_millis, q_name
from dramatiq.errors import DecodeError

from .brokers.dead_letters import DeadLetter, DeadLetters
from .brokers.location import queues_of, tracker_client
from .brokers.redis import RedisQueues
from .delivery import OPTION
from .errors import SchemaError
from .inspection.dead_letters import Choice, Letters
from .inspection.history import EventKind
from .inspection.inspector import Inspector, MessageView
from .inspection.views import IN_FLIGHT
from .recovery.copies import NOBODY
from .recovery.for_broker import recovery_of
from .recovery.summary import Swept
from .store.connection import bounded_client
from .store.records import DeadIncarnation, Orphan, moment
from .store.scripts import Scripts
from .store.store import Store
from .tracker import tracker_of

__all__ = ["Bulk", "Done", "Operations"]

#: How long a message is held for its copy to be enqueued, seconds; then any sweep takes it.
HOLD = 30.0

#: The options of a message that say what became of earlier copies of it.
OF_EARLIER_COPIES = frozenset({OPTION, "redis_message_id", "retries", "traceback", "requeue_timestamp"})

#: The reason of a message that an operator has sent to the dead-letter queue.
BY_HAND = "an operator has sent it to the dead-letter queue"


class Done(enum.Enum):
    """The result of an operator's action."""

    DONE = "done"
    #: It runs on a living worker: it takes force.
    ALIVE = "alive"
    #: Somebody recovers or replays it just now: try again.
    BUSY = "busy"
    #: It is complete, or its retry or its dead letter is with the broker.
    SETTLED = "settled"
    #: It was requeued from a dead-letter queue before, and that copy waits in its queue.
    QUEUED = "queued"
    #: It was requeued from a dead-letter queue before, and that copy has run since; with another broker than a
    #: RedisBroker it may also wait.
    REQUEUED = "requeued"
    #: Nothing is known of it: it may be queued, or complete.
    UNKNOWN = "unknown"
    #: Its payload cannot be decoded.
    UNREADABLE = "unreadable"
    #: It is in a dead-letter queue that cannot be reached from here: the broker has means of its own.
    ELSEWHERE = "elsewhere"
    #: It is taken, and the broker cannot be reached: the workers' recovery enqueues it when that is back.
    BEGUN = "begun"
    #: The application does not declare its queue or its actor.
    STRANGE = "strange"


@dataclass(frozen=True)
class Bulk:
    """The result for many dead letters.

    Parameters:
      done: How many of them had which end.
      is_complete: False if it was stopped, and more are left.
    """

    done: Mapping[Done, int]
    is_complete: bool

    @property
    def number(self) -> int:
        """How many it was done to."""
        return self.done.get(Done.DONE, 0)


class Operations:
    """Acts on the messages of one application.

    It acts on what runs, or waits to be recovered.  A retry that is with the broker already is an enqueue of its own,
    and runs: also where a failed message is taken by force before it is acknowledged.

    Every method raises ``redis.RedisError`` when Redis cannot be reached; what was done by then is done, and what was
    begun is brought to its end by the workers' recovery.  It raises `SchemaError`, and does nothing, where the workers
    have a version of this package that this one must not interfere with.

    >>> operations = Operations(broker)
    >>> message = operations.inspector.messages(actor="resize", limit=1)[0]
    >>> operations.discard(message.id)
    <Done.ALIVE: 'alive'>
    >>> operations.discard(message.id, force=True)
    <Done.DONE: 'done'>
    >>> operations.discard("nobody")
    <Done.UNKNOWN: 'unknown'>

    Parameters:
      broker: The application's, with its actors declared and a tracker in its middleware.

    Raises:
      ConfigurationError: There is no tracker in it, or it has no Redis.
    """

    def __init__(self, broker: Broker) -> None:
        tracker = tracker_of(broker)
        settings = tracker.settings
        tracker.policies.prepare(broker)
        client, shared = tracker_client(settings, broker)
        self.broker = broker
        self._queues = queues_of(broker, client, shared=shared)
        self.inspector = Inspector.of(broker)
        self._letters = self.inspector._letters or Letters(broker, self._queues)
        self._store = Store(
            Scripts(
                bounded_client(client),
                settings.namespace,
                f"operator-{secrets.token_hex(4)}",
                heartbeat_ttl=settings.heartbeat_ttl,
                fence_ttl=settings.fence_ttl,
            )
        )
        self._recovery = recovery_of(self._store, broker, settings, tracker.policies.of, self._queues)

    def requeue(self, message_id: str, *, force: bool = False) -> Done:
        """Enqueue another copy of a message; every earlier one is void.  It starts with a clean count of crashes.

        Also of one that was set aside, if it can be decoded by now, and of one that was dead-lettered for whatever
        reason, where the broker is a RedisBroker or a RabbitMQ: that is taken from the dead-letter queue.  RabbitMQ 4.0
        to 4.2 are left out: there a look at a quorum queue's messages wears them out.

        Parameters:
          force: Also of one that runs on a living worker: its run goes on, and changes nothing any more.

        Raises:
          ConnectionClosed: The broker cannot be reached.
        """
        done = self._requeue(message_id, force=force)
        return self._since_requeued(message_id) or done if done in (Done.SETTLED, Done.UNKNOWN) else done

    def _requeue(self, message_id: str, *, force: bool) -> Done:
        found = self._find(message_id)
        if found is not None and found.state == "aside":
            return (
                self._store.operations.one_at_a_time(lambda _: self._requeue_from_aside(message_id), HOLD) or Done.BUSY
            )
        if found is not None and found.state in IN_FLIGHT:
            done = self._take(message_id, found.queue, found.actor, condemn=False, force=force)
            if done is not Done.SETTLED:
                return done
        return self._of_dead_letter(message_id, found, self._replay)

    def dead_letter(self, message_id: str, *, force: bool = False) -> Done:
        """Send a message to the dead-letter queue; as `requeue`, but for those that are there or were set aside."""
        found = self._find(message_id)
        if found is None:
            return Done.UNKNOWN
        if found.state == "aside":
            return Done.UNREADABLE
        if found.state == "dead_lettered":
            return Done.SETTLED  # also if it never was tracked, so that there is no record
        return self._take(message_id, found.queue, found.actor, condemn=True, force=force)

    def discard(self, message_id: str, *, force: bool = False) -> Done:
        """Give a message up: no copy of it runs any more.

        A message that was set aside, or is a dead letter, is deleted.

        Parameters:
          force: Also one that runs on a living worker: its run goes on, and changes nothing any more.
        """
        found = self._find(message_id)
        done = self._until_settled(lambda: self._store.operations.discard(message_id, force=force))
        if done not in (Done.SETTLED, Done.UNKNOWN):
            return done
        return self._of_dead_letter(message_id, found, self._drop)

    def purge(self, choice: Choice, stop: Callable[[], bool] = lambda: False) -> Bulk | None:
        """Discard all dead letters that are chosen.

        Parameters:
          stop: Asked before each; True leaves the rest.

        Returns: what became of them; None if the broker cannot be asked, or others have taken too long.

        Raises:
          ConnectionClosed: The broker cannot be reached; what was discarded is discarded.
        """
        dropped: Counter[tuple[str, str]] = Counter()

        def drop(letters: DeadLetters, letter: DeadLetter) -> Done:
            letters.drop(letter)
            dropped[letter.queue, letter.message.actor_name if letter.message is not None else ""] += 1
            return Done.DONE

        try:
            return self._on_dead_letters(choice, drop, stop)
        finally:
            for (queue, actor), number in dropped.items():
                self._store.operations.note_discarded("", queue, actor, number)

    def requeue_dead_letters(self, choice: Choice, stop: Callable[[], bool] = lambda: False) -> Bulk | None:
        """Enqueue all dead letters that are chosen once more, each as `requeue` does; as `purge` otherwise.

        A message that was requeued and has failed again meanwhile is not taken twice.
        """
        begun = moment(current_millis())
        until = min(choice.until, begun) if choice.until is not None and begun is not None else begun
        return self._on_dead_letters(dataclasses.replace(choice, until=until), self._replay, stop)

    def _on_dead_letters(
        self, choice: Choice, act: Callable[[DeadLetters, DeadLetter], Done], stop: Callable[[], bool]
    ) -> Bulk | None:
        self._check_schema()
        return self._store.operations.one_at_a_time(lambda keep: self._act_on_each(choice, act, stop, keep), HOLD)

    def _act_on_each(
        self,
        choice: Choice,
        act: Callable[[DeadLetters, DeadLetter], Done],
        stop: Callable[[], bool],
        keep: Callable[[], bool],
    ) -> Bulk | None:
        done: Counter[Done] = Counter()
        reasons = self.inspector.reasons()
        if self._letters.index is not None and self._letters.index.has_ids:
            self._letters.index.refresh()
        for queue in self._letters.names(choice.queue):
            with self._letters.of(queue) as letters:
                if letters is None:
                    return None
                for letter in self._letters.some(queue, letters, choice):
                    if not choice.has(self._letters.view(letter, reasons.get(letter.id))):
                        continue
                    if stop() or not keep():
                        return Bulk(done, is_complete=False)
                    done[act(letters, letter)] += 1
        return Bulk(done, is_complete=True)

    def recover(self, stop: Callable[[], bool] = lambda: False) -> Swept:
        """Put back all that is due now, as a worker's recovery does.

        Parameters:
          stop: Asked between batches.
        """
        self._check_schema()
        return self._recovery.sweep(stop)

    def left_to_recover(self) -> tuple[list[DeadIncarnation], int]:
        """Return what `recover` would look at: dead worker processes, and how many messages they ran or are overdue."""
        self._check_schema()
        ids: dict[str, None] = {}
        while batch := [id for id in self._store.recovery.find_due(skip_dead=len(ids)).dead if id not in ids]:
            ids.update(dict.fromkeys(batch))
        dead = self._store.workers.incarnations(list(ids)) if ids else []
        running = {view.id: view.running for view in self.inspector.workers()}
        return dead, sum(running.get(one.id, 0) for one in dead) + self.inspector.overdue()

    # How it is done.

    def _find(self, message_id: str) -> MessageView | None:
        self._check_schema()
        return self.inspector.message(message_id)

    def _since_requeued(self, message_id: str) -> Done | None:
        """Return the result of a copy that an operator enqueued; None if none did, or something happened since."""
        last = self.inspector.last_event(message_id)
        if last is None or last.kind is not EventKind.REQUEUED:
            return None
        waits = isinstance(self._queues, RedisQueues) and last.copy and self._queues.held([(last.queue, last.copy)])[0]
        return Done.QUEUED if waits else Done.REQUEUED

    def _check_schema(self) -> None:
        refusal = self._store.workers.refusal()
        if refusal is not None:
            raise SchemaError(self._store.workers.explain(refusal))

    def _declares(self, queue: str, actor: str) -> bool:
        return queue in self.broker.get_declared_queues() and actor in self.broker.get_declared_actors()

    def _take(self, message_id: str, queue: str, actor: str, *, condemn: bool, force: bool) -> Done:
        if not self._declares(queue, actor):
            return Done.STRANGE  # to enqueue it would declare the queue
        taken: list[Orphan] = []

        def take() -> str:
            answer = self._store.operations.take(message_id, hold=HOLD, condemn=condemn, force=force)
            if isinstance(answer, Orphan):
                taken.append(answer)
                return "done"
            return answer

        done = self._until_settled(take)
        if taken:
            swept = Swept()
            complete = self._recovery.put_back(taken, NOBODY, swept, reason=BY_HAND if condemn else "")
            if swept.set_aside:
                return Done.UNREADABLE
            return Done.DONE if complete else Done.BEGUN
        return done

    def _until_settled(self, step: Callable[[], str]) -> Done:
        for _ in range(10):
            answer = step()
            if answer != "moved":
                return ANSWERS[answer]
        return Done.BUSY

    def _requeue_from_aside(self, message_id: str) -> Done:
        payload = self.inspector.payload(message_id)
        if payload is None:
            return Done.SETTLED  # it has been requeued or discarded since
        message = _decoded(payload)
        if message is None:
            return Done.UNREADABLE
        return self._enqueue_anew(message)

    def _of_dead_letter(
        self, message_id: str, found: MessageView | None, act: Callable[[DeadLetters, DeadLetter], Done]
    ) -> Done:
        """Act on a message that is in a dead-letter queue.

        Parameters:
          found: As the tracker knows it.
        """

        def look(keep: Callable[[], bool]) -> Done:
            asked = True
            for queue in self._letters.where(message_id):
                with self._letters.of(queue) as letters:
                    asked = asked and letters is not None
                    for letter in self._letters.some(queue, letters, Choice(ids=frozenset([message_id]))):
                        if letter.is_of(message_id):
                            return act(letters, letter)  # type: ignore[arg-type]
            if found is None:
                return Done.UNKNOWN
            return Done.SETTLED if asked or found.state != "dead_lettered" else Done.ELSEWHERE

        return self._store.operations.one_at_a_time(look, HOLD) or Done.BUSY

    def _replay(self, letters: DeadLetters, letter: DeadLetter) -> Done:
        if letter.message is None:
            return Done.UNREADABLE
        return self._enqueue_anew(letter.message, lambda: letters.drop(letter))

    def _drop(self, letters: DeadLetters, letter: DeadLetter) -> Done:
        letters.drop(letter)
        actor = letter.message.actor_name if letter.message is not None else ""
        self._store.operations.note_discarded(letter.id, letter.queue, actor)
        return Done.DONE

    def _enqueue_anew(self, message: Message[Any], drop: Callable[[], object] = lambda: None) -> Done:
        queue = q_name(message.queue_name)
        if not self._declares(queue, message.actor_name):
            return Done.STRANGE
        options = {name: value for name, value in message.options.items() if name not in OF_EARLIER_COPIES}
        delay = None
        if queue != message.queue_name:  # it was dead-lettered from its delay queue
            delay = max(0, int(options.pop("eta", 0) - current_millis()))
        # At the present time, or a message that was too old would be so again.
        anew = dataclasses.replace(message, queue_name=queue, options=options, message_timestamp=current_millis())
        sent = self.broker.enqueue(anew, delay=delay)
        drop()
        self._store.operations.note_requeued(
            str(message.message_id), queue, message.actor_name, str(sent.options.get("redis_message_id", ""))
        )
        return Done.DONE


def _decoded(payload: bytes | None) -> Message[Any] | None:
    try:
        return Message.decode(payload) if payload else None
    except DecodeError:
        return None


ANSWERS = {
    "done": Done.DONE,
    "discarded": Done.DONE,
    "alive": Done.ALIVE,
    "busy": Done.BUSY,
    "settled": Done.SETTLED,
    "gone": Done.UNKNOWN,
}
