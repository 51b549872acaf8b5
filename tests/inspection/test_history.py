# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The kinds of events: declared once, written by the scripts, and shown."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import dramatiq_inflight
from dramatiq_inflight import EventKind

pytestmark = pytest.mark.once

PACKAGE = Path(dramatiq_inflight.__file__).parent


def test_the_scripts_write_each_kind_of_event_and_no_other() -> None:
    scripts = "".join(path.read_text("utf-8") for path in PACKAGE.rglob("*.lua"))
    places = re.findall(r"\bnote(?:_message|_worker)?\([^,]+,[^,]+,([^,]+),", scripts)
    places += re.findall(r"\bevent = (.+)", scripts)
    written = {name for place in places for name in re.findall(r"'([a-z_]+)'", place)}
    assert written == {kind.value for kind in EventKind}


@pytest.mark.parametrize("kind", EventKind, ids=lambda kind: kind.value)
def test_every_kind_of_event_has_a_description_and_a_group(kind: EventKind) -> None:
    assert kind.said
    assert str(kind.__doc__).endswith(".")
    assert kind.groups
    marks = (PACKAGE / "dashboard" / "templates" / "marks.html").read_text("utf-8")
    assert f'id="mark-{kind.mark}"' in marks
