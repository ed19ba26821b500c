"""leaderboard.tex: read back, it holds the Markdown's numbers; and no name becomes a command, a column or a comment."""

from __future__ import annotations

import re

import pytest
from sweep_folders import grid, sweep
from test_report_page import STRANGE

from lm_eval_prune.report.leaderboard import leaderboard
from lm_eval_prune.text import latex_text
from lm_eval_prune.variants import Variant

SET_BY = {
    r"\textbackslash{}": "\\", r"\textasciicircum{}": "^", r"\textasciitilde{}": "~", r"\textless{}": "<",
    r"\textgreater{}": ">", r"\dots{}": "…", r"$\pm$": "±", r"$\approx$": "≈", r"$\blacktriangledown$": "▼",
    r"$\blacktriangle$": "▲", r"$\emptyset$": "∅", r"$\bot$": "⊥", r"$\cdot$": "·", r"$\geq$": "≥", r"$\leq$": "≤",
    "$-$": "−", "--": "–", r"\{": "{", r"\}": "}", r"\$": "$", r"\&": "&", r"\#": "#", r"\%": "%", r"\_": "_",
    "{[}": "[", "{*}": "*", r"\textbar{}": "|", r"\texttt{\char34}": '"', r"\`{}": "`", "{}": "",
}  # fmt: skip
"""What LaTeX sets by these, from its documentation; written here again, apart from the code under test."""
TOKEN = re.compile("|".join(re.escape(token) for token in sorted(SET_BY, key=len, reverse=True)) + r"|[^\\{}$&#%_^~]")


def shown(text):
    """What LaTeX sets; fails at anything that it would not take for text."""
    found, place = "", 0
    while place < len(text):
        token = TOKEN.match(text, place)
        assert token, f"LaTeX reads a command or a sign of its own in {text[place : place + 30]!r}"
        found += SET_BY.get(token[0], token[0])
        place = token.end()
    return found


def tables(text):
    """(alignment, header, rows) of each tabular; the end of a row takes no argument from the next."""
    for columns, body in re.findall(r"\\begin{tabular}{(\w+)}\n(.*?)\\end{tabular}", text, re.DOTALL):
        lines = [line for line in body.splitlines() if not re.fullmatch(r"\\(top|mid|bottom)rule", line)]
        assert all(line.endswith(r" \\") and line[0] not in "[*" for line in lines)
        rows = [[shown(cell.strip()) for cell in re.split(r"(?<!\\)&", line[:-3])] for line in lines]
        assert {len(row) for row in rows} == {len(columns)}
        yield columns, rows[0], rows[1:]


def test_its_numbers_are_those_of_the_board(tmp_path):
    variants = [*grid(("own",), heads=("0.3", "0.7")), Variant("random", "0.5", "0", seed=0)]
    folder = sweep(tmp_path / "sweep", variants, ("piqa", "copa"), shots=(0, 5))
    made = leaderboard([folder], tmp_path / "out", sort="variant")
    text = (tmp_path / "out" / "leaderboard.tex").read_text(encoding="utf-8")
    assert text.startswith("% needs \\usepackage{booktabs,amssymb}\n")
    found = list(tables(text))
    assert [columns for columns, _, _ in found] == ["lrrrrr", "lrrrrr"]
    for shots, (_, header, rows) in zip((0, 5), found, strict=True):
        entries = sorted((e for e in made.board.entries if e.num_fewshot == shots), key=lambda entry: entry.label)
        assert header == ["variant", "n", "parameters left", "average acc", "piqa acc", "copa acc"]
        assert [row[0] for row in rows] == [entry.label for entry in entries]
        for row, entry in zip(rows, entries, strict=True):
            assert float(row[3].split()[0]) == pytest.approx(entry.average.value, abs=5e-3)
            for cell, value in zip(row[4:], map(entry.cells.get, made.board.columns), strict=True):
                assert float(cell.split()[0]) == pytest.approx(value.value, abs=5e-3)


def test_strange_names_are_text(tmp_path):
    variants = [
        Variant(f"{name}.json", "0.5", "0") for name in [*STRANGE, "[a]", "*b", r"\input{/etc/passwd}", "a%b\nc"]
    ]
    folder = sweep(tmp_path / "sweep", variants, [STRANGE[1], r"t\\ & $x$"], shots=(0,), count=6, model=STRANGE[0])
    leaderboard([folder], tmp_path / "out")
    text = (tmp_path / "out" / "leaderboard.tex").read_text(encoding="utf-8")
    ((_, _, rows),) = tables(text)
    assert len(rows) == len(variants) + 1
    assert any(row[0].startswith("[a].json") for row in rows)
    assert any(r"\input{/etc/passwd}" in row[0] for row in rows)
    comments = [line for line in text.splitlines() if line.startswith("%")]
    assert len(comments) == 4
    assert "XeLaTeX" in comments[1]


@pytest.mark.parametrize(
    "text", ["100 % of a_b & c", r"\end{tabular} $x^2$ ~ #1", "[0.1, 0.2]", "≈ ▼ ∅ ⊥ ±", "*", "{}"]
)
def test_any_text_is_set_as_it_is(text):
    assert shown(latex_text(text)) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.370 [-0.334, 0.417] -0.027 ?", "0.370 [−0.334, 0.417] −0.027 ?"),
        ("(-0.1, -2)", "(−0.1, −2)"),
        ("5-shot, opt-1.3b", "5-shot, opt-1.3b"),
    ],
)
def test_the_sign_of_a_number_is_a_minus_and_no_hyphen(text, expected):
    assert shown(latex_text(text)) == expected


@pytest.mark.parametrize("text", ["a|b", 'a "b"', "a `b`", "a--b", "---", "a -- b|c", "<!-- x -->"])
def test_names_are_set_as_they_are_in_old_fonts_too(text):
    """There | is a dash, " a curly quote and -- a dash; compiled with pdflatex, they are these in the PDF's text."""
    assert shown(latex_text(text)) == text
    assert not {"|", '"', "--"} & set(re.findall(r'--|[|"]', latex_text(text)))
