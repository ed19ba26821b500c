"""The numbers are those of the files, the tests scipy's on the raw outcomes, and nothing is mixed silently."""

from __future__ import annotations

import json
import math
import sys
from statistics import fmean, stdev

import pytest
import scipy.optimize
import scipy.stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint
from sweep_folders import cell, grid, harness_run, pruning, results, samples, sweep
from test_intervals import tango
from test_sum_intervals import statistic

from lm_eval_prune.cli.main import main as entry_point
from lm_eval_prune.errors import ArgumentError, FileFormatError
from lm_eval_prune.files import digest
from lm_eval_prune.identity import hub_fingerprint
from lm_eval_prune.importance.files import ImportanceScores
from lm_eval_prune.report.averages import verdict_of
from lm_eval_prune.report.board import Column, Difference
from lm_eval_prune.report.comparison import BoardConfig, compare
from lm_eval_prune.report.reading import read_collection
from lm_eval_prune.report.records import arranged
from lm_eval_prune.selection import select_mask
from lm_eval_prune.sweep.folder import cell_path, failure_path, read_cell, read_rows, read_samples, write_failure
from lm_eval_prune.sweep.schema import Row
from lm_eval_prune.variants import DENSE, Variant

OWN = grid(heads=("0.3", "0.5", "0.9"))
LOSSES = {OWN[0]: 0.02, OWN[1]: 0.2, OWN[2]: 0.6}
RANDOM = [Variant("random", "0.5", "0", seed=seed) for seed in (0, 1, 2)]
ACC = Column("piqa", "acc")


def board_of(*paths, **config):
    return compare(read_collection(paths), BoardConfig(**config))


def entry_of(board, ranking, heads="0", shots=0, ffns="0", backend="pruned-hf"):
    (found,) = (
        entry
        for entry in board.entries
        if (entry.ranking, entry.prune_heads, entry.prune_ffns, entry.num_fewshot, entry.backend)
        == (ranking, heads, ffns, shots, backend)
    )
    return found


def raw(folder, variant, task, shots=0, metric="acc"):
    """Outcomes by (document, prompt), read from the files without the code under test."""
    (row,) = (r for r in read_rows(folder) if (r.variant, r.task, r.num_fewshot) == (variant, task, shots))
    lines = read_samples(cell_path(folder, row.cell))
    return {(line["doc_hash"], line["prompt_hash"]): line[metric] for line in lines}


def file_value(folder, variant, task, shots=0, key="acc,none"):
    (row,) = (r for r in read_rows(folder) if (r.variant, r.task, r.num_fewshot) == (variant, task, shots))
    return read_cell(cell_path(folder, row.cell))["results"][task][key]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return sweep(
        tmp_path_factory.mktemp("sweep"),
        [*OWN, *RANDOM],
        tasks=("piqa", "copa", "rte"),
        shots=(0, 5),
        losses={**LOSSES, **dict.fromkeys(RANDOM, 0.3)},
        count=120,
    )


@pytest.fixture(scope="module")
def board(folder):
    return board_of(folder, flips=True)


def test_values_and_standard_errors_are_those_of_the_files(folder, board):
    for variant in (DENSE, *OWN):
        for shots in (0, 5):
            entry = entry_of(board, variant.ranking, variant.prune_heads, shots)
            for column, shown in entry.cells.items():
                assert shown.value == file_value(folder, variant, column.task, shots)
                assert shown.stderr == file_value(folder, variant, column.task, shots, "acc_stderr,none")
            assert entry.average.value == pytest.approx(
                fmean(file_value(folder, variant, task, shots) for task in ("piqa", "copa", "rte"))
            )


def test_differences_are_mcnemars_on_the_raw_outcomes_with_holm_over_the_variants(folder, board):
    p_values = {}
    for variant in OWN:
        dense, pruned = raw(folder, DENSE, "piqa"), raw(folder, variant, "piqa")
        gained = sum(pruned[key] > dense[key] for key in dense)
        lost = sum(pruned[key] < dense[key] for key in dense)
        p_values[variant] = scipy.stats.chi2.sf(max(abs(gained - lost) - 3 / 16, 0) ** 2 / (gained + lost), 1)
        assert p_values[variant] >= mcnemar([[0, gained], [lost, 0]], exact=False, correction=False).pvalue
        found = entry_of(board, "own", variant.prune_heads).cells[ACC].difference
        assert found.value == pytest.approx(fmean(pruned[key] - dense[key] for key in dense))
        assert found.p == pytest.approx(p_values[variant])
        assert (found.method, found.paired, found.note) == ("paired score", 120, "")
        assert found.changed == (gained + lost) / 120
        assert tango(gained, lost, 120, found.low) == pytest.approx(1.959964, abs=1e-4)
        assert tango(gained, lost, 120, found.high) == pytest.approx(-1.959964, abs=1e-4)
    random = entry_of(board, "random", "0.5").cells[ACC].difference
    family = sorted([*p_values.values(), random.p])
    for variant, p in p_values.items():
        holm = min(1, max((4 - place) * value for place, value in enumerate(family) if value <= p))
        assert entry_of(board, "own", variant.prune_heads).cells[ACC].difference.p_holm == pytest.approx(holm)


