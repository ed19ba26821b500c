"""Whether rankings agree, as the leaderboard says it: on the page, in the terminal and in files, against scipy."""

from __future__ import annotations

import csv
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy.stats import hypergeom, spearmanr
from statsmodels.stats.multitest import multipletests

from lm_eval_prune.cli.main import cli
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.report.agreement import agreement_families, agreement_table
from tests.sweep_folders import grid, importance, sweep

TASKS = ("piqa", "copa", "wic", "rte")


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    """(the sweep's folder, where its leaderboard lies, what the command said)."""
    folder = sweep(tmp_path_factory.mktemp("sweep"), grid(("own",)), TASKS[:2], shots=(0, 5))
    for number, (task, shots) in enumerate(itertools.product(TASKS, (0, 5))):
        importance(folder, f"{task}-{shots}-heads", "heads", "gradient", task, shots, seed=number)
        importance(folder, f"{task}-{shots}-ffns", "ffns", "knockout", task, shots, seed=number)
    importance(folder, "mean-0", "heads", "gradient", "aggregate", 0, seed=99)
    importance(folder, "prefix", "heads", "prefix-matching", None, None, seed=5)
    out = tmp_path_factory.mktemp("board")
    result = CliRunner().invoke(cli, ["leaderboard", str(folder), "--output_path", str(out)])
    assert result.exit_code == 0, result.output
    return folder, out, result.output


def scores_of(folder, name):
    return np.array(json.loads((folder / "importance" / f"{name}.json").read_text())["scores"])


def families(out):
    found = json.loads((out / "agreement.json").read_text())["families"]
    return {(each["component"], each["kind"], each["name"]): each for each in found}


def test_there_is_a_family_for_every_kind_of_pair(board):
    found = families(board[1])
    assert {key: len(each["pairs"]) for key, each in found.items()} == {
        ("heads", "tasks", "0-shot"): 6,
        ("heads", "tasks", "5-shot"): 6,
        ("heads", "shots", "0- and 5-shot"): 4,
        ("heads", "induction", "prefix-matching"): 2,
        ("ffns", "tasks", "0-shot"): 6,
        ("ffns", "tasks", "5-shot"): 6,
        ("ffns", "shots", "0- and 5-shot"): 4,
    }


def test_pairs_of_tasks_are_scipys(board):
    folder, out, _ = board
    family = families(out)["heads", "tasks", "5-shot"]
    for pair in family["pairs"]:
        first, second = (scores_of(folder, f"{pair[key]}-5-heads") for key in ("first", "second"))
        assert pair["rho"] == pytest.approx(spearmanr(first.ravel(), second.ravel()).statistic)
        for top in pair["tops"]:
            kept = first.size - math.floor(round((1 - top["share"]) * first.size, 6))
            tops = [set(np.argsort(each, axis=None, kind="stable")[first.size - kept :]) for each in (first, second)]
            assert (top["kept"], top["shared"]) == (kept, len(tops[0] & tops[1]))
            assert top["expected"] == pytest.approx(kept**2 / first.size)
            assert top["p"] == pytest.approx(hypergeom.sf(top["shared"] - 1, first.size, kept, kept))
    for raw in ("p", "p_within_layers"):
        corrected = multipletests([pair[raw] for pair in family["pairs"]], method="holm")[1]
        assert [pair[f"{raw}_holm"] for pair in family["pairs"]] == pytest.approx(corrected)
    rhos = [pair["rho"] for pair in family["pairs"]]
    assert family["rho"]["mean"] == pytest.approx(np.mean(rhos))
    assert family["rho"]["variance"] == pytest.approx(np.var(rhos))


