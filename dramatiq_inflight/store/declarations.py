# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The keys and arguments of each script, by name: a script's header declares them, for Lua and for Python alike.

A header says::

    --@ keys  record_key running [broker_acks broker_messages]
    --@ args  me ttl:ms id redelivered:flag
    --@ rows  record_key | id held:flag

`Declaration.prelude` makes these the names of local variables in Lua; `Declaration.pack` takes them as keywords in
Python.  Keys in brackets are given all, or none of them.  Rows are what a script is given several of: in Lua the table
`rows`, each row with a field for each of its names.

A script may have a short way: a line ``--@ common`` says where common.lua comes, which takes longer than the ordinary
case itself.  The text above that line knows its keys and arguments, and nothing else.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from importlib.resources import files
from typing import Any, Final, NamedTuple

__all__ = ["COMMON", "DECLARATIONS", "SCRIPTS", "SOURCES", "Argument", "Declaration", "assembled", "flag"]


def flag(value: bool) -> str:
    """As the scripts are given a yes or no."""
    return "1" if value else "0"


def _maybe(value: bool | None) -> str:
    return "" if value is None else flag(value)


#: How each type of argument reads in Lua.  ``ms``: a time, or a duration.  ``bit``: 0 or 1, as a record has it.
#: ``maybe``: a flag, or nil where it is not known.  ``limit``: a number or a word.
IN_LUA: Final = {
    "": "{0}",
    "int": "tonumber({0})",
    "bit": "tonumber({0})",
    "ms": "tonumber({0})",
    "limit": "tonumber({0}) or {0}",
    "flag": "{0} == '1'",
    "maybe": "({{['0'] = false, ['1'] = true}})[{0}]",
}

#: Python's conversion of a value, where redis-py would not do the right thing by itself.
TO_TEXT: Final[Mapping[str, Callable[[Any], str]]] = {"flag": flag, "bit": flag, "maybe": _maybe}


class Argument(NamedTuple):
    """One argument, or one of each row."""

    name: str
    type: str = ""

    @classmethod
    def of(cls, word: str) -> Argument:
        """Read it as a header has it.

        Raises:
          ValueError: Nobody knows its type.
        """
        name, _, type = word.partition(":")
        if type not in IN_LUA:
            raise ValueError(f"{word}: there is no type {type!r}")
        return cls(name, type)