def test_holm_is_over_the_variants_of_all_models(tmp_path):
    variants = {"facebook/opt-125m": OWN[:1], "facebook/opt-350m": OWN[1:2]}
    losses = dict.fromkeys(OWN, 0.2)
    folders = [
        sweep(tmp_path / model, own, tasks=("piqa",), losses=losses, model=model, fingerprint=model)
        for model, own in variants.items()
    ]
    differences = [cell.difference for e in board_of(*folders).entries for cell in e.cells.values() if cell.difference]
    low, high = sorted(differences, key=lambda difference: difference.p)
    assert low.p < high.p < 1
    assert (low.p_holm, high.p_holm) == pytest.approx((min(1, 2 * low.p), max(2 * low.p, high.p)))


def test_large_losses_over_seeds_are_shown_in_tables_of_many_rows(tmp_path):
    variants = [Variant("random", f"0.{share:02}", "0", seed=seed) for share in range(1, 61) for seed in range(4)]
    folder = sweep(tmp_path, variants, tasks=("piqa",), losses=dict.fromkeys(variants, 0.9))
    cells = [entry.cells[ACC] for entry in board_of(folder).entries if not entry.is_dense]
    assert len(cells) == 60
    assert {cell.difference.method for cell in cells} == {"paired score"}
    assert [cell.verdict for cell in cells].count("worse") >= 55


def test_random_rows_are_mean_and_spread_over_seeds(folder, board):
    entry = entry_of(board, "random", "0.5", 5)
    values = [file_value(folder, variant, "copa", 5) for variant in RANDOM]
    shown = entry.cells[Column("copa", "acc")]
    assert entry.seeds == (0, 1, 2)
    assert (shown.value, shown.spread) == pytest.approx((fmean(values), stdev(values)))
    assert shown.stderr is None
    averages = [fmean(file_value(folder, v, task, 5) for task in ("piqa", "copa", "rte")) for v in RANDOM]
    assert (entry.average.value, entry.average.spread) == pytest.approx((fmean(averages), stdev(averages)))
    outcomes = [raw(folder, variant, "copa", 5) for variant in RANDOM]
    dense = raw(folder, DENSE, "copa", 5)
    means = [fmean(one[key] for one in outcomes) - dense[key] for key in dense]
    assert shown.difference.value == pytest.approx(fmean(means))
    assert shown.difference.method == "paired score"
    by_seed = [fmean(one[key] - dense[key] for key in dense) for one in outcomes]
    assert 0 < shown.difference.draws < 1
    # Draws alone would be Student's interval over the three; documents add to it, but not what they vary with draws.
    between, width = stdev(by_seed) ** 2 / 3, shown.difference.value - shown.difference.low
    of_draws = scipy.stats.t.ppf(0.975, 2) * between
    documents = scipy.optimize.brentq(lambda v: 1.959964 * v + of_draws - width * math.sqrt(v + between), 0, 1)
    assert shown.difference.draws == pytest.approx(of_draws / (1.959964 * documents + of_draws), rel=1e-3)
    assert math.isnan(entry_of(board, "own", "0.5").cells[ACC].difference.draws)


def test_the_interval_of_an_averages_value_is_built_from_the_tasks_own(folder, board):
    tasks = [list(raw(folder, OWN[1], task).values()) for task in ("piqa", "copa", "rte")]
    limits = [proportion_confint(sum(values), len(values), method="wilson") for values in tasks]
    average = entry_of(board, "own", "0.5").average
    below = math.hypot(*(fmean(values) - low for values, (low, _) in zip(tasks, limits, strict=True))) / 3
    above = math.hypot(*(high - fmean(values) for values, (_, high) in zip(tasks, limits, strict=True))) / 3
    assert (average.low, average.high) == pytest.approx((average.value - below, average.value + above))
    assert average.method == "documents"
    assert average.difference.paired == 360


def test_the_averages_difference_is_judged_as_one_over_all_documents(folder, board):
    """At both limits the likelihood of all tasks together, maximised, is 1.96 standard errors away; at 0 it gives p."""
    difference = entry_of(board, "own", "0.5").average.difference
    lost, gained = [], []
    for task in ("piqa", "copa", "rte"):
        own, dense = raw(folder, OWN[1], task), raw(folder, DENSE, task)
        found = [own[key] - dense[key] for key in dense]
        counts = [found.count(value) for value in (-1.0, 0.0, 1.0)]
        lost, gained = [*lost, (1 / 3, *counts)], [*gained, (1 / 3, *counts[::-1])]
    assert statistic(lost, difference.low) == pytest.approx(1.959964, abs=1e-3)
    assert statistic(gained, -difference.high) == pytest.approx(1.959964, abs=1e-3)
    z = max(statistic(gained if difference.value < 0 else lost, 0.0), 0.0)
    assert difference.p == pytest.approx(2 * scipy.stats.norm.sf(z), rel=1e-2)


