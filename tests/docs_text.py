"""What stands in the documentation: its pages, their fenced blocks, and the commands in those of the shell."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL)
OPERATORS = set("();<>|&")
WORDS_BEFORE = {"do", "then", "if", "while", "!"}


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    text: str

    def __str__(self):
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page, *languages):
    """The fenced blocks of a page, in these languages."""
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        if found["language"] in languages:
            yield Block(page, text.count("\n", 0, found.start()) + 1, found["language"], found["text"])


def commands(text):
    """The simple commands of a shell text, each a list of words; variables, redirections and loops are left out."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words, redirected = [], False
        for word in [*lexer, ";"]:
            if set(word) <= OPERATORS:
                redirected = bool(set(word) & set("<>"))
                if redirected and words[-1].isdigit():  # 2>&1
                    words.pop()
                elif not redirected and words:
                    yield words
                    words = []
            elif redirected:
                redirected = False
            elif words or not (word in WORDS_BEFORE or re.match(r"^[A-Z_]+=", word)):
                words.append(word)
