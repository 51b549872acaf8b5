# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Plain language, as far as a program can check it: docstrings, lines of the docs, subjects of commits."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).parents[2]
FOLDERS = ("dramatiq_inflight", "tests", "benchmarks", "chaos", "docs", "examples")

#: The share of a text's sentences that may open with a relative noun phrase: "Who waits runs", "What failed is told".
SHARE = 0.005

#: A sentence that opens with one.  "Such as" and questions are fine.
BARE = re.compile(r"(?:What|Who|Whoever|Of|Those|Such)\b(?! as\b)[^?]*$", re.DOTALL)

#: The longest line of a page, and the longest subject of a commit.
LINE, SUBJECT = 160, 60

#: A line of a log stands on its page as it is logged, so that a search finds it.
ONE_LITERAL = re.compile(r"``[^`]+``")

#: The last commit before subjects were checked.
SINCE = "9a751a5b250caa62596548140900d5e978745fe1"


def docstrings(source: str) -> Iterator[str]:
    """Yield the docstring of a module, and of each class and function in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from filter(None, [ast.get_docstring(node)])


def sentences(text: str) -> list[str]:
    """Split a text into its sentences: at full stops, paragraphs, entries of a list and arguments."""
    paragraphs = re.split(r"\n\s*\n|\n\s*(?=[*-] )|\n\s*(?=\w+: )", text)
    found = [
        sentence.removeprefix("* ")
        for paragraph in paragraphs
        for sentence in re.split(r"(?<=[.!?:])\s+(?=[A-Z`*\"])", " ".join(paragraph.split()))
    ]
    return [sentence for sentence in found if re.search(r"\w", sentence)]


def pages() -> list[Path]:
    """Return the pages that people write."""
    written = [*ROOT.glob("*.rst"), *(ROOT / "docs").rglob("*.rst"), *(ROOT / "examples").rglob("*.rst")]
    by_programs = (ROOT / "docs" / "_build", ROOT / "docs" / "benchmarks")
    return [path for path in written if not any(path.is_relative_to(folder) for folder in by_programs)]


def test_few_sentences_of_docstrings_open_with_a_bare_pronoun() -> None:
    sources = [ROOT / "noxfile.py", *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]
    said = [
        (path.relative_to(ROOT).as_posix(), sentence)
        for path in sources
        for text in docstrings(path.read_text("utf-8"))
        for sentence in sentences(text)
    ]
    assert len(said) > 5000
    bare = [f"{name}: {sentence}" for name, sentence in said if BARE.match(sentence)]
    assert len(bare) / len(said) <= SHARE, "\n".join(bare)


def test_no_line_of_a_page_is_longer_than_a_screen() -> None:
    assert len(pages()) > 40
    assert [
        f"{path.relative_to(ROOT)}:{number}: {len(line)} characters"
        for path in pages()
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if len(line) > LINE and not ONE_LITERAL.fullmatch(line)
    ] == []


def git(*args: str) -> subprocess.CompletedProcess[str]:
    command = ["git", "-c", "safe.directory=*", "-C", str(ROOT), *args]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_subjects_of_commits_are_short() -> None:
    """In a shallow clone that ends before `SINCE`, all commits are newer."""
    try:
        shallow = git("rev-parse", "--is-shallow-repository").stdout.strip()
    except FileNotFoundError:
        pytest.skip("git is not installed")
    if not shallow or not (ROOT / ".git").exists():
        pytest.skip("this is no clone")
    is_here = git("merge-base", "--is-ancestor", SINCE, "HEAD").returncode == 0
    assert is_here or shallow == "true", f"{SINCE} is no ancestor of HEAD: name another commit in SINCE"
    subjects = git("log", "--no-merges", "--format=%s", *([f"{SINCE}..HEAD"] if is_here else ["HEAD"])).stdout
    assert [subject for subject in subjects.splitlines() if len(subject) > SUBJECT] == []


@pytest.mark.parametrize(
    ("sentence", "is_bare"),
    [
        ("Who waits for longer runs in company.", True),
        ("Of a dead worker, its queue.", True),
        ("Those that wait.", True),
        ("Such as these.", False),
        ("What is it?", False),
        ("Whose it is.", False),
        ("A worker that waits.", False),
    ],
)
def test_a_bare_pronoun_is_recognised(sentence: str, is_bare: bool) -> None:
    assert bool(BARE.match(sentence)) is is_bare


def test_a_text_is_split_into_sentences() -> None:
    text = "One. Two: three\nfour.\n\nFive\n* ``six``. Seven\n\nArgs:\n  eight: Nine."
    assert sentences(text) == ["One.", "Two: three four.", "Five", "``six``.", "Seven", "Args:", "eight:", "Nine."]