def test_averages_are_corrected_for_the_rows_too(board):
    found = [entry.average.difference for entry in board.entries if entry.num_fewshot == 5 and not entry.is_dense]
    ordered = sorted(found, key=lambda one: one.p)
    assert ordered[0].p_holm == pytest.approx(min(1, len(ordered) * ordered[0].p))
    assert all(one.p <= one.p_holm for one in found)
    for one in found:
        assert (one.p < 0.05) == (one.low > 0 or one.high < 0)


def test_ranks_are_by_average_within_shots_and_ties_share(folder, board):
    for shots in (0, 5):
        entries = [entry for entry in board.entries if entry.num_fewshot == shots]
        averages = [entry.average.value for entry in entries]
        expected = scipy.stats.rankdata([-value for value in averages], method="min")
        assert [entry.rank for entry in entries] == expected.astype(int).tolist()
        assert averages == sorted(averages, reverse=True)


def test_verdicts(board):
    assert entry_of(board, "own", "0.9").cells[ACC].verdict == "worse"
    assert entry_of(board, "own", "0.9").average.verdict == "worse"
    dense = entry_of(board, "dense")
    assert dense.cells[ACC].difference is None
    assert dense.cells[ACC].verdict == ""

    def verdict(low, high, p, better=True, margin=0.01, **seen):
        value = (low + high) / 2
        return verdict_of(Difference(value, low, high, p, p, "paired score", 10, **seen), better, margin)

    assert verdict(-0.2, 0.1, 0.5) == "not shown"
    assert verdict(-0.2, -0.1, 0.001) == "worse"
    assert verdict(0.1, 0.2, 0.001) == "better"
    assert verdict(0.1, 0.2, 0.001, better=False) == "worse"
    assert verdict(-0.009, 0.2, 0.5) == "within the margin"
    assert verdict(-0.008, -0.001, 0.001) == "within the margin"
    assert verdict(-0.008, -0.001, 0.001, margin=0) == "worse"
    assert verdict(-0.008, 0.008, 1.0, changed=0.0) == "identical"
    assert verdict(-0.2, 0.1, 0.5, least=0.04) == "too few documents"
    assert verdict(-0.009, 0.2, 0.5, least=0.04) == "too few documents"  # whatever the interval says
    assert verdict(-0.04, 0.04, 1.0, least=0.04, changed=0.0) == "too few documents"
    assert verdict(-0.2, -0.1, 0.001, least=0.04) == "worse"
    assert verdict(0.1, 0.2, 0.001, least=0.04) == "better"
    assert verdict(-0.009, 0.2, 0.5, least=0.002) == "within the margin"
    assert verdict(math.nan, math.nan, math.nan) == ""


def test_minimal_decline_is_the_largest_fraction_before_the_interval_falls_below_the_margin(folder):
    board = board_of(folder, shots=(0,), margin=0.1)
    (own,) = (decline for decline in board.declines if decline.ranking == "own")
    below = [e.average.difference.low < -0.1 for e in (entry_of(board, "own", f) for f in ("0.3", "0.5", "0.9"))]
    assert below == [False, True, True]
    assert (own.component, own.fraction) == ("heads", "0.3")
    assert "30 % of heads can go" in own.sentence
    (own,) = (decline for decline in board_of(folder, shots=(0,), margin=0.9).declines if decline.ranking == "own")
    assert own.fraction == "0.9"
    (own,) = (decline for decline in board_of(folder, shots=(0,), margin=0.0).declines if decline.ranking == "own")
    assert own.fraction == "0"


def least_documents(margin):
    """Of which none changes: as many as put `margin`, less 3/16 of a document, 1.96 standard errors away."""
    spread = 1.959964 * math.sqrt(margin * (1 - margin))
    return math.ceil(((spread + math.sqrt(spread**2 + 3 / 4 * margin)) / (2 * margin)) ** 2)


@pytest.mark.parametrize(("count", "margin"), [(2, 0.01), (60, 0.01), (120, 0.005)])
def test_too_few_documents_are_no_proof_however_equal(tmp_path, count, margin):
    board = board_of(sweep(tmp_path, OWN[:2], count=count), margin=margin)
    (own,) = board.declines
    assert (own.fraction, own.enough) == ("0", False)
    assert own.sentence.startswith("own, 0-shot: too few documents to tell how many heads can go")
    assert "can go with the average above dense" in own.sentence
    for holder in [e.average for e in board.entries] + [c for e in board.entries for c in e.cells.values()]:
        assert holder.verdict == ("too few documents" if holder.difference else "")
    needed = entry_of(board, "own", "0.3").cells[Column("copa", "acc")].difference.needed
    assert needed == least_documents(margin)
    # Two tasks of as many documents need no more than one.
    assert f"about {least_documents(margin):,} would be the least" in own.sentence


