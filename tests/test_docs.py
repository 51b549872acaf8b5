# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The documentation: well-formed, and its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from docutils.core import publish_doctree

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.rst"), *(ROOT / "docs").glob("*.rst")])


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_is_well_formed(path: Path) -> None:
    strict = {"report_level": 2, "halt_level": 2, "warning_stream": False}
    publish_doctree(path.read_text("utf-8"), source_path=str(path), settings_overrides=strict)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_links_to_other_files_lead_there(path: Path) -> None:
    for link in re.findall(r"`[^`<]+<([^>]+)>`_", path.read_text("utf-8")):
        assert "://" in link or (path.parent / link).exists(), link
