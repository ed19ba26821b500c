"""Text that comes from files of strangers, made fit to be shown; and streams that cannot show all of Unicode.

Names, messages and paths pass through `printable` before they are printed, drawn or written into a page. Nothing heavy
is imported here: the command's first words need it.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from typing import TextIO

__all__ = [
    "LATEX_SIGNS",
    "described",
    "latex_text",
    "markdown_text",
    "message_of",
    "one_line",
    "printable",
    "replace_what_does_not_fit",
    "spreadsheet_text",
    "without_halves",
]

SPELT_OUT = {"Cc", "Cs", "Zl", "Zp", "Cf"}
"""Unicode's categories of control characters, halves of surrogate pairs, separators of lines and of paragraphs, and of
what formats text unseen: marks that turn its direction, tags, joiners."""
JOINERS = set("\u200c\u200d")
"""Invisible too, but Persian, the scripts of India and emoji are written with them; they steer nothing."""
PLAIN = {
    **{"≈": "~", "▲": "^", "▼": "v", "±": "+/-", "…": "...", "×": "x", "·": "-", "→": "->", "↑": "^", "↓": "v"},
    **{"−": "-", "–": "-", "—": "-", "≤": "<=", "≥": ">=", "█": "#", "▏": "|", "∅": "(/)", "⊥": "_|_"},
}  # fmt: skip
"""Signs of our tables -> what stands for them where an encoding lacks them."""
LATEX_SIGNS = {
    **{"\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", "$": "\\$", "&": "\\&", "#": "\\#", "%": "\\%", "_": "\\_"},
    **{"^": "\\textasciicircum{}", "~": "\\textasciitilde{}", "<": "\\textless{}", ">": "\\textgreater{}"},
    **{"±": "$\\pm$", "≈": "$\\approx$", "▼": "$\\blacktriangledown$", "▲": "$\\blacktriangle$", "∅": "$\\emptyset$"},
    **{"⊥": "$\\bot$", "·": "$\\cdot$", "−": "$-$", "–": "--", "≥": "$\\geq$", "≤": "$\\leq$", "…": "\\dots{}"},
    **{"[": "{[}", "*": "{*}"},  # which would be arguments of the end of the line before
    **{"|": "\\textbar{}", '"': "\\texttt{\\char34}", "`": "\\`{}"},  # a dash and curly quotes in TeX's old fonts
}
"""Signs that LaTeX reads as its own, or lacks -> what sets them; booktabs and amssymb are all that it takes."""
MINUS = re.compile(r"(?<![^\s\[(])-(?=\d)")
"""A hyphen that is the sign of a number."""
BETWEEN_HYPHENS = re.compile(r"(?<=-)(?=-)")
"""Where two of them would become a dash."""
HALVES = re.compile("[\ud800-\udfff]")
HANDLER = "lm_eval_prune.plain"
FORMULA = re.compile(r"\s*[=+\-@\t\r\n＝＋－＠]")
"""How a cell begins that a spreadsheet takes for a formula; blanks before it are ignored there."""


def printable(text: str) -> str:
    """`text` on one line, with every character that could steer a terminal, turn text round or hide in it by number.

    Such a character is shown as `<U+202E>`, other whitespace than blanks as blanks. What is printable already is
    returned as it is.
    """
    if text.isprintable():
        return text
    return "".join(_shown(character) for character in text)


def without_halves(text: str) -> str:
    """`text` as a file can hold it: half of a surrogate pair, which has no UTF-8, becomes its number, `<U+D800>`."""
    return HALVES.sub(lambda half: f"<U+{ord(half[0]):04X}>", text)


def message_of(error: BaseException) -> str:
    """An error's message on one line; its class where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def described(error: BaseException, *, width: int | None = None) -> str:
    """An error's class and at most `width` characters of its message, on one line."""
    return f"{type(error).__name__}: {message_of(error)[:width]}"


def one_line(error: object, *, width: int = 300) -> str:
    """The first sentence of another library's error, on one line of at most `width` characters."""
    line = printable(" ".join(str(error)[: 10 * width].split()).split(". ")[0])
    return line if len(line) <= width else line[: width - 3] + "..."


def markdown_text(text: object) -> str:
    """`text` that Markdown and HTML show as it is: no tag, picture, link, table cell or emphasis comes out of it."""
    escaped = re.sub(r"([\\`*_\[\]|#~]|!(?=\[)|(?<=\])\()", r"\\\1", printable(" ".join(str(text).split())))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def latex_text(text: object) -> str:
    """`text` that LaTeX sets as it is: no command, comment, column or formula comes out of it."""
    line = MINUS.sub("−", printable(" ".join(str(text).split())))
    parts = ("".join(LATEX_SIGNS.get(sign, sign) for sign in part) for part in BETWEEN_HYPHENS.split(line))
    return "{}".join(parts)


def spreadsheet_text(value: object) -> object:
    """A cell of a CSV file: a text that a spreadsheet would compute gets an apostrophe, which makes it a text there.

    Numbers, and texts that are numbers, stay as they are. A carriage return would end the row: Python's writer of CSV
    does not quote it.
    """
    if not isinstance(value, str):
        return value
    value = value.replace("\r", "\n")
    if not FORMULA.match(value):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def replace_what_does_not_fit(*streams: TextIO) -> None:
    """Let text streams write what their encoding lacks in other signs, or by number, where they would raise.

    Pipes and files have the code page's encoding on Windows and the one of PYTHONIOENCODING elsewhere; paths that are
    no UTF-8 fit into no encoding. Streams that cannot be changed, such as those of tests, stay as they are.
    """
    codecs.register_error(HANDLER, _plain)
    for stream in streams:
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None and stream.errors in ("strict", "surrogateescape"):
            reconfigure(errors=HANDLER)


def _shown(character: str) -> str:
    if character in "\t\n\r":
        return " "
    if unicodedata.category(character) in SPELT_OUT and character not in JOINERS:
        return f"<U+{ord(character):04X}>"
    return character


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_fitting(character) for character in error.object[error.start : error.end]), error.end


def _fitting(character: str) -> str:
    return PLAIN.get(character) or character.encode("ascii", "backslashreplace").decode()