def test_enough_equal_documents_are_identical_and_let_heads_go(tmp_path):
    board = board_of(sweep(tmp_path, OWN[:2], tasks=("piqa",), count=420))
    assert [entry_of(board, "own", share).cells[ACC].verdict for share in ("0.3", "0.5")] == ["identical"] * 2
    (own,) = board.declines
    assert (own.fraction, own.enough) == ("0.5", True)


def test_a_row_without_an_interval_proves_nothing(tmp_path):
    folder = sweep(tmp_path, OWN[:2], tasks=("piqa",), count=420)
    (row,) = (row for row in read_rows(folder) if row.variant == OWN[1])
    path = cell_path(folder, row.cell)
    content = json.loads(path.read_text())
    content["results"]["piqa"]["acc_stderr,none"] = "N/A"
    content["cell"].pop("samples")
    content["cell"]["sha256"] = digest({**content, "cell": {k: v for k, v in content["cell"].items() if k != "sha256"}})
    path.write_text(json.dumps(content))
    (own,) = board_of(folder).declines
    assert own.fraction == "0.3"


def test_flips_are_the_documents_that_differ(folder, board):
    found = {
        (flip.doc_hash, flip.dense, flip.variant)
        for flip in board.flips
        if (flip.label, flip.task, flip.num_fewshot) == ("own, heads 0.5, FFNs 0", "copa", 5)
    }
    dense, pruned = raw(folder, DENSE, "copa", 5), raw(folder, OWN[1], "copa", 5)
    assert found == {(key[0], dense[key], pruned[key]) for key in dense if dense[key] != pruned[key]}
    assert found
    assert board_of(folder, shots=(0,)).flips == []


def test_rows_are_sorted_by_every_column_of_the_page(board):
    for sort, share in (("heads", "prune_heads"), ("ffns", "prune_ffns")):
        for shots in (0, 5):
            found = [entry for entry in arranged(board, sort=sort) if entry.num_fewshot == shots]
            assert [getattr(e, share) for e in found] == sorted((getattr(e, share) for e in found), key=float)
    best = arranged(board, sort="piqa")[0]
    assert best.cells[ACC].value == max(e.cells[ACC].value for e in board.entries if e.num_fewshot == 0)
    with pytest.raises(ArgumentError, match="sort nope: unknown; expected rank, variant, heads, ffns, parameters"):
        arranged(board, sort="nope")


def test_sizes_are_shares_of_the_dense_model(board):
    entry = entry_of(board, "own", "0.5")
    assert entry.cost.parameters == 16 * 1_000 + 4 * 8_000 + 50_000 - 8 * 1_000
    assert entry.parameters_left == pytest.approx(90 / 98)
    assert entry.flops_left == pytest.approx(1 - 8 / (16 + 32 + 20))


def test_the_same_files_give_the_same_numbers_whatever_else_is_shown(folder, board):
    alone = board_of(folder, shots=(5,), tasks=("rte",))
    column = Column("rte", "acc")
    shown, there = (entry_of(b, "own", "0.5", 5).cells[column].difference for b in (alone, board))
    assert shown == there


def test_a_plain_harness_run_becomes_a_row(folder, tmp_path):
    path = harness_run(tmp_path, tasks=("piqa", "copa", "rte"), count=120)
    for given in (path, tmp_path):
        board = board_of(folder, given, shots=(0,))
        entry = entry_of(board, "dense", backend="hf")
        assert entry.label == "dense (hf)"
        values = json.loads(path.read_text())["results"]
        assert {c.task: shown.value for c, shown in entry.cells.items()} == {
            t: v["acc,none"] for t, v in values.items()
        }
        assert entry.cells[ACC].difference.paired == 120
        assert board.problems == []


def test_a_run_of_pruned_opt_outside_a_sweep_is_named_by_its_mask(folder, tmp_path):
    path = harness_run(tmp_path, tasks=("piqa",), model="pruned-opt")
    content = json.loads(path.read_text())
    record = {"path": "scores/aggregate.json", "sha256": "0"}
    content["pruning"] = {
        "heads_pruned": 11,
        "heads_total": 16,
        "ffns_pruned": 0,
        "ffns_total": 4,
        "mask": {"provenance": {"prune_heads": 0.7, "head_importance": record}},
    }
    path.write_text(json.dumps(content))
    named = "scores/aggregate.json, heads 0.7, FFNs 0"  # as a sweep calls it
    assert named in [e.label for e in board_of(folder, path, shots=(0,)).entries]
    content["pruning"]["mask"]["provenance"]["prune_heads"] = "most of them"  # by hand: then what was pruned counts
    path.write_text(json.dumps(content))
    labels = [e.label for e in board_of(folder, path, shots=(0,)).entries]
    assert "scores/aggregate.json, heads 0.6875, FFNs 0" in labels


