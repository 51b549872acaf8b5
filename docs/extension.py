# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""What Sphinx lacks for these pages; each defect is a warning, and warnings are errors (``nox -s docs``).

* Links to files, as the repository shows them (``brokers.rst#rabbitmq``), lead to pages and their sections, or are
  downloads.
* A definition list under ``.. rst-class:: glossary`` is a glossary.
* Code blocks are read by whoever reads their language.
* Files of the repository that are named exist; every picture is shown somewhere, and says what it shows.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.domains.std import make_glossary_term
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging

from .code import fault

__all__ = ["setup"]

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[1]

#: A literal that names a file or folder of the repository.
PATH = re.compile(r"(docs|tests|chaos|examples|benchmarks|dramatiq_inflight)/[\w./-]*")

PICTURES = (".png", ".svg")


class Downloads(SphinxTransform):
    """A link to a file that is no page: the site takes the file along, and Sphinx says if there is none."""

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        for link in list(self.document.findall(nodes.reference)):
            path, _ = _local(link)
            if path and _page(self.env, path) is None:
                link.replace_self(addnodes.download_reference("", "", *link.children, reftarget=path))


class Pages(SphinxPostTransform):
    """A link to the file of a page leads to the page."""

    default_priority = 5

    def run(self, **kwargs: Any) -> None:
        for link in self.document.findall(nodes.reference):
            path, anchor = _local(link)
            if not path and not anchor:
                continue
            here = self.env.docname
            page = _page(self.env, path) if path else here
            assert page is not None  # else it were a download
            if anchor and anchor not in _anchors(self.env.get_doctree(page)):
                logger.warning("page %r has no section %r", page, anchor, location=link)
            else:
                uri = self.app.builder.get_relative_uri(here, page) if path else ""
                link["refuri"] = uri + (f"#{anchor}" if anchor else "")
                link["internal"] = True


class Glossaries(SphinxTransform):
    """Definition lists that are glossaries: their terms can be referred to, and are in the index."""

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        for found in list(self.document.findall(nodes.definition_list)):
            if "glossary" not in found["classes"]:
                continue
            for term in found.findall(nodes.term):
                made = make_glossary_term(
                    self.env, term.children, None, term.source, term.line, None, self.document  # type: ignore[arg-type]
                )
                term.replace_self(made)
            glossary = addnodes.glossary("", sorted=False)
            found.replace_self(glossary)
            glossary += found


def _local(link: nodes.reference) -> tuple[str, str]:
    """The path and the anchor of a link that has no address of another site."""
    uri = str(link.get("refuri", ""))
    if link.get("internal") or re.match(r"[a-z]+:", uri):
        return "", ""
    path, _, anchor = uri.partition("#")
    return path, anchor


def _page(env: BuildEnvironment, path: str) -> str | None:
    """The page that a file is, if it is one."""
    found = env.path2doc(env.relfn2path(path, env.docname)[0])
    return found if found in env.found_docs else None


def _anchors(page: nodes.document) -> set[str]:
    return {name for node in page.findall(nodes.Element) for name in node["ids"]}


def check_page(app: Sphinx, page: nodes.document) -> None:
    """What a page shows, and what it names."""
    for block in page.findall(nodes.literal_block):
        what = fault(block.get("language", "text"), block.astext())
        if what:
            logger.warning("%s", what, location=block)
    for literal in page.findall(nodes.literal):
        text = literal.astext()
        if PATH.fullmatch(text) and not (ROOT / text).exists():
            logger.warning("the repository has no %s", text, location=literal)
    for picture in page.findall(nodes.image):
        if not picture.get("alt"):
            logger.warning("a picture does not say what it shows (:alt:)", location=picture)


def check_pictures(app: Sphinx, env: BuildEnvironment) -> None:
    """Whether each picture is shown."""
    shown = set(env.images)
    built = posixpath.join("_build", "")
    for path in sorted(Path(app.srcdir).rglob("*")):
        name = path.relative_to(app.srcdir).as_posix()
        if path.suffix in PICTURES and not name.startswith(built) and name not in shown:
            logger.warning("no page shows %s", name)


def setup(app: Sphinx) -> dict[str, Any]:
    """Become a part of Sphinx."""
    app.add_transform(Downloads)
    app.add_transform(Glossaries)
    app.add_post_transform(Pages)
    app.connect("doctree-read", check_page)
    app.connect("env-check-consistency", check_pictures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