def test_shots_are_compared_task_by_task_and_induction_with_the_mean(board):
    folder, out, _ = board
    found = families(out)
    for pair in found["ffns", "shots", "0- and 5-shot"]["pairs"]:
        task = pair["first"].removesuffix(", 0-shot")
        assert pair["second"] == f"{task}, 5-shot"
        both = [scores_of(folder, f"{task}-{shots}-ffns") for shots in (0, 5)]
        assert pair["rho"] == pytest.approx(spearmanr(*both).statistic)
        assert pair["p_within_layers"] is None
    prefix = scores_of(folder, "prefix").ravel()
    means = {"0-shot": scores_of(folder, "mean-0")}  # in a file; the other is the mean over the tasks
    means["5-shot"] = np.mean([scores_of(folder, f"{task}-5-heads") for task in TASKS], axis=0)
    for pair in found["heads", "induction", "prefix-matching"]["pairs"]:
        shots = pair["second"].removeprefix("mean importance, ")
        assert pair["rho"] == pytest.approx(spearmanr(prefix, means[shots].ravel()).statistic)


def test_the_table_has_every_pair_with_the_same_numbers(board):
    _, out, _ = board
    lines = list(csv.DictReader((out / "agreement.csv").open()))
    pairs = [(key, pair) for key, family in families(out).items() for pair in family["pairs"]]
    assert len(lines) == len(pairs) == 34
    by_name = {(line["component"], line["kind"], line["name"], line["first"], line["second"]): line for line in lines}
    for key, pair in pairs:
        line = by_name[(*key, pair["first"], pair["second"])]
        assert float(line["rho"]) == pair["rho"]
        assert line["p_within_layers"] == ("" if pair["p_within_layers"] is None else str(pair["p_within_layers"]))
        assert [int(line[f"top {share} % shared"]) for share in (10, 20, 30, 50)] == [t["shared"] for t in pair["tops"]]


def test_the_page_and_the_terminal_say_how_far_tasks_agree(board):
    _, out, said = board
    page = (out / "leaderboard.html").read_text()
    assert "<h2>Do rankings agree?</h2>" in page
    for (component, _, name), family in families(out).items():
        if name != "5-shot":
            continue
        mean, number = family["rho"]["mean"], len(family["pairs"])
        noun = {"heads": "heads, gradient", "ffns": "FFNs, knockout"}[component]
        assert f"Do tasks agree, 5-shot? {noun}: rho {mean:.2f} over {number} pairs" in " ".join(said.split())
        assert f'<td><span class="clip">{mean:.2f}</span></td>' in page


def test_a_board_without_two_rankings_has_neither_files_nor_a_part_of_the_page(tmp_path):
    folder = sweep(tmp_path / "sweep", grid(("own",)), TASKS[:1])
    importance(folder, "piqa-0-heads", "heads", "gradient", "piqa", 0)
    result = CliRunner().invoke(cli, ["leaderboard", str(folder), "--output_path", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert not list((tmp_path / "out").glob("agreement.*"))
    assert "Do rankings agree?" not in (tmp_path / "out" / "leaderboard.html").read_text()
    assert "Do tasks agree" not in result.output


def files_of(scores, shots=0, model="m"):
    return [
        (
            Path(task),
            ImportanceScores.from_tensor(
                torch.tensor(values, dtype=torch.float64),
                num_attention_heads=2,
                settings={"model": model, "method": "gradient", "task": task, "num_fewshot": shots},
            ),
        )
        for task, values in scores.items()
    ]


def test_models_and_constant_scores_are_told_apart():
    one, other = {"a": [[1.0, 2], [3, 4]], "b": [[1.0, 1], [1, 1]]}, {"a": [[1.0, 2], [3, 4]], "b": [[2.0, 1], [3, 4]]}
    found = agreement_families([*files_of(one), *files_of(other, model="n")])
    assert [(family.model, family.kind) for family in found] == [("m", "tasks"), ("n", "tasks")]
    header, rows = agreement_table(found)
    assert header[0] == "model"
    assert [row[0] for row in rows] == ["m", "n"]
    assert rows[0][4] == ""  # no rho
    assert rows[1][4] == "0.80"


def test_large_models_have_as_many_permutations_as_the_correction_needs(monkeypatch):
    monkeypatch.setattr("lm_eval_prune.report.agreement.SHUFFLED", 1000)
    draw = np.random.default_rng(0)
    (family,) = agreement_families(files_of({f"t{number}": draw.random((4, 2)).tolist() for number in range(4)}))
    assert family.permutations == 40 * len(family.pairs) == 240
    assert all(1 / 241 <= pair.p <= 1 for pair in family.pairs)