def test_without_outcomes_standard_errors_are_used_and_it_is_said(folder, tmp_path):
    path = harness_run(tmp_path, tasks=("piqa", "copa", "rte"), count=120, loss=0.5, logged=False)
    board = board_of(folder, path, shots=(0,))
    shown = entry_of(board, "dense", backend="hf").cells[ACC]
    assert (shown.difference.method, shown.difference.paired) == ("standard errors", 0)
    error = math.hypot(shown.stderr, file_value(folder, DENSE, "piqa", key="acc_stderr,none"))
    # Newcombe's interval of two proportions, near that of their standard errors.
    assert shown.difference.low == pytest.approx(shown.difference.value - 1.959964 * error, abs=0.02)
    assert shown.difference.p == pytest.approx(2 * scipy.stats.norm.cdf(-abs(shown.difference.value) / error), abs=0.01)
    assert any("no per-document outcomes: dense (hf) on piqa acc, 0-shot" in p.message for p in board.problems)
    with pytest.raises(ArgumentError, match="unpaired documents"):
        board_of(folder, path, shots=(0,), strict=True)


def test_runs_whose_prompts_differ_are_not_compared(tmp_path):
    folder = sweep(tmp_path / "sweep", OWN[:1], tasks=("piqa",), shots=(5,))
    path = harness_run(tmp_path / "hf", tasks=("piqa",), shots=5, loss=0.1)
    for file in path.parent.glob("samples_*.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        changed = [{**line, "prompt_hash": "other" + line["prompt_hash"]} for line in lines]
        file.write_text("".join(json.dumps(line) + "\n" for line in changed))
    board = board_of(folder, path)
    assert entry_of(board, "dense", shots=5, backend="hf").cells[ACC].difference is None
    (problem,) = (p for p in board.problems if p.kind == "different prompts")
    assert problem.message == "prompts differ from the dense run's, not compared: dense (hf) on piqa acc, 5-shot"
    with pytest.raises(ArgumentError, match="different prompts"):
        board_of(folder, path, strict=True)


def test_pairs_are_joined_by_hash_never_by_position(tmp_path):
    folder = sweep(tmp_path / "sweep", [], tasks=("piqa",))
    path = harness_run(tmp_path / "hf", tasks=("piqa",))
    (file,) = path.parent.glob("samples_*.jsonl")
    lines = file.read_text().splitlines()
    renumbered = [{**json.loads(line), "doc_id": 1000 - place} for place, line in enumerate(reversed(lines))]
    file.write_text("".join(json.dumps(line) + "\n" for line in renumbered))
    shown = entry_of(board_of(folder, path), "dense", backend="hf").cells[ACC]
    assert (shown.difference.value, shown.difference.changed, shown.difference.p) == (0, 0, 1)


def test_mixed_limits_are_named_and_paired_on_what_is_shared(tmp_path):
    folder = sweep(tmp_path / "sweep", OWN[:1], tasks=("piqa",), losses=LOSSES)
    path = harness_run(tmp_path / "hf", tasks=("piqa",), count=20, limit=20)
    board = board_of(folder, path)
    shown = entry_of(board, "dense", backend="hf").cells[ACC]
    assert shown.difference.note == "paired on 20 of 60 documents"
    assert shown.difference.value == 0  # the same answers: the two values differ only by the documents
    (problem,) = (p for p in board.problems if p.kind == "mixed limits")
    assert "piqa, 0-shot: documents 20, 60" in problem.message
    with pytest.raises(ArgumentError, match="mixed limits"):
        board_of(folder, path, strict=True)


def test_task_versions_are_named(tmp_path):
    folder = sweep(tmp_path / "a", OWN[:1], tasks=("piqa",))
    row = Row(OWN[1], "piqa", 0, 1234, "feed")
    other = sweep(tmp_path / "b", [], tasks=("piqa",), version=2.0)
    cell(other, row, 60, version=2.0)
    plan = next((other / "plans").glob("*.json"))
    content = json.loads(plan.read_text())
    content["rows"].append({**row._asdict(), "variant": row.variant._asdict()})
    plan.write_text(json.dumps(content))
    board = board_of(folder, other)
    (problem,) = (p for p in board.problems if p.kind == "different task versions")
    assert problem.message.startswith("piqa: version 1.0, 2.0")
    with pytest.raises(ArgumentError, match="different task versions"):
        board_of(folder, other, strict=True)


def test_different_dense_baselines_are_named(tmp_path):
    folder = sweep(tmp_path / "a", OWN[:1], tasks=("piqa",))
    path = harness_run(tmp_path / "hf", tasks=("piqa",), loss=0.4)
    (problem,) = board_of(folder, path).problems
    assert problem.kind == "different dense baselines"
    assert "(hf)" in problem.message
    other = sweep(tmp_path / "b", OWN[:1], tasks=("piqa",), model="facebook/opt-350m", fingerprint="beef")
    board = board_of(folder, other)
    assert [p.kind for p in board.problems] == ["different dense baselines"]
    assert {entry.label for entry in board.entries} == {
        f"facebook/opt-{size}: {name}" for size in ("125m", "350m") for name in ("dense", "own, heads 0.3, FFNs 0")
    }
    with pytest.raises(ArgumentError, match="different dense baselines"):
        board_of(folder, other, strict=True)
    board = board_of(folder, other, baseline="facebook/opt-125m")
    assert board.problems == []
    with pytest.raises(ArgumentError, match="baseline opt-6b: no dense runs; there are those of facebook/opt-125m"):
        board_of(folder, baseline="opt-6b")


def test_different_weights_under_one_name_are_told_apart(tmp_path):
    folder = sweep(tmp_path / "a", [], tasks=("piqa",))
    other = sweep(tmp_path / "b", [], tasks=("piqa",), fingerprint="beef")
    board = board_of(folder, other)
    assert "different models of one name" in {p.kind for p in board.problems}
    assert {entry.model for entry in board.entries} == {
        "facebook/opt-125m (weights f00d)",
        "facebook/opt-125m (weights beef)",
    }


COMMITS = ("27dcfa74d334bc871f3234de431e71c6eeba5dd6", "08ab08cc4b72ff5593870b5d527cf4230323703c")


@pytest.mark.parametrize("commit", [None, COMMITS[0]], ids=["a sweep without network", "a sweep that knows the commit"])
def test_a_sweep_and_a_harness_run_of_one_hub_model_are_one_model(tmp_path, commit):
    known = hub_fingerprint("facebook/opt-125m", COMMITS[0])
    folder = sweep(tmp_path / "sweep", OWN[:1], tasks=("piqa",), commit=commit, fingerprint=known)
    changes = {"model": "pruned-opt", "model_sha": COMMITS[0], "identity": {}}
    path = harness_run(tmp_path / "run", tasks=("piqa",), loss=0.5, **changes)
    content = json.loads(path.read_text())
    content["pruning"] = pruning(OWN[2])
    content["pruning"]["mask"]["provenance"] = {"ranking": "other"}
    path.write_text(json.dumps(content))
    board = board_of(folder, path)
    assert board.problems == []
    assert {entry.model for entry in board.entries} == {"facebook/opt-125m"}
    (pruned,) = (entry for entry in board.entries if entry.ranking == "other")
    assert pruned.cells[ACC].difference.paired == 60


def test_different_commits_of_one_name_are_told_apart(tmp_path):
    known = [hub_fingerprint("facebook/opt-125m", commit) for commit in COMMITS]
    folder = sweep(tmp_path / "sweep", OWN[:1], tasks=("piqa",), fingerprint=known[0])
    runs = [harness_run(tmp_path / sha, tasks=("piqa",), model_sha=sha, identity={}) for sha in COMMITS]
    board = board_of(folder, *runs)
    ours, other = (f"facebook/opt-125m (weights {weights[:12]})" for weights in known)
    (problem,) = (p for p in board.problems if p.kind == "different models of one name")
    assert problem.message == f"weights differ, or are not said: {ours}, {other}"
    found = {(entry.model, entry.backend) for entry in board.entries}
    assert found == {(ours, "pruned-hf"), (ours, "hf"), (other, "hf")}


def test_a_sweep_and_a_run_on_the_bundled_model_are_one_model(tmp_path):
    folder = sweep(tmp_path / "sweep", OWN[:1], tasks=("piqa",), model="lm-eval-prune/bundled")
    path = harness_run(tmp_path / "run", tasks=("piqa",), model="pruned-opt", model_args="dtype=float32")
    assert {entry.model for entry in board_of(folder, path).entries} == {"lm-eval-prune/bundled"}


def test_missing_and_failed_cells_are_named(tmp_path):
    skipped = [(OWN[0], "copa", 0), (OWN[1], "piqa", 0)]
    folder = sweep(tmp_path, OWN, skip=skipped)
    (row,) = (row for row in read_rows(folder) if (row.variant, row.task) == (OWN[1], "piqa"))
    write_failure(folder, row, "RuntimeError", "out of memory")
    board = board_of(folder)
    messages = [p.message for p in board.problems]
    assert "not computed: own, heads 0.3, FFNs 0 on copa, 0-shot" in messages
    assert "failed: RuntimeError: out of memory: own, heads 0.5, FFNs 0 on piqa, 0-shot" in messages
    entry = entry_of(board, "own", "0.3")
    assert (entry.average, entry.rank) == (None, None)
    assert Column("copa", "acc") not in entry.cells
    with pytest.raises(ArgumentError, match="missing cells"):
        board_of(folder, strict=True)


def test_damaged_cells_are_named(tmp_path):
    folder = sweep(tmp_path, OWN[:1], tasks=("piqa",))
    (row,) = (row for row in read_rows(folder) if row.variant == OWN[0])
    path = cell_path(folder, row.cell)
    path.write_text(path.read_text()[:-40])
    board = board_of(folder)
    assert {p.kind for p in board.problems} >= {"damaged cells", "missing cells"}
    assert "own" not in {entry.ranking for entry in board.entries}


def test_a_damaged_record_of_a_failure_is_named(tmp_path):
    folder = sweep(tmp_path, OWN[:2], tasks=("piqa",), skip=[(OWN[0], "piqa", 0)])
    (row,) = (row for row in read_rows(folder) if row.variant == OWN[0])
    write_failure(folder, row, "RuntimeError", "out of memory")
    path = failure_path(folder, row.cell)
    path.write_text(path.read_text()[:-10])
    board = board_of(folder)
    (problem,) = (p for p in board.problems if p.kind == "damaged cells")
    assert problem.message.startswith(f"{path}: not valid JSON")
    (missing,) = (p for p in board.problems if p.kind == "missing cells")
    assert missing.message == "failed: the record of why is damaged: own, heads 0.3, FFNs 0 on piqa, 0-shot"
    assert entry_of(board, "own", "0.5").cells[ACC].difference.paired == 60


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-9])])
def test_damaged_samples_of_a_cell_are_named_and_its_numbers_shown(tmp_path, damage):
    folder = sweep(tmp_path, OWN[:2], tasks=("piqa",), losses=LOSSES)
    (row,) = (row for row in read_rows(folder) if row.variant == OWN[0])
    path = cell_path(folder, row.cell).with_suffix(".samples.jsonl.gz")
    value = file_value(folder, OWN[0], "piqa")
    damage(path)
    board = board_of(folder, flips=True)
    (problem,) = (p for p in board.problems if p.kind == "damaged samples")
    assert problem.message.startswith(f"{path}: ")
    shown = entry_of(board, "own", "0.3").cells[ACC]
    assert shown.value == value
    assert (shown.difference.method, shown.difference.note) == ("standard errors", "no per-document outcomes")
    assert entry_of(board, "own", "0.5").cells[ACC].difference.paired == 60
    with pytest.raises(ArgumentError, match="damaged samples"):
        board_of(folder, strict=True)


