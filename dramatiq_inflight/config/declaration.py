# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A setting, declared once: its checks, its variables and its documentation all come from the declaration."""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigurationError
from .values import NotRight, Value

__all__ = ["LONG", "Section", "Setting", "declared", "setting"]

#: Before the name of a setting in capitals, this makes its long variable.
LONG = "DRAMATIQ_INFLIGHT_"


class Section(enum.Enum):
    """The sections of docs/settings.rst, in order."""

    IDENTITY = "Identity and Redis"
    TRACKING = "Tracking"
    HEARTBEATS = "Heartbeats and deaths"
    RECOVERY = "Recovery"
    DEAD_WORKERS = "Messages of dead workers"
    LONG_JOBS = "Long jobs"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting.

    Parameters:
      name: The keyword argument.
      value: The kind of its values, with their bounds.
      default: The value where nothing is set, or a function that returns it.
      default_said: The default in reStructuredText, where the value itself says too little.
      variable: The short environment variable; empty if no text can hold a value.
      section: Where docs/settings.rst has it.
      doc: The meaning, in reStructuredText.
      is_option: True if actors and messages have an option of the same name.
    """

    name: str
    value: Value
    default: Any
    default_said: str
    variable: str
    section: Section
    doc: str
    is_option: bool

    @property
    def variables(self) -> tuple[str, ...]:
        """Its environment variables: the long one, which wins, and the short one."""
        return (LONG + self.name.upper(), self.variable) if self.variable else ()

    @property
    def shown_default(self) -> str:
        """The default, in reStructuredText."""
        if self.default_said:
            return self.default_said
        return f"none: {self.value.none}" if self.default is None else self.value.defaults(self.default)

    @property
    def meaning(self) -> str:
        """The meaning of the setting and of ``None``, and the bounds, in reStructuredText."""
        none = f"``None``: {self.value.none}." if self.value.none and self.default is not None else ""
        return " ".join(filter(None, (self.doc, none, self.value.bounds)))

    def check(self, value: object, known_as: str) -> Any:
        """Return the value to use.

        Parameters:
          known_as: How the user knows the setting, for the error.

        Raises:
          ConfigurationError: The value is not right.
        """
        try:
            return self.value.check(value)
        except NotRight:
            pass  # the error below is not to have this one as its context
        raise ConfigurationError(f"{known_as} is {self.value.shown(value)}; it must be {self.value.right}.")


def setting(
    value: Value,
    default: Any,
    variable: str,
    section: Section,
    doc: str,
    *,
    default_said: str = "",
    secret: bool = False,
) -> Any:
    """Declare a field of a dataclass as a setting.  `Setting` has the parameters.

    Parameters:
      secret: True if a value may hold a password, so that no ``repr`` shows it.
    """
    metadata = {"value": value, "default_said": default_said, "variable": variable, "section": section, "doc": doc}
    if callable(default):
        return dataclasses.field(default_factory=default, repr=not secret, metadata=metadata)
    return dataclasses.field(default=default, repr=not secret, metadata=metadata)


def declared(owner: Any, *, options: bool) -> dict[str, Setting]:
    """The settings that a dataclass declares, by name.

    Parameters:
      options: True if they are options of actors and messages as well.
    """
    return {
        field.name: Setting(name=field.name, default=_default(field), is_option=options, **field.metadata)
        for field in dataclasses.fields(owner)
        if field.metadata
    }


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    assert field.default_factory is not dataclasses.MISSING
    return field.default_factory()
