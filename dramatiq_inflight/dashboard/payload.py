# SPDX-FileCopyrightText: 2026 The dramatiq_inflight authors
# SPDX-License-Identifier: MIT
"""A payload as text: pretty where it is JSON, never decoded otherwise, and never without end."""

from __future__ import annotations

import json
import unicodedata

__all__ = ["CAP", "pretty", "seen"]

#: The longest payload that is shown, characters.
CAP = 50_000


def pretty(raw: bytes) -> tuple[str, bool]:
    """The text to show, and whether it was cut off.

    Pickles stay bytes: to decode one would run what is in it.
    """
    text = raw[: 4 * CAP].decode("utf-8", "backslashreplace")
    if len(raw) <= 4 * CAP:
        try:
            text = json.dumps(json.loads(raw), indent=2, ensure_ascii=False)
        except (ValueError, RecursionError):
            pass  # it is no JSON, or no sane one
    text = seen(text[: CAP + 1])
    return text[:CAP], len(raw) > 4 * CAP or len(text) > CAP


def seen(text: str) -> str:
    """A text in which nothing is hidden."""
    return text if text.isprintable() else "".join(map(_seen, text))


def _seen(character: str) -> str:
    """Show characters that cannot be seen, or turn the text around, by their number."""
    if character in "\n\t" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Cn"):
        return character
    return f"\\u{ord(character):04x}"