@pytest.mark.parametrize(
    "end", ['{"doc_id": 9, "doc_ha', '{"doc_id": 9, "doc_hash": "a", "prompt_hash": "b", "metrics": 3}\n']
)
def test_a_damaged_sample_file_of_the_harness_is_named(tmp_path, folder, end):
    path = harness_run(tmp_path, tasks=("piqa", "copa", "rte"), count=120)
    (file,) = tmp_path.glob("samples_piqa_*.jsonl")
    file.write_text(file.read_text() + end)
    board = board_of(folder, path, shots=(0,))
    (problem,) = (p for p in board.problems if p.kind == "damaged samples")
    assert problem.message.startswith(f"{file}: ")
    cells = entry_of(board, "dense", backend="hf").cells
    assert {column.task: shown.difference.paired for column, shown in cells.items()} == {
        "piqa": 0,
        "copa": 120,
        "rte": 120,
    }


def test_metrics_are_never_mixed(tmp_path):
    both = ("acc", "acc_norm")
    folder = sweep(tmp_path / "a", OWN[:1], tasks=("piqa",), metrics=both)
    path = harness_run(tmp_path / "hf", tasks=("piqa",))
    board = board_of(folder, path, metrics=("acc_norm",))
    assert [str(column) for column in board.columns] == ["piqa acc_norm"]
    assert board.average_name == "average acc_norm"
    assert entry_of(board, "dense", backend="hf").cells == {}
    assert any("piqa acc_norm: none for dense (hf), 0-shot" in p.message for p in board.problems)
    assert [str(column) for column in board_of(folder, path).columns] == ["piqa acc"]


