# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The fields of a query or of a body of the JSON interface: what each may be, for a check and for its description."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from flask import request
from werkzeug.exceptions import BadRequest

from ..inspection.documents import time_of
from .choice import DURATION

__all__ = ["Field", "body", "check_query", "flag", "number", "one_of", "span", "text", "texts", "time"]

#: The longest value that an error repeats, characters.
LONGEST = 80


@dataclass(frozen=True)
class Field:
    """A field of a query, of which the values are texts, or of a body, of which they are JSON."""

    name: str
    meaning: str
    #: Its values in OpenAPI.
    schema: Mapping[str, Any]
    #: What a value must be, as an error says it.
    wanted: str
    accepts: Callable[[Any], bool]
    is_required: bool = False


def text(name: str, meaning: str, *, is_required: bool = False) -> Field:
    """Make a field for any text."""
    return Field(name, meaning, {"type": "string", "minLength": 1}, "a text that is not empty", _is_text, is_required)


def texts(name: str, meaning: str) -> Field:
    """Make a field for a list of texts."""
    schema = {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1}
    return Field(
        name,
        meaning,
        schema,
        "a list of texts that is not empty",
        lambda value: isinstance(value, list) and value != [] and all(map(_is_text, value)),
    )


def one_of(name: str, meaning: str, values: Collection[str]) -> Field:
    """Make a field for one of some texts."""
    schema = {"type": "string", "enum": list(values)}
    return Field(name, meaning, schema, f"one of {', '.join(values)}", values.__contains__)


def flag(name: str, meaning: str) -> Field:
    """Make a field for true or false."""
    return Field(name, meaning, {"type": "boolean"}, "true or false", lambda value: isinstance(value, bool))


def number(name: str, meaning: str) -> Field:
    """Make a field for a number in a query, from 1."""
    schema = {"type": "integer", "minimum": 1, "maximum": 99_999_999}
    return Field(
        name, meaning, schema, "a number from 1", lambda value: re.fullmatch("[1-9][0-9]{0,7}", value) is not None
    )


def span(name: str, meaning: str) -> Field:
    """Make a field for a duration in a query."""
    schema = {"type": "string", "pattern": f"^{DURATION}$"}
    return Field(
        name,
        meaning,
        schema,
        "a number of seconds, or such as 10m, 2h, 3d",
        lambda value: re.fullmatch(DURATION, value) is not None,
    )


def time(name: str, meaning: str) -> Field:
    """Make a field for a time with its zone."""
    schema = {"type": "string", "format": "date-time"}
    return Field(name, meaning, schema, "a time such as 2026-11-30T12:00:00Z", lambda value: time_of(value) is not None)


def check_query(fields: Collection[Field]) -> None:
    """Check the query of this request.  A field that is empty is not given, as on the pages.

    Raises:
      BadRequest: A field is unknown, given twice, missing or wrong.
    """
    known = {field.name: field for field in fields}
    given = request.args.to_dict(flat=False)
    _check_names(known, given, "The query")
    for name, values in given.items():
        if len(values) > 1:
            raise BadRequest(f"{name} is given {len(values)} times; give it once.")
        if values[0]:
            _check(known[name], values[0])
    _check_required(known, {name for name, values in given.items() if values[0]})


def body(fields: Collection[Field]) -> dict[str, Any]:
    """Return the body of this request, which is a JSON object.

    Raises:
      BadRequest: It is none, or a field is unknown, missing or wrong.
      RequestEntityTooLarge: It is too long.
    """
    known = {field.name: field for field in fields}
    try:
        given = json.loads(request.get_data())
    except (ValueError, RecursionError):
        raise BadRequest('The body is no JSON; it must be an object such as {"id": "..."}.') from None
    if not isinstance(given, dict):
        raise BadRequest(f'The body is {_shown(given)}; it must be an object such as {{"id": "..."}}.')
    _check_names(known, given, "The body")
    for name, value in given.items():
        _check(known[name], value)
    _check_required(known, given)
    return given


def _check_names(known: Collection[str], given: Collection[str], where: str) -> None:
    for name in given:
        if name not in known:
            raise BadRequest(f"{where} has a field {_shown(name)}; known are {', '.join(known) or 'none'}.")


def _check(field: Field, value: Any) -> None:
    if not field.accepts(value):
        raise BadRequest(f"{field.name} is {_shown(value)}; it must be {field.wanted}.")


def _check_required(known: Mapping[str, Field], given: Collection[str]) -> None:
    for field in known.values():
        if field.is_required and field.name not in given:
            raise BadRequest(f"{field.name} is missing; it must be {field.wanted}.")


def _is_text(value: Any) -> bool:
    """Return True for a text that can be sent to Redis: half a surrogate pair cannot."""
    return isinstance(value, str) and value != "" and value == value.encode(errors="ignore").decode()


def _shown(value: Any) -> str:
    try:
        shown = json.dumps(value)
    except RecursionError:
        return "too deep"  # though it could be read
    return shown if len(shown) <= LONGEST else f"{shown[:LONGEST]}..."
