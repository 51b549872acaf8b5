# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The headers of the scripts declare their keys and arguments, for Lua and for Python alike."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import redis

from dramatiq_inflight.delivery import Copy
from dramatiq_inflight.store.declarations import COMMON, DECLARATIONS, SOURCES, Declaration
from dramatiq_inflight.store.scripts import ms
from dramatiq_inflight.store.store import Store
from dramatiq_inflight.store.transport import Call
from tests.support.lab import Lab

#: A value for Python of each type, and what Lua makes of it.
VALUES: dict[str, list[tuple[Any, Any]]] = {
    "": [("text", "text"), ("", "")],
    "int": [(7, 7), (-1, -1)],
    "ms": [(1_764_517_000_123, 1_764_517_000_123)],
    "bit": [(True, 1), (False, 0)],
    "flag": [(True, True), (False, False)],
    "maybe": [(True, True), (False, False), (None, None)],
    "limit": [(3, 3), ("once", "once")],
}

#: All that a header may declare, with one argument of each type.
EVERYTHING = """
--@ keys  one_key other_key
--@ args  a b:int c:ms d:bit
--@ args  e:flag f:maybe g:limit
--@ rows  row_key | h i:int j:flag
"""


@pytest.mark.parametrize("script", DECLARATIONS)
def test_a_script_takes_what_it_declares_by_its_name(script: str) -> None:
    declared, code = DECLARATIONS[script], re.sub(r"--.*", "", SOURCES[script])
    assert not re.findall(r"\b(?:KEYS|ARGV)\b", code)
    unused = [name for name in declared.names if not re.search(rf"(?<!\.)\b{name}\b", code)]
    fields = [declared.row_key, *(arg.name for arg in declared.row_args)] if declared.row_args else []
    unused += [name for name in fields if name and f"row.{name}" not in code]
    assert not unused


@pytest.mark.parametrize("script", DECLARATIONS)
def test_no_argument_hides_what_all_scripts_have_in_common(script: str) -> None:
    common = {
        name for names in re.findall(r"^local (?:function )?([\w, ]+)", COMMON, re.M) for name in names.split(", ")
    }
    assert len(common) > 50
    assert not DECLARATIONS[script].names & common


def test_lua_gets_by_name_what_python_gives_by_name(client: redis.Redis) -> None:
    declaration = Declaration("everything", EVERYTHING)
    assert {arg.type for arg in (*declaration.args, *declaration.row_args)} == VALUES.keys()
    names = ["one_key", "other_key", *(arg.name for arg in declaration.args)]
    said = ", ".join(f"{name} = {name}" for name in names)
    script = f"{declaration.prelude}return cjson.encode({{{said}, rows = rows}})"
    for turn in range(3):
        named, expected = {"one_key": "{x}1", "other_key": "{x}2"}, {"one_key": "{x}1", "other_key": "{x}2"}
        for arg in declaration.args:
            values = VALUES[arg.type]
            named[arg.name], expected[arg.name] = values[turn % len(values)]
        rows = [{"row_key": f"{{x}}{n}", "h": str(n), "i": n, "j": n % 2 == 0} for n in range(turn)]
        keys, args = declaration.pack(named, rows)
        got = json.loads(client.eval(script, len(keys), *keys, *args))
        assert got == {**{name: value for name, value in expected.items() if value is not None}, "rows": rows or {}}


def test_lines_of_lua_are_as_short_as_those_of_python() -> None:
    """The scripts for luacheck also have the lines that the declarations become."""
    texts = [COMMON, *SOURCES.values()]
    assert [line for text in texts for line in text.splitlines() if len(line) > 120] == []


def test_keys_in_brackets_are_given_all_or_none() -> None:
    declaration = Declaration("some", "--@ keys  a [b c]\n--@ args  d")
    given = {"a": "A", "d": "D"}
    assert declaration.pack(given) == (["A"], ["D"])
    assert declaration.pack({**given, "b": None, "c": None}) == (["A"], ["D"])
    assert declaration.pack({**given, "b": "B", "c": "C"}) == (["A", "B", "C"], ["D"])
    with pytest.raises(TypeError):
        declaration.pack({**given, "b": "B"})


@pytest.mark.parametrize(
    "wrong", [{}, {"a": "", "b": 1}, {"a": "", "b": 1, "k": "", "x": 0}, {"a": "", "x": 1, "k": ""}]
)
def test_a_wrong_or_missing_name_is_an_error(wrong: dict[str, Any]) -> None:
    declaration = Declaration("some", "--@ keys  k\n--@ args  a b:int")
    assert declaration.pack({"a": "", "b": 1, "k": "key"}) == (["key"], ["", 1])
    with pytest.raises(TypeError, match="some lacks"):
        declaration.pack(wrong)


