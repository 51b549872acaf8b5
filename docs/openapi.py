# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The description of the JSON interface, made of its routes and its views: ``python -m docs.openapi`` writes it."""

from __future__ import annotations

import enum
import functools
import inspect
import json
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import Any, Union, get_args, get_origin, get_type_hints

from sphinx.pycode import ModuleAnalyzer

from dramatiq_inflight.dashboard import api
from dramatiq_inflight.dashboard.api import ROUTES, Error, Route
from dramatiq_inflight.inspection.history import Event

__all__ = ["made", "write"]

Schema = dict[str, Any]

PLAIN: dict[Any, Schema] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    datetime: {"type": "string", "format": "date-time"},
    type(None): {"type": "null"},
}

INTRODUCTION = (
    "What runs where, what died, and what became of it. Each address is that of a page, after /api, with the same "
    "fields in its query. Times are ISO 8601, UTC; durations are seconds, unless the name says _ms. Names may be "
    "added, and are not changed. Where a token is configured, each request has to send it; where none is, nothing "
    "can be changed."
)

FAILED = (
    "Why there is no answer: 400 a field is wrong, 401 the token is missing or wrong, 403 nothing can be changed here, "
    "404 it is not there or cannot be seen from here, 405 another method is needed, 409 somebody else acts just now, "
    "413 the body is too long, 503 Redis or the broker is away."
)


class Schemas:
    """The schemas of all types that answers have."""

    def __init__(self) -> None:
        self.named: dict[str, Schema] = {}

    def of(self, kind: Any) -> Schema:
        """Return the schema of a type."""
        if kind in PLAIN:
            return PLAIN[kind]
        origin, args = get_origin(kind), get_args(kind)
        if origin in (Union, types.UnionType):
            return {"anyOf": [self.of(one) for one in args]}
        if origin in (list, tuple):
            return {"type": "array", "items": self.of(args[0])}
        if isinstance(origin, type) and issubclass(origin, Mapping):
            keys, values = args
            more = {} if values is Any else {"propertyNames": self.of(keys), "additionalProperties": self.of(values)}
            return {"type": "object", **more}
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            meanings = [f"{one.value}: {said}" for one in kind if (said := comment(kind, one.name))]
            schema = {"type": "string", "enum": [one.value for one in kind], **described(" ".join(meanings))}
        elif isinstance(kind, type) and is_dataclass(kind):
            schema = self._of_view(kind)
        else:
            raise TypeError(f"{kind} has no schema yet.")
        self.named[kind.__name__] = schema
        return {"$ref": f"#/components/schemas/{kind.__name__}"}

    def _of_view(self, view: Any) -> Schema:
        hints = get_type_hints(view)
        properties = {
            field.name: {**self.of(hints[field.name]), **described(comment(view, field.name))} for field in fields(view)
        }
        if view is Event:  # see `documents.document`
            del properties["name"]
            properties["kind"] = {"type": "string", "description": "The kind of the event, as it is written."}
            properties["text"] = {"type": "string", "description": "What happened, in a few words."}
        return {
            "type": "object",
            **described(inspect.getdoc(view) or ""),
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }


def described(text: str) -> Schema:
    """Return the description that a text is: its first paragraph, in one line."""
    text = " ".join(text.partition("\n\n")[0].split())
    return {"description": text} if text else {}


@functools.cache
def comments(module: str) -> Mapping[tuple[str, str], list[str]]:
    """Return the comments of all fields of a module's classes."""
    return ModuleAnalyzer.for_module(module).find_attr_docs()


def comment(view: type, field: str) -> str:
    """Return the comment of a field of a view, or of a class that it is made of."""
    ours = (one for one in view.__mro__ if one.__module__.startswith("dramatiq_inflight."))
    found = (comments(one.__module__).get((one.__name__, field)) for one in ours)
    return "\n".join(next((lines for lines in found if lines), []))


def answer(schema: Schema, text: str) -> Schema:
    """Return a response."""
    return {"description": text, "content": {"application/json": {"schema": schema}}}


def operation(route: Route, schemas: Schemas) -> Schema:
    """Return what is done at an address."""
    given = get_type_hints(route.run)["return"]
    kinds = get_args(given) if get_origin(given) in (Union, types.UnionType) else (given,)
    refused = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Error)]
    done = schemas.of(functools.reduce(lambda one, other: one | other, [kind for kind in kinds if kind not in refused]))
    responses = {"200": answer(done, "The answer.")}
    for kind in refused:
        responses["202"] = answer(done, "It is taken; the workers' recovery enqueues it once the broker is back.")
        for status in ("404", "409"):
            responses[status] = answer(schemas.of(kind), "Nothing was done.")
    responses["default"] = answer(schemas.of(Error), FAILED)
    found: Schema = {
        "operationId": route.run.__name__,
        "summary": (inspect.getdoc(route.run) or "").partition("\n")[0],
        "security": [{"token": []}] if route.changes else [{}, {"token": []}],
    }
    if route.changes:
        body = {
            "type": "object",
            "properties": {field.name: {**field.schema, "description": field.meaning} for field in route.fields},
            "required": [field.name for field in route.fields if field.is_required],
            "additionalProperties": False,
        }
        found["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    elif route.fields:
        found["parameters"] = [
            {
                "name": field.name,
                "in": "query",
                "description": field.meaning,
                "required": field.is_required,
                "schema": field.schema,
            }
            for field in route.fields
        ]
    return {**found, "responses": responses}


def made() -> str:
    """Return the description, as the routes and the views say it."""
    schemas = Schemas()
    paths = {route.path: {"post" if route.changes else "get": operation(route, schemas)} for route in ROUTES}
    document = {
        "openapi": "3.1.0",
        "info": {"title": "dramatiq_inflight", "version": "1", "description": INTRODUCTION, "license": {"name": "MIT"}},
        # As seen from this file, wherever the page is mounted.
        "servers": [{"url": "../api"}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": dict(sorted(schemas.named.items())),
        },
    }
    return json.dumps(document, indent=2) + "\n"


def write() -> None:
    """Write the description into the package."""
    api.OPENAPI.write_text(made(), "utf-8")


if __name__ == "__main__":
    write()
