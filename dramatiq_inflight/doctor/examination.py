# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""One after the other: a check that fails stops no other."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from types import ModuleType

import redis
from dramatiq import Broker

from ..errors import ConfigurationError
from ..inspection.inspector import Inspector
from . import application, findings, fleet, load, messages, rabbitmq, rights, server
from .case import CannotTell, Case, Check
from .findings import UNCHECKED, Code, Finding

__all__ = ["CODES", "SECTIONS", "examine"]

#: The sections of docs/doctor.rst, in order, with the modules that declare their codes.
SECTIONS: Mapping[str, Sequence[ModuleType]] = {
    "Redis": (server, load, rights),
    "Workers": (fleet,),
    "Messages": (messages,),
    "The application": (application,),
    "RabbitMQ": (rabbitmq,),
    "The doctor": (findings,),
}

#: All codes, by name.
CODES: Mapping[str, Code] = {
    code.name: code
    for modules in SECTIONS.values()
    for module in modules
    for code in vars(module).values()
    if isinstance(code, Code)
}

#: The checks that need the application alone.
OF_APPLICATION: tuple[Check, ...] = (*application.CHECKS, *rabbitmq.CHECKS)

#: The checks that need a Redis.
OF_REDIS: tuple[Check, ...] = (
    *server.CHECKS,
    *load.CHECKS,
    *rights.CHECKS,
    *fleet.CHECKS,
    *messages.CHECKS,
)


def examine(broker: Broker | None, inspector: Inspector | None = None) -> list[Finding]:
    """Look for what is wrong with an application, its Redis, its workers and its messages.

    Never raises: what cannot be checked is a note.

    >>> [finding.code for finding in examine(None)]
    ['no-broker', 'unchecked']

    Parameters:
      broker: The application's, with its actors declared; if ``None``, only Redis is examined.
      inspector: An inspector of the namespace, or ``None`` for that of the broker's tracker.
    """
    return list(_examine(broker, inspector))


def _examine(broker: Broker | None, inspector: Inspector | None) -> Iterator[Finding]:
    case = Case(broker, inspector)
    if broker is None:
        yield application.NO_BROKER.note("There is no broker to look at.")
    else:
        if inspector is None and case.trackers:
            inspector = yield from _inspector(broker)
            case = Case(broker, inspector)
        yield from _make(OF_APPLICATION, case)
    if not case.has_redis:
        yield UNCHECKED.note("Redis, the workers and the messages could not be checked: there is no Redis.")
        return
    unreachable = _reach(case)
    if unreachable is not None:
        yield unreachable
        return
    yield server.REDIS_UNREACHABLE.ok("Redis can be reached.")
    yield from _make(OF_REDIS, case)


def _inspector(broker: Broker) -> Generator[Finding, None, Inspector | None]:
    try:
        return Inspector.of(broker)
    except ConfigurationError:
        yield application.NO_REDIS.error(f"The tracker of this {type(broker).__name__} has no Redis.")
        return None


def _reach(case: Case) -> Finding | None:
    try:
        case.server.ping()
    except redis.exceptions.BusyLoadingError:
        return server.REDIS_LOADING.error("Redis is loading its data.")
    except redis.exceptions.NoPermissionError:
        return None  # it has answered
    except Exception as failure:
        if "unknown command" in str(failure).lower():  # redis-py 8 begins with a HELLO
            return server.REDIS_VERSION.error("This Redis is older than 6: it does not know HELLO.")
        return server.REDIS_UNREACHABLE.error(f"Redis cannot be used ({type(failure).__name__}).")
    return None


def _make(checks: Iterable[Check], case: Case) -> Iterator[Finding]:
    for check in checks:
        found = []
        try:
            if not check.applies(case):
                continue
            for finding in check.find(case):
                found.append(finding)
        except CannotTell as reason:
            found.append(_unchecked(check, str(reason)))
        except redis.exceptions.NoPermissionError:
            found.append(_unchecked(check, "this user of Redis may not ask it"))
        except Exception as failure:  # not its text: it may hold what was sent
            found.append(_unchecked(check, type(failure).__name__))
        yield from found or [check.code.ok(check.fine)]


def _unchecked(check: Check, why: str) -> Finding:
    return UNCHECKED.note(f"{check.what} could not be checked: {why}.")