@pytest.mark.parametrize("wrong", [{}, {"a": ""}, {"r": "", "a": "", "b": ""}])
def test_a_wrong_or_missing_name_in_a_row_is_an_error(wrong: dict[str, Any]) -> None:
    declaration = Declaration("some", "--@ rows  r | a")
    assert declaration.pack({}, [{"r": "key", "a": "x"}]) == (["key"], ["x"])
    with pytest.raises(TypeError, match="some lacks"):
        declaration.pack({}, [{"r": "key", "a": "x"}, wrong])
    with pytest.raises(TypeError, match="takes rows"):
        declaration.pack({})
    with pytest.raises(TypeError, match="takes no rows"):
        Declaration("other", "--@ keys  k").pack({"k": ""}, [])


@pytest.mark.parametrize(
    "header", ["--@ keys  a a", "--@ args  a:float", "--@ values  a", "--@ keys  [a]\n--@ rows  r | b"]
)
def test_a_header_that_nobody_can_read_is_an_error(header: str) -> None:
    with pytest.raises(ValueError, match=r"some: |there is no type"):
        Declaration("some", header)


# The two whose lists stand in full, because every message pays for them.


class Sent(Exception):
    """In the place of an answer."""


def sent_by(a: Store, monkeypatch: pytest.MonkeyPatch, act: Any) -> tuple[list[Any], list[Any]]:
    """Keys and arguments of the script that `act` runs."""
    sent: list[Call] = []

    def exchange(calls: Any) -> Any:
        sent.extend(calls)
        raise Sent

    monkeypatch.setattr(a.scripts.wire, "exchange", exchange)
    with pytest.raises(Sent):
        act()
    return list(sent[0].keys), list(sent[0].args)


COPY = Copy("m", 2, "o1", "c1", True, "q", "act", True, tries=5, fence=99, condemned=True)


@pytest.mark.parametrize("alone", [True, False, None])
@pytest.mark.parametrize("broker", [(), ("{x}acks", "{x}msgs")])
def test_the_list_of_a_start_is_as_declared(
    lab: Lab, a: Store, monkeypatch: pytest.MonkeyPatch, alone: bool | None, broker: tuple[str, ...]
) -> None:
    acks, messages = broker or (None, None)
    for tailored, forgotten in ((True, False), (False, True)):
        sent = sent_by(
            a,
            monkeypatch,
            lambda tailored=tailored, forgotten=forgotten: a.messages.start(
                COPY,
                b"payload",
                limit=3,
                here="ended",
                forgotten=forgotten,
                alone=alone,
                tailored=tailored,
                broker_keys=broker,
            ),
        )
        assert sent == a.scripts.pack(
            "start",
            record_key=a.keys.record("m"),
            running=a.keys.running("a"),
            broker_acks=acks,
            broker_messages=messages,
            id="m",
            generation=2,
            origin="o1",
            redelivered=True,
            here="ended",
            queue="q",
            actor="act",
            limit=3,
            copy="c1",
            payload=b"payload",
            duplicate=True,
            forgotten=forgotten,
            alone=alone,
            tailored=tailored,
            condemned=COPY.condemned,
            enqueued_by=COPY.fence,
            tries=COPY.tries,
            due=True,
        )


@pytest.mark.parametrize("flags", [(True, False, False), (False, True, False), (False, False, True)])
@pytest.mark.parametrize("broker", [(), ("{x}acks", "{x}msgs")])
def test_the_list_of_a_finish_is_as_declared(
    lab: Lab, a: Store, monkeypatch: pytest.MonkeyPatch, flags: tuple[bool, bool, bool], broker: tuple[str, ...]
) -> None:
    again, contended, unacked = flags
    acks, messages = broker or (None, None)
    sent = sent_by(
        a,
        monkeypatch,
        lambda: a.messages.complete(
            *(COPY, 7),
            again=again,
            contended=contended,
            unacked=unacked,
            started_ms=123,
            remember=9.0,
            broker_keys=broker,
        ),
    )
    assert sent == a.scripts.pack(
        "complete",
        record_key=a.keys.record("m"),
        running=a.keys.running("a"),
        checkpoint=a.keys.checkpoint("m"),
        broker_acks=acks,
        broker_messages=messages,
        id="m",
        run=7,
        origin="o1",
        again=again,
        contended=contended,
        copy="c1",
        generation=2,
        unacked=unacked,
        remember=ms(9.0),
        started=123,
        due=True,
    )
