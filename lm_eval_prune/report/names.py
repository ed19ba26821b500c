"""Names come from files of strangers: what could steer a terminal, turn text round or break lines is spelt out."""

from __future__ import annotations

import unicodedata

__all__ = ["printable"]

TURNING = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Marks that turn the direction of all text behind them."""
SPELT_OUT = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode's categories of control characters, halves of surrogate pairs, and separators of lines and paragraphs."""


def printable(text: str) -> str:
    """`text` on one line, such characters by number (`<U+202E>`) and other whitespace than blanks as blanks."""
    if text.isprintable():
        return text
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    if character in "\t\n\r":
        return " "
    if character in TURNING or unicodedata.category(character) in SPELT_OUT:
        return f"<U+{ord(character):04X}>"
    return character
