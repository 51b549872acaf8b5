# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The source of a command's data: an application's broker, or a Redis and a namespace."""

from __future__ import annotations

import contextlib
import functools
import importlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import click
from dramatiq import Broker, get_broker

from ..config.settings import load_settings
from ..errors import ConfigurationError
from ..inspection.inspector import Inspector
from ..operations import Operations
from .failures import AWAY, Wrong
from .text import clean

__all__ = ["Source", "import_broker"]

#: The shortest beginning of an id that is enough to change something, characters.
SHORTEST = 8

#: An id as Dramatiq makes them.
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass
class Source:
    """The values of the options before the command.  It may hold a password, which is not shown."""

    broker_name: str | None = None
    redis_url: str | None = field(default=None, repr=False)
    namespace: str | None = None
    paths: Sequence[str] = (".",)
    #: Nobody ever was in the namespace that was looked into.
    is_unused: bool = field(default=False, init=False)

    @functools.cached_property
    def broker(self) -> Broker | None:
        """The application's broker; ``None`` if it was not named."""
        if self.broker_name is None:
            return None
        if self.redis_url is not None or self.namespace is not None:
            raise Wrong(
                "--broker is given, and --redis-url or --namespace as well; the broker's tracker knows both: "
                "leave them out."
            )
        sys.path[:0] = reversed(self.paths)
        return import_broker(self.broker_name)

    @functools.cached_property
    def inspector(self) -> Inspector:
        """Reads what is there; it says so where nobody ever was."""
        inspector = self._inspector()
        try:
            self.is_unused = inspector.is_unused()
        except AWAY:
            return inspector  # each command does about that what it does: what serves waits for Redis
        if self.is_unused:
            near = inspector.nearest_namespace()
            click.echo(
                f"Nobody has ever been in the namespace {clean(inspector.namespace)!r}, or nobody for a month."
                + (f" Did you mean {clean(near)!r}?" if near else ""),
                err=True,
            )
        return inspector

    def _inspector(self) -> Inspector:
        if self.broker is not None:
            return Inspector.of(self.broker)
        given = {"redis_url": self.redis_url, "namespace": self.namespace}
        try:
            settings = load_settings({name: value for name, value in given.items() if value is not None})
        except ConfigurationError as error:
            # As the user knows them here.
            text = str(error).replace("redis_url is", "--redis-url is", 1).replace("namespace is", "--namespace is", 1)
            raise Wrong(text) from error
        if settings.redis_url is None:
            raise Wrong(
                "Nothing says where to look; give --broker MODULE, as to dramatiq, or --redis-url URL "
                "(or PROCESSING_REDIS_URL in the environment)."
            )
        return Inspector.from_url(settings.redis_url, settings.namespace)

    def message_id(self, given: str, *, to_change: bool = False) -> str:
        """The id of a message, of which the beginning is enough where that is of one message alone.

        Parameters:
          to_change: Something is to be done to it.  Then the beginning has to be long, and of an id that Dramatiq has
            made: ``order-1`` may be a message that is queued, beside a known ``order-12``.
        """
        if not given:
            raise Wrong("An id is missing: the one that was given is empty.")
        inspector = self.inspector
        if inspector.message(given) is not None or (to_change and len(given) < SHORTEST):
            return given
        found = inspector.ids(given)
        if len(found) > 1:
            more = f" and {len(found) - 5} more" if len(found) > 5 else ""
            raise Wrong(f"{given} is the beginning of {len(found)} ids; give more of it: {', '.join(found[:5])}{more}.")
        if not found or (to_change and not UUID.fullmatch(found[0])):
            return given
        return found[0]

    def operations(self, what: str) -> Operations:
        """Acts on what is there.

        Parameters:
          what: The action, for the error if it is not possible.
        """
        if self.broker is None:
            raise Wrong(
                f"{what} acts through the application's broker, which a Redis URL does not tell; "
                "give --broker MODULE, as to dramatiq."
            )
        return Operations(self.broker)


def import_broker(name: str) -> Broker:
    """The broker of a module, or the one under a name in it, as Dramatiq's command line finds it.

    Dramatiq's own function is not for others to depend on.  The application's output meanwhile goes to standard
    error: standard output is for the result.
    """
    module_name, _, path = name.partition(":")
    with contextlib.redirect_stdout(sys.stderr):
        try:
            found: object = importlib.import_module(module_name)
            if path:
                found = functools.reduce(getattr, path.split("."), found)
            if not path or (callable(found) and not isinstance(found, Broker)):
                if path and callable(found):
                    found()
                found = get_broker()
        except ConfigurationError:
            raise
        except Exception as error:
            raise Wrong(
                f"--broker is {name!r}, which cannot be imported ({type(error).__name__}: {error}); it must be "
                "a module such as app.tasks, or module:variable, that can be found from --path."
            ) from error
    if not isinstance(found, Broker):
        raise Wrong(f"--broker is {name!r}, which is a {type(found).__name__}; it must be a broker, or a function.")
    return found