class Declaration:
    """The keys and arguments of one script.

    Parameters:
      script: Its name, for errors.
      text: The script, or its header.

    Raises:
      ValueError: The header is not as it must be.
    """

    def __init__(self, script: str, text: str) -> None:
        parts: dict[str, list[str]] = {"keys": [], "args": [], "rows": []}
        for part, words in re.findall(r"^--@ +(\w+) +(.*)$", text, re.MULTILINE):
            if part not in parts:
                raise ValueError(f"{script}: a header declares keys, args or rows, and not {part!r}")
            parts[part] += words.split()
        needed, _, optional = " ".join(parts["keys"]).partition("[")
        row_key, _, row_args = " ".join(parts["rows"]).partition("|")
        self.script: Final = script
        self.keys: Final = tuple(needed.split())
        #: All of these are given, or none.
        self.optional_keys: Final = tuple(optional.rstrip("]").split())
        self.args: Final = tuple(map(Argument.of, parts["args"]))
        #: Empty: rows have none.
        self.row_key: Final = row_key.strip()
        #: Empty: there are no rows.
        self.row_args: Final = tuple(map(Argument.of, row_args.split()))
        names = [*self.keys, *self.optional_keys, *(arg.name for arg in self.args)]
        if len({*names, "rows"}) <= len(names) or (self.optional_keys and self.row_key):
            raise ValueError(f"{script}: a name is there twice, or keys in brackets are followed by those of rows")
        self.names: Final = frozenset(names)
        self._needed: Final = self.names - {*self.optional_keys}
        self._row_names: Final = frozenset([self.row_key or "", *(arg.name for arg in self.row_args)]) - {""}

    @cached_property
    def prelude(self) -> str:
        """The Lua code that names the keys and arguments."""
        return self._naming(self._values) + self._rows()

    def prelude_of(self, code: str) -> str:
        """Return the part of the prelude for the names in this code."""
        words = {*re.findall(r"\w+", re.sub(r"--.*", "", code))}
        return self._naming({name: value for name, value in self._values.items() if name in words})

    @cached_property
    def _values(self) -> dict[str, str]:
        values = {name: f"KEYS[{i}]" for i, name in enumerate((*self.keys, *self.optional_keys), 1)}
        return values | {arg.name: _in_lua(arg, f"ARGV[{i}]") for i, arg in enumerate(self.args, 1)}

    @staticmethod
    def _naming(values: Mapping[str, str]) -> str:
        named = f"local {', '.join(values)} = {', '.join(values.values())}" if values else ""
        return textwrap.fill(named, 120, subsequent_indent="    ") + "\n"

    def _rows(self) -> str:
        if not self.row_args:
            return ""
        size, first = len(self.row_args), len(self.args)
        fields = [f"{self.row_key} = KEYS[{len(self.keys)} + i]"] if self.row_key else []
        fields += [f"{arg.name} = {_in_lua(arg, f'ARGV[at + {i}]')}" for i, arg in enumerate(self.row_args, 1)]
        return (
            f"local rows = {{}}\n"
            f"for i = 1, (#ARGV - {first}) / {size} do\n"
            f"    local at = {first} + {size} * (i - 1)\n"
            f"    rows[i] = {{{', '.join(fields)}}}\n"
            f"end\n"
        )

    def pack(
        self, named: Mapping[str, Any], rows: Iterable[Mapping[str, Any]] | None = None
    ) -> tuple[list[Any], list[Any]]:
        """The keys and the arguments in their order.

        Parameters:
          named: Keys and arguments.  Keys in brackets may be missing, or ``None``: there are none.
          rows: A mapping for each row, if the script takes rows.

        Raises:
          TypeError: One is missing, or has a name that the script does not declare.
        """
        optional = [named[name] for name in self.optional_keys if named.get(name) is not None]
        if not self._needed <= named.keys() <= self.names or len(optional) not in (0, len(self.optional_keys)):
            raise TypeError(self._wrong(named, self._needed, self.names))
        if (rows is None) == bool(self.row_args):
            raise TypeError(f"{self.script} takes {'' if self.row_args else 'no '}rows")
        keys = [*(named[name] for name in self.keys), *optional]
        args = _packed(self.args, named)
        for row in rows or ():
            if row.keys() != self._row_names:
                raise TypeError(self._wrong(row, self._row_names, self._row_names))
            if self.row_key:
                keys.append(row[self.row_key])
            args += _packed(self.row_args, row)
        return keys, args

    def _wrong(self, named: Mapping[str, Any], needed: frozenset[str], known: frozenset[str]) -> str:
        return f"{self.script} lacks {sorted(needed - named.keys())}, and does not take {sorted(named.keys() - known)}"


def _in_lua(arg: Argument, value: str) -> str:
    return IN_LUA[arg.type].format(value)


def _packed(arguments: Iterable[Argument], named: Mapping[str, Any]) -> list[Any]:
    return [TO_TEXT[type](named[name]) if type in TO_TEXT else named[name] for name, type in arguments]


def _load() -> tuple[str, dict[str, str]]:
    folder = files(__package__).joinpath("lua")
    own = [entry for part in folder.iterdir() if part.is_dir() for entry in part.iterdir()]
    texts = {entry.name.removesuffix(".lua"): entry.read_text("utf-8") for entry in own}
    return folder.joinpath("common.lua").read_text("utf-8"), texts


_common, _texts = _load()

#: The part that all scripts share.
COMMON: Final = _common

#: The text of each script as its file has it.
SOURCES: Final[Mapping[str, str]] = _texts

#: By the name of the script.
DECLARATIONS: Final[Mapping[str, Declaration]] = {name: Declaration(name, text) for name, text in _texts.items()}


def assembled(script: str, source: str, common: str = COMMON) -> str:
    """The text of a script as Redis gets it."""
    declaration = DECLARATIONS[script]
    short, mark, rest = source.rpartition("--@ common\n")
    short = f"do\n{declaration.prelude_of(short)}{short}end\n" if mark else ""
    return short + common + declaration.prelude + rest


#: The text of each script as Redis gets it.
SCRIPTS: Final[Mapping[str, str]] = {name: assembled(name, text) for name, text in SOURCES.items()}
