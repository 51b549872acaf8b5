# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""Sphinx extensions for these pages; each defect is a warning, and warnings are errors (``nox -s docs``).

* Links to files, as the repository shows them (``brokers.rst#rabbitmq``), lead to pages and their sections, or are
  downloads.
* A definition list under ``.. rst-class:: glossary`` is a glossary.
* Code blocks are read by whoever reads their language.
* Files of the repository that are named exist; every picture is shown somewhere, and says what it shows.
"""

from __future__ import annotations

import enum
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
from sphinx.util import logging
from sphinx.util.nodes import make_refnode

from .code import fault

__all__ = ["setup"]

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[1]

#: A literal that names a file or folder of the repository.
PATH = re.compile(r"(docs|tests|chaos|examples|benchmarks|dramatiq_inflight)/[\w./-]*")

PICTURES = (".png", ".svg")

#: What the links are called that lead to pages, between `Links` and `lead`.
PAGE = "page-file"


class Links(SphinxTransform):
    """Links to files lead to pages and their sections; if a file is no page, the site takes it along.

    Whether there is such a file is for Sphinx to say, and whether there is such a section for `lead`.
    """

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        for link in list(self.document.findall(nodes.reference)):
            uri = str(link.get("refuri", ""))
            if not uri or re.match(r"[a-z]+:", uri):
                continue
            path, _, anchor = uri.partition("#")
            page = self.env.path2doc(self.env.relfn2path(path)[0]) if path else self.env.docname
            made: nodes.Element
            if page in self.env.found_docs:
                made = addnodes.pending_xref("", reftype=PAGE, refdomain="", reftarget=page, anchor=anchor)
                made["refdoc"], made.line, made.source = self.env.docname, link.line, link.source
                made += nodes.inline("", "", *link.children)
            else:
                made = addnodes.download_reference("", "", *link.children, reftarget=path)
            link.replace_self(made)


def lead(app: Sphinx, env: BuildEnvironment, link: addnodes.pending_xref, shown: nodes.Element) -> nodes.Element | None:
    """Lead a link to its page, and to the section if there is one."""
    if link["reftype"] != PAGE:
        return None
    page, anchor = link["reftarget"], link["anchor"]
    if anchor and not any(anchor in node["ids"] for node in env.get_doctree(page).findall(nodes.Element)):
        logger.warning("page %r has no section %r", page, anchor, location=link)
    if shown.astext().endswith(".rst"):  # a file's name is for the repository; the site calls its pages by their titles
        shown = nodes.inline("", env.titles[page].astext())
    return make_refnode(app.builder, link["refdoc"], page, anchor, shown)


class Glossaries(SphinxTransform):
    """Definition lists that are glossaries: their terms can be referred to, and are in the index."""

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        for found in list(self.document.findall(nodes.definition_list)):
            if "glossary" not in found["classes"]:
                continue
            for term in found.findall(nodes.term):
                made = make_glossary_term(
                    self.env,
                    term.children,
                    None,
                    term.source,
                    term.line,
                    None,
                    self.document,
                )
                term.replace_self(made)
            glossary = addnodes.glossary("", sorted=False)
            found.replace_self(glossary)
            glossary += found


def keep_colons(app: Sphinx, what: str, *of_it: Any) -> None:
    """Keep napoleon from reading an attribute's text as "type: description": begin it with an empty comment."""
    lines = of_it[-1]
    if what in ("attribute", "property", "data"):
        lines[:0] = ["..", ""]


def describe_member(app: Sphinx, what: str, *of_it: Any) -> None:
    """Take what a member of an enumeration means from the member itself, if it has that."""
    _name, member, _options, lines = of_it
    if isinstance(member, enum.Enum) and member.__doc__ not in (None, type(member).__doc__):
        lines[:] = [str(member.__doc__)]


def check_page(app: Sphinx, page: nodes.document) -> None:
    """Check the code and pictures that a page shows, and the files that it names."""
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
    """Check that each picture is shown."""
    shown = set(env.images)
    built = posixpath.join("_build", "")
    for path in sorted(Path(app.srcdir).rglob("*")):
        name = path.relative_to(app.srcdir).as_posix()
        if path.suffix in PICTURES and not name.startswith(built) and name not in shown:
            logger.warning("no page shows %s", name)


def setup(app: Sphinx) -> dict[str, Any]:
    """Become a part of Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    app.add_transform(Links)
    app.add_transform(Glossaries)
    app.connect("missing-reference", lead)
    app.connect("autodoc-process-docstring", describe_member, priority=300)
    app.connect("autodoc-process-docstring", keep_colons, priority=400)  # before napoleon
    app.connect("doctree-read", check_page)
    app.connect("env-check-consistency", check_pictures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
