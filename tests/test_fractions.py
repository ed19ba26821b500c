"""Shares are the decimals that were written, in every place that takes one; anything else is refused in one line."""

from __future__ import annotations

import sys
from decimal import Decimal
from fractions import Fraction

import pytest

from lm_eval_prune.cli.main import main as entry_point
from lm_eval_prune.errors import ArgumentError, FractionError
from lm_eval_prune.fractions import parse_fraction
from lm_eval_prune.sweep.config import make_config

DECIMALS = {
    "0.3": Fraction(3, 10), " .30 ": Fraction(3, 10), "3e-1": Fraction(3, 10), "+0.3": Fraction(3, 10),
    "1.": Fraction(1), "-0": Fraction(0), "1e-7": Fraction(1, 10**7),
    0.3: Fraction(3, 10), 1e-7: Fraction(1, 10**7), 1: Fraction(1), Decimal("0.29"): Fraction(29, 100),
}  # fmt: skip
NO_DECIMALS = ["1/3", "1/2", "0.1_0", "1e-999999999", "0x1", "0,3", "٠.٣", "nan", "inf", "half", ""]


@pytest.mark.parametrize(("given", "expected"), DECIMALS.items())
def test_a_decimal_is_its_exact_value(given, expected):
    assert parse_fraction(given) == expected
    (share,) = make_config({"output_path": "x", "tasks": "a", "prune_heads": [given]}).prune_heads
    assert Fraction(share) == expected
    assert set(share) <= set("0123456789.")  # one spelling: 0.10 and 1e-1 are the same cell


@pytest.mark.parametrize("given", NO_DECIMALS)
def test_what_is_no_decimal_is_refused(given):
    with pytest.raises(FractionError, match=r"share=.*: expected a number from 0 to 1, a decimal such as 0\.3"):
        parse_fraction(given, "share")
    with pytest.raises(ArgumentError, match=r"prune_heads: share=.*: expected a number from 0 to 1"):
        make_config({"output_path": "x", "tasks": "a", "prune_heads": [given]})


def test_fractions_of_python_are_taken_where_they_need_no_name():
    assert parse_fraction(Fraction(1, 3)) == Fraction(1, 3)
    assert make_config({"output_path": "x", "tasks": "a", "prune_heads": [Fraction(1, 4)]}).prune_heads == ("0.25",)
    for unnamed in (Fraction(1, 3), "0." + 40 * "3"):
        with pytest.raises(ArgumentError, match=r"expected a decimal of at most 28 digits, such as 0\.3333"):
            make_config({"output_path": "x", "tasks": "a", "prune_heads": [unnamed]})


@pytest.mark.parametrize(
    "arguments",
    [
        ["sweep", "--tasks", "piqa", "--output_path", "FOLDER", "--prune_heads", "1/3"],
        ["plan", "125m", "--prune_heads", "1/3"],
        ["mask", "--head_importance", "scores.json", "--prune_heads", "1/3", "--output_path", "FOLDER/mask.json"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_third_is_one_line_in_every_command(arguments, tmp_path, monkeypatch, capsys):
    words = [word.replace("FOLDER", str(tmp_path)) for word in arguments]
    monkeypatch.setattr(sys, "argv", ["lm-eval-prune", *words])
    with pytest.raises(SystemExit) as stop:
        entry_point()
    lines = capsys.readouterr().err.splitlines()
    assert (stop.value.code, len(lines)) == (2, 1)
    assert "='1/3': expected a number from 0 to 1, a decimal such as 0.3" in lines[0]