def test_a_metric_that_is_no_mean_over_documents_is_not_resampled(tmp_path):
    folder = tmp_path / "f1"
    folder.mkdir()
    for name, loss in (("hf", 0.0), ("vllm", 0.3)):
        lines = samples("cb", 0, name, 40, loss=loss, metrics=("f1",))
        content = results("cb", 0, lines, metrics=("f1",), config={"model": name, "model_args": {"pretrained": "x"}})
        content["results"]["cb"]["f1,none"] += 0.1
        (folder / f"results_{name}.json").write_text(json.dumps(content))
        (folder / f"samples_cb_{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    board = board_of(folder)
    shown = [e.cells[Column("cb", "f1")].difference for e in board.entries]
    (difference,) = (found for found in shown if found)
    assert (difference.method, difference.note) == ("standard errors", "not a mean over documents")


def test_oracles_are_called_what_they_are(tmp_path):
    oracle = Variant("own", "0.5", "0", oracle=True)
    board = board_of(sweep(tmp_path, [oracle, OWN[1]], tasks=("piqa",)))
    labels = {entry.label for entry in board.entries}
    assert labels == {"dense", "own, heads 0.5, FFNs 0", "own, heads 0.5, FFNs 0, oracle"}


def test_a_ranking_that_is_an_oracle_on_one_task_is_one_row(tmp_path):
    oracle = OWN[1]._replace(oracle=True)
    skip = [(oracle, "piqa", 0), (OWN[1], "copa", 0)]
    folder = sweep(tmp_path, [oracle, OWN[1]], tasks=("piqa", "copa"), skip=skip)
    (entry,) = (entry for entry in board_of(folder).entries if not entry.is_dense)
    assert entry.label == "own, heads 0.5, FFNs 0, oracle on copa"
    assert entry.oracle
    assert entry.average is not None


def test_a_mask_selected_on_evaluated_documents_is_an_oracle_outside_a_sweep_too(tmp_path, folder):
    settings = {"method": "gradient", "task": "piqa", "split": "validation"}
    scores = ImportanceScores(
        component="heads", num_hidden_layers=4, num_attention_heads=4, scores=((0.0, 1.0, 2.0, 3.0),) * 4,
        settings=settings,
    )  # fmt: skip
    scores.save(tmp_path / "scores.json")
    mask = select_mask(head_importance=tmp_path / "scores.json", prune_heads="0.5")
    path = harness_run(tmp_path / "run", tasks=("piqa", "copa"), model="pruned-opt")
    content = json.loads(path.read_text())
    content["pruning"] = {**pruning(OWN[1]), "mask": mask.to_dict()}
    path.write_text(json.dumps(content))
    names = [entry.label for entry in board_of(folder, path, shots=(0,), tasks=("piqa", "copa")).entries]
    assert f"{tmp_path.name}/scores.json, heads 0.5, FFNs 0, oracle on piqa" in names
    names = [entry.label for entry in board_of(folder, path, shots=(0,), tasks=("piqa",)).entries]
    assert f"{tmp_path.name}/scores.json, heads 0.5, FFNs 0, oracle" in names


def test_few_shot_draws_are_paired_each_with_its_own_dense_run(tmp_path):
    rows = [Row(variant, "piqa", 5, seed, f"{variant.ranking}{seed}") for variant in (DENSE, OWN[1]) for seed in (0, 1)]
    from lm_eval_prune.sweep.folder import write_plan

    write_plan(tmp_path, {"tasks": ["piqa"]}, {}, rows)
    for row in rows:
        cell(tmp_path, row, 50, loss=0.0 if row.variant == DENSE else 0.4)
    board = board_of(tmp_path)
    shown = entry_of(board, "own", "0.5", 5).cells[ACC]
    assert (shown.difference.paired, shown.difference.method) == (50, "paired score")
    assert shown.difference.draws == 0  # the made-up answers do not depend on the seed
    assert board.problems == []


def test_bad_paths_and_settings(tmp_path, folder):
    with pytest.raises(ArgumentError, match="nothing evaluated"):
        read_collection([tmp_path])
    (tmp_path / "other.json").write_text('{"a": 1}')
    with pytest.raises(FileFormatError, match=r'other\.json: no results of the harness: "results" with "configs"'):
        read_collection([tmp_path / "other.json"])
    with pytest.raises(ArgumentError, match=r"tasks: nope not evaluated; there are piqa, copa, rte"):
        board_of(folder, tasks=("nope",))
    with pytest.raises(ArgumentError, match=r"shots 3: nothing evaluated; there are 0, 5"):
        board_of(folder, shots=(3,))
    with pytest.raises(ArgumentError, match="margin=-1"):
        BoardConfig(margin=-1)


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ("piqa=", "cluster=piqa=: expected FIELD or TASK=FIELD, such as multirc=paragraph"),
        ("=passage", "cluster==passage: expected FIELD or TASK=FIELD, such as multirc=paragraph"),
        ("nope=passage", "cluster=nope=passage: task nope not evaluated; there are piqa, copa, rte"),
    ],
)
def test_a_cluster_that_cannot_be_is_one_line(folder, tmp_path, monkeypatch, capsys, cluster, message):
    arguments = ["leaderboard", str(folder), "--output_path", str(tmp_path), "--cluster", cluster]
    monkeypatch.setattr(sys, "argv", ["lm-eval-prune", *arguments])
    with pytest.raises(SystemExit) as stop:
        entry_point()
    assert (stop.value.code, capsys.readouterr().err) == (2, f"Error: {message}\n")
