# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""The build of the site notices each defect of the documentation, shown in a small one."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

from docs.code import READERS, UNCHECKED, fault

pytestmark = pytest.mark.once


def built(folder: Path, **pages: str) -> tuple[str, str]:
    """Build a site of an index and some pages: what was complained of, and the index as HTML."""
    toctree = "".join(f"   {name}\n" for name in pages)
    (folder / "conf.py").write_text("", "utf-8")
    index = f"{pages.pop('index', '')}\n\n.. toctree::\n\n{toctree}"
    for name, text in {**pages, "index": f"Index\n=====\n\n{index}".replace("   index\n", "")}.items():
        (folder / f"{name}.rst").write_text(text, "utf-8")
    warnings = io.StringIO()
    overrides = {"extensions": ["docs.extension"], "html_theme": "basic", "nitpicky": True}
    out = folder.parent / "site"
    with docutils_namespace():
        app = Sphinx(folder, folder, out, out / "trees", "html", overrides, status=None, warning=warnings)
        app.build(force_all=True)
    return warnings.getvalue(), (out / "index.html").read_text("utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


OTHER = "Other\n=====\n\nA section\n---------\n\nText.\n"


def test_links_to_files_lead_to_pages_sections_and_downloads(folder: Path) -> None:
    (folder / "alerts.yml").write_text("a: 1", "utf-8")
    text = "`One <other.rst>`_, `two <other.rst#a-section>`_, `three <alerts.yml>`_, `four <https://example.org/>`_."
    warnings, html = built(folder, index=text, other=OTHER)
    assert warnings == ""
    for link in ('href="other.html"', 'href="other.html#a-section"', "alerts.yml", 'href="https://example.org/"'):
        assert link in html


def test_a_link_by_a_files_name_shows_the_pages_title(folder: Path) -> None:
    warnings, html = built(
        folder, index="`docs/other.rst <other.rst#a-section>`_ and `another word <other.rst>`_", other=OTHER
    )
    assert warnings == ""
    text = re.sub(r"<[^>]+>", "", html)
    assert "Other and another word" in text
    assert "other.rst" not in text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("`A page <another.rst>`_", "download file not readable"),
        ("`A section <other.rst#b-section>`_", "page 'other' has no section 'b-section'"),
        ("`A section <#nowhere>`_", "page 'index' has no section 'nowhere'"),
        ("`A file <nothing.json>`_", "download file not readable"),
        ("``tests/test_nothing.py``", "the repository has no tests/test_nothing.py"),
        (".. code-block:: python\n\n   def f(:", "this is no python"),
        (".. code-block:: cobol\n\n   MOVE", "nobody checks 'cobol'"),
        (".. image:: nothing.png\n   :alt: It", "image file not readable"),
        (".. image:: shown.svg", "does not say what it shows"),
    ],
)
def test_a_defect_is_noticed(folder: Path, text: str, complaint: str) -> None:
    (folder / "shown.svg").write_text("<svg/>", "utf-8")
    warnings, _ = built(folder, index=text + "\n\n.. image:: shown.svg\n   :alt: It\n", other=OTHER)
    assert warnings.count("WARNING") == 1
    assert complaint in warnings


def test_a_picture_that_no_page_shows_is_noticed(folder: Path) -> None:
    (folder / "hidden.svg").write_text("<svg/>", "utf-8")
    warnings, _ = built(folder, other=OTHER)
    assert "no page shows hidden.svg" in warnings


def test_a_glossary_is_one(folder: Path) -> None:
    text = ".. rst-class:: glossary\n\nrecord\n    What is known.\n\nSee :term:`record`, and :term:`nothing`.\n"
    warnings, html = built(folder, index=text, other=OTHER)
    assert warnings.count("WARNING") == 1
    assert "term not in glossary: 'nothing'" in warnings
    assert 'href="#term-record"' in html


GOOD = {
    "python": "x = await f()\n",
    "yaml": "a: 1\n---\nb: [2]\n",
    "json": '{"a": 1}',
    "toml": "[a]\nb = 1\n",
    "ini": "[Service]\nEnvironment=A=1\nEnvironment=B=%n\n",
    "console": "$ for i in 1 2; do \\\n  echo $i; done\n1\n2\n",
    **dict.fromkeys(("bash", "sh", "shell"), "for i in 1 2; do echo $i; done\n"),
}
BAD = {
    "python": "x = = 1",
    "yaml": "a: [1",
    "json": "{'a': 1}",
    "toml": "a = ",
    "ini": "no section",
    "console": "$ for i in 1 2; do\n1\n",
    **dict.fromkeys(("bash", "sh", "shell"), "for i in 1 2; do"),
}


@pytest.mark.parametrize("language", sorted(READERS))
def test_code_is_read_by_those_who_read_its_language(language: str) -> None:
    assert fault(language, GOOD[language]) == ""
    assert fault(language, BAD[language]).startswith(f"this is no {language}: ")


def test_a_terminal_shows_a_command_and_a_text_says_anything() -> None:
    assert "no line begins" in fault("console", "1\n2\n")
    assert {fault(language, "( [ {") for language in UNCHECKED} == {""}
